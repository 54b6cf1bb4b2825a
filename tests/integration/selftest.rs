//! The tools of the tests, tested without a gateway: a test that fails should mean the gateway.

use std::process::Command;
use std::time::Duration;

use crate::harness::{Authority, Connection, Ledger, Metrics, Nginx, Origin, Refusing, get, unanswering};

#[test]
fn the_client_and_the_origin_agree() {
    let origin = Origin::echo();
    let mut connection = Connection::open(origin.address());
    for n in 0..3 {
        let response = connection.get(&format!("/{n}"));
        assert_eq!(response.text(), format!("GET /{n} HTTP/1.1\r\nHost: example.com\r\n\r\n"));
    }
    connection.write(
        "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /d HTTP/1.1\r\n\r\n",
    );
    assert!(connection.response().text().starts_with("POST /c"));
    assert!(connection.response().text().starts_with("GET /d"));
    assert_eq!((origin.connections(), origin.requests_of("/1")), (1, 1));
    let address = origin.kill();
    assert!(connection.is_closed());
    assert!(Connection::try_open(address).is_none());
}

#[test]
fn the_ledger_notices_a_loss() {
    let mut ledger = Ledger::new();
    ledger.start_clients(4, ledger.origin.address());
    std::thread::sleep(Duration::from_millis(200));
    let mut sheet = ledger.finish();
    assert!(sheet.answered.len() > 10);
    ledger.reconcile(&sheet);
    sheet.answered.pop();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ledger.reconcile(&sheet))).is_err());
}

#[test]
fn ports_refuse_or_stay_silent_as_told() {
    let refusing = Refusing::new();
    assert!(Connection::try_open(refusing.address()).is_none());
    let (_listener, _fillers, address) = unanswering();
    let outcome = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300));
    assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn certificates_are_believed_by_those_who_trust_their_authority() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let origin = Origin::serve_tls(&authority.issue(&["a.example"]), Origin::echoing());
    let stream = authority.connect(origin.address(), "a.example");
    assert!(Connection::over_tls(stream).get("/").text().starts_with("GET / "));
    let lost = crate::harness::try_handshake(&stranger.connector(|_| {}), origin.address(), "a.example");
    assert!(lost.is_err());
    let lost = crate::harness::try_handshake(&authority.connector(|_| {}), origin.address(), "b.example");
    assert!(lost.is_err());
}

#[test]
fn nginx_serves() {
    let Some(nginx) = Nginx::start(1000) else { return };
    assert_eq!(get(nginx.address(), "/file.bin").body.len(), 1000);
    assert_eq!(get(nginx.address(), "/status/404").status, 404);
}

#[test]
fn metrics_are_read_with_their_labels() {
    let metrics = Metrics::parse("# TYPE a counter\na{x=\"1\",y=\"b c\"} 2\na{x=\"2\",y=\"b c\"} 3.5\nb 7\n");
    assert_eq!(metrics.get("a", &[("y", "b c")]), Some(5.5));
    assert_eq!(metrics.get("a", &[("x", "2")]), Some(3.5));
    assert_eq!(metrics.get("a", &[("x", "3")]), None);
    assert_eq!(metrics.of("b", &[]), 7.0);
    assert_eq!(metrics.values("a", "x"), ["1", "2"]);
}

#[test]
fn programs_are_run_to_their_end() {
    let output = crate::harness::run(&mut Command::new("cat"), b"through");
    assert_eq!(output.stdout, b"through");
}
