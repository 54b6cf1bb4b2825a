use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::framing::{Body, Pace};
use crate::request::Connection;
use crate::server::clocks::Bounds;
use crate::server::conn::Conn;
use crate::server::counts::{Counts, ListenerCounts};
use crate::server::fence::Fence;
use crate::server::io::Io;
use crate::server::sock::{Sock, Transport};

const PACE: Pace = Pace { rate: 1000, grace: Duration::from_secs(5), total: Duration::from_secs(100) };
const BOUNDS: Bounds = Bounds { pace: PACE, write_stall: Duration::from_secs(30) };

/// A connection and its client.
async fn pair() -> (Conn, TcpStream, Arc<ListenerCounts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let connection = Connection { peer: Some(peer), ..Connection::to("a") };
    let counts = Arc::new(ListenerCounts::default());
    let sock = Sock::new(Transport::Tcp(stream), Some(peer));
    let open = Arc::new(Counts::default()).admit(&counts, 1).unwrap();
    let conn = Conn::new(Io::Plain(sock), Arc::new(connection), BOUNDS, open);
    (conn, client, counts)
}

/// The content of a chunked body that has nothing but chunks of four digits and its last.
fn unwrapped(mut body: &[u8]) -> String {
    let mut content = String::new();
    while body != b"0\r\n\r\n" {
        let (size, rest) = (std::str::from_utf8(&body[..4]).unwrap(), &body[4..]);
        let size = usize::from_str_radix(size, 16).unwrap();
        let chunk = rest.strip_prefix(b"\r\n").unwrap();
        content.push_str(std::str::from_utf8(&chunk[..size]).unwrap());
        body = chunk[size..].strip_prefix(b"\r\n").unwrap();
    }
    content
}

#[tokio::test]
async fn the_fence_lets_a_body_through_and_keeps_what_follows() {
    // What arrives, what follows it, and the content. A chunked body comes out in chunks of ours: content, its end, and nothing
    // else that the client has written.
    let rows: [(Body, &[u8], &[u8], &str); 6] = [
        (Body::Length(3), b"abc", b"GET", "abc"),
        (Body::Length(1), b"a", b"", "a"),
        (Body::Chunked, b"3\r\nabc\r\n0\r\n\r\n", b"GET", "abc"),
        (Body::Chunked, b"1\r\na\r\n2;x\r\nbc\r\n0\r\n\r\n", b"GET", "abc"),
        (Body::Chunked, b"0\r\nX: y\r\n\r\n", b"\r\nGET", ""),
        (Body::Chunked, b"5\r\n0\r\n\r\n\r\n00\r\n\r\n", b"0\r\n\r\n", "0\r\n\r\n"),
    ];
    for (body, arriving, next, content) in rows {
        for split in 0..arriving.len() + next.len() {
            let (mut conn, mut client, _) = pair().await;
            conn.set_fence(Fence::from(body));
            let wire = [arriving, next].concat();
            let (first, second) = wire.split_at(split);
            client.write_all(first).await.unwrap();
            let reading = async {
                let mut read = Vec::new();
                while conn.fence() != Fence::Closed {
                    conn.read_buf(&mut read).await.unwrap();
                }
                read
            };
            let (read, sent) = tokio::join!(reading, client.write_all(second));
            sent.unwrap();
            match body {
                Body::Chunked => assert_eq!(unwrapped(&read), content),
                Body::Length(_) | Body::None => assert_eq!(read, content.as_bytes()),
            }
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

/// Reads until an error, and says when it came.
async fn read_to_error(conn: &mut Conn) -> (std::io::ErrorKind, Duration) {
    let began = Instant::now();
    loop {
        match conn.read(&mut [0; 4096]).await {
            Ok(0) => panic!("the end"),
            Ok(_) => {}
            Err(error) => return (error.kind(), began.elapsed()),
        }
    }
}

/// The client sends this every `every`.
fn dripping(mut client: TcpStream, piece: &'static [u8], every: Duration) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while client.write_all(piece).await.is_ok() {
            tokio::time::sleep(every).await;
        }
    })
}

#[tokio::test]
async fn a_body_that_drips_has_a_deadline_whatever_it_is_wrapped_in() {
    let pace = Pace { rate: 1000, grace: Duration::from_millis(200), total: Duration::from_secs(100) };
    let rows: [(&str, Body, &[u8]); 4] = [
        ("a byte now and then", Body::Length(1 << 20), b"x"),
        ("chunks of a byte", Body::Chunked, b"1\r\nx\r\n"),
        (
            "an extension without end",
            Body::Chunked,
            b"1;x=yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\nx\r\n",
        ),
        ("leading zeros", Body::Chunked, b"00000000000001\r\nx\r\n"),
    ];
    for (what, body, piece) in rows {
        let (mut conn, client, _) = pair().await;
        conn.expect(body, Bounds { pace, ..BOUNDS });
        let client = dripping(client, piece, Duration::from_millis(20));
        let (kind, after) = read_to_error(&mut conn).await;
        assert_eq!(kind, std::io::ErrorKind::TimedOut, "{what}");
        assert!(after >= pace.grace && after < Duration::from_millis(1500), "{what}: {after:?}");
        client.abort();
    }
}

#[tokio::test]
async fn a_body_at_its_rate_passes_and_its_total_ends_it() {
    let pace = Pace { rate: 1000, grace: Duration::from_millis(100), total: Duration::from_millis(800) };
    let (mut conn, client, _) = pair().await;
    conn.expect(Body::Length(1 << 20), Bounds { pace, ..BOUNDS });
    let client = dripping(client, &[b'x'; 100], Duration::from_millis(20));
    let (kind, after) = read_to_error(&mut conn).await;
    assert_eq!(kind, std::io::ErrorKind::TimedOut);
    assert!(after >= pace.total, "{after:?}");
    client.abort();
}

#[tokio::test]
async fn what_nobody_reads_is_not_the_clients_fault() {
    let pace = Pace { rate: 1000, grace: Duration::from_millis(150), total: Duration::from_secs(100) };
    let (mut conn, mut client, _) = pair().await;
    conn.expect(Body::Length(6), Bounds { pace, ..BOUNDS });
    for _ in 0..6 {
        client.write_all(b"x").await.unwrap();
        assert_eq!(conn.read(&mut [0; 16]).await.unwrap(), 1);
        // Somebody else holds the body back.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(conn.fence(), Fence::Closed);
}

#[tokio::test]
async fn an_answer_that_is_complete_bounds_what_is_left() {
    let (mut conn, _client, _) = pair().await;
    conn.expect(Body::Length(6), BOUNDS);
    let early = std::time::Instant::now().checked_sub(Duration::from_secs(4)).unwrap();
    conn.connection().fate.set_answered(Some(early));
    let (kind, after) = read_to_error(&mut conn).await;
    assert_eq!(kind, std::io::ErrorKind::TimedOut);
    assert!(after < Duration::from_secs(3), "{after:?}");
}
