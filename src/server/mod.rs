//! The rim: from the start of the process to a connection handed to Pingora, and back.

mod accept;
mod admin;
mod admission;
mod answer;
mod begun;
mod clocks;
mod conn;
mod control;
mod counts;
mod endpoint;
mod error;
mod fence;
mod frames;
mod http1;
mod http2;
mod io;
mod landing;
mod ledger;
mod linger;
mod listen;
mod preface;
pub mod privileges;
mod refuse;
mod reload;
mod signals;
mod sock;
mod streams;
#[cfg(test)]
mod tests;
mod tls;
mod unheard;
mod visitors;
mod watch;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use pingora_core::apps::HttpServerApp;
use tokio::sync::{mpsc, oneshot};

pub use conn::left;
pub use counts::{Closed, Counts, Expiry, ListenerCounts, Unserved};
pub use error::Error;
pub use reload::{Adopted, Loaded, Refused, Reload};

use crate::gateway::{Gateway, ListenAddress, Snapshots};
use admin::Status;
use control::{Command, Control};
use listen::Socket;
use worker::{Order, Worker};

/// Threads for everything that is not a request.
const BACK_OFFICE: usize = 2;

/// The runtime of everything that is not a request: health checks, resolving, reloads, the status address.
#[derive(Debug)]
pub struct BackOffice {
    runtime: tokio::runtime::Runtime,
    early: Option<signals::Early>,
}

impl BackOffice {
    /// Starts its threads.
    ///
    /// # Errors
    /// The system gives no threads or no epoll.
    pub fn new() -> std::io::Result<Self> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(BACK_OFFICE)
            .thread_name("back-office")
            .enable_all()
            .build()
            .map(|runtime| Self { runtime, early: None })
    }

    /// From now on SIGHUP and SIGUSR1 wait for the server instead of ending the process: a service manager may reload what is
    /// still loading. The signals that end it do so at once until the server runs.
    ///
    /// # Errors
    /// Handlers cannot be installed.
    pub fn catch_signals(&mut self) -> std::io::Result<()> {
        let _inside = self.runtime.enter();
        self.early = Some(signals::Early::catch()?);
        Ok(())
    }

    /// For those who work there.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }
}

/// What a server is made of.
pub struct Options {
    /// What is served first.
    pub gateway: Arc<Gateway>,
    /// The files it was made of: a change of one of them is a reload.
    pub files: Vec<PathBuf>,
    /// How the next one is made.
    pub reload: Reload,
    /// Called when a reload is put in force: nothing can refuse it any more.
    pub adopted: Adopted,
    /// Called at SIGUSR1.
    pub reopen_logs: Box<dyn Fn() + Send + Sync>,
    /// The text of `/metrics`; called on a thread of the back office.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Called once, when every address is bound and before anything else is made: the process may become another user here.
    /// An error, a line for the operator, is the end.
    pub settle: Box<dyn FnOnce() -> Result<(), String> + Send>,
    /// What the rim counts into.
    pub counts: Arc<Counts>,
    /// Whether the process's signals and changes of `files` steer the server; tests steer by [`Handle`].
    pub attended: bool,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("files", &self.files).finish_non_exhaustive()
    }
}

/// A server whose every address is bound and which serves nothing yet.
pub struct Server {
    back_office: BackOffice,
    control: Control,
    commands: mpsc::UnboundedReceiver<Command>,
    handle: Handle,
    status: Arc<Status>,
    status_socket: Option<Socket>,
    inboxes: Vec<mpsc::UnboundedReceiver<Order>>,
    attended: bool,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds every address, the status address too. Nothing is left bound when one of them fails.
    ///
    /// # Errors
    /// Names the address, the line and the cause.
    pub fn bind(back_office: BackOffice, options: Options) -> Result<Self, Error> {
        let Options { gateway, files, reload, adopted, reopen_logs, metrics, settle, counts, attended } =
            options;
        let bound = match &gateway.settings.status {
            None => None,
            Some(address) => {
                let socket = Socket::bind(address)
                    .map_err(|cause| Error::status(address, &gateway.settings.sites.status, cause))?;
                Some((socket.local(address), socket))
            }
        };
        let (status_address, status_socket) = bound.unzip();
        let status = Arc::new(Status::new(Arc::clone(&gateway), metrics));
        let workers = gateway.settings.workers.max(1);
        let (orders, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let (sender, commands) = mpsc::unbounded_channel();
        let handle = Handle {
            commands: sender,
            addresses: Arc::default(),
            status: status_address,
            counts: Arc::clone(&counts),
        };
        let parts = control::Parts {
            snapshots: (0..workers).map(|_| Snapshots::new(gateway.for_a_worker())).collect(),
            gateway,
            files,
            reload,
            adopted,
            reopen_logs,
            orders: orders.into(),
            counts,
            status: Arc::clone(&status),
            addresses: Arc::clone(&handle.addresses),
        };
        let control = Control::bind(parts, || settle().map_err(Error::Unsettled))?;
        Ok(Self { back_office, control, commands, handle, status, status_socket, inboxes, attended })
    }

    /// A remote control, for tests and for those who embed a server.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until drained or stopped. `app` makes one application a worker, from the worker's snapshots and number.
    ///
    /// # Errors
    /// Threads or signals cannot be had; nothing has been served then. Or a worker was lost.
    pub fn run<A>(self, app: impl Fn(Snapshots, usize) -> A) -> Result<(), Error>
    where
        A: HttpServerApp + Send + Sync + 'static,
    {
        let Self { back_office, mut control, mut commands, handle, status, status_socket, inboxes, attended } =
            self;
        let BackOffice { runtime: back_office, early } = back_office;
        let inside = back_office.handle().enter();
        if attended {
            let early = early.map_or_else(signals::Early::catch, Ok).map_err(Error::Signals)?;
            signals::listen(early, handle.commands.clone()).map_err(Error::Signals)?;
            watch::start(control.watched(), handle.commands.clone());
        }
        if let Some(address) = &handle.status {
            log::info!("status on {address}");
        }
        if let (Some(socket), Some(address)) = (status_socket, &handle.status) {
            admin::start(socket, address, Arc::clone(&status)).map_err(Error::Threads)?;
        }
        let loads: Arc<[AtomicU64]> = inboxes.iter().map(|_| AtomicU64::new(0)).collect();
        // All there is to be had from the system is had before the first worker begins: clients that wait in the queues could take
        // the descriptors that the second one needs.
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtimes: Vec<_> =
            inboxes.iter().map(|_| runtime()).collect::<Result<_, _>>().map_err(Error::Threads)?;
        let mut threads = Vec::new();
        let mut beginnings = Vec::new();
        let parts = inboxes.into_iter().zip(runtimes).zip(control.snapshots()).enumerate();
        for (index, ((inbox, runtime), snapshots)) in parts {
            let worker = Worker {
                index,
                app: Arc::new(app(snapshots.clone(), index)),
                snapshots: snapshots.clone(),
                counts: Arc::clone(&handle.counts),
                loads: Arc::clone(&loads),
                orders: control.orders(),
            };
            let (begin, begun) = std::sync::mpsc::channel();
            let thread = thread::Builder::new().name(format!("worker-{index}"));
            let commands = handle.commands.clone();
            let work = move || {
                if begun.recv().is_ok() {
                    let _end = End { index, commands };
                    worker.run(runtime, inbox);
                }
            };
            threads.push(thread.spawn(work).map_err(Error::Threads)?);
            beginnings.push(begin);
        }
        for begin in beginnings {
            let _ = begin.send(());
        }
        let served = back_office.handle().block_on(control.serve(&mut commands));
        for thread in threads {
            // A worker that panicked has said so.
            let _ = thread.join();
        }
        drop(inside);
        back_office.shutdown_background();
        served
    }
}

/// Tells of a worker that panics. One that was told to leave tells too, and nobody hears it any more.
struct End {
    index: usize,
    commands: mpsc::UnboundedSender<Command>,
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Lost(self.index));
    }
}

/// Steers a running server from outside.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    addresses: Arc<Mutex<BTreeMap<Arc<str>, ListenAddress>>>,
    status: Option<ListenAddress>,
    counts: Arc<Counts>,
}

impl Handle {
    /// Where each listener is bound: the ports that were chosen for port 0.
    pub fn addresses(&self) -> BTreeMap<Arc<str>, ListenAddress> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the status address is bound.
    pub fn status(&self) -> Option<&ListenAddress> {
        self.status.as_ref()
    }

    /// What the rim counts.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Reloads, as SIGHUP does, and waits for the result: the generation now in force.
    ///
    /// # Errors
    /// What is wrong with the new configuration; the old one stays.
    pub async fn reload(&self) -> Result<u64, Vec<String>> {
        let (done, result) = oneshot::channel();
        let gone = || vec!["the server has ended".to_owned()];
        self.commands.send(Command::Reload(Some(done))).map_err(|_| gone())?;
        result.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Drains, as SIGTERM does: [`Server::run`] returns when the last connection is gone.
    pub fn drain(&self) {
        let _ = self.commands.send(Command::Drain);
    }

    /// Stops at once, whatever is still open.
    pub fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
    }
}
