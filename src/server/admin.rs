//! The status address: `/livez`, `/readyz`, `/metrics`, `/version`. GET and HEAD only.
//!
//! On a loopback address it answers who names an IP address or `localhost`: the page of a name that is made to point here is in a browser of this machine,
//! and would read what is told (DNS rebinding). Where the address is public, or a file, whoever reaches it may ask.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::listen::{Listener, Socket};
use super::visitors::Visitors;
use crate::gateway::{Gateway, ListenAddress};

/// What the status address tells.
pub(super) struct Status {
    ready: AtomicBool,
    gateway: Mutex<Arc<Gateway>>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status").field("ready", &self.ready).finish_non_exhaustive()
    }
}

impl Status {
    pub(super) fn new(gateway: Arc<Gateway>, metrics: Arc<dyn Fn() -> String + Send + Sync>) -> Self {
        Self { ready: AtomicBool::new(false), gateway: Mutex::new(gateway), metrics }
    }

    /// Whether new connections are welcome.
    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    pub(super) fn set_gateway(&self, gateway: Arc<Gateway>) {
        *self.gateway.lock().unwrap_or_else(PoisonError::into_inner) = gateway;
    }

    fn gateway(&self) -> Arc<Gateway> {
        Arc::clone(&self.gateway.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Serves in the background until the runtime ends. Must be called within the back office.
///
/// # Errors
/// The socket cannot be registered.
pub(super) fn start(socket: Socket, address: &ListenAddress, status: Arc<Status>) -> io::Result<()> {
    let mut router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .with_state(status);
    if matches!(address, ListenAddress::Tcp(address) if address.ip().is_loopback()) {
        router = router.layer(from_fn(meant));
    }
    let router = router.layer(from_fn(addressed)).layer(map_response(farewell));
    let visitors = Visitors::new(Listener::register(socket)?);
    tokio::spawn(async move { axum::serve(visitors, router).await });
    Ok(())
}

/// Refuses a request of HTTP/1.1 without its one Host (RFC 9112 §3.2).
async fn addressed(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts == 1 || hosts == 0 && request.version() != Version::HTTP_11 {
        return next.run(request).await;
    }
    (StatusCode::BAD_REQUEST, "a request of HTTP/1.1 has one Host\n").into_response()
}

/// Refuses a request for another host (RFC 9110 §7.4).
async fn meant(request: Request, next: Next) -> Response {
    if is_meant(request.headers(), request.uri().authority()) {
        return next.run(request).await;
    }
    let told = "this address is asked for by an IP address, or as localhost\n";
    (StatusCode::MISDIRECTED_REQUEST, told).into_response()
}

/// Whether it names no host, `localhost`, or an IP address.
fn is_meant(headers: &HeaderMap, target: Option<&Authority>) -> bool {
    let written = headers.get_all(header::HOST).iter().map(|host| Authority::try_from(host.as_bytes()).ok());
    written.chain(target.map(|target| Some(target.clone()))).all(|authority| {
        authority.is_some_and(|authority| {
            let host = authority.host();
            let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
        })
    })
}

/// One request a connection: a kept one would be closed under its next request when its time is over.
async fn farewell(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn ready(State(status): State<Arc<Status>>) -> (StatusCode, &'static str) {
    if status.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not accepting connections\n")
    }
}

async fn metrics(State(status): State<Arc<Status>>) -> Response {
    let gather = Arc::clone(&status.metrics);
    // Thousands of series take milliseconds; health checks share these threads.
    match tokio::task::spawn_blocking(move || gather()).await {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn version(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let gateway = status.gateway();
    let body = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": gateway.generation,
        "hash": &*gateway.hash,
    });
    ([(header::CONTENT_TYPE, "application/json")], format!("{body}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_localhost() {
        for (host, expected) in [
            ("127.0.0.1", true),
            ("127.0.0.1:9900", true),
            ("[::1]:9900", true),
            ("10.0.0.1", true),
            ("localhost", true),
            ("LocalHost:9900", true),
            ("rebound.example", false),
            ("localhost.example:9900", false),
            ("127.0.0.1.example", false),
            ("127.0.0.1@rebound.example", false),
            ("", false),
            ("a b", false),
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(host).unwrap())]);
            assert_eq!(is_meant(&headers, None), expected, "{host}");
        }
        let both = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("localhost"))]);
        assert!(!is_meant(&both, Some(&Authority::from_static("rebound.example"))));
        assert!(is_meant(&HeaderMap::new(), None), "HTTP/1.0");
    }
}
