//! Switching protocols: WebSocket where a route lists it, however early the upstream answers.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Connection, Origin, Running};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn behind(address: std::net::SocketAddr) -> Running {
    Running::with(&format!(
        "upstreams: {{o: {{servers: ['{address}']}}}}
routes:
  - {{name: ws, match: {{path: /ws}}, upgrade: [websocket], upstream: o}}
  - {{name: plain, match: {{path: /plain}}, upstream: o}}
"
    ))
}

/// Echoes what comes after the switch.
fn echo_all(peer: &mut crate::harness::Peer) {
    while let Some(bytes) = peer.take() {
        if !peer.write(&bytes) {
            return;
        }
    }
}

/// One upgraded connection: the switch, the data right behind it, an echo of ours.
fn visit(address: std::net::SocketAddr, number: usize) -> Result<(), String> {
    let mut connection = Connection::open(address);
    connection.try_write(HANDSHAKE).map_err(|e| format!("{number}: cannot send: {e}"))?;
    let response = connection.read_head().map_err(|e| format!("{number}: no 101: {e}"))?;
    if response.status != 101 || !response.all("upgrade").eq_ignore_ascii_case("websocket") {
        return Err(format!("{number}: {response:?}"));
    }
    let behind = connection.read_exactly(5).map_err(|e| format!("{number}: nothing behind the 101: {e}"))?;
    let ours = format!("ours {number:04}");
    connection.try_write(&ours).map_err(|e| format!("{number}: cut: {e}"))?;
    let echo = connection.read_exactly(ours.len()).map_err(|e| format!("{number}: no echo: {e}"))?;
    (behind == b"early" && echo == ours.as_bytes()).then_some(()).ok_or_else(|| format!("{number}: {echo:?}"))
}

fn visits(address: std::net::SocketAddr, times: usize) -> Vec<String> {
    let some = move |client: usize| -> Vec<String> {
        (0..times / 8).filter_map(|n| visit(address, client * 1000 + n).err()).collect()
    };
    std::thread::scope(|scope| {
        let clients: [_; 8] = std::array::from_fn(|client| scope.spawn(move || some(client)));
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

#[test]
fn a_101_right_behind_the_request_never_cuts_the_tunnel() {
    let origin = Origin::serve(|peer| {
        if peer.read_head().is_some() && peer.write(format!("{SWITCH}early")) {
            echo_all(peer);
        }
    });
    let gateway = behind(origin.address());
    let cut = visits(gateway.address(), 1000);
    assert!(cut.is_empty(), "{} of 1,000 cut: {:?}", cut.len(), &cut[..cut.len().min(5)]);
}

#[test]
fn a_101_before_the_request_was_read_never_cuts_the_tunnel() {
    // It answers on accept: the gateway sees the 101 while it is still sending the request (pingora#946).
    let origin = Origin::serve(|peer| {
        if peer.write(format!("{SWITCH}early")) && peer.read_head().is_some() {
            echo_all(peer);
        }
    });
    let gateway = behind(origin.address());
    let cut = visits(gateway.address(), 1000);
    assert!(cut.is_empty(), "{} of 1,000 cut: {:?}", cut.len(), &cut[..cut.len().min(5)]);
}

#[test]
fn websocket_messages_pass_both_ways() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = behind(listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                if message.is_close() || socket.send(message).await.is_err() {
                    break;
                }
            }
        });
        let stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        let (mut socket, response) =
            tokio_tungstenite::client_async("ws://example.com/ws", stream).await.unwrap();
        assert_eq!(response.status().as_u16(), 101);
        for size in [1, 125, 126, 70_000] {
            let message = Message::text("x".repeat(size));
            socket.send(message.clone()).await.unwrap();
            let next = tokio::time::timeout(Duration::from_secs(5), socket.next()).await.expect("no echo");
            assert_eq!(next.unwrap().unwrap(), message, "{size} bytes");
        }
        socket.close(None).await.unwrap();
    });
}

#[test]
fn a_tunnel_outlives_a_reload_and_is_logged_once() {
    let origin = Origin::serve(|peer| {
        if peer.read_head().is_some() && peer.write(format!("{SWITCH}early")) {
            echo_all(peer);
        }
    });
    let gateway = behind(origin.address());
    let mut connection = Connection::open(gateway.address());
    connection.write(HANDSHAKE);
    assert_eq!(connection.read_head().unwrap().status, 101);
    connection.read_exactly(5).unwrap();
    gateway.reload("routes:\n  - {name: other, match: {path: /other}, respond: {body: other}}\n");
    connection.write("still here");
    assert_eq!(connection.read_exactly(10).unwrap(), b"still here");
    drop(connection);
    let line = gateway.access_of("/ws");
    assert_eq!((&line["status"], &line["route"]), (&101.into(), &"ws".into()));
}

#[test]
fn a_route_that_does_not_list_it_does_not_switch() {
    let origin = Origin::echo();
    let gateway = behind(origin.address());
    let response = gateway.send(HANDSHAKE.replace("/ws", "/plain"));
    response.expect(200);
    let head = response.text().to_ascii_lowercase();
    assert!(!head.contains("upgrade:") && !head.contains("connection: upgrade"), "{head}");
    // Nor is a protocol that it does not list.
    let response = gateway.send(HANDSHAKE.replace("websocket", "smuggle"));
    let head = response.expect(200).text().to_ascii_lowercase();
    assert!(!head.contains("smuggle"), "{head}");
}

#[test]
fn a_101_that_nobody_asked_for_is_no_tunnel() {
    let origin = Origin::serve(|peer| {
        if peer.read_head().is_some() && peer.write(format!("{SWITCH}early")) {
            echo_all(peer);
        }
    });
    let gateway = behind(origin.address());
    let mut connection = Connection::open(gateway.address());
    connection.write("GET /plain HTTP/1.1\r\nHost: example.com\r\n\r\n");
    let response = connection.try_response(false);
    assert!(response.as_ref().is_ok_and(|r| r.status == 502) || response.is_err(), "{response:?}");
}

#[test]
fn an_upgrade_that_the_upstream_declines_is_an_ordinary_response() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        peer.answer(403, "no")
    });
    let gateway = behind(origin.address());
    let mut connection = Connection::open(gateway.address());
    connection.write(HANDSHAKE);
    let response = connection.response();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
}
