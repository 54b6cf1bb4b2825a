//! The status address: `/livez`, `/readyz`, `/metrics`, `/version`. GET and HEAD only.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::listen::{Listener, Socket};
use super::visitors::Visitors;
use crate::gateway::Gateway;

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
pub(super) fn start(socket: Socket, status: Arc<Status>) -> io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .with_state(status)
        .layer(map_response(farewell));
    let visitors = Visitors::new(Listener::register(socket)?);
    tokio::spawn(async move { axum::serve(visitors, router).await });
    Ok(())
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
