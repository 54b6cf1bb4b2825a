use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_openssl::SslStream;

use super::rig::{Rig, with_tls};
use crate::gateway::document::MinVersion;

type Sender = SendRequest<Bytes>;

async fn connect(rig: &Rig) -> (Sender, JoinHandle<Result<(), h2::Error>>) {
    let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    builder.set_alpn_protos(b"\x02h2").unwrap();
    let ssl = builder.build().configure().unwrap().verify_hostname(false).into_ssl("localhost").unwrap();
    let stream = TcpStream::connect(rig.address("t")).await.unwrap();
    let mut stream = SslStream::new(ssl, stream).unwrap();
    Pin::new(&mut stream).connect().await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    (sender.ready().await.unwrap(), tokio::spawn(connection))
}

async fn send(
    sender: &mut Sender,
    request: Request<()>,
    body: Option<Bytes>,
) -> Result<(u16, Bytes), h2::Error> {
    let mut ready = sender.clone().ready().await?;
    let (response, mut stream) = ready.send_request(request, body.is_none())?;
    if let Some(body) = body {
        stream.send_data(body, true)?;
    }
    let response = response.await?;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((status, all.into()))
}

async fn get(sender: &mut Sender, path: &str) -> Result<(u16, Bytes), h2::Error> {
    send(sender, Request::get(format!("https://localhost{path}")).body(()).unwrap(), None).await
}

fn rig() -> Rig {
    Rig::start(vec![with_tls("t", MinVersion::Tls13)])
}

#[tokio::test]
async fn streams_are_served_side_by_side() {
    let rig = rig();
    let (mut sender, _connection) = connect(&rig).await;
    let mut slow = Vec::new();
    let began = std::time::Instant::now();
    for _ in 0..20 {
        let mut sender = sender.clone();
        slow.push(tokio::spawn(async move { get(&mut sender, "/slow").await.unwrap() }));
    }
    assert_eq!(get(&mut sender, "/hello").await.unwrap(), (200, "hello".into()));
    for one in slow {
        assert_eq!(one.await.unwrap().0, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(3));
    let request = Request::post("https://localhost/o").body(()).unwrap();
    let (status, body) = send(&mut sender, request, Some("x".repeat(9000).into())).await.unwrap();
    // The origin counts the chunks' own bytes too.
    assert_eq!((status, body), (200, "POST /o HTTP/1.1 with 9013".into()));
    assert_eq!(get(&mut sender, "/big").await.unwrap().1.len(), 3 << 20);
}

#[tokio::test]
async fn bounds_are_kept_before_anything_is_spent() {
    let rig = rig();
    let (mut sender, _connection) = connect(&rig).await;
    let request = |n: usize| {
        let mut request = Request::get("https://localhost/hello");
        for i in 0..n {
            request = request.header(format!("x-{i}"), "y");
        }
        request.body(()).unwrap()
    };
    assert_eq!(send(&mut sender, request(50), None).await.unwrap().0, 200);
    assert_eq!(send(&mut sender, request(51), None).await.unwrap().0, 431);
    let long = Request::get("https://localhost/").header("x", "y".repeat(2100)).body(()).unwrap();
    assert_eq!(send(&mut sender, long, None).await.unwrap().0, 431);
    assert_eq!(get(&mut sender, &format!("/{}", "x".repeat(1100))).await.unwrap().0, 414);
    let trace = Request::builder().method(Method::TRACE).uri("https://localhost/").body(()).unwrap();
    assert_eq!(send(&mut sender, trace, None).await.unwrap().0, 405);
    // The connection has outlived all of it.
    assert_eq!(get(&mut sender, "/hello").await.unwrap().0, 200);
}

#[tokio::test]
async fn a_connection_that_only_sends_malformed_requests_is_closed() {
    let few = crate::config::units::Rate { count: 20, per: Duration::from_secs(3600) };
    let rig = Rig::with(vec![with_tls("t", MinVersion::Tls13)], |s| s.http2_resets = few).unwrap();
    let (mut sender, connection) = connect(&rig).await;
    let mut refused = 0;
    for _ in 0..40 {
        let mut request = Request::get("https://localhost/hello").body(()).unwrap();
        request.headers_mut().append("content-length", "1".parse().unwrap());
        request.headers_mut().append("content-length", "2".parse().unwrap());
        match send(&mut sender, request, None).await {
            Ok(answer) => panic!("{answer:?}"),
            Err(_) => refused += 1,
        }
    }
    assert_eq!(refused, 40);
    let ended = tokio::time::timeout(Duration::from_secs(5), connection).await;
    assert!(ended.is_ok());
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go() {
    let rig =
        Rig::with(vec![with_tls("t", MinVersion::Tls13)], |s| s.keep_alive = Duration::from_millis(400))
            .unwrap();
    let (mut sender, connection) = connect(&rig).await;
    // Busy is not idle.
    for _ in 0..3 {
        assert_eq!(get(&mut sender, "/slow").await.unwrap().0, 200);
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), connection).await.unwrap().unwrap();
    assert!(ended.is_ok(), "{ended:?}");
}

#[tokio::test]
async fn draining_lets_streams_finish_and_ends_the_connection() {
    let mut rig = rig();
    let (mut sender, connection) = connect(&rig).await;
    assert_eq!(get(&mut sender, "/hello").await.unwrap().0, 200);
    let mut other = sender.clone();
    let slow = tokio::spawn(async move { get(&mut other, "/slow").await.unwrap() });
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.handle.drain();
    assert_eq!(slow.await.unwrap().0, 200);
    drop(sender);
    connection.await.unwrap().unwrap();
    tokio::task::spawn_blocking(move || rig.join()).await.unwrap();
}
