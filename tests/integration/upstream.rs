//! Choosing a server, watching its health, trying another, and giving up in time.

use std::time::{Duration, Instant};

use crate::harness::{Authority, Connection, Origin, Place, Refusing, Running, eventually, unanswering};

fn words(gateway: &Running, count: usize) -> Vec<String> {
    let mut connection = Connection::open(gateway.address());
    (0..count).map(|_| connection.get("/").expect(200).text()).collect()
}

fn count(words: &[String], word: &str) -> usize {
    words.iter().filter(|own| *own == word).count()
}

fn one_worker(rest: &str) -> Running {
    Place::new().start_whole(&Place::with_base(rest).replace("workers: 2", "workers: 1"))
}

#[test]
fn servers_take_turns_by_weight() {
    let (a, b, c) = (Origin::named("a"), Origin::named("b"), Origin::named("c"));
    let gateway = one_worker(&format!(
        "upstreams: {{pool: {{servers: ['{}', {{address: '{}', weight: 2}}, {{address: '{}', weight: 0}}]}}}}
routes:
  - {{name: pool, upstream: pool}}
",
        a.address(),
        b.address(),
        c.address()
    ));
    let words = words(&gateway, 30);
    assert_eq!((count(&words, "a"), count(&words, "b"), count(&words, "c")), (10, 20, 0), "{words:?}");
    // Evenly spread: never one server three times in a row.
    assert!(words.windows(3).all(|w| w[0] != w[1] || w[1] != w[2]), "{words:?}");
}

#[test]
fn connections_to_a_server_are_kept() {
    let origin = Origin::named("a");
    let gateway = one_worker(&format!(
        "upstreams: {{pool: {{servers: ['{}']}}}}\nroutes:\n  - {{name: pool, upstream: pool}}\n",
        origin.address()
    ));
    for _ in 0..20 {
        gateway.get("/").expect(200);
    }
    assert_eq!(origin.connections(), 1);
    let lines = gateway.access(20);
    assert!(lines[19]["integration"]["connectLatency"].as_f64().unwrap_or(0.0) < 0.001, "{}", lines[19]);
}

#[test]
fn health_checks_take_a_server_out_and_back() {
    let b = Origin::named("b");
    let a = Origin::named("a");
    let gateway = Running::with(&format!(
        "upstreams:
  pool:
    servers: ['{}', '{}']
    health: {{path: /healthz, interval: 100ms, timeout: 500ms, healthy_after: 2, unhealthy_after: 2}}
routes:
  - {{name: pool, upstream: pool}}
",
        a.address(),
        b.address()
    ));
    assert_eq!(count(&words(&gateway, 10), "a"), 5);
    let address = a.kill();
    let server = address.to_string();
    let labels = [("upstream", "pool"), ("server", server.as_str())];
    gateway.await_metric("portcullis_upstream_healthy", &labels, 0.0);
    assert_eq!(count(&words(&gateway, 10), "b"), 10);
    let again = Origin::serve_at(address, |peer| {
        while let Some(head) = peer.read_head() {
            peer.drain_body(&head);
            peer.answer(200, "a");
        }
    });
    gateway.await_metric("portcullis_upstream_healthy", &labels, 1.0);
    assert_eq!(count(&words(&gateway, 10), "a"), 5);
    assert!(again.requests_of("/healthz") >= 2);
}

#[test]
fn a_wrong_health_status_is_unhealthy_and_without_a_server_it_is_503() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        let status = if head.starts_with("GET /healthz ") { 500 } else { 200 };
        peer.answer(status, "x")
    });
    let gateway = Running::with(&format!(
        "upstreams:
  pool:
    servers: ['{}']
    health: {{path: /healthz, interval: 50ms, healthy_after: 1, unhealthy_after: 2, status: 200}}
routes:
  - {{name: pool, upstream: pool}}
",
        origin.address()
    ));
    gateway.await_metric("portcullis_upstream_healthy", &[("upstream", "pool")], 0.0);
    let response = gateway.get("/gone");
    response.expect(503);
    assert_eq!(response.json()["type"], "urn:portcullis:problem:no-healthy-server");
    assert_eq!(gateway.access_of("/gone")["error"]["responseType"], "NO_HEALTHY_SERVER");
    assert_eq!(origin.requests_of("/gone"), 0);
}

#[test]
fn a_refused_connection_is_tried_at_another_server() {
    let (dead, alive) = (Refusing::new(), Origin::named("alive"));
    let gateway = one_worker(&format!(
        "upstreams: {{pool: {{servers: ['{}', '{}'], retries: {{attempts: 2, on: [connect], budget: 100%}}}}}}
routes:
  - {{name: pool, upstream: pool}}
",
        dead.address(),
        alive.address()
    ));
    assert_eq!(count(&words(&gateway, 10), "alive"), 10);
    assert!(gateway.metrics().of("portcullis_retries_total", &[("upstream", "pool")]) >= 4.0);
    let attempts: Vec<_> =
        gateway.access(10).iter().map(|line| line["integration"]["attempts"].as_u64().unwrap()).collect();
    assert!(attempts.contains(&2) && attempts.iter().all(|n| *n <= 2), "{attempts:?}");
}

#[test]
fn one_attempt_is_one_attempt_and_a_refused_connection_502() {
    let (dead, alive) = (Refusing::new(), Origin::named("alive"));
    let gateway = one_worker(&format!(
        "upstreams: {{pool: {{servers: ['{}', '{}'], retries: {{attempts: 1}}}}}}
routes:
  - {{name: pool, upstream: pool}}
",
        dead.address(),
        alive.address()
    ));
    let mut statuses: Vec<_> = (0..4).map(|_| gateway.get("/").status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
}

#[test]
fn retries_have_a_budget() {
    let dead = [Refusing::new(), Refusing::new()];
    let gateway = one_worker(&format!(
        "upstreams: {{pool: {{servers: ['{}', '{}'], retries: {{attempts: 2, budget: 10%}}}}}}
routes:
  - {{name: pool, upstream: pool}}
",
        dead[0].address(),
        dead[1].address()
    ));
    for _ in 0..100 {
        gateway.get("/").expect(502);
    }
    let retries = gateway.metrics().of("portcullis_retries_total", &[("upstream", "pool")]);
    assert!((1.0..=40.0).contains(&retries), "{retries} retries for 100 requests within a budget of 10 %");
}

#[test]
fn reset_is_tried_again_only_where_it_is_safe() {
    let once = std::sync::atomic::AtomicUsize::new(0);
    let origin = Origin::each(move |head, peer| {
        peer.drain_body(head);
        if once.fetch_add(1, std::sync::atomic::Ordering::SeqCst).is_multiple_of(2) {
            peer.reset();
            return false;
        }
        peer.answer(200, "second")
    });
    let gateway = one_worker(&format!(
        "upstreams: {{pool: {{servers: ['{}'], retries: {{attempts: 2, on: [connect, reset], budget: 100%}}}}}}
routes:
  - {{name: pool, upstream: pool}}
",
        origin.address()
    ));
    assert_eq!(gateway.get("/get").expect(200).text(), "second");
    // A POST may have been carried out: nobody but the client may send it again.
    gateway.send("POST /post HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx").expect(502);
    assert_eq!(origin.requests_of("/post"), 1);
}

#[test]
fn timeouts_are_504_and_told_apart() {
    let silent = Origin::each(|head, peer| {
        peer.drain_body(head);
        std::thread::sleep(Duration::from_secs(5));
        false
    });
    let dripping = Origin::each(|head, peer| {
        peer.drain_body(head);
        for byte in "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX-A: aaaaaaaaaaaaaaaaaaaaa\r\n\r\nx".bytes() {
            std::thread::sleep(Duration::from_millis(100));
            if !peer.write([byte]) {
                break;
            }
        }
        true
    });
    let (_held, _fillers, unanswered) = unanswering();
    let gateway = Running::with(&format!(
        "upstreams:
  read: {{servers: ['{}'], timeouts: {{read: 400ms}}}}
  total: {{servers: ['{}'], timeouts: {{read: 10s, total: 700ms}}}}
  connect: {{servers: ['{unanswered}'], timeouts: {{connect: 300ms}}, retries: {{attempts: 1}}}}
routes:
  - {{name: read, match: {{path: /read}}, upstream: read}}
  - {{name: total, match: {{path: /total}}, upstream: total}}
  - {{name: connect, match: {{path: /connect}}, upstream: connect}}
",
        silent.address(),
        dripping.address()
    ));
    for (path, least, most) in [("/read", 350, 2500), ("/total", 600, 2500), ("/connect", 250, 2500)] {
        let began = Instant::now();
        let response = gateway.get(path);
        assert_eq!(response.status, 504, "{path}: {response:?}");
        let took = began.elapsed();
        assert!(
            (Duration::from_millis(least)..Duration::from_millis(most)).contains(&took),
            "{path} took {took:?}"
        );
        let line = gateway.access_of(path);
        assert_eq!(line["error"]["responseType"], "INTEGRATION_TIMEOUT", "{line}");
    }
}

#[test]
fn tls_towards_an_upstream_is_verified() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let serve = |peer: &mut crate::harness::Peer| {
        while let Some(head) = peer.read_head() {
            peer.drain_body(&head);
            peer.answer(200, "over tls");
        }
    };
    let good = Origin::serve_tls(&authority.issue(&["inner.example"]), serve);
    let bad = Origin::serve_tls(&stranger.issue(&["inner.example"]), serve);
    let place = Place::new();
    authority.write(&place, "ca.crt");
    let gateway = place.start(&format!(
        "upstreams:
  good: {{servers: ['{good}'], tls: {{server_name: inner.example, ca: ./ca.crt}}}}
  name: {{servers: ['{good}'], tls: {{server_name: other.example, ca: ./ca.crt}}}}
  stranger: {{servers: ['{bad}'], tls: {{server_name: inner.example, ca: ./ca.crt}}}}
  system: {{servers: ['{good}'], tls: {{server_name: inner.example}}}}
  blind: {{servers: ['{bad}'], tls: {{verify: false, insecure_skip_verify: true, server_name: x.example}}}}
routes:
  - {{name: good, match: {{path: /good}}, upstream: good}}
  - {{name: name, match: {{path: /name}}, upstream: name}}
  - {{name: stranger, match: {{path: /stranger}}, upstream: stranger}}
  - {{name: system, match: {{path: /system}}, upstream: system}}
  - {{name: blind, match: {{path: /blind}}, upstream: blind}}
",
        good = good.address(),
        bad = bad.address()
    ));
    // In this order: a pooled connection to the same server must not lend its trust to another upstream.
    assert_eq!(gateway.get("/good").expect(200).text(), "over tls");
    for path in ["/name", "/stranger", "/system"] {
        gateway.get(path).expect(502);
        let line = gateway.access_of(path);
        assert_eq!(line["error"]["responseType"], "INTEGRATION_FAILURE", "{line}");
    }
    assert_eq!(gateway.get("/blind").expect(200).text(), "over tls");
    assert_eq!(gateway.get("/good").expect(200).text(), "over tls");
    assert_eq!(good.requests_of("/name") + good.requests_of("/system") + bad.requests_of("/stranger"), 0);
}

#[test]
fn names_are_resolved_in_the_background() {
    let origin = Origin::named("by name");
    let port = origin.address().port();
    let gateway = Running::with(&format!(
        "upstreams: {{pool: {{servers: ['localhost:{port}'], host: server}}}}\nroutes:\n  - {{name: pool, upstream: pool}}\n"
    ));
    eventually("localhost to be resolved", || (gateway.get("/").status == 200).then_some(()));
    assert_eq!(gateway.get("/").text(), "by name");
    let head = origin.heads().pop().unwrap().to_ascii_lowercase();
    assert!(head.contains(&format!("host: localhost:{port}\r\n")), "{head}");
}

#[test]
fn a_killed_origin_is_502_until_it_is_back() {
    let origin = Origin::named("first life");
    let gateway = Running::with(&format!(
        "upstreams: {{pool: {{servers: ['{}']}}}}\nroutes:\n  - {{name: pool, upstream: pool}}\n",
        origin.address()
    ));
    gateway.get("/").expect(200);
    let address = origin.kill();
    for _ in 0..3 {
        gateway.get("/").expect(502);
    }
    let _again = Origin::serve_at(address, Origin::echoing());
    eventually("the origin to be used again", || (gateway.get("/").status == 200).then_some(()));
}
