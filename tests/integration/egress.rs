//! What the gateway may fetch itself, by `portcullis fetch`.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Output;
use std::thread;

use openssl::ssl::{SslAcceptor, SslMethod};

use crate::harness::{Authority, Place};

/// A server on a free port of 127.0.0.1 that gives each connection this answer.
fn server(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";

fn place(egress: &str) -> Place {
    let place = Place::new();
    let text = Place::with_base("routes: [{name: a, respond: {}}]\n");
    place.write("portcullis.yaml", text.replacen("server: {", &format!("server: {{egress: {egress}, "), 1));
    place
}

fn fetch(place: &Place, url: &str) -> Output {
    place.portcullis(&["fetch", "--config", "portcullis.yaml", url])
}

#[track_caller]
fn says(output: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}\n{errors}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
}

#[test]
fn what_is_listed_is_fetched() {
    let port = server(HELLO);
    let address = format!("address    127.0.0.1:{port}\n");
    let parts = [address.as_str(), "redirects  0\n", "status     200\n", "bytes      5\n", "fetched in "];
    says(&fetch(&place("{allow: [127.0.0.0/8]}"), &format!("http://127.0.0.1:{port}/")), 0, &parts);
    says(&fetch(&place("{allow: [127.0.0.1]}"), &format!("http://localhost:{port}/")), 0, &parts);
    says(&fetch(&place("{allow: [localhost]}"), &format!("http://LOCALHOST:{port}/")), 0, &parts);
    let missing = server("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    says(
        &fetch(&place("{allow: [localhost]}"), &format!("http://localhost:{missing}/")),
        0,
        &["status     404"],
    );
}

#[test]
fn what_is_not_listed_is_refused() {
    let port = server(HELLO);
    let none = place("{allow: []}");
    says(
        &fetch(&none, &format!("http://127.0.0.1:{port}/")),
        2,
        &["refused: not_public: 127.0.0.1 is a loopback"],
    );
    says(&fetch(&none, &format!("https://2130706433:{port}/")), 2, &["refused: not_public: 127.0.0.1"]);
    says(&fetch(&none, &format!("https://localhost:{port}/")), 2, &["refused: not_public: 127.0.0.1"]);
    says(&fetch(&none, &format!("http://localhost:{port}/")), 2, &["refused: plain_http"]);
    says(&fetch(&none, "https://169.254.169.254/latest/"), 2, &["refused: not_public", "link-local"]);
    let other = place("{allow: [10.0.0.0/8]}");
    says(&fetch(&other, &format!("http://localhost:{port}/")), 2, &["refused: not_public: 127.0.0.1"]);
    let bad = place("{allow: ['*']}");
    assert_eq!(fetch(&bad, "https://example.com/").status.code(), Some(64));
}

#[test]
fn bounds_are_those_of_the_configuration() {
    let slow = server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    let large = server("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n");
    let strict = place("{allow: [127.0.0.1], timeout: 300ms, bytes: 1KiB}");
    says(&fetch(&strict, &format!("http://127.0.0.1:{large}/")), 1, &["failed: bytes: ", "1KiB"]);
    // The server closes: what came is not the whole.
    says(&fetch(&strict, &format!("http://127.0.0.1:{slow}/")), 1, &["failed: bad_answer"]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    says(&fetch(&strict, &url), 1, &["failed: timeout: not done within 300ms"]);
}

#[test]
fn tls_is_verified() {
    let (place, authority) = (place("{allow: [localhost]}"), Authority::new());
    let pair = authority.issue(&["localhost"]);
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    acceptor.set_private_key(&pair.key).unwrap();
    acceptor.set_certificate(&pair.certificate).unwrap();
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if let Ok(mut stream) = acceptor.accept(stream) {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(HELLO.as_bytes());
                let _ = stream.shutdown();
            }
        }
    });
    says(&fetch(&place, &url), 1, &["failed: tls: "]);
    // The system's authorities are looked for where OpenSSL is told that they are.
    let trusted = authority.write(&place, "authority");
    let mut command = place.command();
    command.args(["fetch", "--config", "portcullis.yaml", &url]).env("SSL_CERT_FILE", trusted);
    says(&command.output().unwrap(), 0, &["status     200"]);
}

#[test]
fn proxies_of_the_environment_are_not_used() {
    let (port, proxy) = (server(HELLO), server("HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n"));
    let place = place("{allow: [127.0.0.1]}");
    let mut command = place.command();
    command.args(["fetch", "--config", "portcullis.yaml", &format!("http://127.0.0.1:{port}/")]);
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, format!("http://127.0.0.1:{proxy}"));
    }
    says(&command.output().unwrap(), 0, &["status     200"]);
}
