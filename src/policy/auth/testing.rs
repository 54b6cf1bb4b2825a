//! A request for the tests of policies, without a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{Asked, Kept};
use crate::canonical;
use crate::client::Client;
use crate::config::Site;
use crate::record::RouteFacts;
use crate::request::{Connection, Protocol, Request};

/// Tuesday, 24 November 2026, 20:00:00 UTC.
pub(crate) const NOW: u64 = 1_795_550_400;

/// [`NOW`] as policies are told it.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// A connection of 192.0.2.7, without TLS.
pub(crate) fn connection() -> Connection {
    Connection {
        peer: Some(SocketAddr::from(([192, 0, 2, 7], 4711))),
        local: Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
        ..Connection::to("127.0.0.1:8080")
    }
}

/// Calls `then` with a request of 192.0.2.7 to `https://api.example.com` at [`NOW`]. Its route has the label `api: orders` and the
/// parameter `tenant`, which is `acme`.
pub(crate) fn asked<T>(
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    then: impl FnOnce(&Asked<'_>) -> T,
) -> T {
    let method: Method = method.parse().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("api.example.com"));
    for (name, value) in fields {
        headers
            .append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let target =
        canonical::target(&method, target.as_bytes(), None, &headers, Protocol::Http11, 8192).unwrap();
    let client = Client { address: [192, 0, 2, 7].into(), peer_trusted: false, https: true };
    let connection = connection();
    let request = Request {
        method: &method,
        target: &target,
        headers: &headers,
        client: &client,
        protocol: Protocol::Http11,
        connection: &connection,
    };
    let route = RouteFacts {
        index: 0,
        name: "orders".into(),
        resource_path: "/orders/{tenant}".into(),
        labels: [("api".into(), "orders".into())].into(),
        site: Site::new("portcullis.yaml", 7, 3),
    };
    let parameters = [
        (Arc::from("tenant"), "acme".into()),
        (Arc::from("place"), "a%20b%2F%C3%BC%2525".into()),
        (Arc::from("odd"), "%FF".into()),
    ];
    then(&Asked {
        request: &request,
        route: &route,
        parameters: &parameters,
        query: target.query(),
        kept: Kept::default(),
        now: now(),
    })
}
