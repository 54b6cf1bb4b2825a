//! Nodes that share a bucket, simulated: whatever comes, the error against a perfect limiter is a lease a node.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::super::{Gcra, Nanos};
use super::account::{Account, Known, Order, Said};
use super::terms::Terms;

/// A millisecond in nanoseconds.
const STEP: u64 = 1_000_000;

/// The store's bucket, as `lease.lua` keeps it.
struct Store {
    gcra: Gcra,
    full_at: u64,
}

impl Store {
    fn run(&mut self, order: &Order, now: u64) -> (u32, Duration) {
        let (token, full) = (self.gcra.time(1), u64::try_from(self.gcra.fill().as_nanos()).unwrap());
        let bounded = |debt: i128| debt.clamp(0, 2 * i128::from(full));
        let mut debt = bounded(i128::from(self.full_at.saturating_sub(now)));
        debt = bounded(debt + i128::from(token) * i128::from(order.charge));
        let left = (i128::from(full) - debt).max(0) / i128::from(token);
        let leased = left.min(i128::from(order.want));
        debt = bounded(debt + leased * i128::from(token));
        let debt = u64::try_from(debt).unwrap();
        self.full_at = now + debt;
        (u32::try_from(leased).unwrap(), Duration::from_nanos(debt))
    }
}

/// A node with one key.
#[derive(Default)]
struct Node {
    account: Account,
    /// Requests that wait for the store; whether it is asked for them.
    waiting: VecDeque<bool>,
    /// The answer that is on its way, and when it comes.
    answer: Option<(Order, u32, Duration, u64)>,
    passed: u64,
    refused: u64,
}

impl Node {
    fn request(&mut self, terms: &Terms, now: u64) {
        match self.account.spend(terms, 1, Nanos::from_nanos(now)) {
            Known::Decided(taken) if taken.passed() => self.passed += 1,
            Known::Decided(_) => self.refused += 1,
            Known::Ask => self.waiting.push_back(false),
        }
    }

    fn ask(&mut self, terms: &Terms, store: &mut Store, delay: u64, now: u64) {
        let waiting = u32::try_from(self.waiting.len()).unwrap();
        let order = self.account.order(terms, waiting, Nanos::from_nanos(now));
        let order = order.or_else(|| self.account.give_back_surplus(terms, Nanos::from_nanos(now)));
        if let Some(order) = order {
            self.waiting.iter_mut().for_each(|asked| *asked = true);
            let (leased, debt) = store.run(&order, now);
            self.answer = Some((order, leased, debt, now + delay));
        }
    }

    fn hear(&mut self, terms: &Terms, now: u64) {
        let Some((order, leased, debt, _)) = self.answer.take_if(|answer| answer.3 <= now) else { return };
        self.account.fill(&order, &Said { leased, debt, counted: None, life: 0, losses: 0 });
        while self.waiting.front() == Some(&true) {
            self.waiting.pop_front();
            match self.account.serve(terms, 1, Nanos::from_nanos(now)).passed() {
                true => self.passed += 1,
                false => self.refused += 1,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn all_nodes_together_pass_what_a_perfect_limiter_does_but_for_a_lease_each(
        rate in 1..3_000_u64,
        burst in 1..2_000_u64,
        loads in prop::collection::vec(0.0..4.0_f64, 1..5),
        delay in 0..4_u64,
        strict in any::<bool>(),
        bursty in any::<bool>(),
    ) {
        let gcra = Gcra::new(rate, Duration::from_secs(1), burst);
        let nodes_number = loads.len() as u64;
        let share = u32::try_from((rate + burst) / 10 / nodes_number).unwrap();
        let terms = Terms { gcra, most: if strict { 0 } else { share }, strict, turn: None };
        let begin = 10 * 1_000_000_000;
        let mut store = Store { gcra, full_at: 0 };
        let mut nodes: Vec<_> = loads.iter().map(|_| Node::default()).collect();
        let mut due = vec![0.0; loads.len()];
        let (mut perfect_debt, mut perfect, mut asked) = (0_u64, 0_u64, 0_u64);
        let steps = 3_000;
        for step in 0..steps {
            let now = begin + step * STEP;
            perfect_debt = perfect_debt.saturating_sub(STEP);
            for ((node, load), due) in nodes.iter_mut().zip(&loads).zip(&mut due) {
                node.hear(&terms, now);
                // So many times its share of the rate; in bursts: nothing for half of the time.
                let is_silent = bursty && step % 1_000 >= 500;
                *due += if is_silent { 0.0 } else { load * rate as f64 / nodes_number as f64 / 1_000.0 };
                while *due >= 1.0 {
                    *due -= 1.0;
                    asked += 1;
                    node.request(&terms, now);
                    let taken = gcra.take(perfect_debt, 1);
                    if taken.passed() {
                        perfect_debt = taken.debt();
                        perfect += 1;
                    }
                }
                node.ask(&terms, &mut store, delay * STEP, now);
                prop_assert!(node.account.tokens <= terms.most.max(share) + 1 || node.answer.is_some());
                if step % 250 == 0
                    && let Some(order) = node.account.give_back(false, Nanos::from_nanos(now)) {
                    let (leased, debt) = store.run(&order, now);
                    node.answer = Some((order, leased, debt, now + delay * STEP));
                }
            }
        }
        let waiting: u64 = nodes.iter().map(|node| node.waiting.len() as u64).sum();
        let passed: u64 = nodes.iter().map(|node| node.passed).sum();
        let refused: u64 = nodes.iter().map(|node| node.refused).sum();
        prop_assert_eq!(passed + refused + waiting, asked);
        let leases = u64::from(terms.most) * nodes_number;
        let bound = burst + rate * steps / 1_000 + leases + 1;
        prop_assert!(passed <= bound, "{} passed of at most {}", passed, bound);
        // Fewer: what others hold, what waits, and what came while the store was on its way.
        let on_the_way = nodes_number * (1 + (delay + 1) * rate * 4 / nodes_number / 1_000);
        let least = perfect.saturating_sub(leases + waiting + on_the_way);
        // A bucket in the store is full before the next question where the rate fills it in less than a way there and back: what comes
        // then is lost, to whoever asks from afar. With a millisecond until a question is noticed, and another until its answer is.
        let lasts = burst * 1_000 >= rate * (delay + 2);
        prop_assert!(passed >= least || !lasts, "{} passed of at least {}", passed, least);
    }
}
