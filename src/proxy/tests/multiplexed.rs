use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::support::{Front, Origin, read_head};

async fn connect(front: &Front) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(front.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://a.test{path}")).body(()).unwrap()
}

async fn body(response: http::Response<h2::RecvStream>) -> Result<Vec<u8>, h2::Error> {
    let mut stream = response.into_body();
    let mut all = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len()).unwrap();
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

#[tokio::test]
async fn http2_is_forwarded_as_http1() {
    let (heads, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::new(move |mut tcp, _| {
        let heads = heads.clone();
        async move {
            while let Some(head) = read_head(&mut tcp).await {
                let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
                heads.send(head).unwrap();
                if chunked {
                    let mut body = [0; 13];
                    tokio::io::AsyncReadExt::read_exact(&mut tcp, &mut body).await.unwrap();
                    assert_eq!(&body, b"3\r\nabc\r\n0\r\n\r\n");
                }
                tcp.write_all(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 5\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                )
                .await
                .unwrap();
            }
        }
    })
    .await;
    let mut front = Front::to(origin.address, json!({})).await;
    let mut sender = connect(&front).await;
    let (response, _) = sender.send_request(request("GET", "/x?y=%20"), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.headers().get("keep-alive").is_none() && response.headers().get("connection").is_none());
    assert_eq!(body(response).await.unwrap(), b"ok");
    let head = seen.recv().await.unwrap();
    assert!(head.starts_with("GET /x?y=%20 HTTP/1.1\r\n"), "{head}");
    assert_eq!(head.to_lowercase().matches("\r\nhost:").count(), 1, "{head}");
    assert_eq!(front.record().await.response_length, 2);

    let (response, mut stream) = sender.send_request(request("POST", "/x"), false).unwrap();
    stream.send_data("abc".into(), true).unwrap();
    assert_eq!(body(response.await.unwrap()).await.unwrap(), b"ok");
    let record = front.record().await;
    assert_eq!((record.request_length, record.response_length, record.status), (3, 2, 200));

    let (response, mut stream) = sender.send_request(request("POST", "/echo"), false).unwrap();
    stream.send_data("abcd".into(), true).unwrap();
    assert!(body(response.await.unwrap()).await.unwrap().ends_with(b"\"body_bytes\":4}\n"));
    assert_eq!(front.record().await.status, 200);
}

#[tokio::test]
async fn a_cut_stream_is_an_error_and_its_neighbours_live() {
    let origin = Origin::new(|mut tcp, _| async move {
        let head = read_head(&mut tcp).await.unwrap();
        if head.starts_with("GET /cut ") {
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await.unwrap();
        } else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let mut front = Front::to(origin.address, json!({})).await;
    let mut sender = connect(&front).await;
    let (cut, _) = sender.send_request(request("GET", "/cut"), true).unwrap();
    let (whole, _) = sender.send_request(request("GET", "/whole"), true).unwrap();
    assert!(body(cut.await.unwrap()).await.is_err());
    assert_eq!(body(whole.await.unwrap()).await.unwrap(), b"ok");
    let record = front.record().await;
    assert_eq!((record.status, record.error.unwrap().reason), (200, "closed_early"));
}

#[tokio::test]
async fn a_reset_stream_is_a_client_gone() {
    let origin = Origin::new(|mut tcp, _| async move {
        read_head(&mut tcp).await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut front = Front::to(origin.address, json!({})).await;
    let mut sender = connect(&front).await;
    let (response, mut stream) = sender.send_request(request("GET", "/"), true).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(response);
    let record = front.record().await;
    assert_eq!((record.status, record.error.unwrap().reason), (499, "client_closed"));
}
