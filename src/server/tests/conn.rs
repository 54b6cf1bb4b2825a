use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::framing::Body;
use crate::request::Connection;
use crate::server::conn::{Conn, Fence};
use crate::server::counts::{ListenerCounts, OpenConnection};
use crate::server::io::Io;
use crate::server::sock::{Sock, Transport};

/// A connection and its client.
async fn pair() -> (Conn, TcpStream, Arc<ListenerCounts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let connection = Connection {
        listener: "a".into(),
        peer: Some(peer),
        local: None,
        tls: None,
        redirect: None,
        leaving: Arc::default(),
        worker: 0,
        tunnel: false.into(),
        head_began: Mutex::new(None),
    };
    let counts = Arc::new(ListenerCounts::default());
    let sock = Sock::new(Transport::Tcp(stream), Some(peer));
    let conn = Conn::new(Io::Plain(sock), Arc::new(connection), OpenConnection::new(&counts));
    (conn, client, counts)
}

#[tokio::test]
async fn the_fence_lets_a_body_through_and_keeps_what_follows() {
    let rows: [(Body, &[u8], &[u8]); 4] = [
        (Body::Length(3), b"abc", b"GET"),
        (Body::Chunked, b"3\r\nabc\r\n0\r\n\r\n", b"GET"),
        (Body::Chunked, b"0\r\nX: y\r\n\r\n", b"\r\nGET"),
        (Body::Length(1), b"a", b""),
    ];
    for (body, expected, next) in rows {
        for split in 0..expected.len() + next.len() {
            let (mut conn, mut client, _) = pair().await;
            conn.set_fence(Fence::from(body));
            let wire = [expected, next].concat();
            let (first, second) = wire.split_at(split);
            client.write_all(first).await.unwrap();
            let mut read = vec![0; expected.len()];
            let reading = async {
                let mut at = 0;
                while at < read.len() {
                    at += conn.read(&mut read[at..]).await.unwrap();
                }
            };
            let (_, sent) = tokio::join!(reading, client.write_all(second));
            sent.unwrap();
            assert_eq!(read, expected);
            assert_eq!(conn.fence(), Fence::Closed, "{body:?} at {split}");
            // Behind the fence a read waits, and takes nothing away.
            let more = tokio::time::timeout(Duration::from_millis(1), conn.read(&mut [0; 9])).await;
            assert!(more.is_err() || next.is_empty());
            while conn.input().len() < next.len() {
                conn.fill().await.unwrap();
            }
            assert_eq!(&**conn.input(), next);
        }
    }
}

#[tokio::test]
async fn writes_wait_for_a_flush_or_for_a_reader() {
    let (mut conn, mut client, _) = pair().await;
    conn.write_all(b"head ").await.unwrap();
    conn.write_all(b"body").await.unwrap();
    let mut buffer = [0; 64];
    let early = tokio::time::timeout(Duration::from_millis(20), client.read(&mut buffer)).await;
    assert!(early.is_err());
    conn.flush().await.unwrap();
    assert_eq!(client.read(&mut buffer).await.unwrap(), 9);
    // Whoever turns to reading has nothing more to write for now.
    conn.write_all(b"more").await.unwrap();
    let _ = tokio::time::timeout(Duration::from_millis(1), conn.read(&mut [0; 9])).await;
    assert_eq!(client.read(&mut buffer).await.unwrap(), 4);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let (mut conn, client, counts) = pair().await;
    tokio::time::pause();
    let began = Instant::now();
    let error = loop {
        if let Err(error) = conn.write_all(&[b'x'; 65536]).await {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(began.elapsed() >= Duration::from_secs(30));
    drop(conn);
    assert_eq!(counts.open.load(std::sync::atomic::Ordering::Relaxed), 0);
    drop(client);
}

#[tokio::test]
async fn what_was_written_is_sent_even_if_nobody_flushes() {
    let (mut conn, mut client, counts) = pair().await;
    conn.write_all(b"last words").await.unwrap();
    client.write_all(&[b'x'; 9000]).await.unwrap();
    drop(conn);
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"last words");
    assert_eq!(counts.open.load(std::sync::atomic::Ordering::Relaxed), 1);
    drop(client);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(counts.open.load(std::sync::atomic::Ordering::Relaxed), 0);
}
