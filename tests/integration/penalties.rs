//! Penalties: who hammers is cooled off, and told so; who keeps to a limit, or to what he was told, never is.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{Place, Response, Running, connect_from, eventually};

fn from(gateway: &Running, source: &str, path: &str, fields: &str) -> Response {
    let mut connection = connect_from(source, gateway.address());
    connection.write(format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\n{fields}\r\n"));
    connection.response()
}

fn ask(gateway: &Running, fields: &str) -> Response {
    from(gateway, "127.0.0.1", "/", fields)
}

/// Asks, whatever it is told, until it is cooled off.
fn hammer(gateway: &Running) -> Response {
    eventually("a cool-off", || {
        let refused = ask(gateway, "");
        (refused.status == 429 && refused.text().contains("abnormal-usage-detected")).then_some(refused)
    })
}

const ROUTE: &str = "routes: [{name: all, rate_limits: [few], respond: {body: hello}}]\n";

fn few(rest: &str) -> String {
    format!("policies: {{rate_limits: {{few: {{key: client, limit: 1/1s{rest}}}}}}}\n{ROUTE}")
}

const PENALTY: &str = ", penalty: {after: 5, within: 1m, first: 10m, max: 1h}";

#[test]
fn who_hammers_is_cooled_off_and_told_until_when() {
    let gateway = Running::with(&few(PENALTY));
    ask(&gateway, "").expect(200);
    let refused = ask(&gateway, "");
    refused.expect(429);
    assert_eq!(
        (refused.all("retry-after"), refused.all("ratelimit")),
        ("3".into(), "\"few\";r=0;t=3".into())
    );
    let cooled_off = hammer(&gateway);
    let retry_after: u64 = cooled_off.all("retry-after").parse().unwrap();
    assert!((595..=600).contains(&retry_after), "{retry_after}");
    assert_eq!(cooled_off.all("ratelimit-policy"), "\"few\";q=1;w=1");
    assert_eq!(cooled_off.all("ratelimit"), format!("\"few\";r=0;t={retry_after}"));
    let problem = cooled_off.json();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#abnormal-usage-detected");
    assert_eq!(problem["title"], "Request not satisfied due to detection of abnormal request pattern");
    assert_eq!((&problem["status"], &problem["violated-policies"]), (&json!(429), &json!(["few"])));
    // Others are not touched, and over gRPC it is said in its own way.
    from(&gateway, "127.0.0.2", "/", "").expect(200);
    let grpc = ask(&gateway, "Content-Type: application/grpc\r\n");
    assert_eq!((grpc.status, grpc.all("grpc-status")), (200, "8".into()));
    assert!(grpc.all("retry-after").parse::<u64>().unwrap() > 500, "{grpc:?}");
    let of = |name: &str| gateway.metrics().of(name, &[("policy", "rate_limits.few")]);
    assert_eq!(of("portcullis_rate_limit_penalties_total"), 1.0);
    assert_eq!(of("portcullis_rate_limit_cooled_off"), 1.0);
    assert_eq!(of("portcullis_rate_limit_penalties_missed_total"), 0.0);
    let labels = [("policy", "rate_limits.few"), ("reason", "penalty")];
    assert!(gateway.metrics().of("portcullis_refusals_total", &labels) >= 2.0);
    let line = eventually("the line of a cool-off", || {
        let text = gateway.place.read("access.log");
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["error"]["reason"] == "penalty")
    });
    assert_eq!(line["error"]["responseType"], "ABNORMAL_USAGE");
    assert_eq!(line["error"]["policy"], "rate_limits.few");
    assert!(line["error"]["message"].as_str().unwrap().contains("cooled off"), "{line}");
    assert!(line["error"]["site"].as_str().unwrap().contains("portcullis.yaml:"), "{line}");

    // It lives over a reload, also where the limit has no penalty in between, or another.
    gateway.reload(&few(""));
    let free = ask(&gateway, "");
    assert_ne!(free.all("retry-after"), retry_after.to_string(), "{free:?}");
    assert!(!free.text().contains("abnormal"), "{free:?}");
    gateway.reload(&few(", penalty: {after: 7}"));
    let again = ask(&gateway, "");
    again.expect(429);
    assert!(again.all("retry-after").parse::<u64>().unwrap() > 300, "{again:?}");
}

#[test]
fn who_comes_again_when_he_was_told_is_served() {
    let gateway = Running::with(&few(", penalty: {after: 1, first: 10m, max: 1h}"));
    for _ in 0..2 {
        ask(&gateway, "").expect(200);
        // Some were on their way already.
        let refused: Vec<_> = (0..20).map(|_| ask(&gateway, "")).collect();
        let wait =
            refused.iter().map(|refused| refused.all("retry-after").parse::<u64>().unwrap()).max().unwrap();
        assert!((3..=4).contains(&wait), "{wait}");
        std::thread::sleep(Duration::from_secs(wait));
    }
    ask(&gateway, "").expect(200);
    let of = |name: &str| gateway.metrics().of(name, &[("policy", "rate_limits.few")]);
    assert_eq!(of("portcullis_rate_limit_penalties_total"), 0.0);
}

#[test]
fn guesses_at_passwords_are_cooled_off_and_who_logs_in_right_is_not() {
    let place = Place::new();
    // `U*U` at the least cost: crypt_blowfish's first vector.
    place.write("users", "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n");
    let gateway = place.start(
        "policies:
  auth: {staff: {basic: {file: users, failures_per_client: 1000/1s, failures_per_user: 1000/1s}}}
  rate_limits:
    logins: {key: client, limit: 2/1s, count: {status: [401, 403]}, headers: hidden, penalty: {after: 3, first: 30m, max: 1h}}
routes: [{name: inner, match: {path: /inner}, auth: staff, rate_limits: [logins], respond: {}}]
",
    );
    let login = |source: &str, password: &str| {
        let field = format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("alice:{password}")));
        from(&gateway, source, "/inner", &field)
    };
    let cooled_off = eventually("a cool-off", || {
        // Who logs in right meanwhile is not touched.
        login("127.0.0.2", "U*U").expect(200);
        let refused = login("127.0.0.1", "wrong");
        (refused.status == 429 && refused.text().contains("abnormal-usage-detected")).then_some(refused)
    });
    assert!(cooled_off.all("retry-after").parse::<u64>().unwrap() > 1700, "{cooled_off:?}");
    assert!(
        !cooled_off.text().contains("logins") && cooled_off.header("ratelimit").is_none(),
        "{cooled_off:?}"
    );
    // The right password is no longer worth anything to who has guessed it.
    login("127.0.0.1", "U*U").expect(429);
    login("127.0.0.2", "U*U").expect(200);
}

#[test]
fn a_shadowed_penalty_is_counted_and_refuses_nobody() {
    let gateway = Running::with(&few(&format!("{PENALTY}, mode: shadow")));
    let labels = [("policy", "rate_limits.few"), ("reason", "penalty")];
    eventually("a cool-off", || {
        ask(&gateway, "").expect(200);
        (gateway.metrics().of("portcullis_would_refuse_total", &labels) > 0.0).then_some(())
    });
    assert_eq!(gateway.metrics().of("portcullis_refusals_total", &labels), 0.0);
}
