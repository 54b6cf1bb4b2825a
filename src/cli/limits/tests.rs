use std::fmt::Write as _;

use super::*;

fn asked(log: &Path, rest: &[&str]) -> Limits {
    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        limits: Limits,
    }
    let log = log.display().to_string();
    let line = ["limits", "--log", &log].into_iter().chain(rest.iter().copied());
    <Line as clap::Parser>::try_parse_from(line).unwrap().limits
}

fn place(limits: &str) -> Place {
    let mut build = Build::default();
    let limits = crate::config::load_text("t.yaml", limits, &|_| None, &mut build)
        .unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)));
    let plans = [("free".to_owned(), Site { file: "t.yaml".into(), line: 7, column: 0 })].into();
    Place { limits, plans, log: None, is_json: true }
}

struct Written {
    file: tempfile::NamedTempFile,
    text: String,
}

impl Written {
    fn new() -> Self {
        Self { file: tempfile::NamedTempFile::new().unwrap(), text: String::new() }
    }

    fn line(&mut self, at: u64, client: &str, rest: &str) {
        let at = 1_795_512_000_000 + at;
        let _ = writeln!(
            self.text,
            "{{\"requestTimeEpoch\":{at},\"identity\":{{\"sourceIp\":\"{client}\"}},\"status\":200{rest}}}"
        );
    }

    fn told(&self, limits: &str, rest: &[&str]) -> Result<String, (u8, String)> {
        std::fs::write(self.file.path(), &self.text).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        match run(&asked(self.file.path(), rest), &place(limits), &mut out) {
            Ok(()) => Ok(String::from_utf8(out).unwrap()),
            Err(failed) => {
                let status = failed.tell(&mut err);
                Err((status, String::from_utf8(err).unwrap()))
            }
        }
    }

    fn json(&self, rest: &[&str]) -> serde_json::Value {
        let told = self.told("{}", &[&["--json"], rest].concat()).unwrap();
        serde_json::from_str(&told).unwrap()
    }
}

/// 2000 clients that ask at most five times a second, some of whom across its border; one that asks a hundred times.
fn crowd() -> Written {
    let mut log = Written::new();
    for second in 0..10_u64 {
        for client in 0..2000_u64 {
            let address = format!("10.0.{}.{}", client / 200, client % 200);
            let times = if client % 10 == second { 5 } else { 1 };
            for number in 0..times {
                log.line(1000 * second + 990 - 200 * number + client % 9, &address, "");
            }
        }
        for number in 0..100 {
            let would =
                ",\"would\":[{\"policy\":\"rate_limits.trial\",\"reason\":\"rate\",\"site\":\"a:1\"}]";
            log.line(1000 * second + 10 * number, "192.0.2.7", if number < 50 { "" } else { would });
        }
    }
    log
}

#[test]
fn a_limit_is_proposed_that_refuses_few_and_replayed() {
    let log = crowd();
    let told = log.json(&[]);
    assert_eq!(
        (&told["requests"], &told["keys"], &told["malformed"], &told["late"]),
        (&29_000.into(), &2001.into(), &0.into(), &0.into())
    );
    assert_eq!((&told["busiest"]["p50"], &told["busiest"]["max"]), (&5.into(), &100.into()));
    let proposal = &told["proposal"];
    assert_eq!(proposal["limit"], "5/1s");
    let burst = proposal["burst"].as_u64().unwrap();
    assert!((5..=10).contains(&burst), "{proposal}");
    assert!(proposal["refusedKeysPercent"].as_f64().unwrap() <= 0.1, "{proposal}");
    assert_eq!((&proposal["refusedKeys"], &proposal["most"][0]["key"]), (&1.into(), &"192.0.2.7".into()));
    // 100 a second for ten seconds, of which the bucket and 5 a second pass.
    let refused = proposal["refusedRequests"].as_u64().unwrap();
    assert!((930..=950).contains(&refused), "{proposal}");
    assert_eq!(told["refusals"][0]["requests"], 500);
    assert_eq!(told["refusals"][0]["most"][0]["client"], "192.0.2.7");
    let none = log.json(&["--percentile", "100"]);
    assert_eq!(none["proposal"]["refusedRequests"], 0, "{none}");
    let minute = log.json(&["--per", "1m", "--percentile", "99"]);
    assert_eq!((&minute["proposal"]["limit"], &minute["busiest"]["max"]), (&"14/1m".into(), &1000.into()));
}

#[test]
fn plans_are_told_too() {
    let mut log = Written::new();
    for (at, plan) in ["free", "free", "gone"].into_iter().enumerate() {
        let would =
            format!(",\"would\":[{{\"policy\":\"plans.{plan}\",\"reason\":\"quota\",\"site\":\"a:1\"}}]");
        log.line(at as u64, "192.0.2.7", &would);
    }
    let told = log.told("{}", &[]).unwrap();
    for line in [
        "  plans.free: t.yaml:7\n    would have refused 2 requests of 1 client (quota)\n",
        "  plans.gone: no more in the configuration\n    would have refused 1 request of 1 client (quota)\n",
    ] {
        assert!(told.contains(line), "{line} is missing in:\n{told}");
    }
}

#[test]
fn what_is_told_is_a_configuration_and_names_who_is_met() {
    let limits = "{trial: {key: client, limit: 50/1s, mode: shadow}, calm: {key: client, limit: 500/1s}}";
    let told = crowd().told(limits, &[]).unwrap();
    for line in [
        "29000 requests of 2001 keys by client, from 2026-11-24T09:20:00Z to 2026-11-24T09:20:09Z\n",
        "  max          100\n",
        "  rate_limits.trial: 50/1s, burst 50, shadow, t.yaml:1\n    would have refused 500 requests of 1 client (rate)\n        500  192.0.2.7\n",
        "  rate_limits.calm: 500/1s, burst 500, t.yaml:1\n    refuses nothing\n",
        "    proposed: {key: client, limit: 5/1s, burst: ",
        " requests (3.2",
        " of 1 key (0.050 %)\n",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    let (_, rest) = told.split_once("    proposed: ").unwrap();
    let (proposed, _) = rest.split_once('\n').unwrap();
    assert!(place(&format!("{{proposed: {proposed}}}")).limits.contains_key("proposed"));
}

#[test]
fn keys_are_as_limits_make_them() {
    let mut log = Written::new();
    for number in 0..6 {
        log.line(number, &format!("2001:db8::{number}"), ",\"route\":\"a\",\"domainName\":\"x.test\"");
        log.line(number, "2001:db8:0:1::1", ",\"route\":\"b\"");
        log.line(number, "192.0.2.1", ",\"route\":\"b\",\"status\":401");
    }
    log.text =
        log.text.replace("\"status\":200,\"route\":\"b\",\"status\":401", "\"route\":\"b\",\"status\":401");
    for (arguments, keys, most) in [
        (&[][..], 3, 6),
        (&["--key", "route"], 2, 12),
        (&["--key", "route,client"], 3, 6),
        // Who has no value is counted by client.
        (&["--key", "host"], 3, 6),
        (&["--key", "identity"], 3, 6),
        (&["--route", "b"], 2, 6),
        (&["--status", "401,403"], 1, 6),
    ] {
        let told = log.json(arguments);
        assert_eq!((&told["keys"], &told["busiest"]["max"]), (&keys.into(), &most.into()), "{arguments:?}");
    }
    let told = log.told("{}", &["--status", "401,403", "--key", "route,client"]).unwrap();
    let proposed = "{key: [route, client], limit: 6/1s, burst: 6, count: {status: [401, 403]}, mode: shadow}";
    assert!(told.contains(proposed), "{told}");
    assert!(
        log.told("{}", &["--route", "nowhere"]).unwrap().contains("none of 18 lines is about such a request")
    );
}

#[test]
fn clients_that_were_refused_are_subscribers() {
    let mut log = Written::new();
    let refused = ",\"error\":{\"policy\":\"rate_limits.trial\",\"reason\":\"rate\"}";
    for number in 0..5 {
        log.line(number, &format!("2001:db8::{number}"), refused);
        log.line(number, "192.0.2.1", refused);
    }
    let told = log.json(&[]);
    let refusal = &told["refusals"][0];
    assert_eq!((&refusal["requests"], &refusal["clients"]), (&10.into(), &2.into()), "{told}");
    let mut most: Vec<_> =
        refusal["most"].as_array().unwrap().iter().map(|client| client["client"].as_str()).collect();
    most.sort_unstable();
    assert_eq!(most, [Some("192.0.2.1"), Some("2001:db8::/64")]);
    let told = log.told("{}", &[]).unwrap();
    assert!(told.contains("refused 10 requests of 2 clients (rate)"), "{told}");
    assert!(told.contains("  2001:db8::/64\n"), "{told}");
}

#[test]
fn what_a_log_says_cannot_speak_to_a_terminal() {
    let mut log = Written::new();
    let long = "k".repeat(8 << 10);
    for odd in ["\\u001b[2J\\u001b]0;x\\u0007", "\\u202eevil\\u0000", "line\\nbreak", "a\\\"b", long.as_str()]
    {
        for _ in 0..30 {
            log.line(0, "192.0.2.1", &format!(
                ",\"route\":\"{odd}\",\"would\":[{{\"policy\":\"rate_limits.{odd}\",\"reason\":\"{odd}\"}}]"
            ));
        }
    }
    for number in 0..3000 {
        log.line(number, &format!("10.0.{}.{}", number / 250, number % 250), "");
    }
    for arguments in [&["--key", "route"][..], &["--key", "route", "--json"]] {
        let told = log.told("{}", arguments).unwrap();
        assert!(!told.chars().any(|c| c != '\n' && (c.is_control() || !c.is_ascii())), "{told:?}");
        assert!(told.lines().all(|line| line.len() < 300), "{told}");
        assert!(told.contains("u{1b}[2J"), "{told}");
    }
}

#[test]
fn what_cannot_be_read_is_said_so() {
    let mut log = Written::new();
    let refused = |log: &Written, rest: &[&str]| log.told("{}", rest).unwrap_err();
    assert_eq!(refused(&log, &[]).0, 1);
    assert!(refused(&log, &[]).1.starts_with("error: the log is empty\n"));
    log.text.push_str("192.0.2.1 - - \"GET / HTTP/1.1\" 200\n\n\u{1b}[31m\n");
    let (status, said) = refused(&log, &[]);
    assert_eq!(status, 1);
    assert!(
        said.starts_with("error: none of 2 lines is one of an access log as `log.access.format: json`"),
        "{said}"
    );
    log.line(1, "192.0.2.1", "");
    assert!(log.told("{}", &[]).unwrap().contains("\n2 lines are left out: "));
    for rest in [
        &["--per", "1ms"][..],
        &["--per", "often"],
        &["--percentile", "0"],
        &["--percentile", "100.1"],
        &["--percentile", "nan"],
        &["--key", "route,client,route"],
        &["--log", "-", "--log", "-"],
    ] {
        assert_eq!(refused(&log, rest).0, 64, "{rest:?}");
    }
    std::fs::remove_file(log.file.path()).unwrap();
    let mut out = Vec::new();
    let gone = run(&asked(log.file.path(), &[]), &place("{}"), &mut out).unwrap_err();
    assert_eq!(gone.tell(&mut Vec::new()), 1);
}
