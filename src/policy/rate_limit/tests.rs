//! Tables of limits, as a document has them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::json;

use super::key::Key;
use super::*;
use crate::config::{Build, Spanned, load_text};
use crate::identity::{self, Identity};
use crate::policy::Effects;
use crate::reply::Refusal;
use crate::state::Live;

fn limit(text: &str) -> Arc<RateLimit> {
    limit_of(text, &Live::default())
}

fn limit_of(text: &str, live: &Live) -> Arc<RateLimit> {
    named("few", text, live)
}

fn named(name: &str, text: &str, live: &Live) -> Arc<RateLimit> {
    let mut build = Build::default();
    let config: Spanned<Config> = load_text("t.yaml", text, &|_| None, &mut build)
        .unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)));
    let limit = RateLimit::compile(name, &config, live, &mut build);
    let limit = limit.unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)));
    limit.put_in_force();
    Arc::new(limit)
}

/// A request, as a test says it.
#[derive(Clone)]
struct Asking {
    client: IpAddr,
    headers: HeaderMap,
    host: &'static str,
    route: &'static str,
    identity: Option<Identity>,
}

impl Asking {
    fn of(client: &str) -> Self {
        let client = client.parse().unwrap();
        Self { client, headers: HeaderMap::new(), host: "a.test", route: "orders", identity: None }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    fn known(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            client: self.client,
            method: &Method::GET,
            host: self.host,
            headers: &self.headers,
            route: Some(self.route),
            identity: self.identity.as_ref(),
            api_key: None,
            ahead: None,
        }
    }
}

fn who(id: &str, method: identity::Method, issuer: Option<&str>, policy: &str) -> Identity {
    Identity { issuer: issuer.map(Into::into), ..Identity::new(id, method, policy.into()) }
}

fn ask(limits: &Limits, asking: &Asking) -> Result<Effects, Box<(Refusal, Effects)>> {
    let mut effects = Effects::default();
    for place in [Place::Edge, Place::Route, Place::Identity] {
        let checked = limits.check(place, &asking.facts(), &mut effects).now_or_never().unwrap();
        if let Err(refusal) = checked {
            return Err(Box::new((refusal, effects)));
        }
    }
    Ok(effects)
}

/// Brings a key to its cool-off, as though it had hammered for three seconds until now.
fn hammer(limit: &RateLimit, asking: &Asking) {
    let (key, now) = (limit.ask(None, &asking.facts()).key, Nanos::now().as_nanos());
    let penalties = limit.table.penalties().unwrap();
    for before in [2_900, 800, 700, 600] {
        let at = Nanos::from_nanos(now - before * 1_000_000);
        let _ = penalties.refused(&limit.penalty.unwrap(), key, std::time::Duration::from_millis(10), at);
    }
}

fn one(limit: &Arc<RateLimit>) -> Limits {
    Limits::new(&[], vec![Arc::clone(limit)], false).unwrap()
}

/// How many of so many requests pass.
fn passes(limits: &Limits, asking: &Asking, number: usize) -> usize {
    (0..number).filter(|_| ask(limits, asking).is_ok()).count()
}

#[test]
fn keys_are_told_apart_by_kind_value_and_who_vouches() {
    let keys = [
        "client",
        "identity",
        "api_key",
        "plan",
        "route",
        "host",
        "auth_failures",
        "{header: x-a}",
        "{cookie: x-a}",
        "{claim: x-a}",
    ];
    let keyed = |mut identity: Identity| {
        identity.key_id = Some("7".into());
        identity.plan = Some("7".into());
        identity.claims.insert("x-a".into(), json!("7"));
        identity
    };
    let full = Asking { host: "7", route: "7", ..Asking::of("192.0.2.7") }
        .with("x-a", "7")
        .with("cookie", "x-a=7")
        .known(keyed(who("7", identity::Method::Jwt, Some("i"), "auth.p")));
    let bare = Asking { host: "", route: "", ..Asking::of("192.0.2.7") };
    let secret = HashKey::random().unwrap();
    let mut seen = HashSet::new();
    for text in keys {
        let mut build = Build::default();
        let text = format!("{{key: {text}, limit: 1/1s}}");
        let config: Spanned<Config> = load_text("t.yaml", &text, &|_| None, &mut build).unwrap();
        let key = Key::compile(&config.key, &mut build).unwrap();
        let of = |asking: &Asking| key.of(&asking.facts(), &secret).0;
        assert!(seen.insert(of(&full)), "{text}");
        assert_eq!(of(&full), of(&full.clone()), "{text}");
        if text.contains("client") || text.contains("auth_failures") {
            continue;
        }
        assert!(seen.insert(of(&bare)), "a missing value is one of its own: {text}");
        assert_ne!(of(&bare), of(&Asking { client: "192.0.2.8".parse().unwrap(), ..bare.clone() }), "{text}");
        assert_eq!(of(&full), of(&Asking { client: "192.0.2.8".parse().unwrap(), ..full.clone() }), "{text}");
    }
}

#[test]
fn an_identity_is_its_name_and_who_vouches_for_it() {
    use identity::Method::{ApiKey, Basic, Jwt};
    let limit = limit("{key: identity, limit: 1/1h}");
    let limits = one(&limit);
    let ask = |identity| passes(&limits, &Asking::of("192.0.2.1").known(identity), 2);
    assert_eq!(ask(who("acme", Jwt, Some("https://one"), "auth.a")), 1);
    assert_eq!(ask(who("acme", Jwt, Some("https://two"), "auth.b")), 1);
    assert_eq!(ask(who("acme", Jwt, Some("https://one"), "auth.c")), 0, "one issuer, whatever the policy");
    assert_eq!(ask(who("acme", Basic, None, "auth.a")), 1);
    assert_eq!(ask(who("acme", Basic, None, "auth.b")), 1, "users of another file");
    assert_eq!(ask(who("acme", ApiKey, None, "auth.a")), 1);
    assert_eq!(ask(who("acme", ApiKey, None, "auth.b")), 0, "the keys of this gateway are one set");
    assert_eq!(ask(Identity::anonymous()), 1, "nobody in particular is the client");
    assert_eq!(passes(&limits, &Asking::of("192.0.2.1"), 1), 0);
}

#[test]
fn claims_of_any_type_are_keys() {
    let limits = one(&limit("{key: {claim: a.b}, limit: 1/1h, overrides: {'7': 2/1h, 'true': 3/1h}}"));
    let ask = |value: serde_json::Value| {
        let mut identity = who("x", identity::Method::Jwt, Some("i"), "auth.p");
        identity.claims.insert("a".into(), json!({"b": value}));
        passes(&limits, &Asking::of("192.0.2.1").known(identity), 5)
    };
    assert_eq!(ask(json!(7)), 2);
    assert_eq!(ask(json!("7")), 2, "a text is another value of the same limit");
    assert_eq!(ask(json!(true)), 3);
    assert_eq!([ask(json!([1, 23])), ask(json!([12, 3])), ask(json!({"c": 1}))], [1, 1, 1]);
    assert_eq!([ask(json!(null)), ask(json!(""))], [1, 0], "nothing is the client");
}

#[test]
fn an_override_is_by_value_and_for_people_and_keys_by_plan_too() {
    let limits = one(&limit("{key: [identity, host], limit: 1/1h, overrides: {gold: 3/1h}}"));
    let mut gold = who("alice", identity::Method::Jwt, Some("i"), "auth.p");
    gold.plan = Some("gold".into());
    assert_eq!(passes(&limits, &Asking::of("192.0.2.1").known(gold), 9), 3);
    let named = who("gold", identity::Method::Jwt, Some("i"), "auth.p");
    assert_eq!(passes(&limits, &Asking::of("192.0.2.1").known(named), 9), 3, "it is called so");
    for first in ["identity", "api_key"] {
        let overrides = "{gold: 4/1h, alice: 2/1h, 0123456789ab: 3/1h}";
        let limits = one(&limit(&format!("{{key: {first}, limit: 1/1h, overrides: {overrides}}}")));
        let passes = |id: &str, key: &str, plan: Option<&str>| {
            let mut identity = who(id, identity::Method::ApiKey, None, "auth.p");
            (identity.key_id, identity.plan) = (Some(key.into()), plan.map(Into::into));
            passes(&limits, &Asking::of("192.0.2.1").known(identity), 9)
        };
        let named = if first == "identity" { 2 } else { 3 };
        assert_eq!(passes("alice", "0123456789ab", Some("gold")), named, "{first}: its own name comes first");
        assert_eq!(passes("bob", "ba9876543210", Some("gold")), 4, "{first}: then its plan");
        assert_eq!(passes("carol", "000000000000", Some("free")), 1, "{first}: then what holds for all");
        let nobody =
            Asking::of("192.0.2.9").known(Identity { plan: Some("gold".into()), ..Identity::anonymous() });
        assert_eq!(
            (0..9).filter(|_| ask(&limits, &nobody).is_ok()).count(),
            1,
            "{first}: a client in its place"
        );
    }
    let limits = one(&limit("{key: {header: x-a}, limit: 1/1h, overrides: {gold: 3/1h}}"));
    assert_eq!(passes(&limits, &Asking::of("192.0.2.1").with("x-a", "gold"), 9), 3);
    let two = Asking::of("192.0.2.1").with("x-a", "gold").with("x-a", "gold");
    assert_eq!(passes(&limits, &two, 9), 1, "two values are none that was named");
}

#[test]
fn a_failure_counts_when_it_is_settled_and_once() {
    let limit = limit("{key: client, limit: 2/1h, count: {status: [401, 404]}}");
    let limits = one(&limit);
    let asking = Asking::of("192.0.2.1");
    let left = || limit.look(&limit.ask(None, &asking.facts()), Nanos::now()).unwrap().remaining();
    for (statuses, after) in [([200, 200], 2), ([200, 401], 1), ([404, 401], 0)] {
        let mut effects = ask(&limits, &asking).unwrap();
        limits.settle(&statuses, &mut effects.limits);
        limits.settle(&statuses, &mut effects.limits);
        assert_eq!(left(), after, "{statuses:?}");
    }
    let (refusal, mut effects) = *ask(&limits, &asking).unwrap_err();
    assert_eq!((refusal.reason, refusal.kind.name()), ("spent", "THROTTLED"));
    limits.settle(&[401, 401], &mut effects.limits);
    let wait = limit.look(&limit.ask(None, &asking.facts()), Nanos::now()).unwrap().wait().unwrap();
    assert!(wait.as_secs() <= 1800, "a refusal of its own counted: {wait:?}");
}

#[test]
fn what_is_counted_at_the_end_is_told_on_the_answer_that_was_counted() {
    for (way, name, told) in [
        ("ietf", "ratelimit", ["\"few\";r=2;t=0", "\"few\";r=1;t=0", "\"few\";r=0;t=1200"]),
        ("legacy", "x-ratelimit-remaining", ["2", "1", "0"]),
    ] {
        let text = format!("{{key: client, limit: 3/1h, count: {{status: [404]}}, headers: {way}}}");
        let limits = one(&limit(&text));
        let asking = Asking::of("192.0.2.1");
        let answer = |status: u16| {
            let mut effects = ask(&limits, &asking).unwrap();
            limits.settle(&[status, status], &mut effects.limits);
            let mut fields = HeaderMap::new();
            limits.tell(&effects.limits, &mut fields);
            fields[name].to_str().unwrap().to_owned()
        };
        assert!(answer(200).contains('3'), "{way}");
        assert_eq!([answer(404), answer(404), answer(404)], told);
        assert!(ask(&limits, &asking).is_err(), "as it was told");
    }
}

/// What authentication has made of a request that was let in before.
fn authenticated(limits: &Limits, effects: &mut Effects, has_failed: bool) -> Result<(), Refusal> {
    limits.authenticated(has_failed, effects)
}

#[test]
fn a_credential_that_is_refused_counts_and_nothing_else_does() {
    let limit = limit("{key: auth_failures, limit: 2/1h}");
    let limits = one(&limit);
    let asking = Asking::of("192.0.2.1");
    let left = || limit.look(&limit.ask(None, &asking.facts()), Nanos::now()).unwrap().remaining();
    // An origin's own 401, a request that is never asked who it is, one that is let in.
    for has_failed in [None, Some(false), Some(true)] {
        let mut effects = ask(&limits, &asking).unwrap();
        if let Some(has_failed) = has_failed {
            authenticated(&limits, &mut effects, has_failed).unwrap();
        }
        limits.settle(&[401, 401], &mut effects.limits);
        assert_eq!(left(), 2 - u64::from(has_failed == Some(true)), "{has_failed:?}");
    }
    authenticated(&limits, &mut ask(&limits, &asking).unwrap(), true).unwrap();
    let (refusal, _) = *ask(&limits, &asking).unwrap_err();
    assert_eq!((refusal.reason, refusal.kind.name()), ("auth_failures", "THROTTLED"));
    assert!(refusal.headers.iter().any(|(name, _)| name == "retry-after"), "{refusal:?}");
    assert!(ask(&limits, &Asking::of("192.0.2.2")).is_ok(), "another client");
}

#[test]
fn of_guesses_side_by_side_no_more_are_answered_than_of_guesses_in_turn() {
    let limit = limit("{key: auth_failures, limit: 3/1h}");
    let limits = one(&limit);
    let asking = Asking::of("192.0.2.1");
    let mut begun: Vec<_> = (0..10).map(|_| ask(&limits, &asking).unwrap()).collect();
    let right = begun.split_off(9);
    let told = begun.iter_mut().map(|effects| authenticated(&limits, effects, true));
    assert_eq!(told.filter(Result::is_ok).count(), 3, "the others are 429");
    // The right one is among those that are answered too late: nothing tells it from a wrong one.
    for mut effects in right {
        let refusal = authenticated(&limits, &mut effects, false).unwrap_err();
        assert_eq!((refusal.reason, refusal.kind.name()), ("auth_failures", "THROTTLED"));
    }
    let wait = limit.look(&limit.ask(None, &asking.facts()), Nanos::now()).unwrap().wait().unwrap();
    assert!(wait.as_secs() <= 4800, "another burst is owed at the most: {wait:?}");
    let trial = self::limit("{key: auth_failures, limit: 1/1h, mode: shadow}");
    let limits = one(&trial);
    let mut begun: Vec<_> = (0..3).map(|_| ask(&limits, &asking).unwrap()).collect();
    for effects in &mut begun {
        authenticated(&limits, effects, true).unwrap();
    }
    let would: Vec<_> = begun.iter().map(|effects| effects.would.len()).collect();
    assert_eq!(would, [0, 1, 1], "what a shadowed limit would have refused is noted");
}

#[test]
fn failures_are_told_on_their_answers_and_overridden_by_address() {
    let limits = one(&limit(
        "{key: [auth_failures, route], limit: 2/1h, burst: 3, overrides: {10.0.0.0/8: 5/1h, 10.1.0.0/16: 1/1h}}",
    ));
    for (client, most) in [("192.0.2.1", 3), ("10.7.0.1", 5), ("10.1.0.1", 1)] {
        let asking = Asking::of(client);
        for left in (0..most).rev() {
            let mut effects = ask(&limits, &asking).unwrap();
            authenticated(&limits, &mut effects, true).unwrap();
            let mut fields = HeaderMap::new();
            limits.tell(&effects.limits, &mut fields);
            let told = fields["ratelimit"].to_str().unwrap();
            assert!(told.contains(&format!(";r={left};")), "{client}: {told}");
        }
        assert!(ask(&limits, &asking).is_err(), "{client}");
        let elsewhere = Asking { route: "other", ..Asking::of(client) };
        assert!(ask(&limits, &elsewhere).is_ok(), "{client}: of another route");
    }
}

#[test]
fn authentication_that_refuses_somebody_known_counts_for_limits_behind_it() {
    let limit = limit("{key: identity, limit: 2/1h, count: {status: [403]}}");
    let limits = one(&limit);
    let asking = Asking::of("192.0.2.1").known(who("a", identity::Method::Jwt, Some("i"), "auth.p"));
    let refuse = || {
        let (facts, mut effects) = (asking.facts(), Effects::default());
        let checked = limits.check_refused(Place::Identity, &facts, &mut effects).now_or_never();
        checked.unwrap().map(|()| effects)
    };
    for left in [1, 0] {
        let mut effects = refuse().unwrap();
        limits.settle(&[403, 403], &mut effects.limits);
        assert_eq!(limit.look(&limit.ask(None, &asking.facts()), Nanos::now()).unwrap().remaining(), left);
    }
    let refusal = refuse().unwrap_err();
    assert_eq!((refusal.reason, refusal.kind.name()), ("spent", "THROTTLED"));
    let wait = limit.look(&limit.ask(None, &asking.facts()), Nanos::now()).unwrap().wait().unwrap();
    assert!(wait.as_secs() <= 1800, "what was refused so is not owed: {wait:?}");
}

#[test]
fn what_authentication_refuses_takes_no_slot_and_no_token_of_limits_that_count_every_request() {
    let live = Live::default();
    let named = |name: &str, text: &str| named(name, text, &live);
    let all = named("all", "{key: identity, limit: 3/1h, concurrent: 1}");
    let some = named("some", "{key: identity, limit: 3/1h, concurrent: 1, count: {status: [403]}}");
    let limits = Limits::new(&[], vec![Arc::clone(&all), Arc::clone(&some)], false).unwrap();
    let asking = Asking::of("192.0.2.1").known(who("a", identity::Method::Jwt, Some("i"), "auth.p"));
    let (facts, mut effects) = (asking.facts(), Effects::default());
    let checked = limits.check_refused(Place::Identity, &facts, &mut effects).now_or_never();
    assert!(checked.unwrap().is_ok());
    assert_eq!((all.under_way(), some.under_way()), (Some(0), Some(0)));
    limits.settle(&[403, 403], &mut effects.limits);
    let left =
        |limit: &RateLimit| limit.look(&limit.ask(None, &asking.facts()), Nanos::now()).unwrap().remaining();
    assert_eq!((left(&all), left(&some)), (3, 2));
}

#[test]
fn a_status_that_comes_after_another_counts_where_the_first_did_not() {
    let limit = limit("{key: client, limit: 9/1h, count: {status: [200, 502]}}");
    let limits = one(&limit);
    let asking = Asking::of("192.0.2.1");
    let left = || limit.look(&limit.ask(None, &asking.facts()), Nanos::now()).unwrap().remaining();
    // A head that was counted, and what became of its body; one that was not, and the refusal in its place.
    for (statuses, after) in [([200, 502, 502], 8), ([204, 502, 502], 7), ([204, 204, 204], 7)] {
        let mut effects = ask(&limits, &asking).unwrap();
        statuses.iter().for_each(|status| limits.settle(&[*status], &mut effects.limits));
        assert_eq!(left(), after, "{statuses:?}");
    }
}

#[test]
fn what_another_limit_of_the_same_place_refuses_counts_by_its_status_but_no_own_refusal_does() {
    for (status, tight, reason) in [(429, "limit: 1/1h", "rate"), (503, "concurrent: 1", "concurrent")] {
        for counted_first in [true, false] {
            let live = Live::default();
            let counted = named("c", "{key: client, limit: 3/1h, count: {status: [429, 503]}}", &live);
            let tight = named("t", &format!("{{key: client, {tight}}}"), &live);
            let mut pair = vec![Arc::clone(&counted), tight];
            if !counted_first {
                pair.reverse();
            }
            let limits = Limits::new(&[], pair, false).unwrap();
            let asking = Asking::of("192.0.2.1");
            let _under_way = ask(&limits, &asking).unwrap();
            let refused = || {
                let (refusal, mut effects) = *ask(&limits, &asking).unwrap_err();
                limits.settle(&[status, status], &mut effects.limits);
                refusal.reason
            };
            let spent = || counted.look(&counted.ask(None, &asking.facts()), Nanos::now()).unwrap();
            assert_eq!([refused(), refused(), refused()], [reason; 3]);
            assert_eq!(spent().remaining(), 0, "{reason}, counted first: {counted_first}");
            (0..3).for_each(|_| _ = refused());
            let wait = spent().wait().unwrap();
            assert!(wait.as_secs() <= 1200, "{reason}, counted first: {counted_first}: {wait:?}");
        }
    }
}

#[test]
fn a_slot_is_held_as_long_as_the_request_is() {
    let limit = limit("{key: client, concurrent: 2, mode: enforce}");
    let limits = one(&limit);
    let asking = Asking::of("192.0.2.1");
    let held: Vec<_> = (0..2).map(|_| ask(&limits, &asking).unwrap()).collect();
    let (refusal, _) = *ask(&limits, &asking).unwrap_err();
    assert_eq!((refusal.reason, refusal.kind.name()), ("concurrent", "OVERLOADED"));
    assert_eq!(limit.under_way(), Some(2));
    let mut held = held.into_iter();
    let mut answered = held.next().unwrap();
    (0..2).for_each(|_| answered.limits.give_back());
    assert_eq!(limit.under_way(), Some(1), "given back once, when it is answered");
    drop((answered, held));
    assert_eq!(limit.under_way(), Some(0));
    assert_eq!(passes(&limits, &asking, 5), 5, "one after the other");
}

#[test]
fn a_refused_request_holds_no_slot_and_has_spent_no_token() {
    let live = Live::default();
    let text = |name: &str, rest: &str| limit_of(&format!("{{key: {{header: {name}}}, {rest}}}"), &live);
    let (slots, wide, tight) =
        (text("x-s", "concurrent: 1"), text("x-w", "limit: 3/1h"), text("x-t", "limit: 1/1h"));
    let limits = Limits::new(&[], vec![Arc::clone(&slots), wide, tight], false).unwrap();
    let asking = Asking::of("192.0.2.1").with("x-s", "a").with("x-w", "a");
    assert_eq!(passes(&limits, &asking.clone().with("x-t", "1"), 9), 1);
    assert_eq!(slots.under_way(), Some(0));
    assert_eq!(passes(&limits, &asking.clone().with("x-t", "2"), 9), 1);
    assert_eq!(passes(&limits, &asking.clone().with("x-t", "3"), 9), 1);
    let (refusal, _) = *ask(&limits, &asking.with("x-t", "4")).unwrap_err();
    assert_eq!(refusal.violated.unwrap().0.len(), 1);
}

#[test]
fn one_limit_alone_is_asked_once_and_nothing_is_allocated_for_it() {
    let limits = one(&limit("{key: client, limit: 1000/1s}"));
    let effects = ask(&limits, &Asking::of("192.0.2.1")).unwrap();
    assert_eq!((effects.limits.tickets.capacity(), effects.limits.slots.capacity()), (0, 0));
    assert!(size_of::<Standing>() <= 192, "{} bytes in every request", size_of::<Standing>());
}

#[test]
fn a_key_that_was_made_ahead_is_the_same() {
    let live = Live::default();
    let named = |name: &str, text: &str| named(name, text, &live);
    let edge = [
        named("tenant", "{key: [client, host], limit: 9/1h}"),
        named("few", "{key: client, limit: 2/1h, overrides: {10.0.0.0/8: 3/1h}}"),
        named("slots", "{key: client, concurrent: 9}"),
    ];
    let limits = Limits::new(&edge, Vec::new(), false).unwrap();
    for (client, number) in [("192.0.2.1", 2), ("2001:db8::1", 2), ("10.0.0.1", 3)] {
        let asking = Asking::of(client);
        let ahead = limits.ahead(asking.client);
        let passed = (0..6).filter(|turn| {
            let facts = Facts { ahead: (turn % 2 == 0).then_some(&ahead), ..asking.facts() };
            limits.check(Place::Edge, &facts, &mut Effects::default()).now_or_never().unwrap().is_ok()
        });
        assert_eq!(passed.count(), number, "{client}");
        let made: Vec<_> = edge.iter().map(|limit| limit.ask(None, &asking.facts()).key).collect();
        let [tenant, few, slots, _] = ahead.0;
        assert!(tenant.is_none(), "it has a part that is not known yet");
        assert_eq!([few, slots].map(|made| made.unwrap().0), [made[1], made[2]]);
    }
}

#[test]
fn what_is_told_is_what_binds_most() {
    let live = Live::default();
    let named = |name: &str, text: &str| named(name, text, &live);
    let edge = [named("edge", "{key: client, limit: 9/1h, overrides: {10.0.0.0/8: 20/10s}}")];
    let route = vec![
        named("user", "{key: identity, limit: 5/1h}"),
        named("slots", "{key: client, concurrent: 3}"),
        named("trial", "{key: client, limit: 1/1h, mode: shadow}"),
        named("old", "{key: client, limit: 8/1h, headers: legacy}"),
    ];
    let limits = Limits::new(&edge, route, false).unwrap();
    let told = |effects: &Effects| {
        let mut fields = HeaderMap::new();
        limits.tell(&effects.limits, &mut fields);
        let text = |name| fields.get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
        (text("ratelimit-policy"), text("ratelimit"), text("x-ratelimit-remaining"))
    };
    let policy = |edge: &str| {
        format!("\"edge\";{edge}, \"slots\";q=3;qu=\"concurrent-requests\", \"user\";q=5;w=3600")
    };
    let effects = ask(&limits, &Asking::of("192.0.2.1")).unwrap();
    let some = |text: &str| Some(text.to_owned());
    let both = some("\"user\";r=4;t=0, \"slots\";r=2");
    assert_eq!(told(&effects), (Some(policy("q=9;w=3600")), both, some("7")));
    assert_eq!(told(&Effects::default()), (Some(policy("q=9;w=3600")), None, None));
    let effects = ask(&limits, &Asking::of("10.0.0.1")).unwrap();
    assert_eq!(told(&effects).0, Some(policy("q=20;w=10")));
}

#[test]
fn a_reload_keeps_tokens_and_slots_whatever_of_memory_limit_and_concurrent_comes_or_goes() {
    let steps = [
        "concurrent: 2",
        "limit: 9/1h, concurrent: 2",
        "limit: 9/1h, concurrent: 2, memory: 1MiB",
        "limit: 9/1h, memory: 1MiB",
        "concurrent: 2, memory: 1MiB",
        "limit: 9/1h, concurrent: 2, memory: 64KiB",
    ];
    let (live, asking) = (Live::default(), Asking::of("192.0.2.1"));
    let first = limit_of(&format!("{{key: client, {}}}", steps[0]), &live);
    let held: Vec<_> = (0..2).map(|_| ask(&one(&first), &asking).unwrap()).collect();
    let mut spent = 0;
    for text in &steps[1..] {
        let limit = limit_of(&format!("{{key: client, {text}}}"), &live);
        if limit.concurrent.is_some() {
            assert_eq!(limit.under_way(), Some(2), "{text}");
            assert_eq!(ask(&one(&limit), &asking).unwrap_err().0.reason, "concurrent", "{text}");
        }
        if limit.allowance.is_some() {
            let left = || limit.look(&limit.ask(None, &asking.facts()), Nanos::now()).unwrap().remaining();
            assert_eq!(left(), 9 - spent, "{text}");
            let _ = limit.take(&limit.ask(None, &asking.facts()), Nanos::now());
            spent += 1;
        }
        live.sweep();
    }
    drop(held);
    assert_eq!(first.under_way(), Some(0), "given back to where they are counted");
    let last = limit_of(&format!("{{key: client, {}}}", steps[5]), &live);
    assert_eq!(
        (last.under_way(), passes(&one(&last), &asking, 9)),
        (Some(0), 9 - usize::try_from(spent).unwrap())
    );
}

#[test]
fn slots_are_told_beside_tokens_and_what_has_refused_comes_first() {
    // Of a limit, beside one with tokens: what is told of the policies, and with none, one and two requests under way.
    let rows = [
        (
            "concurrent: 2",
            "\"few\";q=2;qu=\"concurrent-requests\"",
            ["\"few\";r=1", "\"few\";r=0", "\"few\";r=0"],
        ),
        (
            "limit: 9/1h, concurrent: 2",
            "\"few\";q=9;w=3600, \"few.concurrent\";q=2;qu=\"concurrent-requests\"",
            [
                "\"few\";r=8;t=0, \"few.concurrent\";r=1",
                "\"few\";r=7;t=0, \"few.concurrent\";r=0",
                "\"few.concurrent\";r=0, \"few\";r=7;t=0",
            ],
        ),
        ("limit: 9/1h", "\"few\";q=9;w=3600", ["\"few\";r=8;t=0", "\"few\";r=7;t=0", "\"few\";r=6;t=0"]),
        (
            "limit: 1/1h, concurrent: 2",
            "\"few\";q=1;w=3600, \"few.concurrent\";q=2;qu=\"concurrent-requests\"",
            ["\"few\";r=0;t=3600, \"few.concurrent\";r=1", "\"few\";r=0;t=3600", "\"few\";r=0;t=3600"],
        ),
    ];
    for (text, policies, expected) in rows {
        let limits = one(&limit(&format!("{{key: client, {text}}}")));
        let mut held = Vec::new();
        for (under_way, expected) in expected.into_iter().enumerate() {
            let asked = ask(&limits, &Asking::of("192.0.2.1"));
            let effects = asked.unwrap_or_else(|refused| {
                let (refusal, effects) = *refused;
                let violated = refusal.violated.unwrap().0.remove(0);
                assert!(expected.starts_with(&format!("\"{violated}\";r=0")), "{violated}: {text}");
                effects
            });
            let mut fields = HeaderMap::new();
            assert!(limits.tell(&effects.limits, &mut fields));
            assert_eq!(fields["ratelimit-policy"], policies, "{text}");
            assert_eq!(fields["ratelimit"], expected, "{under_way} under way: {text}");
            held.push(effects);
        }
    }
    // The older fields have room for one: what has refused, else the tokens.
    let limits = one(&limit("{key: client, limit: 9/1h, concurrent: 1, headers: legacy}"));
    let told = |effects: &Effects| {
        let mut fields = HeaderMap::new();
        limits.tell(&effects.limits, &mut fields);
        let text = |name: &str| fields.get(name).map(|value| value.to_str().unwrap().to_owned());
        ["x-ratelimit-limit", "x-ratelimit-remaining"].map(text)
    };
    let some = |text: &str| Some(text.to_owned());
    let held = ask(&limits, &Asking::of("192.0.2.1")).unwrap();
    assert_eq!(told(&held), [some("9"), some("8")]);
    let (_, refused) = *ask(&limits, &Asking::of("192.0.2.1")).unwrap_err();
    assert_eq!(told(&refused), [some("1"), some("0")]);
}

#[test]
fn a_key_that_is_cooled_off_is_refused_though_it_has_tokens() {
    let penalty = "penalty: {after: 3, first: 100s, max: 200s}";
    let live = Live::default();
    let tight = limit_of(&format!("{{key: client, limit: 10/1s, {penalty}}}"), &live);
    let wide = named("wide", "{key: client, limit: 100/1h}", &live);
    let limits = Limits::new(&[], vec![Arc::clone(&wide), Arc::clone(&tight)], false).unwrap();
    let asking = Asking::of("192.0.2.1");
    hammer(&tight, &asking);
    let (refusal, effects) = *ask(&limits, &asking).unwrap_err();
    assert_eq!((refusal.reason, refusal.kind.name()), ("penalty", "ABNORMAL_USAGE"));
    assert_eq!(refusal.headers, [(http::header::RETRY_AFTER, HeaderValue::from_static("100"))]);
    assert_eq!(refusal.violated.unwrap().0.len(), 1);
    let mut fields = HeaderMap::new();
    assert!(limits.tell(&effects.limits, &mut fields));
    assert_eq!(fields["ratelimit"], "\"few\";r=0;t=100");
    let left =
        |limit: &RateLimit| limit.look(&limit.ask(None, &asking.facts()), Nanos::now()).unwrap().remaining();
    assert_eq!((left(&wide), left(&tight)), (100, 10), "a refused request has spent nothing");
    assert_eq!(passes(&limits, &Asking::of("192.0.2.2"), 1), 1);
    let figures = tight.penalties().unwrap();
    assert_eq!((figures.cooled_off, figures.begun, figures.missed), (1, 1, 0));
    assert_eq!(wide.penalties(), None);
    // The same table, whatever is written of the penalty; and none of it where nothing is.
    let other = limit_of("{key: client, limit: 10/1s, penalty: {after: 9}}", &live);
    assert!(ask(&one(&other), &asking).is_err());
    assert!(ask(&one(&limit_of("{key: client, limit: 10/1s}", &live)), &asking).is_ok());
    // What costs nothing passes, as ever.
    let free =
        limit_of(&format!("{{key: client, limit: 10/1s, cost: {{methods: {{GET: 0}}}}, {penalty}}}"), &live);
    assert!(ask(&one(&free), &asking).is_ok());
}

#[test]
fn explain_tells_of_a_penalty_and_a_shadowed_one_refuses_nobody() {
    let limit = limit("{key: client, limit: 10/1s, penalty: {after: 3}, mode: shadow}");
    let (limits, asking) = (one(&limit), Asking::of("192.0.2.1"));
    let told = || {
        let mut effects = Effects::recording();
        let checked = limits.check(Place::Route, &asking.facts(), &mut effects).now_or_never().unwrap();
        assert!(checked.is_ok());
        let step = effects.steps.unwrap().remove(0);
        (step.outcome.into_owned(), step.detail.into_owned(), effects.would)
    };
    let (outcome, detail, would) = told();
    assert_eq!((outcome.as_str(), would.len()), ("pass", 0));
    assert_eq!(detail, "9 of 10 left, by client; who hammers is cooled off; shadowed, it refuses nobody");
    hammer(&limit, &asking);
    let (outcome, detail, would) = told();
    assert_eq!((outcome.as_str(), would.len(), would[0].reason), ("would refuse", 1, "penalty"));
    assert!(detail.contains("it is cooled off (ABNORMAL_USAGE)"), "{detail}");
}
