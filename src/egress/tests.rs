//! Decisions by table; the client against servers that misbehave.

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::address::Kind;
use super::*;
use crate::config::{Build, Site};

fn compile(config: &Config) -> Result<Policy, String> {
    let mut build = Build::default();
    let policy = Policy::compile(config, &Site::default_value(), &mut build);
    policy.ok_or_else(|| build.errors.errors()[0].cause.clone())
}

fn config(allow: &[&str]) -> Config {
    let allow = allow.iter().map(|entry| Spanned::unwritten((*entry).to_owned())).collect();
    Config { allow, ..Config::default() }
}

fn policy(allow: &[&str]) -> Policy {
    compile(&config(allow)).unwrap()
}

/// The verdict on a URL and, where a name has to be resolved, on the address it turns out to have.
fn verdict(allow: &[&str], url: &str, ip: &str) -> &'static str {
    let policy = policy(allow);
    let judged = policy.url(url).and_then(|target| match ip {
        "" => Ok(()),
        ip => policy.address(&target.host, target.scheme, ip.parse().unwrap()),
    });
    judged.map_or_else(|failure| failure.reason.as_str(), |()| "ok")
}

#[test]
fn public_addresses_are_few() {
    for ip in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.0.3.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450:4001::1",
        "2001:200::1",
        "2003::1",
        "3ffe::1",
    ] {
        assert_eq!(Kind::of(ip.parse().unwrap()), Kind::Public, "{ip}");
    }
    for ip in [
        "10.0.0.0",
        "10.255.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "100.64.0.0",
        "100.127.255.255",
        "169.254.169.254",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.7",
        "240.0.0.1",
        "255.255.255.254",
        "::1",
        "::ffff:8.8.8.8",
        "::8.8.8.8",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:808:808::1",
        "3fff::1",
        "3fff:fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fdff::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
    ] {
        assert!(matches!(Kind::of(ip.parse().unwrap()), Kind::Inner(_)), "{ip}");
    }
    for ip in ["0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "255.255.255.255", "::", "ff02::1"] {
        assert!(matches!(Kind::of(ip.parse().unwrap()), Kind::Nowhere(_)), "{ip}");
    }
}

#[test]
fn what_may_be_fetched() {
    const NAME: &[&str] = &["keys.internal"];
    const NET: &[&str] = &["127.0.0.0/8", "fd00::/8"];
    for (allow, url, ip, expected) in [
        (&[][..], "https://example.com/", "93.184.216.34", "ok"),
        (&[], "https://example.com/", "2606:4700::1", "ok"),
        (&[], "https://example.com/", "127.0.0.1", "not_public"),
        (&[], "https://example.com/", "::ffff:127.0.0.1", "not_public"),
        (&[], "https://example.com/", "::ffff:93.184.216.34", "not_public"),
        (&[], "https://example.com/", "169.254.169.254", "not_public"),
        (&[], "https://example.com/", "0.0.0.0", "not_public"),
        (&[], "http://example.com/", "", "plain_http"),
        (&[], "http://93.184.216.34/", "", "plain_http"),
        (&[], "https://93.184.216.34/", "", "ok"),
        (&[], "https://user@example.com/", "", "userinfo"),
        (&[], "https://:secret@example.com/", "", "userinfo"),
        (&[], "ftp://example.com/", "", "scheme"),
        (&[], "file:///etc/passwd", "", "scheme"),
        (&[], "gopher://127.0.0.1/", "", "scheme"),
        (&[], "example.com", "", "bad_url"),
        (&[], "https://", "", "bad_url"),
        (&[], "https://[fe80::1%25eth0]/", "", "bad_url"),
        // One address in its many spellings.
        (&[], "https://127.0.0.1/", "", "not_public"),
        (&[], "https://127.1/", "", "not_public"),
        (&[], "https://2130706433/", "", "not_public"),
        (&[], "https://0x7f000001/", "", "not_public"),
        (&[], "https://0177.0.0.1/", "", "not_public"),
        (&[], "https://0x7f.0.0.1/", "", "not_public"),
        (&[], "https://127.0.0.1./", "", "not_public"),
        (&[], "https://%31%32%37.0.0.1/", "", "not_public"),
        (&[], "https://１２７.0.0.1/", "", "not_public"),
        (&[], "https://[::1]/", "", "not_public"),
        (&[], "https://[::ffff:7f00:1]/", "", "not_public"),
        (&[], "https://[64:ff9b::7f00:1]/", "", "not_public"),
        (&[], "https://0/", "", "not_public"),
        // Listed by name: whatever it resolves to, but for what is nowhere.
        (NAME, "http://keys.internal/", "10.0.0.7", "ok"),
        (NAME, "https://KEYS.internal./", "fd00::7", "ok"),
        (NAME, "http://keys.internal:8080/", "93.184.216.34", "ok"),
        (NAME, "http://keys.internal/", "0.0.0.0", "not_public"),
        (NAME, "http://keys.internal/", "224.0.0.1", "not_public"),
        (NAME, "http://keys.internal/", "::ffff:0.0.0.0", "not_public"),
        (NAME, "http://other.internal/", "", "plain_http"),
        (NAME, "https://other.internal/", "10.0.0.7", "not_public"),
        (NAME, "https://a.keys.internal/", "10.0.0.7", "not_public"),
        // Listed by address: whatever the name.
        (NET, "http://127.0.0.1/", "", "ok"),
        (NET, "https://0x7f.1/", "", "ok"),
        (NET, "http://[fd00::7]/", "", "ok"),
        (NET, "http://anything.example/", "127.0.0.1", "ok"),
        (NET, "http://anything.example/", "::ffff:127.0.0.1", "ok"),
        (NET, "http://anything.example/", "93.184.216.34", "plain_http"),
        (NET, "https://anything.example/", "10.0.0.1", "not_public"),
    ] {
        assert_eq!(verdict(allow, url, ip), expected, "{allow:?} {url} {ip}");
    }
}

#[test]
fn a_password_is_not_told() {
    let failure = policy(&[]).url("https://user:hunter2@example.com/").unwrap_err();
    assert!(!failure.to_string().contains("hunter2") && !format!("{failure:?}").contains("hunter2"));
}

#[test]
fn what_may_be_listed() {
    for good in [
        "localhost",
        "Keys.Internal.",
        "a_b.svc.cluster.local",
        "müller.example",
        "10.0.0.0/8",
        "10.1.2.3",
        "::1",
        "fd00::/8",
        "64:ff9b::/96",
    ] {
        assert!(compile(&config(&[good])).is_ok(), "{good}");
    }
    for (bad, part) in [
        ("", "neither"),
        ("*", "neither"),
        ("*.example.com", "neither"),
        ("https://example.com", "neither"),
        ("example.com/x", "neither"),
        ("example.com:80", "neither"),
        ("user@example.com", "neither"),
        ("0x7f.1", "neither"),
        ("a b", "neither"),
        ("0.0.0.0/0", "lists every address"),
        ("::/0", "lists every address"),
        ("10.0.0.1/8", "bits set behind"),
    ] {
        let cause = compile(&config(&[bad])).unwrap_err();
        assert!(cause.contains(part), "{bad}: {cause}");
    }
    for (timeout, bytes) in
        [(0, 1 << 20), (99, 1 << 20), (60_001, 1 << 20), (5_000, 1_023), (5_000, (64 << 20) + 1)]
    {
        let config =
            Config { timeout: Time(Duration::from_millis(timeout)), bytes: Size(bytes), ..Config::default() };
        assert!(compile(&config).unwrap_err().contains("out of range"), "{timeout} {bytes}");
    }
}

#[test]
fn redirects_stay_where_they_are() {
    let policy = policy(&["a.example", "127.0.0.1"]);
    let target = policy.url("http://a.example:8080/x/y?z").unwrap();
    for (location, expected) in [
        ("/b", Ok("http://a.example:8080/b")),
        ("b?c", Ok("http://a.example:8080/x/b?c")),
        ("http://A.example:8080/", Ok("http://a.example:8080/")),
        ("//a.example:8080/b", Ok("http://a.example:8080/b")),
        ("https://a.example:8080/", Err("redirect_elsewhere")),
        ("http://a.example/", Err("redirect_elsewhere")),
        ("http://b.example:8080/", Err("redirect_elsewhere")),
        ("//127.0.0.1:8080/", Err("redirect_elsewhere")),
        ("\\\\127.0.0.1:8080/", Err("redirect_elsewhere")),
        ("file:///etc/passwd", Err("redirect_elsewhere")),
        ("http://u:p@a.example:8080/", Err("userinfo")),
        ("http://[", Err("redirect_elsewhere")),
    ] {
        let led = target.redirect(location, &policy);
        let led = led.as_ref().map(|to| to.url.as_str()).map_err(|failure| failure.reason.as_str());
        assert_eq!(led, expected, "{location}");
    }
    let secure = policy.url("https://a.example/").unwrap();
    for (location, expected) in [("https://a.example:443/b", true), ("http://a.example/", false)] {
        assert_eq!(secure.redirect(location, &policy).is_ok(), expected, "{location}");
    }
}

/// A server on 127.0.0.1 that answers each connection's first bytes with `answer`, and says how many connections came.
async fn server(answer: impl Into<Vec<u8>>) -> (u16, Arc<AtomicUsize>) {
    let (listener, answer) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), answer.into());
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                let _ = stream.read(&mut bytes).await;
                let _ = stream.write_all(&answer).await;
                // Held open until the client goes.
                while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    (port, connections)
}

/// Answers these addresses in turn, the last for ever, and counts.
fn turns(answers: &[&str]) -> (Lookup, Arc<AtomicUsize>) {
    let answers: Vec<Vec<IpAddr>> =
        answers.iter().map(|list| list.split(' ').map(|ip| ip.parse().unwrap()).collect()).collect();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let answers = Mutex::new(answers);
    let lookup: Lookup = Arc::new(move |_| {
        let turn = counted.fetch_add(1, Ordering::SeqCst);
        let answers = answers.lock().unwrap();
        let answer = answers.get(turn).or_else(|| answers.last()).cloned().unwrap();
        Box::pin(async move { Ok(answer) })
    });
    (lookup, asked)
}

fn egress(config: &Config, lookup: &Lookup) -> Egress {
    Egress::with_lookup(Arc::new(compile(config).unwrap()), lookup).unwrap()
}

fn reason(result: &Result<Fetched, Failure>) -> &'static str {
    result.as_ref().map_or_else(|failure| failure.reason.as_str(), |_| "ok")
}

const CLOSING: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_name_that_turns_inward_is_refused_on_the_address_that_is_connected_to() {
    let (port, connections) = server(CLOSING).await;
    let url = format!("http://rebound.example:{port}/");
    // Listed is 127.0.0.1 alone. The first answer is good, the next is not: each connection is judged by its own look-up.
    let (lookup, asked) = turns(&["127.0.0.1", "127.0.0.2"]);
    let egress = egress(&config(&["127.0.0.1"]), &lookup);
    let first = egress.get(&url).await.unwrap();
    assert_eq!((&*first.body, first.address.ip().to_string().as_str()), (&b"hello"[..], "127.0.0.1"));
    assert_eq!(asked.load(Ordering::SeqCst), 1, "nothing is looked up between judging and connecting");
    let second = egress.get(&url).await;
    assert_eq!(reason(&second), "not_public", "{second:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn of_several_addresses_only_those_that_may_are_connected_to() {
    let (port, connections) = server(CLOSING).await;
    let (lookup, _) = turns(&["10.255.255.1 127.0.0.1", "10.255.255.1 192.168.255.1"]);
    let egress = egress(&config(&["127.0.0.1"]), &lookup);
    let url = format!("http://two.example:{port}/");
    assert_eq!(egress.get(&url).await.unwrap().address.ip().to_string(), "127.0.0.1");
    assert_eq!(reason(&egress.get(&url).await), "not_public");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_redirect_is_judged_and_counted() {
    let (inner, reached) = server(CLOSING).await;
    let elsewhere =
        format!("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{inner}/\r\nContent-Length: 0\r\n\r\n");
    let (port, _) = server(elsewhere).await;
    let egress = egress(&config(&["127.0.0.1"]), &turns(&["127.0.0.1"]).0);
    assert_eq!(reason(&egress.get(&format!("http://127.0.0.1:{port}/")).await), "redirect_elsewhere");
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    let (port, steps) =
        server("HTTP/1.1 307 Again\r\nLocation: /again\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
    assert_eq!(reason(&egress.get(&format!("http://127.0.0.1:{port}/")).await), "redirects");
    assert_eq!(steps.load(Ordering::SeqCst), 4, "the first and three more");
    let (port, _) = server("HTTP/1.1 304 Not Modified\r\nLocation: http://a.example/\r\n\r\n").await;
    assert_eq!(egress.get(&format!("http://127.0.0.1:{port}/")).await.unwrap().status, 304);
}

#[tokio::test]
async fn time_is_one_deadline_for_all_of_it() {
    let config = Config { timeout: Time(Duration::from_millis(300)), ..config(&["127.0.0.1"]) };
    let never: Lookup = Arc::new(|_| Box::pin(std::future::pending()));
    let egress = egress(&config, &never);
    for answer in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"] {
        let (port, _) = server(answer).await;
        let began = Instant::now();
        assert_eq!(reason(&egress.get(&format!("http://127.0.0.1:{port}/")).await), "timeout", "{answer}");
        assert!(began.elapsed() < Duration::from_secs(3));
    }
    assert_eq!(reason(&egress.get("http://slow.example/").await), "timeout");
}

#[tokio::test]
async fn a_body_is_bounded_whether_its_length_is_said_or_not() {
    let config = Config { bytes: Size(1024), ..config(&["127.0.0.1"]) };
    let egress = egress(&config, &turns(&["127.0.0.1"]).0);
    let zeros = "0".repeat(1025);
    let close = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
    for (answer, expected) in [
        (format!("{close}Content-Length: 1025\r\n\r\n"), "bytes"),
        (format!("{close}Transfer-Encoding: chunked\r\n\r\n401\r\n{zeros}\r\n"), "bytes"),
        (format!("{close}\r\n{zeros}"), "bytes"),
        (format!("{close}Transfer-Encoding: chunked\r\n\r\n400\r\n{}\r\n0\r\n\r\n", "0".repeat(1024)), "ok"),
        // Nothing is unpacked: a small body cannot become a large one.
        (format!("{close}Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x7f\x08\x00"), "ok"),
        (format!("{close}Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "bad_answer"),
        ("SSH-2.0-OpenSSH\r\n".to_owned(), "bad_answer"),
    ] {
        let (port, _) = server(answer.clone()).await;
        assert_eq!(reason(&egress.get(&format!("http://127.0.0.1:{port}/")).await), expected, "{answer}");
    }
}

#[tokio::test]
async fn failures_have_their_words() {
    let (port, _) = server("not TLS").await;
    let egress = egress(&config(&["127.0.0.1", "closed.example"]), &turns(&["127.0.0.1"]).0);
    assert_eq!(reason(&egress.get(&format!("https://127.0.0.1:{port}/")).await), "tls");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    assert_eq!(reason(&egress.get(&format!("http://closed.example:{closed}/")).await), "connect");
    let system = self::egress(&config(&["nowhere.invalid"]), &system());
    assert_eq!(reason(&system.get("http://nowhere.invalid/").await), "unresolved");
}

/// A server on 127.0.0.1 that tells what it was sent, whole, and answers each connection so.
async fn recording(answer: &'static str) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 4096];
            let mut length = 0;
            // The content of these tests ends with a full stop.
            let is_whole =
                |sent: &[u8]| sent.ends_with(b".") || sent.starts_with(b"GET") && sent.ends_with(b"\r\n\r\n");
            while !is_whole(&bytes[..length]) {
                length += stream.read(&mut bytes[length..]).await.unwrap();
            }
            tell.send(String::from_utf8_lossy(&bytes[..length]).into_owned()).unwrap();
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, told)
}

#[tokio::test]
async fn what_is_posted_goes_there_and_nowhere_else() {
    const MOVED: &str =
        "HTTP/1.1 307 Again\r\nLocation: /again\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let (port, mut told) = recording(MOVED).await;
    let egress = egress(&config(&["127.0.0.1"]), &turns(&["127.0.0.1"]).0);
    let url = format!("http://127.0.0.1:{port}/ask");
    let secret = http::HeaderValue::from_static("Basic c2VjcmV0");
    let request = Request::post(url.as_str(), "token=t.");
    let answer = egress.send(request.with_header(header::AUTHORIZATION, secret)).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.redirects), (307, 0));
    let sent = told.recv().await.unwrap();
    assert!(sent.starts_with("POST /ask HTTP/1.1\r\n"), "{sent}");
    for line in ["authorization: Basic c2VjcmV0", "content-length: 8"] {
        assert!(sent.contains(&format!("{line}\r\n")), "{sent}");
    }
    assert!(sent.ends_with("\r\n\r\ntoken=t."), "{sent}");
    assert!(told.try_recv().is_err(), "the redirect was not followed");
    // Fields of ours go along with a GET, to the same host alone.
    let (port, mut told) = recording(CLOSING).await;
    let url = format!("http://127.0.0.1:{port}/");
    let etag = http::HeaderValue::from_static("\"1\"");
    assert_eq!(
        egress.send(Request::get(url).with_header(header::IF_NONE_MATCH, etag)).await.unwrap().status,
        200
    );
    assert!(told.recv().await.unwrap().contains("if-none-match: \"1\"\r\n"));
    let (port, _told) = recording(MOVED).await;
    let url = format!("http://127.0.0.1:{port}/");
    assert_eq!(egress.send(Request::get(url).unfollowed()).await.unwrap().status, 307);
}

#[tokio::test]
async fn bounds_of_ones_own_only_tighten() {
    let (port, _) = server(CLOSING).await;
    let egress = egress(&config(&["127.0.0.1"]), &turns(&["127.0.0.1"]).0);
    let url = format!("http://127.0.0.1:{port}/");
    assert_eq!(reason(&egress.send(Request::get(url.as_str()).at_most(4)).await), "bytes");
    assert_eq!(reason(&egress.send(Request::get(url).at_most(u64::MAX)).await), "ok");
    let (port, _) = server("").await;
    let url = format!("http://127.0.0.1:{port}/");
    let late = egress.send(Request::get(url).within(Duration::from_millis(50))).await.unwrap_err();
    assert_eq!((late.reason, late.message.as_str()), (Reason::Timeout, "not done within 50ms"));
}

#[tokio::test]
async fn what_a_kept_connection_does_not_answer_is_asked_once_more_on_a_fresh_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connections, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
    let (counted, each) = (Arc::clone(&connections), Arc::clone(&answers));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let answers = each.load(Ordering::SeqCst);
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                // So many are answered; the next one is read, and the connection closed.
                for _ in 0..answers {
                    let _ = stream.read(&mut bytes).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
                let _ = stream.read(&mut bytes).await;
            });
        }
    });
    let egress = Egress::new(Arc::new(policy(&["127.0.0.1"]))).unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    for asked in 0..6 {
        let fetched = egress.send(Request::post(url.as_str(), "token=a")).await;
        assert_eq!(fetched.map(|own| own.body).as_deref().ok(), Some(&b"ok"[..]), "{asked}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 6, "each second one is asked on a connection of its own");
    // Of a server that answers nobody nothing more is asked.
    answers.store(0, Ordering::SeqCst);
    let before = connections.load(Ordering::SeqCst);
    assert!(egress.get(&url).await.is_err());
    assert_eq!(connections.load(Ordering::SeqCst), before + 2);
}
