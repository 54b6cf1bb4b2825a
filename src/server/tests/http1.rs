use std::io::Write;
use std::time::{Duration, Instant};

use super::rig::{Client, Rig, plain, wait};
use crate::gateway::{ListenAddress, Listener};

const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn keep_alive_serves_one_after_the_other_and_upstreams_too() {
    let rig = Rig::start(vec![plain("a")]);
    let mut client = rig.client("a");
    for _ in 0..3 {
        assert_eq!(client.get("/hello").body, "hello");
        assert_eq!(client.get("/origin").body, "GET /origin HTTP/1.1 with 0");
    }
    let facts = client.get("/facts").body;
    assert!(facts.starts_with("a ") && facts.ends_with("None true"), "{facts}");
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_are_split() {
    let rig = Rig::start(vec![plain("a")]);
    let wire = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n\
                POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345\
                POST /o HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                \r\nPOST /o HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy\
                GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let expected = ["hello", "read 5", "POST /o HTTP/1.1 with 13", "POST /o HTTP/1.1 with 2", "hello"];
    let splits = (0..wire.len()).step_by(7).chain([0, wire.len() - 1]);
    for split in splits {
        let mut client = rig.client("a");
        client.send(&wire.as_bytes()[..split]);
        if split % 3 == 0 {
            std::thread::sleep(Duration::from_millis(3));
        }
        client.send(&wire.as_bytes()[split..]);
        for body in expected {
            assert_eq!(client.answer().unwrap().body, body, "split at {split}");
        }
        assert!(client.answer().is_none());
    }
    let mut client = rig.client("a");
    for byte in wire.as_bytes() {
        client.send([*byte]);
    }
    for body in expected {
        assert_eq!(client.answer().unwrap().body, body);
    }
}

#[test]
fn a_body_that_nobody_expects_is_the_last_of_its_connection() {
    let rig = Rig::start(vec![plain("a")]);
    for method in ["GET", "DELETE"] {
        let mut client = rig.client("a");
        client.send(format!("{method} /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy"));
        assert!(client.answer().unwrap().closes(), "{method}");
        let mut client = rig.client("a");
        client.send(format!("{method} /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        assert!(!client.answer().unwrap().closes(), "{method}");
    }
}

#[test]
fn an_absolute_target_names_the_host_that_host_names() {
    let rig = Rig::start(vec![plain("a")]);
    for (target, host) in [
        ("http://a.example/hello", "A.EXAMPLE."),
        ("http://a.example:80/hello", "a.example"),
        ("HTTP://a.example//hello", "a.example"),
    ] {
        let mut client = rig.client("a");
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.answer().unwrap().status, 200, "{target}");
    }
    for (target, host) in
        [("http://b/hello", "a"), ("http://u@a/hello", "a"), ("/hello", "u@a"), ("ftp://a/", "a")]
    {
        let mut client = rig.client("a");
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.closes()), (400, true), "{target}");
        assert!(answer.body.contains("ambiguous-request"), "{target}: {}", answer.body);
    }
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let rig = Rig::start(vec![plain("a")]);
    for _ in 0..5 {
        let mut client = rig.client("a");
        client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3145728\r\n\r\n");
        for _ in 0..48 {
            // A reset here would be an error of the next read, too.
            if client.stream.write_all(&[b'x'; 65536]).is_err() {
                break;
            }
        }
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.closes()), (413, true));
    }
}

#[test]
fn a_small_unread_body_does_not_cost_the_connection() {
    let rig = Rig::start(vec![plain("a")]);
    let mut client = rig.client("a");
    client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.closes()), (413, false));
    client.send("12345");
    assert_eq!(client.get("/hello").body, "hello");
    client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert!(client.answer().unwrap().closes());
}

#[test]
fn heads_are_refused_with_their_status_and_the_connection_ends() {
    let rig = Rig::start(vec![plain("a")]);
    let long = "x".repeat(1100);
    let rows = [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), 400),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("\x16\x03\x01\x02".to_owned(), 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_owned(),
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(), 501),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}{long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(50)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: yyyyyyyyyyy\r\n".repeat(600)), 431),
    ];
    for (head, status) in rows {
        let mut client = rig.client("a");
        assert_eq!(client.get("/hello").status, 200);
        client.send(&head);
        let answer = client.answer().unwrap_or_else(|| panic!("{head}"));
        assert_eq!((answer.status, answer.closes()), (status, true), "{head}");
        assert!(answer.headers.contains_key("date"));
        assert!(client.answer().is_none());
    }
}

#[test]
fn what_follows_a_refused_head_is_never_served() {
    let rig = Rig::start(vec![plain("a")]);
    let mut client = rig.client("a");
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HELLO}"
    ));
    assert_eq!(client.answer().unwrap().status, 400);
    assert!(client.answer().is_none());
}

#[test]
fn a_malformed_chunk_ends_the_connection_and_nothing_behind_it_is_served() {
    let rig = Rig::start(vec![plain("a")]);
    let mut client = rig.client("a");
    client.send(format!(
        "POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n{HELLO}"
    ));
    let rest = client.rest();
    assert!(!rest.escape_ascii().to_string().contains("200 OK"), "{}", rest.escape_ascii());
}

#[test]
fn silence_is_closed_silently_and_a_dripping_head_gets_408() {
    let rig = Rig::with(vec![plain("a")], |s| s.keep_alive = Duration::from_millis(500)).unwrap();
    let began = Instant::now();
    let mut client = rig.client("a");
    assert!(client.rest().is_empty());
    assert!(began.elapsed() > Duration::from_millis(400));

    let mut client = rig.client("a");
    assert_eq!(client.get("/hello").status, 200);
    assert!(client.rest().is_empty());

    let mut client = rig.client("a");
    let began = Instant::now();
    for byte in HELLO.bytes().cycle().take(20) {
        std::thread::sleep(Duration::from_millis(60));
        if client.stream.write_all(&[byte]).is_err() {
            break;
        }
    }
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.closes()), (408, true));
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_panic_in_a_phase_ends_one_connection_only() {
    let rig = Rig::with(vec![plain("a")], |s| s.workers = 1).unwrap();
    let mut other = rig.client("a");
    assert_eq!(other.get("/hello").status, 200);
    let mut client = rig.client("a");
    client.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.answer().is_none());
    assert_eq!(other.get("/hello").status, 200);
    assert_eq!(rig.client("a").get("/hello").status, 200);
    drop((client, other));
    wait("the connections are gone", || rig.handle.counts().open() == 0);
}

#[test]
fn a_head_and_its_body_leave_in_one_send() {
    use std::io::Read;
    let rig = Rig::start(vec![plain("a")]);
    let mut client = rig.client("a");
    for path in ["/hello", "/facts"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut buffer = [0; 4096];
        let read = client.stream.read(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
        assert!(text.split("\r\n\r\n").nth(1).is_some_and(|body| !body.is_empty()), "{text}");
    }
}

#[test]
fn half_closed_clients_get_all_their_answers() {
    let rig = Rig::start(vec![plain("a")]);
    let mut client = rig.client("a");
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /o HTTP/1.1\r\nHost: a\r\n\r\n");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.answer().unwrap().body, "slow");
    assert_eq!(client.answer().unwrap().body, "GET /o HTTP/1.1 with 0");
    assert!(client.answer().is_none());
}

#[test]
fn large_bodies_pass_both_ways() {
    let rig = Rig::start(vec![plain("a")]);
    let mut client = rig.client("a");
    assert_eq!(client.get("/big").body.len(), 3 << 20);
    client.send("POST /o HTTP/1.1\r\nHost: a\r\nContent-Length: 3145728\r\n\r\n");
    for _ in 0..48 {
        client.send([b'x'; 65536]);
    }
    assert_eq!(client.answer().unwrap().body, "POST /o HTTP/1.1 with 3145728");
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 65536], b"\r\n".to_vec()].concat();
    client.send("POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..48 {
        client.send(&chunk);
    }
    client.send(format!("0\r\nX: y\r\n\r\n{HELLO}"));
    assert_eq!(client.answer().unwrap().body, "read 3145728");
    assert_eq!(client.answer().unwrap().body, "hello");
}

#[test]
fn a_tunnel_passes_bytes_as_they_are_even_those_sent_too_early() {
    let rig = Rig::start(vec![plain("a")]);
    for _ in 0..20 {
        let mut client = rig.client("a");
        client.send(
            "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly",
        );
        assert_eq!(client.answer().unwrap().status, 101);
        assert_eq!(client.bytes(5), b"early");
        client.send("GET / HTTP/1.1\r\n\r\n");
        assert_eq!(client.bytes(18), b"GET / HTTP/1.1\r\n\r\n");
    }
}

#[test]
fn an_upgrade_that_is_not_granted_hides_no_request() {
    let rig = Rig::start(vec![plain("a")]);
    let mut client = rig.client("a");
    client.send(format!(
        "GET /o HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n{HELLO}"
    ));
    assert_eq!(client.answer().unwrap().body, "GET /o HTTP/1.1 with 0");
    assert_eq!(client.answer().unwrap().body, "hello");
}

#[test]
fn http10_and_close_are_respected() {
    let rig = Rig::start(vec![plain("a")]);
    for head in [
        "GET /hello HTTP/1.0\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        // Pingora looks at the first field only.
        "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: close\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
    ] {
        let mut client = rig.client("a");
        client.send(format!("{head}GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.answer().unwrap();
        assert!(answer.closes(), "{head}: {answer:?}");
        assert!(client.answer().is_none());
    }
}

#[test]
fn a_unix_socket_serves_and_leaves_no_file_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gate.sock");
    // What a killed process leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let unix = || Listener { address: ListenAddress::Unix(path.clone()), ..plain("u") };
    let rig = Rig::start(vec![unix()]);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut client = Client::over(stream);
    assert_eq!(client.get("/hello").body, "hello");
    assert!(client.get("/facts").body.starts_with("u "));

    // A server that fails to start takes its socket files with it.
    let early = directory.path().join("early.sock");
    let first = Listener { address: ListenAddress::Unix(early.clone()), ..plain("e") };
    assert!(Rig::with(vec![first, unix()], |_| {}).is_err());
    assert!(!early.exists());

    // Somebody listens there: not ours to remove.
    let error = Rig::with(vec![unix()], |_| {}).err().unwrap().to_string();
    assert!(error.contains("another process listens on it"), "{error}");
    drop(rig);
    assert!(!path.exists());
}

#[test]
fn a_method_that_no_route_can_have_is_told_what_there_is() {
    use crate::framing::{Limits, judge};
    let limits = Limits { header_fields: 9, header_bytes: 999, field_bytes: 99, uri_bytes: 99 };
    let denial = judge(b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", &limits).unwrap_err();
    let refusal = crate::server::answer::refusal(denial);
    assert_eq!(refusal.kind.status(), 405);
    let (name, value) = &refusal.headers[0];
    assert!(name == "allow" && value.to_str().unwrap().starts_with("GET, HEAD"));
}
