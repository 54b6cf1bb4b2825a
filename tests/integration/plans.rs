//! Usage plans: what a key may do on whatever route it opens, counted exactly through reloads, restarts and a second process.

use std::process::Output;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Connection, Place, Response, Running, eventually};

const AUTH: &str = "  auth: {partners: {api_key: {header: x-api-key}}}\n";
const ROUTES: &str = "routes:
  - {name: orders, match: {path: /orders}, auth: partners, respond: {body: orders}}
  - {name: items, match: {path: /items}, auth: partners, respond: {body: items}}
  - {name: open, match: {path: /open}, respond: {body: open}}
";

fn with_plans(plans: &str) -> String {
    format!("policies:\n{AUTH}  plans:\n{plans}{ROUTES}")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

fn portcullis(place: &Place, arguments: &[&str]) -> Output {
    place.portcullis(&[arguments, &["--config", "portcullis.yaml"]].concat())
}

/// An id, and its key.
fn create(place: &Place, more: &[&str]) -> (String, String) {
    let usual = ["keys", "create", "--name", "report", "--owner", "acme", "--json"];
    let output = portcullis(place, &[&usual, more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |name: &str| told[name].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

fn request(path: &str, key: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\nX-Api-Key: {key}\r\n\r\n")
}

fn ask(gateway: &Running, path: &str, key: &str) -> Response {
    gateway.send(request(path, key))
}

/// Waits until gateways know a key that is of no plan, made after those that matter.
fn keys_are_known(gateway: &Running) {
    let (_, key) = create(&gateway.place, &[]);
    eventually("the keys to be known", || (ask(gateway, "/orders", &key).status == 200).then_some(()));
}

fn statuses(gateway: &Running, number: usize, path: &str, key: &str) -> Vec<u16> {
    (0..number).map(|_| ask(gateway, path, key).status).collect()
}

/// What the store says of a key.
fn usage(place: &Place, id: &str) -> Value {
    let output = portcullis(place, &["usage", "--key", id, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    told[0].clone()
}

fn used(place: &Place, id: &str) -> u64 {
    usage(place, id)["used"].as_u64().unwrap()
}

/// Waits until the store says so.
fn await_used(place: &Place, id: &str, number: u64) {
    eventually(&format!("{number} to be used, not {}", used(place, id)), || {
        (used(place, id) == number).then_some(())
    });
}

fn refusals(gateway: &Running, policy: &str, reason: &str) -> f64 {
    gateway.metrics().of("portcullis_refusals_total", &[("policy", policy), ("reason", reason)])
}

/// The same files, after a power cut as far as a process can have one.
fn killed(mut gateway: Running) -> Running {
    gateway.signal(Signal::KILL);
    gateway.wait(Duration::from_secs(10));
    let place = std::mem::replace(&mut gateway.place, Place::new());
    let text = place.read("portcullis.yaml");
    place.start_existing(&text)
}

#[test]
fn a_quota_is_one_for_all_routes_and_is_told() {
    let gateway = Running::with(&with_plans("    free: {quota: {limit: 3, per: MONTH}}\n"));
    let (id, key) = create(&gateway.place, &["--plan", "free"]);
    let (_, other) = create(&gateway.place, &["--plan", "free"]);
    keys_are_known(&gateway);
    for (left, path) in [(2, "/orders"), (1, "/items"), (0, "/orders")] {
        let passed = ask(&gateway, path, &key);
        passed.expect(200);
        let policy = passed.all("ratelimit-policy");
        let window: u64 = policy.strip_prefix("\"free-quota\";q=3;w=").unwrap().parse().unwrap();
        assert!((28..=31).contains(&(window / 86_400)) && window.is_multiple_of(86_400), "{policy}");
        let standing = passed.all("ratelimit");
        let resets = standing.strip_prefix(&format!("\"free-quota\";r={left};t=")).unwrap();
        assert!((1..=31 * 86_400).contains(&resets.parse::<u64>().unwrap()), "{standing}");
    }
    let refused = ask(&gateway, "/items", &key);
    refused.expect(429);
    let wait: u64 = refused.all("retry-after").parse().unwrap();
    assert_eq!(refused.all("ratelimit"), format!("\"free-quota\";r=0;t={wait}"));
    let problem = refused.json();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(problem["violated-policies"], json!(["free-quota"]));
    ask(&gateway, "/items", &other).expect(200);
    assert_eq!(gateway.get("/open").header("ratelimit-policy"), None);
    // How many were asked before the keys were known, nobody knows.
    let line = eventually("the refusal in the access log", || {
        let log = gateway.place.read("access.log");
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut lines = lines;
        lines.find(|line| line["status"] == 429)
    });
    assert_eq!(line["error"]["responseType"], "QUOTA_EXCEEDED");
    assert_eq!((&line["error"]["policy"], &line["error"]["reason"]), (&json!("plans.free"), &json!("quota")));
    assert!(line["error"]["site"].as_str().unwrap().contains("portcullis.yaml:"), "{line}");
    eventually("the refusal to be counted", || {
        (refusals(&gateway, "plans.free", "quota") == 1.0).then_some(())
    });
    await_used(&gateway.place, &id, 3);
    let usage = usage(&gateway.place, &id);
    assert_eq!((&usage["left"], &usage["allowed"], &usage["per"]), (&json!(0), &json!(3), &json!("MONTH")));
    gateway.await_metric("portcullis_quota_unwritten", &[], 0.0);
}

#[test]
fn a_throttle_holds_on_every_route_and_one_of_its_own_where_a_route_has_one() {
    let gateway = Running::with(&with_plans(
        "    free:
      throttle: {rate: 1/1h, burst: 3}
      quota: {limit: 100, per: MONTH}
      routes: {items: {throttle: {rate: 2/1h}}, third: {throttle: none}}
    wide: {throttle: none}
",
    ).replace("  - {name: open", "  - {name: third, match: {path: /third}, auth: partners, respond: {}}\n  - {name: fourth, match: {path: /fourth}, auth: partners, respond: {}}\n  - {name: open"));
    let (id, key) = create(&gateway.place, &["--plan", "free"]);
    let (_, wide) = create(&gateway.place, &["--plan", "wide"]);
    keys_are_known(&gateway);
    let first = ask(&gateway, "/orders", &key);
    first.expect(200);
    assert_eq!(first.all("ratelimit"), "\"free\";r=2;t=0");
    let policy = first.all("ratelimit-policy");
    assert!(policy.starts_with("\"free\";q=3;w=10800, \"free-quota\";q=100;w="), "{policy}");
    assert_eq!(statuses(&gateway, 2, "/fourth", &key), [200, 200]);
    let refused = ask(&gateway, "/orders", &key);
    refused.expect(429);
    assert_eq!(refused.json()["violated-policies"], json!(["free"]));
    assert_eq!(refused.all("ratelimit").split(";t").next(), Some("\"free\";r=0"));
    let wait: u64 = refused.all("retry-after").parse().unwrap();
    assert!((3_590..=3_600).contains(&wait), "{wait}");
    // A bucket of the route's own.
    assert_eq!(statuses(&gateway, 3, "/items", &key), [200, 200, 429]);
    assert_eq!(statuses(&gateway, 6, "/third", &key), [200; 6]);
    assert_eq!(statuses(&gateway, 6, "/orders", &wide), [200; 6]);
    eventually("the refusals to be counted", || {
        (refusals(&gateway, "plans.free", "rate") == 2.0).then_some(())
    });
    // What the throttle refuses is not taken from the quota.
    await_used(&gateway.place, &id, 11);
}

#[test]
fn what_anything_else_refuses_takes_nothing_and_a_plan_that_is_gone_refuses() {
    let plans = "    free: {quota: {limit: 2, per: MONTH}}\n";
    let gateway = Running::with(&with_plans(plans));
    let (id, key) = create(&gateway.place, &["--plan", "free", "--routes", "orders"]);
    let (_, bare) = create(&gateway.place, &[]);
    keys_are_known(&gateway);
    ask(&gateway, "/items", &key).expect(403);
    ask(&gateway, "/nowhere", &key).expect(404);
    ask(&gateway, "/orders", &format!("{key}x")).expect(401);
    assert_eq!(statuses(&gateway, 3, "/orders", &key), [200, 200, 429]);
    await_used(&gateway.place, &id, 2);
    // A plan that is gone is gone, whether there are others or none.
    gateway.reload(&format!("policies:\n{AUTH}{ROUTES}"));
    gateway.await_line("keys of the plan `free` (1) are refused");
    ask(&gateway, "/orders", &key).expect(403);
    ask(&gateway, "/orders", &bare).expect(200);
    gateway.reload(&with_plans("    gold: {quota: {limit: 2, per: MONTH}}\n"));
    let refused = ask(&gateway, "/orders", &key);
    refused.expect(403);
    assert!(refused.text().contains("access-denied"), "{}", refused.text());
    ask(&gateway, "/orders", &bare).expect(200);
    eventually("the refusal to be counted", || {
        (refusals(&gateway, "gateway", "plan_unknown") == 2.0).then_some(())
    });
    // Back again the counter is where it was.
    gateway.reload(&with_plans(plans));
    ask(&gateway, "/orders", &key).expect(429);
    let gateway = {
        gateway.reload(&format!("policies:\n{AUTH}{ROUTES}"));
        gateway.restart()
    };
    gateway.await_line("keys of the plan `free` (1) are refused");
    ask(&gateway, "/orders", &key).expect(403);
    ask(&gateway, "/orders", &bare).expect(200);
}

#[test]
fn a_key_moves_to_another_plan_within_a_second() {
    let gateway = Running::with(&with_plans(
        "    free: {quota: {limit: 1, per: MONTH}}\n    gold: {quota: {limit: 9000, per: MONTH}}\n",
    ));
    let (id, key) = create(&gateway.place, &["--plan", "free"]);
    keys_are_known(&gateway);
    assert_eq!(statuses(&gateway, 2, "/orders", &key), [200, 429]);
    let set = |arguments: &[&str]| {
        let output = portcullis(&gateway.place, &[&["keys", "set"], arguments].concat());
        (output.status.code(), told(&output))
    };
    let told_of = |plan: &str| {
        let told = ask(&gateway, "/items", &key).all("ratelimit-policy");
        told.starts_with(plan).then_some(())
    };
    let begun = std::time::Instant::now();
    let (status, said) = set(&["--id", &id, "--plan", "gold"]);
    assert_eq!(
        (status, said.trim()),
        (Some(0), &*format!("`{id}` is in the plan `gold`; gateways know within a second"))
    );
    eventually("the other plan to hold", || told_of("\"gold-quota\";q=9000"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(
        set(&["--id", &id, "--plan", "gold"]).1.trim(),
        format!("`{id}` was in the plan `gold` already")
    );
    // Back again, what was used there is used.
    assert_eq!(set(&["--id", &id, "--plan", "free", "--json"]).0, Some(0));
    eventually("the first one to hold", || (ask(&gateway, "/orders", &key).status == 429).then_some(()));
    assert!(told_of("\"free-quota\";q=1").is_some());
    let (status, said) = set(&["--id", &id, "--no-plan", "--json"]);
    assert_eq!((status, serde_json::from_str(&said).ok()), (Some(0), Some(json!({"id": id, "plan": null}))));
    eventually("no plan to hold", || (ask(&gateway, "/orders", &key).status == 200).then_some(()));
    assert_eq!(ask(&gateway, "/orders", &key).header("ratelimit-policy"), None);
    for (arguments, status, expected) in [
        (
            &["--id", &*id, "--plan", "glod"][..],
            64,
            "the configuration has no plan `glod`\n  = help: did you mean `gold`?",
        ),
        (&["--id", "nobody", "--plan", "gold"], 1, "`nobody`: there is no key of this id"),
        (&["--id", &id, "--plan", "gold", "--no-plan"], 64, "cannot be used with"),
        (&["--id", &id], 64, "--plan"),
    ] {
        let (code, said) = set(arguments);
        assert!(code == Some(status) && said.contains(expected), "{arguments:?}: {code:?} {said}");
    }
    assert_eq!(portcullis(&gateway.place, &["keys", "revoke", "--id", &id]).status.code(), Some(0));
    let (status, said) = set(&["--id", &id, "--plan", "gold"]);
    assert!(status == Some(1) && said.contains("the key is revoked"), "{said}");
}

#[test]
fn what_a_key_has_spent_is_there_when_its_throttle_comes_back() {
    let (throttled, free) = (
        with_plans("    free: {throttle: {rate: 2/1h}, quota: {limit: 90, per: MONTH}}\n"),
        with_plans("    free: {throttle: none}\n"),
    );
    let gateway = Running::with(&throttled);
    let (_, key) = create(&gateway.place, &["--plan", "free"]);
    keys_are_known(&gateway);
    assert_eq!(statuses(&gateway, 3, "/orders", &key), [200, 200, 429]);
    for between in [&free, &with_plans("    free: {quota: {limit: 90, per: MONTH}}\n")] {
        gateway.reload(between);
        ask(&gateway, "/orders", &key).expect(200);
        gateway.reload(&throttled);
        let refused = ask(&gateway, "/orders", &key);
        refused.expect(429);
        let told = "\"free\";q=2;w=3600, \"free-quota\";q=90;w=";
        assert!(refused.all("ratelimit-policy").starts_with(told), "{refused:?}");
    }
    // Through two restarts, between which nobody is throttled.
    gateway.reload(&free);
    let gateway = gateway.restart();
    ask(&gateway, "/orders", &key).expect(200);
    gateway.reload(&throttled);
    ask(&gateway, "/orders", &key).expect(429);
    gateway.reload(&free);
    let gateway = gateway.restart().restart();
    gateway.reload(&throttled);
    ask(&gateway, "/orders", &key).expect(429);
}

#[test]
fn what_refuses_a_key_before_its_plan_tells_of_the_plan_too() {
    let limit = "policies:\n  rate_limits: {few: {key: api_key, limit: 1/1h}}\n";
    let plans = "    free: {throttle: {rate: 9/1h}, quota: {limit: 9, per: DAY}}\n";
    let text = with_plans(plans)
        .replace("policies:\n", limit)
        .replace("auth: partners, ", "auth: partners, rate_limits: [few], ");
    let gateway = Running::with(&text);
    let (_, key) = create(&gateway.place, &["--plan", "free"]);
    eventually("the key to open", || (ask(&gateway, "/orders", &key).status != 401).then_some(()));
    let refused = ask(&gateway, "/orders", &key);
    refused.expect(429);
    let told = "\"few\";q=1;w=3600, \"free\";q=9;w=3600, \"free-quota\";q=9;w=86400";
    assert_eq!(refused.all("ratelimit-policy"), told);
    assert!(refused.all("ratelimit").starts_with("\"few\";r=0;t="), "{refused:?}");
}

#[test]
fn who_is_refused_by_a_limit_of_his_own_spends_nothing_that_others_share() {
    let limits = "policies:\n  rate_limits:
    all: {key: route, limit: 10/1h}
    group: {key: plan, limit: 10/1h}
    own: {key: api_key, limit: 2/1h}\n";
    let plans = "    slow: {throttle: {rate: 2/1h}}
    few: {throttle: none, quota: {limit: 2, per: MONTH}}
    free: {throttle: none}\n";
    let route = |name: &str, limits: &str| {
        format!(
            "  - {{name: {name}, match: {{path: /{name}}}, auth: partners, rate_limits: [{limits}], respond: {{}}}}\n"
        )
    };
    let routes = ["all", "group", "all, own"].iter().zip(["a", "b", "c"]);
    let text = with_plans(plans).replace("policies:\n", limits)
        + &routes.map(|(limits, name)| route(name, limits)).collect::<String>();
    let gateway = Running::with(&text);
    let all = [("/a", "slow"), ("/b", "slow"), ("/a", "few"), ("/b", "few"), ("/c", "free")];
    for (path, plan) in all {
        let [(_, own), (_, other)] = [(); 2].map(|()| create(&gateway.place, &["--plan", plan]));
        keys_are_known(&gateway);
        let passed = |key: &str, number: usize| {
            statuses(&gateway, number, path, key).iter().filter(|status| **status == 200).count()
        };
        // Whose credential is refused spends nothing of it either.
        gateway.send(request(path, "nobody's")).expect(401);
        assert_eq!(passed(&own, 20), 2, "{path} {plan}");
        assert_eq!(passed(&other, 20), 2, "{path} {plan}: another has spent it");
    }
}

#[test]
fn counts_are_exact_through_reloads_and_a_restart() {
    let plan = |limit: u32| {
        with_plans(&format!("    free: {{quota: {{limit: {limit}, per: MONTH, flush: 60s}}}}\n"))
    };
    let gateway = Running::with(&plan(5));
    let (id, key) = create(&gateway.place, &["--plan", "free"]);
    keys_are_known(&gateway);
    assert_eq!(statuses(&gateway, 2, "/orders", &key), [200, 200]);
    // Another limit holds at once, for what has been counted too.
    gateway.reload(&plan(1));
    ask(&gateway, "/orders", &key).expect(429);
    gateway.reload(&plan(5));
    ask(&gateway, "/orders", &key).expect(200);
    gateway.reload(&with_plans("    free: {throttle: none}\n"));
    assert_eq!(statuses(&gateway, 3, "/orders", &key), [200; 3]);
    gateway.reload(&plan(5));
    ask(&gateway, "/orders", &key).expect(200);
    // Nothing is written yet but what a reload has no part in: at the end all is.
    let gateway = gateway.restart();
    assert_eq!(used(&gateway.place, &id), 4);
    assert_eq!(statuses(&gateway, 3, "/orders", &key), [200, 429, 429]);
    let gateway = gateway.restart();
    assert_eq!(used(&gateway.place, &id), 5);
    ask(&gateway, "/orders", &key).expect(429);
}

#[test]
fn a_kill_costs_what_was_said_and_strictly_nothing() {
    let gateway = Running::with(&with_plans(
        "    batched: {quota: {limit: 1000, per: MONTH, flush: 60s, flush_requests: 10}}
    timely: {quota: {limit: 1000, per: MONTH, flush: 10ms}}
    strict: {quota: {limit: 1000, per: MONTH, durable: strict, wait: 10s}}
",
    ));
    let made: Vec<_> =
        ["batched", "timely", "strict"].map(|plan| create(&gateway.place, &["--plan", plan])).into();
    keys_are_known(&gateway);
    for (_, key) in &made {
        assert_eq!(statuses(&gateway, 25, "/orders", key), [200; 25]);
    }
    // A strict one stood on the disk when it was answered.
    assert_eq!(used(&gateway.place, &made[2].0), 25);
    await_used(&gateway.place, &made[1].0, 25);
    let mut after = 0;
    eventually("ten of a batch to be written", || {
        after = used(&gateway.place, &made[0].0);
        (after >= 15).then_some(())
    });
    let gateway = killed(gateway);
    assert_eq!(used(&gateway.place, &made[2].0), 25);
    assert_eq!(used(&gateway.place, &made[1].0), 25);
    assert!((15..=25).contains(&used(&gateway.place, &made[0].0)), "{after}");
    ask(&gateway, "/orders", &made[2].1).expect(200);
    assert_eq!(used(&gateway.place, &made[2].0), 26);
}

/// A gateway, and a text by which another counts on its state directory.
fn with_shared_state(plan: &str) -> (Running, String) {
    let first = Running::with(&with_plans(plan));
    let shared = first.place.path("state");
    let text = Place::with_base(&with_plans(plan)).replacen("./state", shared.to_str().unwrap(), 1);
    (first, text)
}

/// So many clients of each gateway, until all have had their answers or the gateway is gone: how many have passed.
fn passed_at_once(gateways: &[&Running], clients: usize, requests: usize, key: &str) -> u64 {
    let passed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for gateway in gateways.iter().cycle().take(gateways.len() * clients) {
            let passed = &passed;
            scope.spawn(move || {
                let mut connection = Connection::open(gateway.address());
                for _ in 0..requests {
                    let asked = connection.try_write(request("/orders", key));
                    let Some(answer) = asked.ok().and_then(|()| connection.read_head().ok()) else { return };
                    assert!(matches!(answer.status, 200 | 429), "{answer:?}");
                    passed.fetch_add(u64::from(answer.status == 200), Ordering::Relaxed);
                    let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
                    if connection.read_exactly(length).is_err() {
                        return;
                    }
                }
            });
        }
    });
    passed.into_inner()
}

/// Two gateways on one state directory, and as many clients of each, until all have had their answers.
fn at_once(plan: &str, clients: usize, requests: usize) -> (Running, Running, String, u64) {
    let (first, text) = with_shared_state(plan);
    let second = Place::new().start_whole(&text);
    let (id, key) = create(&first.place, &["--plan", "free"]);
    keys_are_known(&first);
    keys_are_known(&second);
    let passed = passed_at_once(&[&first, &second], clients, requests, &key);
    (first, second, id, passed)
}

#[test]
fn two_processes_on_one_state_directory_add_up_exactly() {
    let plan = "    free: {quota: {limit: 300, per: MONTH}}\n";
    let (mut first, mut second, id, passed) = at_once(plan, 2, 100);
    assert_eq!(passed, 300);
    first.stop();
    second.stop();
    assert_eq!(used(&first.place, &id), passed, "each that has passed is counted, once");
}

#[test]
fn while_two_processes_overlap_a_batched_quota_is_as_much_as_one_has() {
    // What one has in memory would stay there for a minute.
    let plan = "    free: {quota: {limit: 10, per: MONTH, flush: 60s, flush_requests: 1000000}}\n";
    let (first, text) = with_shared_state(plan);
    let (id, before) = create(&first.place, &["--plan", "free"]);
    let (_, turns) = create(&first.place, &["--plan", "free"]);
    let (_, later) = create(&first.place, &["--plan", "free"]);
    let passed = |gateway: &Running, number: usize, key: &str| {
        statuses(gateway, number, "/orders", key).iter().filter(|status| **status == 200).count()
    };
    keys_are_known(&first);
    assert_eq!((passed(&first, 4, &before), used(&first.place, &id)), (4, 0), "in memory");
    let mut second = Place::new().start_whole(&text);
    first.await_line("quotas: another process counts");
    assert_eq!(used(&first.place, &id), 4, "written before the second one serves");
    keys_are_known(&second);
    assert_eq!((passed(&second, 10, &before), passed(&first, 10, &before)), (6, 0));
    let both: usize = (0..30).map(|turn| passed([&first, &second][turn % 2], 1, &turns)).sum();
    assert_eq!(both, 10);
    assert_eq!(passed(&first, 3, &later), 3);
    assert_eq!(passed(&second, 3, &later), 3);
    second.stop();
    first.await_line("quotas: no other process counts here any more");
    assert_eq!(passed(&first, 10, &later), 4, "what the other has counted is known");
}

#[test]
fn a_process_that_is_killed_beside_another_leaves_it_what_is_left() {
    let plan = "    free: {quota: {limit: 3000, per: MONTH}}\n";
    let (first, text) = with_shared_state(plan);
    let mut second = Place::new().start_whole(&text);
    let (id, key) = create(&first.place, &["--plan", "free"]);
    keys_are_known(&first);
    keys_are_known(&second);
    let passed = std::thread::scope(|scope| {
        let asked = scope.spawn(|| passed_at_once(&[&first, &second], 3, 200, &key));
        eventually("both to be under way", || (used(&first.place, &id) > 60).then_some(()));
        second.signal(Signal::KILL);
        asked.join().unwrap()
    });
    second.wait(Duration::from_secs(10));
    first.await_line("quotas: no other process counts here any more");
    let passed = passed + passed_at_once(&[&first], 1, 3_200, &key);
    // Counted and not answered: three requests were under way at most.
    assert!((2_997..=3_000).contains(&passed), "{passed}");
    await_used(&first.place, &id, 3_000);
}

#[test]
fn strictly_counted_not_one_passes_beyond_the_limit_in_two_processes() {
    let plan = "    free: {quota: {limit: 100, per: MONTH, durable: strict, wait: 10s}}\n";
    let (first, second, id, passed) = at_once(plan, 4, 25);
    assert_eq!(passed, 100);
    assert_eq!(used(&first.place, &id), 100);
    assert_eq!(
        refusals(&first, "plans.free", "quota_store") + refusals(&second, "plans.free", "quota_store"),
        0.0
    );
}

#[test]
fn a_shadowed_plan_counts_and_refuses_nothing() {
    let gateway = Running::with(&with_plans(
        "    free: {throttle: {rate: 1/1h, burst: 2}, quota: {limit: 1, per: MONTH}, mode: shadow}\n",
    ));
    let (id, key) = create(&gateway.place, &["--plan", "free"]);
    keys_are_known(&gateway);
    let first = ask(&gateway, "/orders", &key);
    first.expect(200);
    assert_eq!(first.header("ratelimit-policy"), None, "it bounds nobody");
    await_used(&gateway.place, &id, 1);
    assert_eq!(statuses(&gateway, 3, "/orders", &key), [200; 3]);
    await_used(&gateway.place, &id, 4);
    let would = |reason: &str| {
        gateway.metrics().of("portcullis_would_refuse_total", &[("policy", "plans.free"), ("reason", reason)])
    };
    eventually("what would be refused", || (would("rate") == 2.0 && would("quota") == 3.0).then_some(()));
    let usage = usage(&gateway.place, &id);
    assert_eq!((&usage["used"], &usage["left"]), (&json!(4), &json!(0)));
}

#[test]
fn without_its_store_a_strict_plan_refuses_and_a_batched_one_goes_on() {
    let gateway = Running::with(&with_plans(
        "    batched: {quota: {limit: 3, per: MONTH}}
    strict: {quota: {limit: 3, per: MONTH, durable: strict}}
",
    ));
    let (batched_id, batched) = create(&gateway.place, &["--plan", "batched"]);
    let (_, strict) = create(&gateway.place, &["--plan", "strict"]);
    keys_are_known(&gateway);
    ask(&gateway, "/orders", &batched).expect(200);
    ask(&gateway, "/orders", &strict).expect(200);
    await_used(&gateway.place, &batched_id, 1);
    let (there, away) = (gateway.place.path("state/portcullis.db"), gateway.place.path("state/away"));
    std::fs::rename(&there, &away).unwrap();
    let refused = ask(&gateway, "/orders", &strict);
    refused.expect(503);
    assert_eq!(refused.all("retry-after"), "5");
    assert_eq!(refused.all("ratelimit-policy").split(';').next(), Some("\"strict-quota\""));
    let problem = refused.text();
    for words in ["quota-unavailable", "\"Quota unavailable\"", "counted against its quota"] {
        assert!(problem.contains(words), "{problem}");
    }
    gateway.await_line("quotas: `");
    assert_eq!(statuses(&gateway, 3, "/orders", &batched), [200, 200, 429]);
    gateway.await_metric("portcullis_quota_store_lost", &[], 1.0);
    std::fs::rename(&away, &there).unwrap();
    gateway.await_line("quotas: the store is written again");
    await_used(&gateway.place, &batched_id, 3);
    eventually("the strict one to pass", || (ask(&gateway, "/orders", &strict).status == 200).then_some(()));
    assert!(refusals(&gateway, "plans.strict", "quota_store") >= 1.0);
}

#[test]
fn explain_tells_how_it_stands_and_counts_nothing() {
    let gateway = Running::with(&with_plans(
        "    free: {throttle: {rate: 5/1s, burst: 10}, quota: {limit: 2, per: MONTH, offset: 1}}\n",
    ));
    let (id, key) = create(&gateway.place, &["--plan", "free"]);
    keys_are_known(&gateway);
    let header = format!("x-api-key: {key}");
    let explain = || {
        let output = portcullis(&gateway.place, &["explain", "-H", &header, "http://api.example.com/orders"]);
        (output.status.code(), told(&output))
    };
    for _ in 0..3 {
        let (status, said) = explain();
        assert_eq!(status, Some(0), "{said}");
        for part in [
            "plans.free",
            "9 of 10 left, by API key",
            "1 of 1 used this MONTH, until 2",
            "portcullis.yaml:9]",
        ] {
            assert!(said.contains(part), "`{part}` is missing in:\n{said}");
        }
    }
    assert_eq!(used(&gateway.place, &id), 0);
    assert_eq!(statuses(&gateway, 2, "/orders", &key), [200, 429], "the first period has one less");
    await_used(&gateway.place, &id, 1);
    let (status, said) = explain();
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("QUOTA_EXCEEDED") && said.contains("reason quota, plans.free"), "{said}");
    assert_eq!(used(&gateway.place, &id), 1);
}

#[test]
fn a_key_beside_another_credential_is_in_its_plan_all_the_same() {
    let place = Place::new();
    place.write("users", "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n");
    let gateway = place.start(
        "policies:
  auth: {partners: {api_key: {header: x-api-key}}, staff: {basic: {file: users}}}
  plans: {free: {quota: {limit: 1, per: MONTH}}}
  rate_limits: {few: {key: api_key, limit: 1/1h}}
routes:
  - {name: orders, match: {path: /orders}, auth: partners, respond: {}}
  - {name: both, match: {path: /both}, auth: {all_of: [staff, partners]}, respond: {}}
  - {name: any, match: {path: /any}, auth: {any_of: [staff, partners]}, respond: {}}
  - {name: few, match: {path: /few}, auth: {all_of: [staff, partners]}, rate_limits: [few], respond: {}}
",
    );
    let (_, key) = create(&gateway.place, &["--plan", "free"]);
    let (_, other) = create(&gateway.place, &["--plan", "free"]);
    let (id, third) = create(&gateway.place, &[]);
    let (_, fourth) = create(&gateway.place, &[]);
    keys_are_known(&gateway);
    let send = |path: &str, key: &str| {
        let basic = "Authorization: Basic YWxpY2U6VSpV\r\n";
        gateway.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n{basic}\r\n")).status
    };
    assert_eq!([send("/both", &key), send("/both", &key), send("/any", &key)], [200, 429, 429]);
    assert_eq!([send("/any", &other), send("/any", &other)], [200, 429]);
    // Limits count by it, and the log names it, though the identity is the other's.
    assert_eq!([send("/few", &third), send("/few", &third), send("/few", &fourth)], [200, 429, 200]);
    let named = format!("\"apiKeyId\":\"{id}\"");
    let line = eventually("a record of the key", || {
        let log = gateway.place.read("access.log");
        log.lines().find(|line| line.contains(&named)).map(ToOwned::to_owned)
    });
    assert!(line.contains("alice"), "{line}");
}

#[test]
fn the_command_line_tells_plans_and_usage() {
    let place = Place::new();
    let plans = "    free:
      throttle: {rate: 5/1s, burst: 10}
      quota: {limit: 1000, per: DAY, offset: 10, time_zone: Europe/Berlin, durable: strict}
      routes: {items: {throttle: {rate: 1/1s}}}
    wide: {throttle: none}
";
    place.write("portcullis.yaml", Place::with_base(&with_plans(plans)));
    let (id, _) = create(&place, &["--plan", "free"]);
    create(&place, &["--plan", "wide"]);
    let (ended, _) = create(&place, &["--plan", "free"]);
    assert_eq!(portcullis(&place, &["keys", "revoke", "--id", &ended]).status.code(), Some(0));
    let listed = told(&portcullis(&place, &["plans"]));
    for part in [
        "free",
        "5/1s, burst 10",
        "1000 (first -10) a DAY, Europe/Berlin, strict",
        "  items",
        "portcullis.yaml:9",
    ] {
        assert!(listed.contains(part), "`{part}` is missing in:\n{listed}");
    }
    // However long a cell is, the columns stand below each other: numbers of keys end where their head does.
    let end = listed.lines().next().unwrap().find("KEYS").unwrap() + 4;
    for line in listed.lines().filter(|line| line.starts_with("free") || line.starts_with("wide")) {
        let (begin, rest) = line.split_at_checked(end).unwrap_or_default();
        assert!(begin.ends_with(" 1") && rest.starts_with("  "), "{listed}");
    }
    let listed: Value = serde_json::from_slice(&portcullis(&place, &["plans", "--json"]).stdout).unwrap();
    assert_eq!(
        (&listed[0]["name"], &listed[0]["keys"], &listed[1]["keys"]),
        (&json!("free"), &json!(1), &json!(1))
    );
    assert_eq!(listed[0]["quota"]["timeZone"], "Europe/Berlin");
    assert_eq!(listed[0]["routes"]["items"], json!({"rate": "1/1s", "burst": 1, "scope": "node"}));
    assert_eq!((&listed[1]["throttle"], &listed[1]["quota"]), (&Value::Null, &Value::Null));
    let said = told(&portcullis(&place, &["usage"]));
    assert!(said.contains(&id) && said.contains("990"), "{said}");
    assert_eq!(usage(&place, &id)["left"], 990);
    for (arguments, status, expected) in [
        (&["usage", "--key", "nobody"][..], 1, "`nobody`: there is no key of this id"),
        (&["usage", "--plan", "gold"], 64, "the configuration has no plan `gold`"),
        (&["usage", "--plan", "wide"], 0, "no key is in a plan with a quota"),
        (&["usage", "--plan", "wide", "--json"], 0, "[]"),
        (
            &["keys", "create", "--name", "a", "--owner", "b", "--plan", "fre"],
            64,
            "the configuration has no plan `fre`\n  = help: did you mean `free`?",
        ),
    ] {
        let output = portcullis(&place, arguments);
        let said = told(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    // A key of a plan that is gone is told.
    place.write("portcullis.yaml", Place::with_base(&with_plans("    wide: {throttle: none}\n")));
    let listed = told(&portcullis(&place, &["plans"]));
    assert!(listed.contains("no such plan: its keys are refused"), "{listed}");
    let checked = portcullis(&place, &["check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", told(&checked));
    assert!(told(&checked).contains("keys of the plan `free` (1)"), "{}", told(&checked));
    // Where the last one is gone too.
    place.write("portcullis.yaml", Place::with_base(&format!("policies:\n{AUTH}{ROUTES}")));
    let checked = portcullis(&place, &["check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", told(&checked));
    for plan in ["free", "wide"] {
        let told = told(&checked);
        assert!(told.contains(&format!("keys of the plan `{plan}` (1) are refused")), "{told}");
    }
    let made = portcullis(&place, &["keys", "create", "--name", "a", "--owner", "b", "--plan", "free"]);
    assert_eq!(made.status.code(), Some(64), "{}", told(&made));
    assert!(told(&made).contains("the configuration has no plan `free`"), "{}", told(&made));
}
