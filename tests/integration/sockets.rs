//! Listeners of every kind.

use std::net::TcpListener;

use crate::harness::{Connection, Nginx, Place, Running, curl};

const ECHO: &str = "routes:\n  - {name: echo, echo: true}\n";

#[test]
fn a_unix_socket_serves_curl() {
    let place = Place::new();
    let socket = place.path("gate.sock");
    let text = Place::with_base(ECHO)
        .replace("address: 127.0.0.1:0", &format!("address: 'unix:{}'", socket.display()));
    let mut gateway = place.start_whole(&text);
    let socket = socket.to_str().unwrap().to_owned();
    let answer = curl(&["--unix-socket", &socket, "http://example.com/a?b=1"]);
    let echo: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&echo["path"], &echo["host"]), (&"/a".into(), &"example.com".into()));
    let mut kept = Connection::over_unix(std::path::Path::new(&socket));
    kept.get("/").expect(200);
    kept.get("/").expect(200);
    drop(kept);
    gateway.stop();
    assert!(!std::path::Path::new(&socket).exists(), "the socket's file was left behind");
}

#[test]
fn a_socket_file_left_by_a_crash_is_no_hindrance_but_another_file_is() {
    let place = Place::new();
    let socket = place.path("gate.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let text = Place::with_base(ECHO)
        .replace("address: 127.0.0.1:0", &format!("address: 'unix:{}'", socket.display()));
    let mut gateway = place.start_whole(&text);
    curl(&["--unix-socket", socket.to_str().unwrap(), "http://example.com/"]);
    gateway.stop();
    let place = Place::new();
    place.write("precious.txt", "keep me");
    let path = place.path("precious.txt");
    let text = Place::with_base(ECHO)
        .replace("address: 127.0.0.1:0", &format!("address: 'unix:{}'", path.display()));
    place.write("c.yaml", text);
    let output = place.portcullis(&["run", "--config", "c.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(place.read("precious.txt"), "keep me");
}

#[test]
fn ipv6_serves() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no ::1");
        return;
    }
    let text = Place::with_base(ECHO).replace("address: 127.0.0.1:0", "address: '[::1]:0'");
    let gateway = Place::new().start_whole(&text);
    let echo = gateway.send("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").expect(200).json();
    assert_eq!((&echo["client"], &echo["host"]), (&"::1".into(), &"[::1]".into()));
}

#[test]
fn several_listeners_serve_the_same_routes() {
    let text = Place::with_base(ECHO)
        .replace("defaults:", "  - address: 127.0.0.2:0\n  - address: 127.0.0.3:0\ndefaults:");
    let gateway = Place::new().start_whole(&text);
    for index in 0..3 {
        crate::harness::get(gateway.listener(index), "/").expect(200);
    }
}

#[test]
fn a_plain_listener_can_redirect_to_https() {
    let text = Place::with_base(ECHO)
        .replace("address: 127.0.0.1:0\n", "address: 127.0.0.1:0\n    redirect_to_https: 8443\n")
        .replace("defaults:", "  - address: 127.0.0.2:0\n    redirect_to_https: true\ndefaults:");
    let gateway = Place::new().start_whole(&text);
    let response = gateway.send("GET /b?c=1 HTTP/1.1\r\nHost: Example.com:8080\r\n\r\n");
    assert!(matches!(response.status, 301 | 307 | 308), "{response:?}");
    assert_eq!(response.header("location"), Some("https://example.com:8443/b?c=1"));
    let response = crate::harness::get(gateway.listener(1), "/x");
    assert_eq!(response.header("location"), Some("https://example.com/x"));
    // A POST must stay one.
    let post = gateway.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n");
    assert!(matches!(post.status, 307 | 308), "{post:?}");
}

#[test]
fn a_redirect_to_https_is_of_the_canonical_target() {
    let text = Place::with_base(ECHO)
        .replace("address: 127.0.0.1:0\n", "address: 127.0.0.1:0\n    redirect_to_https: true\n");
    let gateway = Place::new().start_whole(&text);
    for (target, expected) in [("/a/../b", "/b"), ("//evil.example/x", "/evil.example/x"), ("/%7ea", "/~a")] {
        let response = gateway.send(format!("GET {target} HTTP/1.1\r\nHost: example.com\r\n\r\n"));
        assert_eq!(response.header("location"), Some(&*format!("https://example.com{expected}")), "{target}");
    }
    gateway.send("GET /a%00b HTTP/1.1\r\nHost: example.com\r\n\r\n").expect(400);
    gateway.send("GET / HTTP/1.1\r\nHost: a b\r\n\r\n").expect(400);
}

#[test]
fn connections_are_spread_over_the_workers_and_all_served() {
    let gateway = Running::with(ECHO);
    let mut connections: Vec<_> = (0..64).map(|_| Connection::open(gateway.address())).collect();
    for connection in &mut connections {
        connection.get("/").expect(200);
    }
    gateway.await_metric("portcullis_connections", &[("listener", "127.0.0.1:0")], 64.0);
}

#[test]
fn nginx_behind_a_plain_listener() {
    let Some(nginx) = Nginx::start(10) else { return };
    let gateway = Running::with(&format!(
        "upstreams: {{nginx: {{servers: ['{}']}}}}\nroutes:\n  - {{name: all, upstream: nginx}}\n",
        nginx.address()
    ));
    let mut connection = Connection::open(gateway.address());
    for _ in 0..10 {
        assert_eq!(connection.get("/hello").text(), "hello from nginx");
    }
    assert_eq!(connection.get("/status/404").expect(404).text(), "none");
    assert_eq!(connection.get("/file.bin").text(), "xxxxxxxxxx");
}
