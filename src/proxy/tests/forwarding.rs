use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::support::{Front, Origin, read_head};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn replies_and_echoes() {
    let mut front = Front::to("127.0.0.1:9".parse().unwrap(), json!({})).await;
    let mut client = front.client().await;
    let answer = client.get("/reply").await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]));
    assert!(answer.head.to_lowercase().contains("\r\ndate: "), "{}", answer.head);
    client.send("HEAD /reply HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.head().await.to_lowercase().contains("content-length: 5\r\n"));
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("12345").await;
    assert!(client.answer().await.body.ends_with(b"\"body_bytes\":5}\n"));
    // A small unread body is drained, a large one closes.
    client.send("POST /reply HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345").await;
    assert!(client.answer().await.head.to_lowercase().contains("connection: keep-alive"));
    client.send("POST /reply HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n").await;
    assert!(client.answer().await.head.to_lowercase().contains("connection: close"));
    let lengths: Vec<_> = [(); 5].map(|()| 0).to_vec();
    let mut seen = Vec::new();
    for _ in lengths {
        let record = front.record().await;
        seen.push((record.status, record.request_length, record.response_length > 0));
    }
    assert_eq!(seen, [(200, 0, true), (200, 0, false), (200, 5, true), (200, 0, true), (200, 0, true)]);
}

#[tokio::test]
async fn the_origin_sees_a_clean_head() {
    let (heads, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::new(move |mut tcp, _| {
        let heads = heads.clone();
        async move {
            while let Some(head) = read_head(&mut tcp).await {
                heads.send(head).unwrap();
                tcp.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    let mut front = Front::to(origin.address, json!({})).await;
    let mut client = front.client().await;
    client
        .send(
            "GET /a?b HTTP/1.1\r\nHost: a.test\r\nConnection: x-gateway, x-mine, cookie, Upgrade\r\nCookie: c=d\r\n\
             X-Mine: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.body, b"ok");
    let head = seen.recv().await.unwrap();
    assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
    let low = head.to_lowercase();
    for there in ["x-gateway: yes", "cookie: c=d", &format!("host: {}", origin.address)] {
        assert!(low.contains(&format!("\r\n{there}\r\n")), "{there} in {head}");
    }
    for gone in ["x-mine", "te:", "keep-alive", "upgrade", "expect", "connection"] {
        assert!(!low.contains(&format!("\r\n{gone}")), "{gone} in {head}");
    }
    let record = front.record().await;
    let integration = record.integration.unwrap();
    assert_eq!((record.status, integration.status, integration.attempts), (200, Some(200), 1));
    assert_eq!(integration.server.as_deref(), Some(origin.address.to_string().as_str()));
    assert!(integration.connect_latency.unwrap() > Duration::ZERO && integration.latency.is_some());
    assert!(record.own_latency.unwrap() < record.response_latency.unwrap());
}

#[tokio::test]
async fn connections_are_kept() {
    let origin = Origin::fixed(OK, true).await;
    let mut front = Front::to(origin.address, json!({})).await;
    for _ in 0..3 {
        let mut client = front.client().await;
        for _ in 0..5 {
            assert_eq!(client.get("/").await.status, 200);
        }
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(front.upstream.idle(), 1);
    front.record().await;
    assert_eq!(front.record().await.integration.unwrap().connect_latency, Some(Duration::ZERO));
}

#[tokio::test]
async fn connections_are_not_kept_when_they_must_not_be() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"[..],
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=1\r\n\r\nok",
    ] {
        let origin = Origin::fixed(answer, true).await;
        let front = Front::to(origin.address, json!({})).await;
        let mut client = front.client().await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.body, b"ok");
        }
        assert_eq!(origin.count(), 3, "{}", String::from_utf8_lossy(answer));
    }
    let origin = Origin::fixed(OK, true).await;
    let front = Front::to(origin.address, json!({"keep_alive": {"connections": 0}})).await;
    let mut client = front.client().await;
    for _ in 0..3 {
        client.get("/").await;
    }
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn a_kept_connection_found_closed_is_no_fault() {
    // The origin closes when the second request arrives: it was closing already.
    let origin = Origin::new(|mut tcp, _| async move {
        if read_head(&mut tcp).await.is_some() {
            tcp.write_all(OK).await.unwrap();
            read_head(&mut tcp).await;
        }
    })
    .await;
    let mut front = Front::to(origin.address, json!({"retries": {"attempts": 1}})).await;
    let mut client = front.client().await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.status, 200);
    }
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(client.answer().await.status, 502, "what may have happened is not repeated");
    for _ in 0..4 {
        front.record().await;
    }
    let error = front.record().await.error.unwrap();
    assert_eq!(error.response_type, "INTEGRATION_FAILURE");
    assert!(matches!(error.reason, "closed_early" | "reset"), "{}", error.reason);
}

#[tokio::test]
async fn streams_flow() {
    let go = Arc::new(Notify::new());
    let next = Arc::clone(&go);
    let origin = Origin::new(move |mut tcp, _| {
        let next = Arc::clone(&next);
        async move {
            read_head(&mut tcp).await;
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await.unwrap();
            for n in 0..5 {
                tcp.write_all(format!("data: {n}\n\n").as_bytes()).await.unwrap();
                next.notified().await;
            }
        }
    })
    .await;
    let front = Front::to(origin.address, json!({})).await;
    let mut client = front.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;
    for n in 0..5 {
        assert_eq!(client.chunk().await, format!("data: {n}\n\n").as_bytes());
        go.notify_one();
    }
    assert!(client.chunk().await.is_empty());
    // HTTP/1.0 knows no chunks.
    let mut client = front.client().await;
    client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
    let head = client.head().await.to_lowercase();
    assert!(!head.contains("transfer-encoding") && head.contains("connection: close"), "{head}");
    for _ in 0..5 {
        go.notify_one();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(client.rest().await.starts_with(b"data: 0\n\n"));
}

/// Both directions at once: bounded memory is a matter of the whole process, see the soak test.
#[tokio::test]
async fn large_bodies_pass() {
    const SIZE: usize = 32 << 20;
    let origin = Origin::new(|mut tcp, _| async move {
        read_head(&mut tcp).await;
        let (mut reader, mut writer) = tcp.split();
        writer
            .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        tokio::io::copy(&mut (&mut reader).take(SIZE as u64), &mut writer).await.unwrap();
    })
    .await;
    let mut front = Front::to(origin.address, json!({})).await;
    let mut client = front.client().await;
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    let (mut reader, mut writer) = client.tcp.split();
    let chunk = vec![b'x'; 1 << 16];
    let send = async {
        for _ in 0..SIZE / chunk.len() {
            writer.write_all(&chunk).await.unwrap();
        }
    };
    let receive = async {
        let mut total = 0;
        let mut buffer = vec![0; 1 << 16];
        while total < SIZE {
            let count = reader.read(&mut buffer).await.unwrap();
            assert!(count > 0);
            total += count;
        }
    };
    tokio::join!(send, receive);
    let record = front.record().await;
    assert_eq!((record.request_length, record.response_length), (SIZE as u64, SIZE as u64));
}

#[tokio::test]
async fn an_early_answer_breaks_nothing() {
    let origin = Origin::new(|mut tcp, _| async move {
        while read_head(&mut tcp).await.is_some() {
            tcp.write_all(OK).await.unwrap();
            let mut body = vec![0; 3 << 20];
            tcp.read_exact(&mut body).await.unwrap();
        }
    })
    .await;
    let front = Front::to(origin.address, json!({})).await;
    let mut client = front.client().await;
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3145728\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!(answer.body, b"ok");
        assert!(answer.head.to_lowercase().contains("connection: keep-alive"), "{}", answer.head);
        client.send(vec![b'x'; 3 << 20]).await;
    }
}

#[tokio::test]
async fn interim_answers_end_here() {
    let origin = Origin::fixed(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\
          Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        true,
    )
    .await;
    let front = Front::to(origin.address, json!({})).await;
    let mut client = front.client().await;
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
        assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hi").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
    }
}

#[tokio::test]
async fn turns_and_retries() {
    let (one, two) = (Origin::fixed(OK, true).await, Origin::fixed(OK, true).await);
    let lost = super::support::nobody().await;
    let servers = json!([one.address.to_string(), lost.to_string(), two.address.to_string()]);
    let mut front =
        Front::new(json!({"servers": servers, "retries": {"attempts": 2, "budget": "100%"}})).await;
    let mut client = front.client().await;
    let mut attempts = 0;
    for _ in 0..30 {
        assert_eq!(client.get("/").await.status, 200);
        attempts += front.record().await.integration.unwrap().attempts;
    }
    assert_eq!(attempts, 40, "each third request tries another server");
    assert_eq!(front.upstream.retries().collect::<Vec<_>>(), [("connect", 10), ("reset", 0)]);
}

#[tokio::test]
async fn health_decides() {
    let origin = Origin::new(|mut tcp, _| async move {
        while let Some(head) = read_head(&mut tcp).await {
            let status = if head.starts_with("GET /healthz ") { 500 } else { 200 };
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
            tcp.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let health = json!({"path": "/healthz", "interval": "20ms", "timeout": "500ms", "unhealthy_after": 2});
    let mut front = Front::to(origin.address, json!({"health": health})).await;
    let mut client = front.client().await;
    assert_eq!(client.get("/").await.status, 200, "healthy until proved otherwise");
    let began = Instant::now();
    while front.upstream.servers().all(|(_, healthy)| healthy) {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.body.as_slice()), (503, &b"NO_HEALTHY_SERVER"[..]));
    assert!(answer.head.to_lowercase().contains("connection: close"));
    front.record().await;
    let record = front.record().await;
    assert_eq!((record.status, record.integration.unwrap().attempts), (503, 0));
}

#[tokio::test]
async fn an_early_refusal_reaches_a_client_that_still_sends() {
    let origin = Origin::new(|mut tcp, _| async move {
        read_head(&mut tcp).await;
        let mut some = vec![0; 100_000];
        tcp.read_exact(&mut some).await.unwrap();
        tcp.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .await
            .unwrap();
    })
    .await;
    let mut front = Front::to(origin.address, json!({})).await;
    for _ in 0..10 {
        let mut client = front.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3145728\r\n\r\n").await;
        client.send(vec![b'x'; 3 << 20]).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body.as_slice()), (413, &b"no"[..]));
        assert_eq!(client.get("/reply").await.status, 200, "the connection goes on");
        assert_eq!(front.record().await.status, 413);
        front.record().await;
    }
}

/// Kept connections never carry one request's answer to another, whatever the origin does in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn answers_find_their_requests() {
    let origin = Origin::new(|mut tcp, number| async move {
        for turn in 0_usize.. {
            let Some(head) = read_head(&mut tcp).await else { return };
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let (first, second) = target.split_at(target.len() / 2);
            let chunked = format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
                first.len(),
                second.len()
            );
            let plain = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
            let closing = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{target}");
            let (answer, close) = match (number + turn) % 7 {
                0 => (closing, true),
                // Closes a connection it has promised to keep.
                1 => (plain, turn > 3),
                n if n % 2 == 0 => (chunked, false),
                _ => (plain, false),
            };
            for piece in answer.as_bytes().chunks(40) {
                tcp.write_all(piece).await.unwrap();
            }
            if close {
                return;
            }
        }
    })
    .await;
    let front = Arc::new(Front::to(origin.address, json!({"keep_alive": {"connections": 16}})).await);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..40 {
        let front = Arc::clone(&front);
        clients.spawn(async move {
            let mut own = front.client().await;
            for request in 0..50 {
                let target = format!("/{client}/{request}/{}", "x".repeat(request));
                let answer = own.get(&target).await;
                assert_eq!(
                    (answer.status, std::str::from_utf8(&answer.body).unwrap()),
                    (200, target.as_str())
                );
                assert!(front.upstream.idle() <= 16);
            }
        });
    }
    clients.join_all().await;
    assert!(origin.count() < 1500, "{} connections for 2,000 requests", origin.count());
}
