//! A gateway and an OpenID provider that nobody here wrote: found, believed, rotated, lost, slow, huge and wrong in its clock.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Origin, Place, Provider, Running, bearing, eventually};

fn rest(provider: &Provider, keys: &str) -> String {
    let issuer = provider.issuer();
    format!(
        "policies:\n  auth:\n    staff: {{jwt: {{issuer: '{issuer}', audiences: [orders], keys: {keys}}}}}\n    \
         opaque: {{introspection: {{url: '{issuer}/token/introspection', client_id: the-gateway, \
         client_secret: 'gate:way+%41', issuer: '{issuer}', audiences: [orders], cache: 1s}}}}\n\
         routes:\n- {{name: a, auth: {{any_of: [staff], scopes: ['orders:read']}}, respond: {{body: in}}}}\n\
         - {{name: w, match: {{path: /write}}, auth: {{any_of: [staff], scopes: ['orders:write']}}, respond: {{}}}}\n\
         - {{name: o, match: {{path: /opaque}}, auth: {{any_of: [opaque], scopes: ['orders:read']}}, respond: {{}}}}\n\
         - {{name: both, match: {{path: /both}}, auth: {{any_of: [staff, opaque]}}, respond: {{}}}}\n"
    )
}

fn gateway(provider: &Provider, keys: &str) -> Running {
    Place::new().start_fetching(&rest(provider, keys))
}

/// Waits until a request has been refused for this reason, once.
fn await_refused(gateway: &Running, policy: &str, reason: &str) {
    let labels = [("policy", policy), ("reason", reason)];
    gateway.await_metric("portcullis_refusals_total", &labels, 1.0);
}

#[test]
fn its_tokens_are_known_by_discovery() {
    let Some(provider) = Provider::start(&[]) else { return };
    let gateway = gateway(&provider, "{discovery: true}");
    for resource in ["urn:orders", "urn:orders:rsa"] {
        let token = provider.token(resource);
        bearing(gateway.address(), "/", &token).expect(200);
        let lacking = bearing(gateway.address(), "/write", &token);
        let challenge = lacking.expect(403).header("www-authenticate").unwrap_or_default().to_owned();
        assert!(challenge.contains("insufficient_scope"), "{challenge}");
        bearing(gateway.address(), "/both", &token).expect(200);
    }
    bearing(gateway.address(), "/", &provider.token("urn:carts")).expect(401);
    await_refused(&gateway, "auth.staff", "audience");
    bearing(gateway.address(), "/", &provider.token("urn:orders:opaque")).expect(401);
    gateway.await_metric("portcullis_issuer_keys", &[("policy", "auth.staff")], 2.0);
}

#[test]
fn its_rotation_under_load_loses_no_request() {
    let Some(provider) = Provider::start(&[]) else { return };
    let gateway = gateway(&provider, "{discovery: true, cooldown: 1s}");
    let turn = Mutex::new(provider.token("urn:orders"));
    bearing(gateway.address(), "/", &turn.lock().unwrap()).expect(200);
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let token = turn.lock().unwrap().clone();
                    bearing(gateway.address(), "/", &token).expect(200);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 2..=3 {
            provider.tell("rotate");
            *turn.lock().unwrap() = provider.token("urn:orders");
            let before = served.load(Ordering::SeqCst);
            let keys = f64::from(2 * round);
            gateway.await_metric("portcullis_issuer_keys", &[("policy", "auth.staff")], keys);
            // Long enough for the cool-down to be over, too.
            let began = std::time::Instant::now();
            eventually("requests to be served", || {
                let enough = served.load(Ordering::SeqCst) > before + 30;
                (enough && began.elapsed() > Duration::from_millis(1200)).then_some(())
            });
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn when_it_is_gone_its_tokens_are_known_also_after_a_restart() {
    let Some(mut provider) = Provider::start(&[]) else { return };
    let gateway = gateway(&provider, "{discovery: true, refresh: 1s, cooldown: 1s}");
    let (token, old) = (provider.token("urn:orders"), provider.token("urn:orders:rsa"));
    bearing(gateway.address(), "/", &token).expect(200);
    eventually("the copy of its keys", || {
        std::fs::read_dir(gateway.place.path("state/issuers")).ok()?.next().map(|_| ())
    });
    provider.kill();
    gateway.await_line("its keys cannot be fetched, those known are used");
    bearing(gateway.address(), "/", &token).expect(200);
    let gateway = gateway.restart();
    for token in [&token, &old] {
        bearing(gateway.address(), "/", token).expect(200);
    }
    assert_eq!(gateway.metrics().of("portcullis_issuer_keys", &[("policy", "auth.staff")]), 2.0);
}

#[test]
fn a_key_that_it_retires_is_gone() {
    let Some(provider) = Provider::start(&[]) else { return };
    let gateway = gateway(&provider, "{discovery: true, refresh: 1s, cooldown: 1s}");
    let old = provider.token("urn:orders");
    bearing(gateway.address(), "/", &old).expect(200);
    provider.tell("rotate");
    bearing(gateway.address(), "/", &old).expect(200);
    provider.tell("retire");
    eventually("the old key to be gone", || {
        (bearing(gateway.address(), "/", &old).status == 401).then_some(())
    });
    bearing(gateway.address(), "/", &provider.token("urn:orders")).expect(200);
}

#[test]
fn its_clock_may_be_wrong_by_half_a_minute_and_no_more() {
    for (clock, status, reason) in
        [("20", 200, ""), ("-20", 200, ""), ("3600", 401, "not_yet_valid"), ("-3600", 401, "expired")]
    {
        let Some(provider) = Provider::start(&[&format!("--clock={clock}")]) else { return };
        let gateway = gateway(&provider, "{discovery: true}");
        bearing(gateway.address(), "/", &provider.token("urn:orders")).expect(status);
        if status == 401 {
            await_refused(&gateway, "auth.staff", reason);
        }
    }
}

/// What a proxy between gateway and provider does to an answer.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// Nothing comes back.
    Stall,
    /// The answer has more bytes than may be.
    Huge,
    /// It ends in its middle.
    Cut,
}

/// A proxy to this server that does so with each answer.
fn faulty(to: SocketAddr, fault: &Arc<Mutex<Fault>>) -> Origin {
    let fault = Arc::clone(fault);
    Origin::each(move |head, peer| {
        let mut upstream = TcpStream::connect(to).unwrap();
        let head = head.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        upstream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let fault = *fault.lock().unwrap();
        match fault {
            Fault::None => drop(upstream.read_to_end(&mut answer)),
            Fault::Stall => std::thread::sleep(Duration::from_secs(3)),
            Fault::Huge => {
                answer.extend(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"keys\": [\"");
                answer.extend(std::iter::repeat_n(b'x', 2 << 20));
            }
            Fault::Cut => {
                upstream.read_to_end(&mut answer).unwrap();
                answer.truncate(answer.len() - 20);
            }
        }
        peer.write(answer);
        false
    })
}

#[test]
fn slow_huge_and_broken_answers_change_nothing() {
    let Some(provider) = Provider::start(&[]) else { return };
    let fault = Arc::new(Mutex::new(Fault::None));
    let proxy = faulty(provider.address(), &fault);
    let keys = format!("{{url: 'http://{}/jwks', refresh: 1s, cooldown: 1s}}", proxy.address());
    let egress = "{allow: [127.0.0.1], timeout: 500ms}";
    let gateway = Place::new().start_whole(&Place::fetching(egress, &rest(&provider, &keys)));
    let token = provider.token("urn:orders");
    bearing(gateway.address(), "/", &token).expect(200);
    for (kind, told) in [
        (Fault::Stall, "timeout: not done within 500ms"),
        (Fault::Huge, "bytes: the body is larger than 1MiB"),
        (Fault::Cut, "bad_answer: "),
    ] {
        *fault.lock().unwrap() = kind;
        gateway.await_line(told);
        bearing(gateway.address(), "/", &token).expect(200);
    }
    *fault.lock().unwrap() = Fault::None;
    gateway.await_line("its keys can be fetched again");
    // With nothing but such answers there are no keys, and nobody passes.
    *fault.lock().unwrap() = Fault::Huge;
    let other = Place::new().start_whole(&Place::fetching(egress, &rest(&provider, &keys)));
    bearing(other.address(), "/", &token).expect(503);
}

#[test]
fn it_is_asked_about_opaque_tokens() {
    let Some(mut provider) = Provider::start(&[]) else { return };
    let gateway = gateway(&provider, "{discovery: true}");
    let token = provider.token("urn:orders:opaque");
    bearing(gateway.address(), "/opaque", &token).expect(200);
    bearing(gateway.address(), "/both", &token).expect(200);
    bearing(gateway.address(), "/opaque", "no-token-of-anybody").expect(401);
    await_refused(&gateway, "auth.opaque", "inactive");
    provider.revoke(&token);
    eventually("the revocation to be known", || {
        (bearing(gateway.address(), "/opaque", &token).status == 401).then_some(())
    });
    let last = provider.token("urn:orders:opaque");
    provider.kill();
    bearing(gateway.address(), "/opaque", &last).expect(503);
    await_refused(&gateway, "auth.opaque", "introspection_unavailable");
}
