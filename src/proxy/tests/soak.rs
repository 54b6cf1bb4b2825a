use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{Front, Origin, read_head};

const SIZE: u64 = 1 << 30;

/// The most this process ever held, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Needs a process of its own to measure: `cargo test --lib one_gibibyte -- --ignored`.
#[tokio::test]
#[ignore = "measures the whole process"]
async fn one_gibibyte_up_and_down() {
    let origin = Origin::new(|mut tcp, _| async move {
        read_head(&mut tcp).await;
        tcp.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes()).await.unwrap();
        let (mut reader, mut writer) = tcp.split();
        tokio::io::copy(&mut (&mut reader).take(SIZE), &mut writer).await.unwrap();
    })
    .await;
    let mut front = Front::to(origin.address, json!({})).await;
    let mut client = front.client().await;
    let before = peak();
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    client.head().await;
    let left = SIZE - client.buffered() as u64;
    let (mut reader, mut writer) = client.tcp.split();
    let mut source = tokio::io::repeat(b'x').take(SIZE);
    let sent = tokio::io::copy(&mut source, &mut writer);
    let mut sink = tokio::io::sink();
    let mut taken = (&mut reader).take(left);
    let received = tokio::io::copy(&mut taken, &mut sink);
    let (sent, received) = tokio::join!(sent, received);
    sent.unwrap();
    assert_eq!(received.unwrap(), left);
    let record = front.record().await;
    assert_eq!((record.request_length, record.response_length), (SIZE, SIZE));
    let grown = peak() - before;
    assert!(grown < 16 << 10, "grew by {grown} KiB");
}
