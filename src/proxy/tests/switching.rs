use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{Front, Origin, read_head};

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// pingora#946: without the hold in `wire.rs`, some 30 of 1,000 are cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_early_101_is_not_cut() {
    const COUNT: usize = 1000;
    let origin = Origin::new(|mut tcp, _| async move {
        // At once, before the request has been read, with data right behind.
        tcp.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
        )
        .await
        .unwrap();
        read_head(&mut tcp).await.unwrap();
        let mut word = [0; 5];
        tcp.read_exact(&mut word).await.unwrap();
        tcp.write_all(&word).await.unwrap();
    })
    .await;
    let front = Arc::new(Front::to(origin.address, json!({})).await);
    let whole = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (front, whole) = (Arc::clone(&front), Arc::clone(&whole));
        clients.spawn(async move {
            for _ in 0..COUNT / 8 {
                let mut client = front.client().await;
                client.send(ASK).await;
                let head = client.head().await.to_lowercase();
                assert!(head.starts_with("http/1.1 101"), "{head}");
                assert!(
                    head.contains("upgrade: websocket") && head.contains("connection: upgrade"),
                    "{head}"
                );
                assert_eq!(client.exactly(5).await, b"hello");
                client.send("12345").await;
                assert_eq!(client.exactly(5).await, b"12345");
                assert!(client.rest().await.is_empty(), "the origin's close comes through");
                whole.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    clients.join_all().await;
    assert_eq!(whole.load(Ordering::Relaxed), COUNT);
}

#[tokio::test]
async fn a_tunnel_is_recorded_and_closes_both_ways() {
    let (gone, mut noticed) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::new(move |mut tcp, _| {
        let gone = gone.clone();
        async move {
            let head = read_head(&mut tcp).await.unwrap().to_lowercase();
            assert!(
                head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"),
                "{head}"
            );
            tcp.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .await
            .unwrap();
            let mut all = Vec::new();
            tcp.read_to_end(&mut all).await.unwrap();
            gone.send(all).unwrap();
        }
    })
    .await;
    let mut front = Front::to(origin.address, json!({"timeouts": {"read": "100ms", "total": "200ms"}})).await;
    let mut client = front.client().await;
    client.send(ASK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.send("still here").await;
    drop(client);
    let seen = tokio::time::timeout(Duration::from_secs(5), noticed.recv()).await.unwrap().unwrap();
    assert_eq!(seen, b"still here");
    let record = front.record().await;
    assert_eq!((record.status, record.integration.unwrap().status), (101, Some(101)));
    assert!(record.error.is_none(), "{:?}", record.error);
}

#[tokio::test]
async fn an_upgrade_not_permitted_is_an_ordinary_request() {
    let origin = Origin::new(|mut tcp, _| async move {
        while let Some(head) = read_head(&mut tcp).await {
            assert!(!head.to_lowercase().contains("upgrade"), "{head}");
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let front = Front::to(origin.address, json!({})).await;
    let mut client = front.client().await;
    client.send(ASK.replace("/ws", "/plain")).await;
    assert_eq!(client.answer().await.body, b"ok");
    client.send(ASK.replace("websocket", "h2c")).await;
    assert_eq!(client.answer().await.body, b"ok");
    client.send(ASK.replace("keep-alive, Upgrade", "keep-alive")).await;
    assert_eq!(client.answer().await.body, b"ok");
}

#[tokio::test]
async fn a_server_may_decline() {
    let origin = Origin::fixed(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno", true).await;
    let front = Front::to(origin.address, json!({})).await;
    let mut client = front.client().await;
    for _ in 0..3 {
        client.send(ASK).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body.as_slice()), (426, &b"no"[..]));
    }
}
