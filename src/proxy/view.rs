//! Pingora's session and messages in the gateway's words.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::request::{Arrival, Connection, Fields, Protocol};

/// The facts of the connection, which the rim has put into the stream's digest.
pub(super) fn connection(session: &Session) -> Option<Arc<Connection>> {
    let data = session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?;
    data.downcast_ref::<Arc<Connection>>().cloned()
}

/// A request at the door.
pub(super) fn arrival<'a>(head: &'a RequestHeader, connection: &'a Connection) -> Arrival<'a> {
    Arrival {
        method: &head.method,
        target: head.raw_path(),
        authority: match head.version {
            Version::HTTP_2 => head.uri.authority().map(|authority| authority.as_str()),
            _ => None,
        },
        headers: &head.headers,
        protocol: protocol(head.version),
        connection,
    }
}

pub(super) fn protocol(version: Version) -> Protocol {
    match version {
        Version::HTTP_2 => Protocol::Http2,
        Version::HTTP_10 | Version::HTTP_09 => Protocol::Http10,
        _ => Protocol::Http11,
    }
}

/// A request's fields, to edit.
#[derive(Debug)]
pub(super) struct RequestFields<'a>(pub(super) &'a mut RequestHeader);

/// A response's fields, to edit.
#[derive(Debug)]
pub(super) struct ResponseFields<'a>(pub(super) &'a mut ResponseHeader);

macro_rules! fields {
    ($type:ident) => {
        // Pingora's edits fail only for names and values that are not valid; these types are.
        impl Fields for $type<'_> {
            fn fields(&self) -> &HeaderMap {
                &self.0.headers
            }

            fn set(&mut self, name: HeaderName, value: HeaderValue) {
                let _ = self.0.insert_header(name, value);
            }

            fn append(&mut self, name: HeaderName, value: HeaderValue) {
                let _ = self.0.append_header(name, value);
            }

            fn remove(&mut self, name: &HeaderName) {
                self.0.remove_header(name);
            }
        }
    };
}

fields!(RequestFields);
fields!(ResponseFields);
