//! What went wrong, in the words of the log and of the client. The one place that reads Pingora's errors.

use pingora_error::{Error, ErrorSource, ErrorType};

use super::attempt::Attempt;
use super::pace;
use crate::reply::{Kind, Refusal};

/// Why an upstream did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody listens there, or no way leads there.
    ConnectRefused,
    ConnectTimeout,
    TlsFailed,
    /// The server's name has no address.
    Unresolved,
    ReadTimeout,
    WriteTimeout,
    TotalTimeout,
    /// The connection was reset.
    Reset,
    /// The connection was closed before the answer was whole.
    ClosedEarly,
    /// What came is not HTTP.
    BadResponse,
    /// More came than is taken of an answer; which bound it is, in a word for metrics and log.
    TooMuch(&'static str),
    /// An hour of silence in a tunnel.
    TunnelIdle,
}

impl Failure {
    /// A word for metrics and log.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::TlsFailed => "tls_failed",
            Self::Unresolved => "unresolved",
            Self::ReadTimeout => "read_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::Reset => "reset",
            Self::ClosedEarly => "closed_early",
            Self::BadResponse => "bad_response",
            Self::TooMuch(bound) => bound,
            Self::TunnelIdle => "tunnel_idle",
        }
    }

    /// What the client is told.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::ConnectTimeout
            | Self::ReadTimeout
            | Self::WriteTimeout
            | Self::TotalTimeout
            | Self::TunnelIdle => Kind::IntegrationTimeout,
            Self::ConnectRefused
            | Self::TlsFailed
            | Self::Unresolved
            | Self::Reset
            | Self::ClosedEarly
            | Self::BadResponse
            | Self::TooMuch(_) => Kind::IntegrationFailure,
        }
    }

    /// Whether no connection could be made, so that the request has reached nobody.
    pub(super) fn is_connect(self) -> bool {
        matches!(self, Self::ConnectRefused | Self::ConnectTimeout | Self::TlsFailed | Self::Unresolved)
    }

    /// Whether the connection broke, as it does when a server restarts.
    pub(super) fn is_reset(self) -> bool {
        matches!(self, Self::Reset | Self::ClosedEarly)
    }
}

/// Whose fault it was.
#[derive(Debug)]
pub(super) enum Fault {
    /// The client went away: nobody is there to be told.
    ClientClosed(String),
    /// The client did not take what was sent to it.
    ClientStalled,
    /// The client sent what cannot be understood, or too slowly.
    Client(Refusal),
    /// The upstream's.
    Upstream(Failure, String),
    /// Our own.
    Internal(String),
}

/// Reads an error.
pub(super) fn read(error: &Error, attempt: Option<&Attempt>) -> Fault {
    if pace::is_late() {
        return Fault::Client(too_slow());
    }
    match error.esource() {
        ErrorSource::Downstream => downstream(error),
        ErrorSource::Upstream => match attempt.and_then(Attempt::failure) {
            Some((failure, detail)) => Fault::Upstream(*failure, detail.clone()),
            None => Fault::Upstream(upstream(error), error.to_string()),
        },
        ErrorSource::Internal | ErrorSource::Unset => match attempt.and_then(Attempt::failure) {
            Some((failure, detail)) => Fault::Upstream(*failure, detail.clone()),
            None => Fault::Internal(error.to_string()),
        },
    }
}

/// What Pingora found out itself about an answer.
fn upstream(error: &Error) -> Failure {
    match error.etype() {
        ErrorType::ConnectionClosed | ErrorType::WriteError | ErrorType::Custom("PrematureBodyEnd") => {
            Failure::ClosedEarly
        }
        ErrorType::ReadTimedout => Failure::ReadTimeout,
        ErrorType::WriteTimedout => Failure::WriteTimeout,
        ErrorType::ConnectTimedout => Failure::ConnectTimeout,
        ErrorType::ConnectRefused | ErrorType::ConnectNoRoute | ErrorType::ConnectError => {
            Failure::ConnectRefused
        }
        ErrorType::ReadError => Failure::Reset,
        _ => Failure::BadResponse,
    }
}

/// What a client is told whose body comes too slowly.
pub(super) fn too_slow() -> Refusal {
    Refusal::new(
        Kind::RequestTimeout,
        "body_timeout",
        "the body came more slowly than `server.timeouts.body_rate`, or took longer than `body_total`",
    )
}

fn downstream(error: &Error) -> Fault {
    let late = cause::<std::io::Error>(error).is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut);
    let stalled = matches!(error.etype(), ErrorType::WriteTimedout)
        || matches!(error.etype(), ErrorType::WriteError) && late;
    if stalled {
        return Fault::ClientStalled;
    }
    let timed_out = matches!(error.etype(), ErrorType::ReadTimedout)
        || matches!(error.etype(), ErrorType::ReadError) && late;
    if timed_out {
        return Fault::Client(too_slow());
    }
    if let Some(io) = cause::<std::io::Error>(error).filter(|io| io.kind() == std::io::ErrorKind::InvalidData)
    {
        // The fence has found the body malformed: nothing that follows can be understood, but an answer can still be given.
        return Fault::Client(Refusal::new(Kind::AmbiguousRequest, "bad_body", io.to_string()));
    }
    // h2 has reset the stream itself: a length that the body did not keep, or a malformed trailer (RFC 9113 §8.1.1).
    if cause::<h2::Error>(error).is_some_and(|h2| h2.is_library() && h2.is_reset()) {
        let message = "the body is not what its head said, or its trailer is malformed";
        return Fault::Client(Refusal::new(Kind::AmbiguousRequest, "bad_body", message));
    }
    match error.etype() {
        ErrorType::InvalidHTTPHeader | ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => {
            Fault::Client(Refusal::new(Kind::AmbiguousRequest, "bad_body", error.to_string()))
        }
        _ => Fault::ClientClosed(error.to_string()),
    }
}

/// What is wrong at the bottom of a chain of causes, if it is of this type: the system's word, or that of h2.
fn cause<E: std::error::Error + 'static>(error: &Error) -> Option<&E> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = error.cause.as_deref().map(|cause| cause as _);
    while let Some(found) = next {
        if let Some(wanted) = found.downcast_ref::<E>() {
            return Some(wanted);
        }
        next = match found.downcast_ref::<Box<Error>>() {
            Some(inner) => inner.cause.as_deref().map(|cause| cause as _),
            None => found.source(),
        };
    }
    None
}
