//! Tokens that a server is asked about: a server of our own that counts, and fails when it is told to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::json;

use crate::harness::tokens::SigningKey;
use crate::harness::{Origin, Place, Running, bearing, connect_from, eventually};

const ASKED: &str = "portcullis_introspections_total";

/// What the server answers: a status, a body, and after which time.
type Answer = (u16, String, Duration);

/// An introspection server that answers every question alike, and keeps what it was asked.
struct Server {
    origin: Origin,
    answer: Arc<Mutex<Answer>>,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: &serde_json::Value) -> Self {
        let answer = Arc::new(Mutex::new((200, answer.to_string(), Duration::ZERO)));
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let (own, heard) = (Arc::clone(&answer), Arc::clone(&bodies));
        let origin = Origin::each(move |head, peer| {
            let body = peer.whole_body(head).unwrap_or_default();
            heard.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
            let (status, body, after) = own.lock().unwrap().clone();
            std::thread::sleep(after);
            peer.answer(status, &body)
        });
        Self { origin, answer, bodies }
    }

    fn say(&self, status: u16, body: impl ToString) {
        *self.answer.lock().unwrap() = (status, body.to_string(), Duration::ZERO);
    }

    fn asked(&self) -> usize {
        self.bodies.lock().unwrap().len()
    }

    fn gateway(&self, more: &str) -> Running {
        Place::new().start_fetching(&format!(
            "policies: {{auth: {{opaque: {{introspection: {{url: 'http://{}/ask', client_id: 'a b', client_secret: 'p:%'{more}}}}}}}}}\n\
             routes: [{{name: a, auth: {{any_of: [opaque], scopes: [read]}}, respond: {{body: '{{identity.id}}'}}}}]\n",
            self.origin.address()
        ))
    }
}

fn active() -> serde_json::Value {
    json!({"active": true, "sub": "ann", "client_id": "shop", "scope": "read", "iss": "https://a.example", "aud": ["orders"]})
}

fn count(gateway: &Running, result: &str) -> f64 {
    gateway.metrics().of(ASKED, &[("policy", "auth.opaque"), ("result", result)])
}

/// Waits until so many requests have been refused for this reason.
fn await_refused(gateway: &Running, reason: &str, number: f64) {
    let labels = [("policy", "auth.opaque"), ("reason", reason)];
    gateway.await_metric("portcullis_refusals_total", &labels, number);
}

#[test]
fn a_token_is_asked_about_once_as_the_rfcs_have_it() {
    let server = Server::start(&active());
    let gateway = server.gateway(", issuer: 'https://a.example', audiences: [orders]");
    for _ in 0..5 {
        bearing(gateway.address(), "/", "opaque-1~a+/=").expect(200);
    }
    let heads = server.origin.heads();
    assert_eq!(heads.len(), 1);
    assert!(heads[0].starts_with("POST /ask HTTP/1.1\r\n"), "{heads:?}");
    let basic = base64::engine::general_purpose::STANDARD.encode("a%20b:p%3A%25");
    for line in
        [format!("authorization: Basic {basic}"), "content-type: application/x-www-form-urlencoded".into()]
    {
        assert!(heads[0].contains(&format!("{line}\r\n")), "{heads:?}");
    }
    assert_eq!(server.bodies.lock().unwrap()[0], "token=opaque-1%7Ea%2B%2F%3D&token_type_hint=access_token");
    let line = gateway.access(5)[0].to_string();
    assert!(line.contains("ann") && !line.contains("opaque-1"), "{line}");
    assert_eq!((count(&gateway, "active"), count(&gateway, "inactive")), (1.0, 0.0));
    // Another token is another question, and one without the scope is 403.
    server.say(
        200,
        json!({"active": true, "sub": "bob", "scope": "write", "iss": "https://a.example", "aud": "orders"}),
    );
    bearing(gateway.address(), "/", "opaque-2").expect(403);
    assert_eq!(server.asked(), 2);
}

#[test]
fn requests_with_the_same_token_share_one_question() {
    let server = Server::start(&active());
    server.answer.lock().unwrap().2 = Duration::from_millis(500);
    let gateway = server.gateway("");
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| bearing(gateway.address(), "/", "shared").expect(200).status);
        }
    });
    assert_eq!(server.asked(), 1);
}

#[test]
fn a_token_that_is_not_active_or_not_for_us_is_refused() {
    let server = Server::start(&active());
    let gateway = server.gateway(", issuer: 'https://a.example', audiences: [orders], cache: 0ms");
    let other = |name: &str, value: serde_json::Value| {
        let mut answer = active();
        answer[name] = value;
        answer
    };
    let mut counts = std::collections::BTreeMap::<_, f64>::new();
    for (answer, reason) in [
        (json!({"active": false}), "inactive"),
        (other("iss", json!("https://b.example")), "issuer"),
        (other("aud", json!(["carts"])), "audience"),
        (other("exp", json!(1_000_000_000)), "expired"),
        (other("nbf", json!(4_000_000_000_u64)), "not_yet_valid"),
        (other("exp", json!("soon")), "claims"),
        (other("sub", json!(7)), "claims"),
        (other("cnf", json!({"x5t#S256": "A".repeat(43)})), "binding"),
    ] {
        server.say(200, &answer);
        let response = bearing(gateway.address(), "/", "t");
        let challenge = response.expect(401).header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        *counts.entry(reason).or_default() += 1.0;
        await_refused(&gateway, reason, counts[reason]);
    }
    assert_eq!(server.asked(), 8, "with `cache: 0ms` each is a question");
    // What is no token is no question.
    for (turn, odd) in ["a b", "a\tb", "a, Bearer b"].iter().enumerate() {
        bearing(gateway.address(), "/", odd).expect(401);
        await_refused(&gateway, "malformed", 1.0 + turn as f64);
    }
    assert_eq!(server.asked(), 8);
    // Longer than a token may be, in a field that may be longer than usual.
    let text = gateway.place.read("portcullis.yaml");
    let wide = text.replacen("server: {", "server: {limits: {field_bytes: 16KiB}, ", 1);
    let gateway = Place::new().start_whole(&wide);
    bearing(gateway.address(), "/", &"x".repeat(8_193)).expect(401);
    await_refused(&gateway, "token_size", 1.0);
    assert_eq!(server.asked(), 8);
}

#[test]
fn what_is_no_answer_lets_nobody_pass() {
    let server = Server::start(&active());
    for (status, body) in [
        (200, r#"{"active": "true", "sub": "ann"}"#),
        (200, r#"{"active": false, "active": true, "sub": "ann", "scope": "read"}"#),
        (200, "<html>"),
        (200, ""),
        (204, ""),
        (302, ""),
        (401, r#"{"active": true, "sub": "ann", "scope": "read"}"#),
        (500, r#"{"active": true, "sub": "ann", "scope": "read"}"#),
    ] {
        let gateway = server.gateway("");
        server.say(status, body);
        bearing(gateway.address(), "/", "t").expect(503);
        await_refused(&gateway, "introspection_unavailable", 1.0);
        assert_eq!(count(&gateway, "failed"), 1.0);
    }
}

#[test]
fn while_the_server_is_down_what_it_said_holds_and_nothing_else_passes() {
    let server = Server::start(&active());
    let gateway = server.gateway(", cache: 1m");
    bearing(gateway.address(), "/", "known").expect(200);
    server.say(500, "");
    for number in 0..5 {
        let response = bearing(gateway.address(), "/", &format!("unknown-{number}"));
        assert_eq!(response.expect(503).header("retry-after"), Some("5"));
    }
    gateway.await_line("the circuit breaker is open");
    let before = server.asked();
    for number in 0..20 {
        bearing(gateway.address(), "/", &format!("later-{number}")).expect(503);
    }
    assert_eq!(server.asked(), before, "it is left alone");
    assert_eq!(count(&gateway, "refused"), 20.0);
    bearing(gateway.address(), "/", "known").expect(200);
    server.say(200, active());
    eventually("the breaker to let one through", || {
        (bearing(gateway.address(), "/", "again").status == 200).then_some(())
    });
    gateway.await_line("the circuit breaker is closed");
    bearing(gateway.address(), "/", "another").expect(200);
    gateway.await_line("tokens can be asked about again");
}

#[test]
fn a_token_that_the_server_will_not_judge_shuts_out_nobody_else() {
    let server = Server::start(&active());
    let gateway = server.gateway("");
    for (at, status) in [400, 404, 413, 429].into_iter().cycle().take(12).enumerate() {
        server.say(status, "");
        bearing(gateway.address(), "/", &format!("odd-{at}")).expect(503);
    }
    server.say(200, active());
    bearing(gateway.address(), "/", "good").expect(200);
    // Who does not know the gateway itself answers nobody.
    for number in 0..5 {
        server.say(401, "");
        bearing(gateway.address(), "/", &format!("unknown-{number}")).expect(503);
    }
    gateway.await_line("the circuit breaker is open");
}

/// What one client's tokens do to the server is no other client's matter.
#[test]
fn tokens_at_which_the_server_fails_shut_out_nobody_but_who_sends_them() {
    let origin = Origin::each(|head, peer| {
        let body = peer.whole_body(head).unwrap_or_default();
        let body = String::from_utf8_lossy(&body).into_owned();
        if body.contains("slow-") {
            std::thread::sleep(Duration::from_secs(2));
        }
        match (body.contains("broken-"), body.contains("odd-")) {
            (true, _) => peer.answer(500, ""),
            (_, true) => peer.answer(200, "<html>"),
            _ => peer.answer(200, &active().to_string()),
        }
    });
    let gateway = Place::new().start_fetching(&format!(
        "policies: {{auth: {{opaque: {{introspection: {{url: 'http://{}/ask', client_id: a, client_secret: 'p:%', timeout: 300ms}}}}}}}}\n\
         routes: [{{name: a, auth: opaque, respond: {{}}}}]\n",
        origin.address()
    ));
    let from = |client: &str, token: &str| {
        let mut connection = connect_from(client, gateway.address());
        connection.write(format!(
            "GET / HTTP/1.1\r\nHost: example.com\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        ));
        connection.response()
    };
    for (kind, client) in [("broken", "127.0.0.66"), ("odd", "127.0.0.67"), ("slow", "127.0.0.68")] {
        let began = Instant::now();
        for number in 0..7 {
            from(client, &format!("{kind}-{number}")).expect(503);
            from("127.0.0.2", &format!("good-{number}-of-{kind}")).expect(200);
        }
        // Also where nobody else has come in between.
        for number in 0..7 {
            from("127.0.0.69", &format!("{kind}-again-{number}")).expect(503);
        }
        let asked = origin.heads().len();
        let again = from(client, &format!("good-again-of-{kind}"));
        if began.elapsed() < Duration::from_secs(4) {
            again.expect(503);
            assert_eq!(origin.heads().len(), asked, "{kind}: who fails again and again is left alone");
        }
        from("127.0.0.3", &format!("good-of-{kind}")).expect(200);
    }
    gateway.await_line("open for clients whose questions have failed");
}

#[test]
fn a_server_that_says_nothing_is_waited_for_a_bounded_time() {
    let server = Server::start(&active());
    server.answer.lock().unwrap().2 = Duration::from_secs(4);
    let gateway = server.gateway(", timeout: 300ms");
    let (began, slowest) = (Instant::now(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for number in 0..12 {
            let (gateway, slowest) = (&gateway, &slowest);
            scope.spawn(move || {
                bearing(gateway.address(), "/", &format!("t-{number}")).expect(503);
                slowest.fetch_max(usize::try_from(began.elapsed().as_millis()).unwrap(), Ordering::SeqCst);
            });
        }
    });
    assert!(slowest.load(Ordering::SeqCst) < 3_000, "{slowest:?} ms");
}

#[test]
fn a_token_that_is_bound_to_a_key_needs_its_proof() {
    const URL: &str = "http://example.com/";
    let (client, thief) = (SigningKey::new("ES256", ""), SigningKey::new("ES256", ""));
    let mut bound = active();
    bound["cnf"] = json!({"jkt": client.thumbprint()});
    let server = Server::start(&bound);
    let gateway = server.gateway(", cache: 1m");
    let send = |scheme: &str, token: &str, proof: Option<&str>| {
        let proof = proof.map(|proof| format!("DPoP: {proof}\r\n")).unwrap_or_default();
        gateway.send(format!(
            "GET / HTTP/1.1\r\nHost: example.com\r\nAuthorization: {scheme} {token}\r\n{proof}\r\n"
        ))
    };
    let proof = |key: &SigningKey| key.proof("GET", URL, "bound", &json!({}));
    let good = proof(&client);
    send("DPoP", "bound", Some(&good)).expect(200);
    let replayed = send("DPoP", "bound", Some(&good));
    let challenge = replayed.expect(401).all("www-authenticate");
    assert!(
        challenge.contains("DPoP realm=\"opaque\"") && challenge.contains("invalid_dpop_proof"),
        "{challenge}"
    );
    send("DPoP", "bound", Some(&proof(&client))).expect(200);
    // Whoever has stolen the token has not the key.
    for (scheme, proof, reason, number) in [
        ("Bearer", None, "binding", 1.0),
        ("Bearer", Some(proof(&client)), "binding", 2.0),
        ("DPoP", Some(proof(&thief)), "binding", 3.0),
        ("DPoP", None, "proof_missing", 1.0),
        ("DPoP", Some(client.proof("GET", URL, "another", &json!({}))), "proof", 1.0),
        ("DPoP", Some(client.proof("GET", "http://example.com/other", "bound", &json!({}))), "proof", 2.0),
    ] {
        send(scheme, "bound", proof.as_deref()).expect(401);
        await_refused(&gateway, reason, number);
    }
    // And one that is bound to none is a bearer's.
    server.say(200, active());
    send("Bearer", "plain", None).expect(200);
    send("DPoP", "plain", Some(&client.proof("GET", URL, "plain", &json!({})))).expect(401);
}
