//! Plans as a document has them, counted in memory alone.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use http::HeaderMap;
use http::header::RETRY_AFTER;

use super::plan_config::Config;
use super::{Limits, Plan, Plans, RateLimit, UnknownPlan};
use crate::config::{Build, Spanned, load_text};
use crate::identity::{Identity, Method};
use crate::policy::Effects;
use crate::reply::{Kind, Refusal};
use crate::state::Live;

/// 2026-11-23, a Monday.
const MONDAY: u64 = 1_795_392_000;

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn plan_in(live: &Live, text: &str) -> Arc<Plan> {
    let mut build = Build::default();
    let config: Spanned<Config> = load_text("t.yaml", text, &|_| None, &mut build)
        .unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)));
    let plan = Plan::compile("free", &config, live, &mut build);
    let plan = plan.unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)));
    plan.put_in_force();
    Arc::new(plan)
}

fn plan(text: &str) -> Arc<Plan> {
    plan_in(&Live::default(), text)
}

fn ask(plan: &Arc<Plan>, key: &str, route: &str, now: u64) -> (Result<(), Refusal>, Effects) {
    let mut effects = Effects::default();
    let asked = plan
        .check(key, route, at(now), plan.is_spent(key, route, at(now)), &mut effects)
        .now_or_never()
        .unwrap();
    (asked, effects)
}

fn passes(plan: &Arc<Plan>, key: &str, route: &str, now: u64, number: usize) -> usize {
    (0..number).filter(|_| ask(plan, key, route, now).0.is_ok()).count()
}

fn told(effects: &Effects, name: &str) -> Option<String> {
    let mut fields = HeaderMap::new();
    effects.limits.tell(&mut fields);
    fields.get(name).map(|value| value.to_str().unwrap().to_owned())
}

#[test]
fn a_key_is_in_its_plan_or_refused_where_that_is_gone() {
    let mut key = Identity::new("acme", Method::ApiKey, "auth.keys".into());
    let plans: Plans = [plan("quota: {limit: 1, per: DAY}")].into_iter().collect();
    assert_eq!(plans.of(&key).map(|plan| plan.is_none()), Ok(true), "it has none");
    key.plan = Some("free".into());
    assert_eq!(plans.of(&key).map(|plan| plan.map(|plan| plan.label().to_owned())), Ok(Some("free".into())));
    key.plan = Some("gone".into());
    assert_eq!(plans.of(&key).map(|plan| plan.is_none()), Err(UnknownPlan));
    assert_eq!(
        Plans::default().of(&key).map(|plan| plan.is_none()),
        Err(UnknownPlan),
        "the last one is gone"
    );
    assert_eq!(
        (plans.knows("free"), plans.knows("gone"), Plans::default().knows("free")),
        (true, false, false)
    );
    key.plan = None;
    assert_eq!(Plans::default().of(&key).map(|plan| plan.is_none()), Ok(true));
}

#[test]
fn the_throttle_is_asked_first_and_what_it_refuses_is_not_counted() {
    let plan = plan(
        "throttle: {rate: 1/1h, burst: 3}\nquota: {limit: 5, per: DAY}\nroutes: {own: {throttle: {rate: 2/1h}}}",
    );
    assert_eq!(passes(&plan, "one", "orders", MONDAY, 5), 3);
    assert_eq!(passes(&plan, "one", "items", MONDAY, 1), 0, "one bucket for all routes");
    let (refused, effects) = ask(&plan, "one", "orders", MONDAY);
    let refusal = refused.unwrap_err();
    assert_eq!((refusal.kind, refusal.reason), (Kind::Throttled, "rate"));
    assert_eq!(refusal.violated.unwrap().0, [Arc::<str>::from("free")]);
    assert!(told(&effects, "ratelimit").unwrap().starts_with("\"free\";r=0;t="));
    assert_eq!(
        passes(&plan, "one", "own", MONDAY, 5),
        2,
        "but where a route has its own; the quota is used up then"
    );
    let (refused, effects) = ask(&plan, "one", "fourth", MONDAY + 86_400);
    assert_eq!(refused.unwrap_err().reason, "rate", "tokens come by another clock");
    assert_eq!(
        told(&effects, "ratelimit-policy").unwrap(),
        "\"free\";q=3;w=10800, \"free-quota\";q=5;w=86400",
        "what was not asked any more is told all the same"
    );
    assert_eq!(passes(&plan, "two", "orders", MONDAY, 5), 3, "each key for itself");
}

#[test]
fn a_quota_begins_anew_with_each_period() {
    let plan = plan("quota: {limit: 2, per: WEEK, offset: 1}");
    let sunday = MONDAY + 7 * 86_400 - 1;
    assert_eq!(passes(&plan, "one", "a", MONDAY, 2), 1, "the first one, as far as is known");
    let (refused, effects) = ask(&plan, "one", "b", sunday);
    let refusal = refused.unwrap_err();
    assert_eq!((refusal.kind, refusal.reason), (Kind::QuotaExceeded, "quota"));
    assert_eq!(refusal.violated.unwrap().0, [Arc::<str>::from("free-quota")]);
    assert_eq!(refusal.headers[0].1, "1");
    assert_eq!(told(&effects, "ratelimit").unwrap(), "\"free-quota\";r=0;t=1");
    assert_eq!(told(&effects, "ratelimit-policy").unwrap(), "\"free-quota\";q=1;w=604800");
    let (passed, effects) = ask(&plan, "one", "a", sunday + 1);
    assert!(passed.is_ok());
    assert_eq!(told(&effects, "ratelimit").unwrap(), "\"free-quota\";r=1;t=604800");
    assert_eq!(told(&effects, "ratelimit-policy").unwrap(), "\"free-quota\";q=2;w=604800");
}

#[test]
fn of_throttle_quota_and_limits_the_most_binding_is_told() {
    let texts = "throttle: {rate: 1/1h, burst: 3}\nquota: {limit: 2, per: DAY}";
    let (passed, effects) = ask(&plan(texts), "one", "a", MONDAY);
    assert!(passed.is_ok());
    assert_eq!(told(&effects, "ratelimit").unwrap(), "\"free-quota\";r=1;t=86400");
    assert_eq!(
        told(&effects, "ratelimit-policy").unwrap(),
        "\"free\";q=3;w=10800, \"free-quota\";q=2;w=86400"
    );
    // Beside a limit of the route.
    let mut build = Build::default();
    let config = load_text("t.yaml", "{key: client, limit: 1/1h}", &|_| None, &mut build).unwrap();
    let limit = Arc::new(RateLimit::compile("few", &config, &Live::default(), &mut build).unwrap());
    limit.put_in_force();
    let limits = Limits::new(&[], vec![limit], false).unwrap();
    let mut fields = HeaderMap::new();
    limits.tell(&effects.limits, &mut fields);
    let policies = fields["ratelimit-policy"].to_str().unwrap();
    assert_eq!(policies, "\"few\";q=1;w=3600, \"free\";q=3;w=10800, \"free-quota\";q=2;w=86400");
    assert_eq!(fields["ratelimit"], "\"free-quota\";r=1;t=86400");
    // In the older way, and not at all.
    let (_, effects) = ask(&plan(&format!("{texts}\nheaders: legacy")), "one", "a", MONDAY);
    let legacy =
        ["limit", "remaining", "reset"].map(|name| told(&effects, &format!("x-ratelimit-{name}")).unwrap());
    assert_eq!(legacy, ["2", "1", "86400"]);
    assert_eq!(told(&effects, "ratelimit"), None);
    for hidden in ["headers: hidden", "mode: shadow"] {
        let plan = plan(&format!("{texts}\n{hidden}"));
        let (_, effects) = ask(&plan, "one", "a", MONDAY);
        assert_eq!((told(&effects, "ratelimit-policy"), told(&effects, "x-ratelimit-limit")), (None, None));
    }
}

#[test]
fn a_plan_is_told_before_it_is_asked() {
    let plan = plan(
        "throttle: {rate: 1/1h, burst: 3}\nquota: {limit: 5, per: DAY, offset: 2}\nroutes: {own: {throttle: none}}",
    );
    let announced = |route: &str| {
        let mut effects = Effects::default();
        plan.announce("one", route, at(MONDAY), &mut effects);
        (told(&effects, "ratelimit-policy"), told(&effects, "ratelimit"))
    };
    let both = "\"free\";q=3;w=10800, \"free-quota\";q=5;w=86400".to_owned();
    assert_eq!(announced("orders"), (Some(both), None), "how it stands is not known");
    assert_eq!(announced("own").0.as_deref(), Some("\"free-quota\";q=5;w=86400"));
    assert_eq!(passes(&plan, "one", "own", MONDAY, 9), 3, "nothing was taken");
    assert_eq!(
        announced("own").0.as_deref(),
        Some("\"free-quota\";q=3;w=86400"),
        "its first period is known"
    );
}

#[test]
fn a_shadowed_plan_notes_what_it_would_refuse() {
    let plan = plan("throttle: {rate: 1/1h}\nquota: {limit: 1, per: DAY}\nmode: shadow");
    assert!(ask(&plan, "one", "a", MONDAY).1.would.is_empty());
    let (passed, effects) = ask(&plan, "one", "a", MONDAY);
    assert!(passed.is_ok());
    let would: Vec<_> = effects.would.iter().map(|facts| (facts.reason, facts.policy.as_deref())).collect();
    assert_eq!(would, [("rate", Some("plans.free")), ("quota", Some("plans.free"))]);
}

#[test]
fn a_throttle_that_refuses_tells_of_a_quota_that_is_used_up_too() {
    let plan = plan("throttle: {rate: 1/3h, burst: 1}\nquota: {limit: 1, per: MONTH}");
    assert!(ask(&plan, "one", "a", MONDAY).0.is_ok());
    let (refused, effects) = ask(&plan, "one", "a", MONDAY);
    let refused = refused.unwrap_err();
    assert_eq!((refused.reason, refused.kind.name()), ("rate", "THROTTLED"));
    let violated = refused.violated.unwrap().0;
    assert_eq!(violated.iter().map(|label| &**label).collect::<Vec<_>>(), ["free", "free-quota"]);
    let wait = refused.headers.iter().find(|(name, _)| name == RETRY_AFTER).unwrap().1.to_str().unwrap();
    assert!(wait.parse::<u64>().unwrap() > 86_400, "{wait}");
    assert_eq!(told(&effects, "ratelimit").unwrap(), format!("\"free-quota\";r=0;t={wait}"));
    // Something is left of the quota: it is not told as violated.
    let plan = plan_in(&Live::default(), "throttle: {rate: 1/3h, burst: 1}\nquota: {limit: 2, per: MONTH}");
    assert!(ask(&plan, "one", "a", MONDAY).0.is_ok());
    assert_eq!(ask(&plan, "one", "a", MONDAY).0.unwrap_err().violated.unwrap().0.len(), 1);
}

#[test]
fn what_a_quota_refuses_takes_nothing_from_the_throttle() {
    let live = Live::default();
    let text =
        |limit: u32| format!("throttle: {{rate: 1/1h, burst: 3}}\nquota: {{limit: {limit}, per: DAY}}");
    assert_eq!(passes(&plan_in(&live, &text(2)), "one", "a", MONDAY, 9), 2);
    assert_eq!(passes(&plan_in(&live, &text(9)), "one", "a", MONDAY, 9), 1);
}

#[test]
fn explain_counts_nothing() {
    let plan = plan("quota: {limit: 1, per: DAY}");
    for _ in 0..3 {
        let mut effects = Effects::recording();
        plan.check("one", "a", at(MONDAY), false, &mut effects).now_or_never().unwrap().unwrap();
        let steps = effects.steps.unwrap();
        assert_eq!(steps[0].detail, "1 of 1 used this DAY, until 2026-11-24T00:00:00Z");
        assert_eq!(steps[0].site.as_ref().unwrap().to_string(), "t.yaml:1");
    }
    assert_eq!(passes(&plan, "one", "a", MONDAY, 3), 1);
}

#[test]
fn a_reload_keeps_counts_and_buckets() {
    let live = Live::default();
    let text =
        |limit: u32| format!("throttle: {{rate: 1/1h, burst: 3}}\nquota: {{limit: {limit}, per: DAY}}");
    let first = plan_in(&live, &text(3));
    assert_eq!(passes(&first, "one", "a", MONDAY, 3), 3);
    let second = plan_in(&live, &text(9));
    assert_eq!(passes(&second, "one", "a", MONDAY, 3), 0, "three tokens are spent");
    let third = plan_in(&live, "quota: {limit: 4, per: DAY}");
    assert_eq!(passes(&third, "one", "a", MONDAY, 9), 1);
    assert_eq!(passes(&plan_in(&live, "throttle: none"), "one", "a", MONDAY, 9), 9);
    let again = plan_in(&live, &text(9));
    assert_eq!(passes(&again, "one", "a", MONDAY, 3), 0, "as they were before nobody was throttled");
}
