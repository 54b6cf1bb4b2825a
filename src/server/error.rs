//! Why a server does not start.

use std::io;

use crate::config::Site;
use crate::gateway::ListenAddress;

/// Why a server does not start, or has ended unasked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be had.
    #[error("{}cannot listen on {address}: {cause}; {}", site(.place.as_ref()), cure(.cause, .place.as_ref()))]
    Bind {
        /// The address.
        address: String,
        /// The line that asks for it; none where no file does.
        place: Option<Site>,
        /// What the system says.
        cause: io::Error,
    },
    /// TLS cannot be set up.
    #[error("{place}: cannot set up tls: {cause}")]
    Tls {
        /// The listener's line.
        place: Site,
        /// What OpenSSL or the system says.
        cause: String,
    },
    /// The system gives no threads or no descriptors.
    #[error("cannot start: {0}; raise the limits of processes and open files")]
    Threads(io::Error),
    /// The process cannot be what it was asked to be, or write what it must.
    #[error("{0}")]
    Unsettled(String),
    /// A worker has ended while the server ran: a defect.
    #[error("worker {0} has ended: a defect of the gateway")]
    WorkerLost(usize),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

impl Error {
    /// `site` says where the address was written, or where it was not.
    pub(super) fn status(address: &ListenAddress, site: &Site, cause: io::Error) -> Self {
        let place = (site.line != 0).then(|| site.clone());
        Self::Bind { address: format!("the status address {address} (`server.status`)"), place, cause }
    }
}

fn site(place: Option<&Site>) -> String {
    place.map_or_else(String::new, |place| format!("{place}: "))
}

fn cure(cause: &io::Error, place: Option<&Site>) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse if place.is_some_and(|place| place.line == 0) => {
            "stop what listens there, or write a configuration with another address"
        }
        io::ErrorKind::AddrInUse => "stop what listens there, or choose another address",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE (where root was left for `server.user`: a restart), a socket's \
             directory must be writable"
        }
        io::ErrorKind::AddrNotAvailable => "choose an address that this machine has",
        io::ErrorKind::AlreadyExists => "remove the file, or choose another path",
        io::ErrorKind::NotFound => "create the socket's directory first",
        _ => "choose another address",
    }
}
