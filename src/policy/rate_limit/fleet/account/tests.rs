//! Accounts, one by one.

use super::*;
use crate::policy::rate_limit::fleet::terms::Turn;

const SECOND: u64 = 1_000_000_000;

fn at(milliseconds: u64) -> Nanos {
    Nanos::from_nanos(100 * SECOND + milliseconds * 1_000_000)
}

fn terms(count: u64, burst: u64, most: u32) -> Terms {
    Terms { gcra: Gcra::new(count, Duration::from_secs(1), burst), most, strict: false, turn: None }
}

fn said(leased: u32, debt: Duration) -> Said {
    Said { leased, debt, counted: None, life: 7, losses: 0 }
}

fn decided(known: Known) -> Taken {
    match known {
        Known::Decided(taken) => taken,
        Known::Ask => panic!("the store is asked"),
    }
}

#[test]
fn a_key_that_nobody_knows_is_asked_for_and_spent_from_then_on() {
    let terms = terms(100, 100, 10);
    let mut account = Account::default();
    assert!(matches!(account.spend(&terms, 1, at(0)), Known::Ask));
    let order = account.order(&terms, 1, at(0)).unwrap();
    assert_eq!((order.charge, order.want), (0, 1), "one request is no rate");
    assert_eq!(account.order(&terms, 1, at(0)), None, "one question at a time");
    account.fill(&order, &said(1, Duration::from_millis(10)));
    let first = account.serve(&terms, 1, at(1));
    assert!(first.passed());
    assert_eq!((account.tokens, first.remaining()), (0, 99));
    assert!(matches!(account.spend(&terms, 1, at(1)), Known::Ask), "there may be more");
}

#[test]
fn what_the_store_has_said_is_no_until_time_has_brought_a_token() {
    let terms = terms(100, 100, 10);
    let mut account = Account::default();
    let order = account.order(&terms, 5, at(0)).unwrap();
    account.fill(&order, &said(2, Duration::from_secs(1)));
    // Two of ours, none in the store.
    assert!(decided(account.spend(&terms, 1, at(0))).passed());
    let three = decided(account.spend(&terms, 3, at(0)));
    assert!(!three.passed());
    assert_eq!((three.remaining(), three.wait()), (1, Some(Duration::from_millis(20))));
    assert!(decided(account.spend(&terms, 1, at(0))).passed());
    let none = decided(account.spend(&terms, 1, at(5)));
    assert_eq!((none.passed(), none.wait()), (false, Some(Duration::from_millis(5))));
    assert!(matches!(account.spend(&terms, 1, at(10)), Known::Ask));
}

#[test]
fn what_is_charged_is_told_whether_it_was_leased_or_is_owed() {
    let terms = terms(10, 10, 5);
    let mut account = Account::default();
    let order = account.order(&terms, 2, at(0)).unwrap();
    account.fill(&order, &said(2, Duration::from_millis(200)));
    let left: Vec<_> = (0..5).map(|_| account.charge(&terms, 1, 10, at(0)).remaining()).collect();
    assert_eq!((left, account.owed), (vec![9, 8, 7, 6, 5], 3));
}

#[test]
fn a_lease_is_what_is_spent_in_a_tenth_of_a_second_and_no_more_than_the_node_may_hold() {
    for (most, leased) in [(1000, 95..=100), (40, 40..=40), (0, 0..=0)] {
        let terms = terms(1_000_000, 1_000_000, most);
        let mut account = Account::default();
        let order = account.order(&terms, 1000, at(0)).unwrap();
        account.fill(&order, &said(1000, Duration::ZERO));
        for spent in 0..1000 {
            assert!(decided(account.spend(&terms, 1, at(spent))).passed());
        }
        // A thousand tokens a second.
        let order = account.order(&terms, 0, at(1000));
        let wanted = order.map_or(0, |order| order.want);
        assert!(leased.contains(&wanted), "{wanted} of {most}");
    }
}

#[test]
fn a_key_that_asks_now_and_then_gets_what_it_asks_for_and_nothing_ahead() {
    let terms = terms(1000, 1000, 100);
    let mut account = Account::default();
    for turn in 0..10 {
        let now = at(turn * 300);
        assert!(matches!(account.spend(&terms, 1, now), Known::Ask));
        let order = account.order(&terms, 1, now).unwrap();
        assert_eq!(order.want, 1);
        account.fill(&order, &said(1, Duration::from_millis(1)));
        assert!(account.serve(&terms, 1, now).passed());
        assert_eq!(account.order(&terms, 0, now), None);
    }
}

#[test]
fn a_lease_is_fetched_when_half_of_it_is_left_and_never_where_the_bucket_is_empty() {
    let terms = terms(1000, 1000, 100);
    let mut account = Account::default();
    let order = account.order(&terms, 100, at(0)).unwrap();
    account.fill(&order, &said(100, Duration::from_millis(100)));
    let mut ordered = None;
    for spent in 1..=100 {
        assert!(decided(account.spend(&terms, 1, at(spent))).passed());
        ordered = account.order(&terms, 0, at(spent));
        if ordered.is_some() {
            assert!((10..=60).contains(&account.tokens), "{} left", account.tokens);
            break;
        }
    }
    let order = ordered.unwrap();
    account.fill(&order, &said(0, Duration::from_secs(1)));
    account.spend(&terms, 1, order.at);
    assert_eq!(account.order(&terms, 0, order.at), None, "an empty bucket is left alone");
}

#[test]
fn what_is_idle_is_given_back_and_forgotten_once_the_bucket_is_full() {
    let terms = terms(10, 10, 10);
    let mut account = Account::default();
    account.used(at(0));
    let order = account.order(&terms, 3, at(0)).unwrap();
    account.fill(&order, &said(3, Duration::from_secs(5)));
    assert_eq!(account.give_back(false, at(900)), None);
    let back = account.give_back(false, at(1000)).unwrap();
    assert_eq!((back.charge, back.want, account.tokens), (-3, 0, 0));
    account.fill(&back, &said(0, Duration::from_secs(4)));
    assert!(!account.is_over(at(4999)));
    assert!(account.is_over(at(5000)));
    account.take_back(2);
    assert_eq!(account.give_back(true, at(5000)).unwrap().charge, -2);
}

#[test]
fn a_strict_limit_asks_every_time_and_keeps_nothing() {
    let terms = Terms { strict: true, ..terms(10, 10, 0) };
    let mut account = Account::default();
    let order = account.order(&terms, 2, at(0)).unwrap();
    account.fill(&order, &said(2, Duration::from_secs(1)));
    assert!(account.serve(&terms, 1, at(0)).passed());
    assert!(matches!(account.spend(&terms, 1, at(0)), Known::Ask));
    let surplus = account.give_back_surplus(&terms, at(0)).unwrap();
    assert_eq!((surplus.charge, surplus.want), (-1, 0));
    account.fill(&surplus, &said(0, Duration::from_secs(1)));
    assert_eq!(account.give_back_surplus(&terms, at(0)), None);
    assert!(matches!(account.spend(&terms, 1, at(0)), Known::Ask), "whatever it said before");
}

#[test]
fn what_was_spent_without_a_lease_is_charged_once_and_no_more_than_a_bucket() {
    let terms = terms(10, 10, 10);
    let mut account = Account::default();
    account.owe(4, 10);
    account.owe(9, 10);
    let order = account.order(&terms, 0, at(0)).unwrap();
    assert_eq!((order.charge, order.want), (10, 0));
    account.lose(&terms, &order, false);
    let order = account.order(&terms, 2, at(1)).unwrap();
    assert_eq!((order.charge, order.want), (10, 2));
    account.lose(&terms, &order, true);
    assert_eq!(account.order(&terms, 0, at(2)), None, "it may have been charged");
    // So that is what the bucket owes at least, in whatever life it was charged.
    let claimed = account.claim(0, at(101)).unwrap();
    assert_eq!((claimed.charge, claimed.want), (0, 0));
    let claim = Claim { debt: 900_000_000, counted: None, life: 0, losses: UNSAID };
    assert_eq!(claimed.claim, Some(claim));
}

#[test]
fn what_was_not_given_back_is_given_back_the_next_time() {
    let terms = terms(10, 10, 10);
    let mut account = Account::default();
    let order = account.order(&terms, 3, at(0)).unwrap();
    account.fill(&order, &said(3, Duration::from_millis(300)));
    for (sent, next) in [(false, Some(-3)), (true, None)] {
        let back = account.give_back(true, at(1000)).unwrap();
        assert_eq!((back.charge, account.tokens), (-3, 0));
        account.lose(&terms, &back, sent);
        assert_eq!(
            account.clone().order(&terms, 0, at(1000)).map(|order| order.charge),
            next,
            "sent: {sent}"
        );
    }
}

#[test]
fn under_another_limit_an_account_has_as_large_a_part_of_the_bucket() {
    let (small, large) = (terms(10, 10, 5), terms(100, 1_000, 50));
    let mut account = Account::default();
    let order = account.order(&small, 3, at(0)).unwrap();
    account.fill(&order, &said(3, Duration::from_millis(700)));
    account.owe(2, 10);
    // Half of the bucket is owed when it changes.
    account.carry(&small, &large, at(200));
    assert_eq!((account.tokens, account.owed, account.owes(at(200))), (300, 200, Some(5 * SECOND)));
    assert_eq!(account.owes(at(1_200)), Some(4 * SECOND), "by the rate that holds now");
    // Whoever goes to and fro gets nothing by it.
    account.tokens = 299;
    for _ in 0..9 {
        account.carry(&large, &small, at(200));
        account.carry(&small, &large, at(200));
    }
    assert_eq!((account.tokens, account.owed, account.owes(at(200))), (200, 200, Some(5 * SECOND)));
    // Of the lease alone a node has another part: nothing changes.
    account.carry(&large, &Terms { most: 1, ..large }, at(200));
    assert_eq!(account.tokens, 200);
}

#[test]
fn under_another_quota_what_was_counted_is_what_was_counted() {
    let of = |limit, offset| {
        let turn = Turn { begins: 0, ends: 1, offset, is_later: false, passed: None };
        let gcra = Gcra::new(0, Duration::from_secs(1), limit);
        Terms { gcra, most: 5, strict: false, turn: Some(turn) }
    };
    let (first, raised, lowered) = (of(100, 10), of(200, 30), of(90, 10));
    let mut account = Account::default();
    let order = account.order(&first, 5, at(0)).unwrap();
    let (debt, counted) = (first.gcra.spent(100), Some(Count { used: 90, is_first: true }));
    account.fill(&order, &Said { counted, ..said(5, Duration::from_nanos(debt)) });
    account.carry(&first, &raised, at(0));
    assert_eq!((account.tokens, account.owes(at(0))), (5, Some(raised.gcra.spent(90 + 30))));
    account.carry(&raised, &lowered, at(0));
    let spent = lowered.gcra.spent(90 + 10);
    assert_eq!((account.tokens, account.owes(at(0))), (0, Some(spent)), "nothing that is leased is spent");
    let order = account.order(&lowered, 0, at(0)).unwrap();
    assert_eq!((order.charge, order.want), (-5, 0));
    account.lose(&lowered, &order, false);
    assert_eq!((account.tokens, account.order(&lowered, 0, at(0)).unwrap().charge), (0, -5));
}

#[test]
fn of_a_quota_what_may_have_been_counted_is_claimed() {
    let gcra = Gcra::new(0, Duration::from_secs(1), 90);
    let turn = Turn { begins: 0, ends: 1, offset: 0, is_later: false, passed: None };
    let terms = Terms { gcra, most: 0, strict: true, turn: Some(turn) };
    let mut account = Account::default();
    account.owe(4, 90);
    let order = account.order(&terms, 0, at(0)).unwrap();
    account.lose(&terms, &order, true);
    let claim = account.claim(3, at(9_000)).unwrap().claim.unwrap();
    assert_eq!((claim.counted.map(|counted| counted.used), claim.life), (Some(4), 0));
}

#[test]
fn the_store_is_told_what_it_has_said_and_at_once_where_it_was_lost_since() {
    let terms = terms(10, 10, 10);
    let mut account = Account::default();
    let order = account.order(&terms, 1, at(0)).unwrap();
    assert_eq!(order.claim, None);
    account.fill(&order, &said(1, Duration::from_millis(500)));
    assert!(account.serve(&terms, 1, at(0)).passed());
    let claim = |debt: u64| Some(Claim { debt: debt * 1_000_000, counted: None, life: 7, losses: 0 });
    assert_eq!(account.claim(0, at(100)), None);
    let order = account.claim(1, at(100)).unwrap();
    assert_eq!((order.charge, order.want, order.claim), (0, 0, claim(400)));
    assert_eq!(account.claim(1, at(100)), None, "it is being asked");
    account.lose(&terms, &order, true);
    assert_eq!(account.order(&terms, 2, at(200)).unwrap().claim, claim(300));
    account.is_asked = false;
    assert_eq!(account.claim(1, at(500)), None, "nothing is owed any more");
}

#[test]
fn a_quota_alone_is_a_part_of_what_is_left_however_often_late_answers_come() {
    let gcra = Gcra::new(0, Duration::from_secs(1), 90);
    let turn = Turn { begins: 0, ends: 1, offset: 0, is_later: false, passed: None };
    let terms = Terms { gcra, most: 0, strict: true, turn: Some(turn) };
    let mut account = Account::default();
    let order = account.order(&terms, 1, at(0)).unwrap();
    let mut passed = 0;
    for _ in 0..3 {
        // The answer says nothing of what has passed here meanwhile.
        account.fill(&order, &said(0, Duration::from_nanos(gcra.spent(0))));
        passed += (0..90).filter(|_| account.spend_alone(&terms, 1, 3).passed()).count();
    }
    assert_eq!(passed, 30);
}

#[test]
fn of_a_quota_that_the_store_never_told_of_the_first_period_has_least() {
    let gcra = Gcra::new(0, Duration::from_secs(1), 90);
    for (is_later, told, passes) in
        [(false, None, 20), (true, None, 30), (false, Some(false), 25), (true, Some(true), 15)]
    {
        let turn = Turn { begins: 0, ends: 1, offset: 30, is_later, passed: None };
        let terms = Terms { gcra, most: 0, strict: true, turn: Some(turn) };
        let mut account = Account::default();
        if let Some(is_first) = told {
            let order = account.order(&terms, 1, at(0)).unwrap();
            let debt = Duration::from_nanos(gcra.spent(15 + if is_first { 30 } else { 0 }));
            let counted = Some(Count { used: 15, is_first });
            account.fill(&order, &Said { counted, ..said(0, debt) });
        }
        assert_eq!(account.is_first(), told);
        let passed = (0..90).filter(|_| account.spend_alone(&terms, 1, 3).passed()).count();
        assert_eq!(passed, passes, "{is_later} {told:?}");
    }
}
