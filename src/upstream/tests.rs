use serde_json::json;

use super::*;
use crate::config::{Build, Spanned};
use crate::state::Live;

/// As a file would say it.
pub(crate) fn decode(config: serde_json::Value) -> Config {
    let mut loading = Build::default();
    let loaded = crate::config::load_text("p.yaml", &config.to_string(), &|_| None, &mut loading);
    loaded.unwrap_or_else(|| panic!("{}", loading.errors.render(&loading.sources)))
}

fn compile(config: serde_json::Value, live: &Live, build: &mut Build) -> Option<Arc<Upstream>> {
    let mut loading = Build::default();
    let config = crate::config::load_text("p.yaml", &config.to_string(), &|_| None, &mut loading);
    build.errors.append(loading.errors);
    let config = Spanned { value: config?, site: Site::new("p.yaml", 3, 5), path: "upstreams.o".into() };
    Upstream::compile("o", &config, live, build)
}

#[test]
fn every_mistake_is_an_error() {
    let health = |key: &str, value: serde_json::Value| {
        let mut health = json!({"path": "/h"});
        health[key] = value;
        json!({"servers": ["a:1"], "health": health})
    };
    for (config, path, part) in [
        (json!({"servers": []}), "upstreams.o.servers", "without servers"),
        (json!({"servers": ["a"]}), "", "not an address with its port"),
        (json!({"servers": ["a:1", "A:1"]}), "", "twice"),
        (json!({"servers": [{"address": "a:1", "weight": 0}]}), "upstreams.o.servers", "weight 0"),
        (json!({"servers": [{"address": "a:1", "weight": 1001}]}), ".weight", "out of range"),
        (json!({"servers": ["a:1"], "host": "a b"}), "", "not a host"),
        (json!({"servers": ["a:1"], "host": ""}), "", "not a host"),
        (json!({"servers": ["a:1"], "timeouts": {"read": "0s"}}), "upstreams.o.timeouts.read", "zero"),
        (json!({"servers": ["a:1"], "keep_alive": {"idle": "0s"}}), "upstreams.o.keep_alive.idle", "no time"),
        (json!({"servers": ["a:1"], "retries": {"attempts": 0}}), ".attempts", "out of range"),
        (json!({"servers": ["a:1"], "retries": {"attempts": 11}}), ".attempts", "out of range"),
        (health("path", json!("healthz")), ".path", "start with `/`"),
        (health("path", json!("/a b")), ".path", "cannot"),
        (health("path", json!("/a\r\nX: y")), ".path", "cannot"),
        (health("interval", json!("0s")), ".interval", "shorter"),
        (health("timeout", json!("0s")), ".timeout", "shorter"),
        (health("healthy_after", json!(0)), ".healthy_after", "out of range"),
        (health("status", json!(100)), ".status", ""),
        (json!({"servers": ["a:1"], "tls": {"verify": false}}), ".verify", "anybody"),
        (
            json!({"servers": ["a:1"], "tls": {"insecure_skip_verify": true}}),
            ".insecure_skip_verify",
            "contradicts",
        ),
        (json!({"servers": ["a:1"], "tls": {"server_name": ""}}), "", "not the name"),
        (json!({"servers": ["a:1"], "tls": {"ca": "/nowhere.pem"}}), "", "cannot be read"),
        (json!({"servers": ["a:1"], "tls": {"ca": "/etc/hostname"}}), "", ""),
    ] {
        let mut build = Build::default();
        assert!(compile(config.clone(), &Live::default(), &mut build).is_none(), "{config}");
        let [error] = build.errors.errors() else { panic!("{config}: {:?}", build.errors) };
        let path = path.trim_start_matches("upstreams.o."); // The load knows the path from the root of what it was given.
        assert!(error.path.ends_with(path) && error.cause.contains(part), "{config}: {error:?}");
        assert!(!error.cause.ends_with('.') && !error.cure.ends_with('.') && !error.cure.is_empty());
    }
}

#[test]
fn says_what_is_only_odd() {
    let mut build = Build::default();
    let config = json!({"servers": ["a:1"], "timeouts": {"connect": "2m", "read": "1h"}});
    assert!(compile(config, &Live::default(), &mut build).is_some());
    assert!(build.errors.is_empty());
    assert_eq!(build.errors.warnings().len(), 1);
}

#[test]
fn choosing_avoids_the_tried_and_the_unhealthy() {
    let mut build = Build::default();
    let config = json!({"servers": ["127.0.0.1:1", "127.0.0.2:2"]});
    let own = compile(config, &Live::default(), &mut build).unwrap();
    for _ in 0..10 {
        let mut tried = Tried::default();
        let first = own.choose(0, &mut tried).unwrap().name().clone();
        let second = own.choose(0, &mut tried).unwrap().name().clone();
        assert_ne!(first, second);
        assert!(own.choose(0, &mut tried).is_some(), "when all were tried, any will do");
    }
}

/// Verdicts and counters are found again after a reload, also by way of another configuration.
#[tokio::test]
async fn state_survives_a_to_b_to_a() {
    let live = Live::default();
    live.set_runtime(tokio::runtime::Handle::current());
    let lost = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let health = json!({"path": "/h", "interval": "10ms", "timeout": "100ms", "unhealthy_after": 1});
    let a = json!({"servers": [lost.to_string()], "health": health});
    let b = json!({"servers": ["127.0.0.1:1"]});
    let mut build = Build::default();
    let first = compile(a.clone(), &live, &mut build).unwrap();
    first.note_stale();
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if first.choose(0, &mut Tried::default()).is_none() {
            break;
        }
    }
    assert_eq!(first.servers().collect::<Vec<_>>(), [(lost.to_string().as_str(), false)]);
    drop(first);
    let second = compile(b, &live, &mut build).unwrap();
    assert!(second.choose(0, &mut Tried::default()).is_some());
    drop(second);
    let third = compile(a, &live, &mut build).unwrap();
    assert!(third.choose(0, &mut Tried::default()).is_none(), "the verdict stands");
    assert_eq!(third.retries().collect::<Vec<_>>(), [("connect", 0), ("reset", 1)]);
}
