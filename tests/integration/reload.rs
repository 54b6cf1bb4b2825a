//! Another configuration while the process runs: by signal, by file, by symlink; and one that is refused.

use std::os::unix::fs::symlink;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Authority, Connection, Ledger, Place, Running, eventually, get};

fn says(word: &str) -> String {
    format!("routes:\n  - {{name: word, respond: {{body: {word}}}}}\n")
}

fn await_word(gateway: &Running, word: &str) {
    eventually(&format!("`{word}` to be served; said:\n{}", gateway.said()), || {
        (gateway.get("/").text() == word).then_some(())
    });
}

#[test]
fn sighup_takes_the_new_file() {
    let gateway = Running::with(&says("one"));
    assert_eq!(gateway.get("/").text(), "one");
    gateway.save(&says("two"));
    gateway.signal(Signal::HUP);
    await_word(&gateway, "two");
    let metrics = gateway.metrics();
    assert!(metrics.of("portcullis_config_generation", &[]) >= 2.0);
    assert_eq!(metrics.of("portcullis_config_stale", &[]), 0.0);
    eventually("a line of the new generation", || {
        let lines = gateway.access(2);
        lines.iter().any(|line| line["generation"].as_u64() >= Some(2)).then_some(())
    });
}

#[test]
fn a_file_saved_by_renaming_is_noticed_again_and_again() {
    let gateway = Running::with(&says("one"));
    for word in ["two", "three", "four"] {
        gateway.save(&says(word));
        await_word(&gateway, word);
    }
}

#[test]
fn a_file_written_in_place_is_noticed() {
    let gateway = Running::with(&says("one"));
    for word in ["two", "three"] {
        std::fs::write(gateway.place.path("portcullis.yaml"), Place::with_base(&says(word))).unwrap();
        await_word(&gateway, word);
    }
}

#[test]
fn an_included_file_is_watched_too() {
    let place = Place::new();
    place.write("routes.yaml", says("one"));
    let gateway = place.start("include: [./routes.yaml]\n");
    assert_eq!(gateway.get("/").text(), "one");
    gateway.place.write("routes.yaml", says("two"));
    await_word(&gateway, "two");
}

#[test]
fn a_symlink_swap_as_of_kubernetes_is_noticed_again_and_again() {
    let place = Place::new();
    std::fs::create_dir(place.path("..v1")).unwrap();
    std::fs::write(place.path("..v1/portcullis.yaml"), Place::with_base(&says("one"))).unwrap();
    symlink("..v1", place.path("..data")).unwrap();
    symlink("..data/portcullis.yaml", place.path("portcullis.yaml")).unwrap();
    let swap = |root: &std::path::Path, version: &str, word: &str, old: &str| {
        std::fs::create_dir(root.join(version)).unwrap();
        std::fs::write(root.join(version).join("portcullis.yaml"), Place::with_base(&says(word))).unwrap();
        symlink(version, root.join("..data_tmp")).unwrap();
        std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        std::fs::remove_dir_all(root.join(old)).unwrap();
    };
    let gateway = place.start_existing(&Place::with_base(&says("one")));
    assert_eq!(gateway.get("/").text(), "one");
    let root = gateway.place.root().to_owned();
    for (version, word, old) in [("..v2", "two", "..v1"), ("..v3", "three", "..v2"), ("..v4", "four", "..v3")]
    {
        swap(&root, version, word, old);
        await_word(&gateway, word);
    }
}

#[test]
fn a_bad_file_keeps_the_old_one_and_says_all_that_is_wrong() {
    let gateway = Running::with(&says("one"));
    gateway.save("routes:\n  - {name: word, respond: {bdoy: two}}\n  - {name: other, rediect: {to: /x}}\npolicies: {auth: {a: {introspection: {client_secrt: HUNTER2}}}}\n");
    gateway.signal(Signal::HUP);
    gateway.await_metric("portcullis_config_stale", &[], 1.0);
    assert_eq!(gateway.get("/").text(), "one");
    gateway.await_line("did you mean `client_secret`?");
    assert!(!gateway.said().contains("HUNTER2"), "{}", gateway.said());
    assert_eq!(gateway.metrics().of("portcullis_config_generation", &[]), 1.0);
    for part in ["bdoy", "rediect", "portcullis.yaml:"] {
        gateway.await_line(part);
    }
    gateway.save(&says("three"));
    gateway.signal(Signal::HUP);
    await_word(&gateway, "three");
    gateway.await_metric("portcullis_config_stale", &[], 0.0);
}

#[test]
fn a_file_that_is_gone_keeps_the_old_one() {
    let mut gateway = Running::with(&says("one"));
    std::fs::remove_file(gateway.place.path("portcullis.yaml")).unwrap();
    gateway.signal(Signal::HUP);
    gateway.await_metric("portcullis_config_stale", &[], 1.0);
    assert_eq!(gateway.get("/").text(), "one");
    gateway.save(&says("two"));
    await_word(&gateway, "two");
    assert!(gateway.lives());
}

#[test]
fn listeners_come_and_go() {
    let gateway = Running::with(&says("one"));
    let with_second =
        Place::with_base(&says("two")).replace("defaults:", "  - address: 127.0.0.3:0\ndefaults:");
    let mut kept = Connection::open(gateway.address());
    assert_eq!(kept.get("/").text(), "one");
    gateway.place.write("portcullis.yaml", with_second);
    gateway.signal(Signal::HUP);
    let second = gateway.await_listener("127.0.0.3:0");
    eventually("the new listener to serve", || {
        (Connection::try_open(second)?.try_get("/")?.text() == "two").then_some(())
    });
    // A listener that stays keeps its socket and its connections.
    await_word(&gateway, "two");
    assert_eq!(kept.get("/").text(), "two");
    let mut on_second = Connection::open(second);
    assert_eq!(on_second.get("/").text(), "two");
    gateway.reload(&says("three"));
    eventually("the removed listener to refuse", || Connection::try_open(second).is_none().then_some(()));
    // A connection it had accepted is served to its end.
    let farewell = on_second.try_get("/");
    assert!(farewell.as_ref().is_some_and(|response| response.status == 200), "{farewell:?}");
    assert_eq!(kept.get("/").text(), "three");
}

#[test]
fn an_address_that_is_taken_refuses_the_reload() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Running::with(&says("one"));
    let text = Place::with_base(&says("two"))
        .replace("defaults:", &format!("  - address: {}\ndefaults:", taken.local_addr().unwrap()));
    gateway.place.write("portcullis.yaml", text);
    gateway.signal(Signal::HUP);
    gateway.await_metric("portcullis_config_stale", &[], 1.0);
    assert_eq!(gateway.get("/").text(), "one");
}

#[test]
fn a_certificate_follows_its_file() {
    let (old, new) = (Authority::new(), Authority::new());
    let place = Place::new();
    old.issue(&["gate.example"]).write(&place, "gate");
    let text = Place::with_base(&says("one")).replace(
        "  - address: 127.0.0.1:0\n",
        "  - address: 127.0.0.1:0\n    tls: {certificates: [{cert: ./gate.crt, key: ./gate.key}]}\n",
    );
    let gateway = place.start_whole(&text);
    drop(old.connect(gateway.address(), "gate.example"));
    // The key first: for a moment the two do not fit, which must harm nobody.
    let pair = new.issue(&["gate.example"]);
    gateway.place.write("gate.key", pair.key.private_key_to_pem_pkcs8().unwrap());
    gateway.place.write("gate.crt", pair.certificate.to_pem().unwrap());
    let connector = new.connector(|_| {});
    eventually("the new certificate to be shown", || {
        crate::tls::try_handshake(&connector, gateway.address(), "gate.example").ok()
    });
    assert_eq!(gateway.metrics().of("portcullis_config_stale", &[]), 0.0);
}

#[test]
fn keys_that_cannot_change_live_are_named() {
    let gateway = Running::with(&says("one"));
    let text = Place::with_base(&says("two")).replace("workers: 2", "workers: 1");
    gateway.place.write("portcullis.yaml", text);
    await_word(&gateway, "two");
    let said = gateway.await_line("server.workers has changed");
    assert!(said.contains("portcullis.yaml:"), "{said}");
}

#[test]
fn a_reload_under_load_loses_nothing_and_never_pauses() {
    let mut ledger = Ledger::new();
    let config = |n: usize| {
        format!(
            "upstreams: {{ledger: {{servers: ['{}']}}}}
routes:
  - {{name: ledger, match: {{path: /ledger}}, upstream: ledger}}
  - {{name: n{n}, match: {{path: '/n{n}'}}, respond: {{body: n}}}}
",
            ledger.origin.address()
        )
    };
    let configs: Vec<_> = (0..12).map(config).collect();
    let gateway = Running::with(&configs[0]);
    ledger.start_clients(8, gateway.address());
    for config in &configs[1..] {
        std::thread::sleep(Duration::from_millis(120));
        gateway.reload(config);
    }
    let sheet = ledger.finish();
    ledger.reconcile(&sheet);
    assert!(sheet.answered.len() > 200, "only {} requests", sheet.answered.len());
    assert!(sheet.slowest < Duration::from_secs(1), "the slowest took {:?}", sheet.slowest);
    assert_eq!(get(gateway.address(), "/n11").text(), "n");
    println!("{} requests over 11 reloads, the slowest {:?}", sheet.answered.len(), sheet.slowest);
}

#[test]
fn a_request_in_flight_ends_with_the_configuration_it_began_with() {
    let (origin, told) = crate::harness::Origin::waiting();
    let gateway = Running::with(&format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: slow, match: {{path: /slow}}, upstream: o}}\n",
        origin.address()
    ));
    let mut connection = Connection::open(gateway.address());
    connection.write("GET /slow HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gateway.await_metric("portcullis_requests_in_flight", &[], 1.0);
    gateway.reload(&says("two"));
    told.send(()).unwrap();
    assert_eq!(connection.response().text(), "late");
    let line = gateway.access_of("/slow");
    assert_eq!((&line["generation"], &line["route"]), (&1.into(), &"slow".into()));
}

#[test]
fn a_reload_that_cannot_bind_changes_no_log_and_no_metric() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Running::with(&says("one"));
    let text = Place::with_base(&says("two"))
        .replace("./access.log", "./other.log")
        .replace("defaults:", &format!("  - address: {}\ndefaults:", taken.local_addr().unwrap()));
    gateway.place.write("portcullis.yaml", text);
    gateway.signal(Signal::HUP);
    gateway.await_metric("portcullis_config_stale", &[], 1.0);
    assert!(!gateway.place.path("other.log").exists(), "the refused configuration's log was opened");
    assert_eq!(gateway.get("/").text(), "one");
    gateway.access(1);
}

#[test]
fn a_removed_upstream_is_neither_checked_nor_told_any_more() {
    let origin = crate::harness::Origin::named("origin");
    let gateway = Running::with(&format!(
        "upstreams: {{old: {{servers: ['{}'], health: {{path: /h, interval: 20ms}}}}}}\nroutes:\n  - {{name: word, upstream: old}}\n",
        origin.address()
    ));
    gateway.get("/").expect(200);
    gateway.reload(&says("two"));
    eventually("its series to go", || {
        gateway.metrics().get("portcullis_upstream_healthy", &[("upstream", "old")]).is_none().then_some(())
    });
}

#[test]
fn listeners_that_come_and_go_under_load_lose_nothing() {
    let mut ledger = Ledger::new();
    let config = |n: usize| {
        let second = match n % 3 {
            0 => "",
            1 => "  - address: 127.0.0.4:0\n",
            _ => "  - address: 127.0.0.4:0\n    tls: {certificates: generate}\n",
        };
        Place::with_base(&format!(
            "upstreams: {{ledger: {{servers: ['{}']}}}}\nroutes:\n  - {{name: ledger, match: {{path: /ledger}}, upstream: ledger}}\n",
            ledger.origin.address()
        ))
        .replace("defaults:", &format!("{second}defaults:"))
    };
    let configs: Vec<_> = (0..9).map(config).collect();
    let gateway = Place::new().start_whole(&configs[0]);
    ledger.start_clients(8, gateway.address());
    for config in &configs[1..] {
        let before = gateway.generation();
        gateway.place.write("portcullis.yaml", config);
        // A storm: one of them is enough.
        (0..5).for_each(|_| gateway.signal(Signal::HUP));
        eventually("the next generation", || (gateway.generation() > before).then_some(()));
    }
    let sheet = ledger.finish();
    ledger.reconcile(&sheet);
    assert!(sheet.answered.len() > 100, "only {} requests", sheet.answered.len());
    assert!(sheet.slowest < Duration::from_secs(2), "the slowest took {:?}", sheet.slowest);
}
