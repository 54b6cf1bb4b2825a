//! Address lists on the edge and on routes, from files that change, and in shadow.

use crate::harness::{Place, Running, connect_from, eventually};

fn status_from(gateway: &Running, source: &str, path: &str) -> u16 {
    connect_from(source, gateway.address()).get(path).status
}

#[test]
fn the_edge_refuses_before_any_route_is_known() {
    let gateway = Running::with(
        "policies: {access: {bad: {deny: [127.0.0.66, 127.1.0.0/16]}}}
edge: {access: bad}
routes:
  - {name: hello, match: {path: /hello}, respond: {body: hello}}
",
    );
    assert_eq!(status_from(&gateway, "127.0.0.1", "/hello"), 200);
    assert_eq!(status_from(&gateway, "127.0.0.1", "/nowhere"), 404);
    for source in ["127.0.0.66", "127.1.2.3"] {
        assert_eq!(status_from(&gateway, source, "/hello"), 403, "{source}");
        // A scanner learns nothing about routes.
        assert_eq!(status_from(&gateway, source, "/nowhere"), 403, "{source}");
    }
    let refused = gateway.access(6);
    let line = refused.iter().find(|line| line["identity"]["sourceIp"] == "127.0.0.66").unwrap();
    assert_eq!(line["status"], 403);
    assert_eq!(line["error"]["responseType"], "ACCESS_DENIED");
    assert_eq!(line["error"]["policy"], "access.bad");
    assert!(line["error"]["site"].as_str().unwrap().contains("portcullis.yaml:"), "{line}");
    assert_eq!(gateway.metrics().of("portcullis_refusals_total", &[("policy", "access.bad")]), 4.0);
}

#[test]
fn a_routes_list_is_its_own_and_deny_wins() {
    let text = Place::with_base("").replace("defaults: {auth: none}", "defaults: {auth: none, access: office}")
        + "policies: {access: {office: {allow: [127.0.0.0/8], deny: [127.0.0.66]}, nobody: {allow: [10.0.0.0/8]}}}
routes:
  - {name: inner, match: {path: /inner}, respond: {body: inner}}
  - {name: open, match: {path: /open}, access: none, respond: {body: open}}
  - {name: closed, match: {path: /closed}, access: nobody, respond: {body: closed}}
";
    let gateway = Place::new().start_whole(&text);
    assert_eq!(status_from(&gateway, "127.0.0.1", "/closed"), 403);
    assert_eq!(status_from(&gateway, "127.0.0.1", "/inner"), 200);
    assert_eq!(status_from(&gateway, "127.0.0.66", "/inner"), 403);
    assert_eq!(status_from(&gateway, "127.0.0.66", "/open"), 200);
}

#[test]
fn a_list_from_a_file_follows_the_file() {
    let place = Place::new();
    place.write("allowed.txt", "# the office\n127.0.0.1\n127.0.2.0/24\n");
    let gateway = place.start(
        "policies: {access: {office: {file: ./allowed.txt}}}
routes:
  - {name: inner, access: office, respond: {body: inner}}
",
    );
    assert_eq!(status_from(&gateway, "127.0.0.1", "/"), 200);
    assert_eq!(status_from(&gateway, "127.0.2.9", "/"), 200);
    assert_eq!(status_from(&gateway, "127.0.3.9", "/"), 403);
    gateway.place.write("allowed.txt", "127.0.0.1\n127.0.3.0/24\n");
    eventually("the changed list to be in force", || {
        (status_from(&gateway, "127.0.3.9", "/") == 200).then_some(())
    });
    assert_eq!(status_from(&gateway, "127.0.2.9", "/"), 403);
    // A file that cannot be read as a list changes nothing.
    gateway.place.write("allowed.txt", "127.0.0.1\nnot an address\n");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(status_from(&gateway, "127.0.3.9", "/"), 200, "a broken list replaced a good one");
}

#[test]
fn a_shadowed_list_lets_pass_and_notes_what_it_would_have_done() {
    let gateway = Running::with(
        "policies: {access: {trial: {allow: [10.0.0.0/8], mode: shadow}}}
routes:
  - {name: inner, match: {path: /inner}, access: trial, respond: {body: inner}}
",
    );
    assert_eq!(gateway.get("/inner").text(), "inner");
    let line = gateway.access_of("/inner");
    assert_eq!(line["status"], 200);
    assert_eq!(line["would"][0]["policy"], "access.trial", "{line}");
    assert!(line["would"][0]["site"].as_str().unwrap().contains("portcullis.yaml:"), "{line}");
    assert!(line.get("error").is_none(), "{line}");
    let metrics = gateway.metrics();
    assert_eq!(metrics.of("portcullis_would_refuse_total", &[("policy", "access.trial")]), 1.0);
    assert_eq!(metrics.get("portcullis_refusals_total", &[("policy", "access.trial")]).unwrap_or(0.0), 0.0);
}

#[test]
fn a_list_counts_the_believed_client_not_the_proxy() {
    let text = Place::with_base(
        "policies: {access: {bad: {deny: [203.0.113.0/24]}}}
edge: {access: bad}
routes:
  - {name: hello, respond: {body: hello}}
",
    );
    let listener = "  - address: 127.0.0.1:0\n";
    let text = text.replace(listener, &format!("{listener}    trusted_proxies: [127.0.0.1]\n"));
    let gateway = Place::new().start_whole(&text);
    let from = |client: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: {client}\r\n\r\n");
        gateway.send(request).status
    };
    assert_eq!(from("203.0.113.9"), 403);
    assert_eq!(from("::ffff:203.0.113.9"), 403);
    assert_eq!(from("203.0.114.9"), 200);
}
