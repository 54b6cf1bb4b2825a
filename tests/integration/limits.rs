//! `portcullis limits`: what the log of a week in shadow says, and a limit that is proposed from it.

use serde_json::Value;

use crate::harness::{Connection, Place, Running};

/// A gateway whose peers say by `X-Forwarded-For` who they are.
fn behind_a_proxy(rest: &str) -> Running {
    let listener = "  - address: 127.0.0.1:0\n";
    let text =
        Place::with_base(rest).replace(listener, &format!("{listener}    trusted_proxies: [127.0.0.1]\n"));
    Place::new().start_whole(&text)
}

const CONFIGURATION: &str = "policies: {rate_limits: {trial: {key: client, limit: 20/1m, mode: shadow}}}
routes: [{name: all, rate_limits: [trial], respond: {body: hello}}]
";

#[test]
fn a_limit_is_proposed_from_the_log_of_one_in_shadow() {
    let gateway = behind_a_proxy(CONFIGURATION);
    let mut connection = Connection::open(gateway.address());
    let mut ask = |client: &str, number: usize| {
        for _ in 0..number {
            connection.write(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n"));
            connection.response().expect(200);
        }
    };
    for client in 0..50 {
        ask(&format!("10.0.0.{client}"), 3);
    }
    ask("2001:db8::1", 3);
    ask("2001:db8::2", 3);
    ask("192.0.2.7", 120);
    let lines = gateway.access_lines("access.log", 276);
    assert_eq!(lines.len(), 276);

    let run = |arguments: &[&str]| {
        let output =
            gateway.place.portcullis(&[&["limits", "--config", "portcullis.yaml"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // The log is found by the configuration.
    let minute = ["--per", "1m", "--percentile", "98"];
    let told: Value = serde_json::from_str(&run(&[&minute[..], &["--json"]].concat())).unwrap();
    assert_eq!((told["requests"].as_u64(), told["keys"].as_u64()), (Some(276), Some(52)), "{told}");
    let most = told["busiest"]["max"].as_u64().unwrap();
    // A minute may have ended meanwhile.
    assert!((60..=120).contains(&most), "{told}");
    let refusal = &told["refusals"][0];
    assert_eq!((&refusal["policy"], &refusal["reason"]), (&"rate_limits.trial".into(), &"rate".into()));
    let would = refusal["requests"].as_u64().unwrap();
    assert!((90..=100).contains(&would), "{refusal}");
    assert_eq!(refusal["most"][0]["client"], "192.0.2.7");
    let proposal = &told["proposal"];
    assert!(matches!(proposal["limit"].as_str(), Some("3/1m" | "4/1m" | "5/1m" | "6/1m")), "{proposal}");
    assert_eq!((&proposal["refusedKeys"], &proposal["most"][0]["key"]), (&1.into(), &"192.0.2.7".into()));

    // What is proposed loads as it stands, and refuses what was said that it would.
    let text = run(&minute);
    assert!(text.contains("    would have refused "), "{text}");
    let (_, rest) = text.split_once("    proposed: ").unwrap();
    let (proposed, _) = rest.split_once('\n').unwrap();
    gateway.reload_whole(
        &gateway
            .place
            .read("portcullis.yaml")
            .replace("{key: client, limit: 20/1m, mode: shadow}", &proposed.replace(", mode: shadow", "")),
    );
    let mut connection = Connection::open(gateway.address());
    let mut passed = 0;
    for _ in 0..20 {
        connection.write("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.8\r\n\r\n");
        passed += u64::from(connection.response().status == 200);
    }
    let burst = proposal["burst"].as_u64().unwrap();
    assert!((burst..=burst + 2).contains(&passed), "{passed}: {proposed}");
}

#[test]
fn a_log_in_another_form_is_told_to_be_so() {
    let place = Place::new();
    place.write(
        "portcullis.yaml",
        "listeners: [{address: '127.0.0.1:0'}]\nroutes: [{name: all, auth: none, respond: {}}]\n",
    );
    place.write("old.log", "192.0.2.1 - - [24/Nov/2026:09:34:35 +0000] \"GET / HTTP/1.1\" 200 12\n");
    let run = |arguments: &[&str]| {
        let output = place.portcullis(&[&["limits", "--config", "portcullis.yaml"], arguments].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = run(&["--log", "old.log"]);
    assert_eq!(status, Some(1));
    assert!(
        said.contains("none of 1 lines is one of an access log as `log.access.format: json` writes it"),
        "{said}"
    );
    assert_eq!(run(&["--log", "gone.log"]).0, Some(1));
    std::fs::write(place.path("old.log.1.gz"), b"\x1f\x8b\x08\x00\x00\x00\x00\x00").unwrap();
    let (status, said) = run(&["--log", "old.log.1.gz"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("`old.log.1.gz` cannot be read: it is compressed; `zcat FILE | "), "{said}");
    let (status, said) = run(&["--log", "old.log", "--log", "./old.log"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("`./old.log` cannot be read: it is named twice"), "{said}");
    let (status, said) = run(&["--log", "."]);
    assert!(status == Some(1) && said.contains("`.` cannot be read: "), "{said}");
    assert_eq!(run(&["--log", "old.log", "--per", "1ms"]).0, Some(64));
    assert_eq!(run(&["--log", "old.log", "--key", "cookie"]).0, Some(64));
}
