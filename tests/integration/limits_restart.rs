//! What keys have spent of limits outlives the process.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Connection, Origin, Place, Response, Running, connect_from, eventually};

const FILE: &str = "state/rate-limits.bin";

fn ask(gateway: &Running, path: &str, fields: &str) -> Response {
    gateway.send(format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\n{fields}\r\n"))
}

fn statuses(gateway: &Running, number: usize, path: &str, fields: &str) -> Vec<u16> {
    (0..number).map(|_| ask(gateway, path, fields).status).collect()
}

fn with(limit: &str) -> String {
    format!(
        "policies: {{rate_limits: {{few: {{key: client, {limit}}}}}}}\nroutes: [{{name: all, rate_limits: [few], respond: {{}}}}]\n"
    )
}

/// Stops it, and starts another with its files and this configuration.
fn restart(mut gateway: Running, rest: &str) -> Running {
    gateway.stop();
    again(gateway, rest)
}

/// Starts another with the files of one that has ended.
fn again(mut gateway: Running, rest: &str) -> Running {
    let place = std::mem::replace(&mut gateway.place, Place::new());
    place.start(rest)
}

fn left(gateway: &Running) -> u32 {
    let told = ask(gateway, "/", "").all("ratelimit");
    let (_, rest) = told.split_once("r=").unwrap();
    rest.split(';').next().unwrap().parse().unwrap()
}

#[test]
fn what_was_spent_is_spent_after_a_restart_until_its_time_has_passed() {
    let gateway = Running::with(&with("limit: 1/1h, burst: 2"));
    assert_eq!(statuses(&gateway, 3, "/", ""), [200, 200, 429]);
    let spent = Instant::now();
    let gateway = restart(gateway, &with("limit: 1/1h, burst: 2"));
    gateway.await_line("limits: 1 buckets of 1 limits are taken over from");
    std::thread::sleep(Duration::from_millis(1500).saturating_sub(spent.elapsed()));
    let refused = ask(&gateway, "/", "");
    refused.expect(429);
    let wait: u64 = refused.all("retry-after").parse().unwrap();
    assert!((3500..3600).contains(&wait), "less than an hour by the time between: {wait}");
    // Another client has spent nothing.
    let mut other = connect_from("127.0.0.2", gateway.address());
    other.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    other.response().expect(200);
    drop(other);
    // And through a second restart.
    let gateway = restart(gateway, &with("limit: 1/1h, burst: 2"));
    ask(&gateway, "/", "").expect(429);
    // One that is back in a moment is back after it.
    let gateway = restart(gateway, &with("limit: 1/4s"));
    let began = Instant::now();
    eventually("a token", || (ask(&gateway, "/", "").status == 200).then_some(()));
    let gateway = restart(gateway, &with("limit: 1/4s"));
    eventually("a token after a restart", || (ask(&gateway, "/", "").status == 200).then_some(()));
    assert!(began.elapsed() >= Duration::from_secs(4), "after {:?}", began.elapsed());
}

#[test]
fn every_kind_of_limit_is_kept() {
    let config = "edge: {rate_limits: [edge]}
policies:
  auth: {partners: {api_key: {header: x-api-key}}}
  rate_limits:
    edge: {key: client, limit: 100/1h}
    tenant: {key: {header: x-tenant}, limit: 1/1h, overrides: {gold: 3/1h}}
    all: {key: host, limit: 50/1h, headers: legacy}
    slots: {key: client, concurrent: 1}
  plans:
    free: {throttle: {rate: 1/1h, burst: 2}, routes: {items: {throttle: {rate: 3/1h}}}}
routes:
  - {name: tenant, match: {path: /tenant}, rate_limits: [tenant, slots], respond: {}}
  - {name: orders, match: {path: /orders}, auth: partners, respond: {}}
  - {name: items, match: {path: /items}, auth: partners, respond: {}}
  - {name: all, match: {path: /all}, rate_limits: [inherit], respond: {}}
";
    let defaults =
        |text: &str| text.replace("defaults: {auth: none}", "defaults: {auth: none, rate_limits: [all]}");
    let gateway = Place::new().start_whole(&defaults(&Place::with_base(config)));
    let arguments = ["keys", "create", "--name", "x", "--owner", "acme", "--plan", "free", "--json"];
    let output = gateway.place.portcullis(&[&arguments[..], &["--config", "portcullis.yaml"]].concat());
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let key = format!("X-Api-Key: {}\r\n", told["key"].as_str().unwrap());
    eventually("the key to open", || (ask(&gateway, "/orders", &key).status == 200).then_some(()));
    assert_eq!(statuses(&gateway, 2, "/orders", &key), [200, 429]);
    assert_eq!(statuses(&gateway, 3, "/items", &key), [200; 3]);
    assert_eq!(statuses(&gateway, 2, "/tenant", "X-Tenant: a\r\n"), [200, 429]);
    assert_eq!(statuses(&gateway, 2, "/tenant", "X-Tenant: gold\r\n"), [200, 200]);
    let edge = |response: &Response| {
        let told = response.all("ratelimit");
        told.split("r=").nth(1).unwrap().split(';').next().unwrap().parse::<u32>().unwrap()
    };
    let all = ask(&gateway, "/all", "");
    let before = (edge(&all), all.all("x-ratelimit-remaining").parse::<u32>().unwrap());
    assert!(before.0 < 95 && before.1 < 50, "{before:?}");
    // Started anew with `gold` under another number.
    let mut gateway = gateway;
    gateway.stop();
    let more = config.replace("overrides: {gold: 3/1h}", "overrides: {bronze: 2/1h, gold: 3/1h}");
    let place = std::mem::replace(&mut gateway.place, Place::new());
    let gateway = place.start_whole(&defaults(&Place::with_base(&more)));
    let all = ask(&gateway, "/all", "");
    let after = (edge(&all), all.all("x-ratelimit-remaining").parse::<u32>().unwrap());
    assert_eq!(after, (before.0 - 1, before.1 - 1), "an hour's hundredth has not passed");
    eventually("the key to be known", || (ask(&gateway, "/orders", &key).status == 429).then_some(()));
    ask(&gateway, "/items", &key).expect(429);
    ask(&gateway, "/tenant", "X-Tenant: a\r\n").expect(429);
    assert_eq!(statuses(&gateway, 2, "/tenant", "X-Tenant: gold\r\n"), [200, 429], "slots are not kept");
}

#[test]
fn who_is_cooled_off_stays_so() {
    let limit = with("limit: 1/1h, penalty: {after: 1, first: 2h, max: 2h}");
    let gateway = Running::with(&limit);
    assert_eq!(statuses(&gateway, 2, "/", ""), [200, 429]);
    // What comes at once may have been on its way; what comes then was told.
    std::thread::sleep(Duration::from_millis(2100));
    ask(&gateway, "/", "").expect(429);
    let gateway = restart(gateway, &limit);
    gateway.await_metric("portcullis_rate_limit_cooled_off", &[("policy", "rate_limits.few")], 1.0);
    let refused = ask(&gateway, "/", "");
    refused.expect(429);
    let wait: u64 = refused.all("retry-after").parse().unwrap();
    // Rounded up.
    assert!((7000..=7200).contains(&wait), "two hours, less the time between: {wait}");
    let labels = [("policy", "rate_limits.few"), ("reason", "penalty")];
    gateway.await_metric("portcullis_refusals_total", &labels, 1.0);
}

#[test]
fn a_rate_that_has_changed_is_scaled_and_a_limit_that_is_gone_is_kept_as_long_as_it_matters() {
    let gateway = Running::with(&with("limit: 10/1h"));
    assert_eq!(left(&gateway), 9);
    assert_eq!(statuses(&gateway, 4, "/", ""), [200; 4]);
    let gateway = restart(gateway, &with("limit: 1000/1h"));
    // A token comes every 3.6 s meanwhile.
    let some = left(&gateway);
    assert!((499..520).contains(&some), "five of ten are half of a thousand, and one more: {some}");
    let gateway = restart(gateway, &with("limit: 10/1h"));
    assert!((3..5).contains(&left(&gateway)), "and half of ten, and one more");
    let gateway = restart(gateway, &with("limit: 10/1h, memory: 16MiB"));
    assert!((2..4).contains(&left(&gateway)), "another memory forgives nothing");
    let none = "routes: [{name: all, respond: {}}]\n";
    let gateway = restart(gateway, none);
    let gateway = restart(gateway, none);
    let gateway = restart(gateway, &with("limit: 10/1h, memory: 16MiB"));
    assert!((1..3).contains(&left(&gateway)), "nor does a limit that was gone");
    drop(gateway);
    // Full again after ten milliseconds.
    let gateway = Running::with(&with("limit: 100/1s"));
    assert_eq!(left(&gateway), 99);
    let gateway = restart(gateway, none);
    assert!(gateway.place.path(FILE).exists());
    let gateway = restart(gateway, none);
    assert!(!gateway.place.path(FILE).exists());
}

#[test]
fn a_value_whose_limit_is_gone_meanwhile_has_what_it_had_left() {
    let with = |overrides: &str| {
        format!(
            "policies: {{rate_limits: {{few: {{key: {{header: x-tenant}}, limit: 100/1m, overrides: {overrides}}}}}}}\n\
             routes: [{{name: all, rate_limits: [few], respond: {{}}}}]\n"
        )
    };
    let (gold, none) = (with("{gold: 2/1d}"), with("{silver: 5/1d}"));
    let gateway = Running::with(&gold);
    let ask = |gateway: &Running| ask(gateway, "/", "X-Tenant: gold\r\n").status;
    assert_eq!([ask(&gateway), ask(&gateway), ask(&gateway)], [200, 200, 429]);
    for _ in 0..2 {
        gateway.reload(&none);
        assert_eq!(ask(&gateway), 200);
        gateway.reload(&gold);
        assert_eq!(ask(&gateway), 429);
    }
    let gateway = restart(gateway, &none);
    assert_eq!(ask(&gateway), 200);
    gateway.reload(&gold);
    assert_eq!(ask(&gateway), 429);
    let gateway = restart(gateway, &none);
    let gateway = restart(gateway, &gold);
    assert_eq!(ask(&gateway), 429);
}

#[test]
fn what_is_settled_while_it_drains_is_kept() {
    let (origin, told) = Origin::waiting();
    let config = format!(
        "upstreams: {{o: {{servers: ['{}']}}}}
policies: {{rate_limits: {{ends: {{key: client, limit: 1/1h, count: {{status: [200]}}}}}}}}
routes:
  - {{name: all, match: {{path: /slow}}, rate_limits: [ends], upstream: o}}
  - {{name: near, match: {{path: /near}}, rate_limits: [ends], respond: {{status: 204}}}}
",
        origin.address()
    );
    let mut gateway = Running::with(&config);
    let mut connection = Connection::open(gateway.address());
    connection.write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request to be under way", || (origin.requests_of("/slow") == 1).then_some(()));
    gateway.signal(Signal::TERM);
    eventually("the gateway to drain", || (gateway.ready() != Some(200)).then_some(()));
    drop(told);
    connection.response().expect(200);
    drop(connection);
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
    let gateway = again(gateway, &config);
    ask(&gateway, "/near", "").expect(429);
}

#[test]
fn a_state_directory_that_cannot_be_written_is_told_and_no_more() {
    let mut gateway = Running::with(&with("limit: 2/1h"));
    assert_eq!(statuses(&gateway, 3, "/", ""), [200, 200, 429]);
    let (state, away) = (gateway.place.path("state"), gateway.place.path("away"));
    std::fs::rename(&state, &away).unwrap();
    std::fs::write(&state, b"").unwrap();
    gateway.stop();
    let said = gateway.await_line("rate-limits.bin` cannot be written");
    assert!(said.contains("after a restart no key owes anything"), "{said}");
    std::fs::remove_file(&state).unwrap();
    std::fs::rename(&away, &state).unwrap();
    let gateway = again(gateway, &with("limit: 2/1h"));
    assert_eq!(statuses(&gateway, 3, "/", ""), [200, 200, 429]);
    // At once is an end like any other; to be killed is not.
    let mut gateway = gateway;
    gateway.signal(Signal::INT);
    gateway.wait(Duration::from_secs(10));
    let mut gateway = again(gateway, &with("limit: 2/1h"));
    ask(&gateway, "/", "").expect(429);
    let mut other = connect_from("127.0.0.2", gateway.address());
    for _ in 0..2 {
        other.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        other.response().expect(200);
    }
    gateway.signal(Signal::KILL);
    gateway.wait(Duration::from_secs(10));
    let gateway = again(gateway, &with("limit: 2/1h"));
    ask(&gateway, "/", "").expect(429);
    let mut other = connect_from("127.0.0.2", gateway.address());
    other.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    other.response().expect(200);
}

#[test]
fn a_file_that_is_none_of_ours_is_told_and_not_used() {
    let mut gateway = Running::with(&with("limit: 1/1h"));
    assert_eq!(statuses(&gateway, 2, "/", ""), [200, 429]);
    gateway.stop();
    let path = gateway.place.path(FILE);
    let whole = std::fs::read(&path).unwrap();
    let damaged = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        (damaged(0), "it is none of the gateway's"),
        (damaged(12), "it is of version 3, this gateway's is 2"),
        (damaged(60), "it is damaged"),
        (whole[..whole.len() / 2].to_vec(), "it ends too early"),
        (vec![b'x'; 3 << 20], "it is none of the gateway's"),
        (Vec::new(), "it ends too early"),
    ];
    for (bytes, said) in cases {
        std::fs::write(&path, bytes).unwrap();
        gateway = again(gateway, &with("limit: 1/1h"));
        gateway.await_line(said);
        assert_eq!(statuses(&gateway, 2, "/", ""), [200, 429], "{said}");
        gateway.stop();
    }
    // The last one's own is whole again; a pipe that nobody writes to keeps nobody waiting.
    gateway = again(gateway, &with("limit: 1/1h"));
    ask(&gateway, "/", "").expect(429);
    gateway.stop();
    std::fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    gateway = again(gateway, &with("limit: 1/1h"));
    gateway.await_line("it is no plain file");
    ask(&gateway, "/", "").expect(200);
    gateway.stop();
    assert!(path.is_file());
}

#[test]
fn two_processes_at_once_leave_what_the_last_one_knows_and_one_that_never_served_leaves_nothing() {
    let mut first = Running::with(&with("limit: 1/1h"));
    assert_eq!(statuses(&first, 2, "/", ""), [200, 429]);
    first.stop();
    let mut first = again(first, &with("limit: 1/1h"));
    let file = || std::fs::read(first.place.path(FILE)).unwrap();
    let before = file();
    // It cannot have the address, so it ends; the file is not its to write.
    let taken = format!("{}\n", first.address());
    let taken = Place::with_base(&with("limit: 1/1h")).replace("127.0.0.1:0\n", &taken);
    first.place.write("taken.yaml", taken.replace("'127.0.0.1:0'", "none"));
    let output = first.place.portcullis(&["run", "--config", "taken.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(file(), before);
    // The second reads what was there when it began, not what the first has counted since.
    let other = |gateway: &Running| {
        let mut other = connect_from("127.0.0.2", gateway.address());
        other.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        other.response().status
    };
    assert_eq!(other(&first), 200);
    let state = first.place.path("state");
    let text = Place::with_base(&with("limit: 1/1h")).replace("./state", state.to_str().unwrap());
    let mut second = Place::new().start_whole(&text);
    ask(&second, "/", "").expect(429);
    assert_eq!([other(&second), other(&second)], [200, 429]);
    first.stop();
    second.stop();
    let place = std::mem::replace(&mut second.place, Place::new());
    let third = place.start_whole(&text);
    assert_eq!([ask(&third, "/", "").status, other(&third)], [429, 429]);
}

#[test]
fn a_limit_that_is_gone_for_a_process_has_what_was_left_when_it_is_back() {
    let without = "routes: [{name: all, respond: {}}]\n";
    let limited = with("limit: 1/1h, burst: 3");
    let gateway = Running::with(&limited);
    assert_eq!(statuses(&gateway, 2, "/", ""), [200, 200]);
    let gateway = restart(gateway, without);
    gateway.await_line("limits: 1 of them are not in force, and kept while keys owe them something");
    assert_eq!(statuses(&gateway, 5, "/", ""), [200; 5]);
    let gateway = restart(gateway, &limited);
    assert_eq!(statuses(&gateway, 2, "/", ""), [200, 429]);
    // By reloads of a process that began without it, too; and gone for longer than a reload.
    let gateway = restart(gateway, without);
    gateway.reload(&limited);
    ask(&gateway, "/", "").expect(429);
    gateway.reload(without);
    gateway.reload(&without.replace("name: all", "name: other"));
    gateway.reload(&limited);
    ask(&gateway, "/", "").expect(429);
    // And where it is gone when the process ends.
    gateway.reload(without);
    gateway.reload(&without.replace("name: all", "name: other"));
    let gateway = restart(gateway, &limited);
    ask(&gateway, "/", "").expect(429);
}
