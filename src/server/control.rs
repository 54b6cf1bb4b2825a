//! What changes while the server runs: reloads, listeners that come and go, draining, stopping.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use super::admin::Status;
use super::counts::Counts;
use super::endpoint::{Endpoint, Plan};
use super::error::Error;
use super::listen::Socket;
use super::reload::{Adopted, Loaded, Refused, Reload};
use super::tls::{Change, Terminator};
use super::watch::{Fingerprint, Watched, fingerprint};
use super::worker::Order;
use crate::gateway::{Certificate, Gateway, ListenAddress, Listener, Settings, Snapshots, certificates};

/// After how long it is said that a configuration is still being read.
const READING: Duration = Duration::from_secs(10);
/// How often draining looks whether the last connection is gone.
const LOOK: Duration = Duration::from_millis(20);

/// How long a handshake may be under way when its listener ends: a round trip to the far side of the world.
const ARRIVING: Duration = Duration::from_millis(300);

/// What the server is told.
pub(super) enum Command {
    /// Load the configuration anew, and tell.
    Reload(Option<oneshot::Sender<Result<u64, Vec<String>>>>),
    /// Stop accepting, let connections end; told twice: stop.
    Drain,
    /// End, whatever is open.
    Stop,
    /// Reopen log files.
    ReopenLogs,
    /// A worker has ended unasked.
    Lost(usize),
}

/// What [`Control`] is made of.
pub(super) struct Parts {
    pub(super) gateway: Arc<Gateway>,
    pub(super) files: Vec<PathBuf>,
    pub(super) reload: Reload,
    pub(super) reopen_logs: Box<dyn Fn() + Send + Sync>,
    pub(super) adopted: Adopted,
    pub(super) snapshots: Vec<Snapshots>,
    pub(super) orders: Arc<[mpsc::UnboundedSender<Order>]>,
    pub(super) counts: Arc<Counts>,
    pub(super) status: Arc<Status>,
    pub(super) addresses: Arc<Mutex<BTreeMap<Arc<str>, ListenAddress>>>,
}

/// The one place where a running server is changed.
pub(super) struct Control {
    parts: Parts,
    /// What the process was started with: what of it cannot change is compared with this. Not the gateway itself, whose health
    /// checks and series would live for ever.
    started_with: Settings,
    listening: BTreeMap<Arc<str>, Listening>,
    watched: watch::Sender<Watched>,
    /// Taken while a reload runs.
    reload: Option<Reload>,
}

/// A listener and the handle on its socket from which workers' are cloned.
struct Listening {
    endpoint: Arc<Endpoint>,
    socket: Socket,
    /// Whether the socket goes on under another listener's name.
    inherited: bool,
}

/// A listener of the next configuration, ready to be put in force.
struct Prepared {
    listener: Arc<Listener>,
    /// Bound, where the listener is new.
    socket: Option<Socket>,
    /// The listener that is no more and whose socket this is: the same address, written in another way.
    heir_of: Option<Arc<str>>,
    tls: Option<Change>,
}

impl Control {
    /// Binds every listener, then settles; nothing is accepted yet.
    pub(super) fn bind(mut parts: Parts, settle: impl FnOnce() -> Result<(), Error>) -> Result<Self, Error> {
        let gateway = Arc::clone(&parts.gateway);
        let files = std::mem::take(&mut parts.files);
        let watched = watch::Sender::new(Watched::new(Vec::new(), Fingerprint::new()));
        let reload = std::mem::replace(
            &mut parts.reload,
            Box::new(|_| Err(Refused { errors: vec![], files: vec![] })),
        );
        let mut control = Self {
            parts,
            started_with: gateway.settings.clone(),
            listening: BTreeMap::new(),
            watched,
            reload: Some(reload),
        };
        let prepared = control.prepare(&gateway, settle)?;
        // As the user the process is now: what it cannot read is no change.
        control.watched.send_replace(Watched::new(files.clone(), fingerprint(&files)));
        control.commit(gateway, prepared);
        Ok(control)
    }

    pub(super) fn snapshots(&self) -> &[Snapshots] {
        &self.parts.snapshots
    }

    pub(super) fn orders(&self) -> Arc<[mpsc::UnboundedSender<Order>]> {
        Arc::clone(&self.parts.orders)
    }

    pub(super) fn watched(&self) -> watch::Receiver<Watched> {
        self.watched.subscribe()
    }

    /// Serves until drained or stopped.
    ///
    /// # Errors
    /// A worker was lost: a supervisor shall start anew.
    pub(super) async fn serve(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        // Every socket listens since it was bound: what came since then waits in the kernel's queues.
        self.parts.status.set_ready(true);
        // What came while a configuration was being read.
        let mut waiting = VecDeque::new();
        loop {
            let next = match waiting.pop_front() {
                Some(command) => Some(command),
                None => commands.recv().await,
            };
            let Some(command) = next else { break };
            match command {
                Command::Reload(done) => {
                    let result = self.reload(commands, &mut waiting).await;
                    if let Some(done) = done {
                        let _ = done.send(result);
                    }
                }
                Command::ReopenLogs => (self.parts.reopen_logs)(),
                Command::Drain => {
                    self.drain(commands).await;
                    break;
                }
                Command::Stop => break,
                // Connections that others hand to it would wait for ever: the rest is served to its end, and no more.
                Command::Lost(index) => {
                    log::error!("worker {index} has ended: the gateway drains and leaves");
                    result = Err(Error::WorkerLost(index));
                    self.drain(commands).await;
                    break;
                }
            }
        }
        self.parts.status.set_ready(false);
        self.listening.clear();
        for orders in &*self.parts.orders {
            let _ = orders.send(Order::Leave);
        }
        result
    }

    /// Compiles the configuration anew and puts it in force, or keeps the old one and says why. Reading it may take for ever (a pipe that
    /// nobody writes to, a file system that hangs): whoever wants the gateway to end is heard meanwhile, and ends the wait.
    async fn reload(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        waiting: &mut VecDeque<Command>,
    ) -> Result<u64, Vec<String>> {
        let generation = self.parts.gateway.generation + 1;
        let Some(mut reload) = self.reload.take() else {
            return Err(vec!["an earlier reload has panicked; restart the gateway".to_owned()]);
        };
        let known = self.watched.borrow().files.clone();
        let work = move || {
            // Taken before the files are read: a change in between is seen afterwards.
            let before = fingerprint(&known);
            let result = reload(generation);
            (reload, before, result)
        };
        let mut work = tokio::task::spawn_blocking(work);
        let told = sleep(READING);
        tokio::pin!(told);
        let worked = loop {
            tokio::select! {
                worked = &mut work => break worked,
                () = &mut told, if !told.is_elapsed() => {
                    self.parts.counts.stale.store(true, Ordering::Relaxed);
                    log::warn!("the configuration has been read for {READING:?} and is not read yet; until it is no reload takes effect");
                }
                command = commands.recv() => match command {
                    Some(Command::ReopenLogs) => (self.parts.reopen_logs)(),
                    // One more that nobody waits for reads what all would.
                    Some(Command::Reload(None)) if waiting.iter().any(|known| matches!(known, Command::Reload(None))) => {}
                    Some(command @ Command::Reload(_)) => waiting.push_back(command),
                    Some(command) => {
                        waiting.push_front(command);
                        return Err(vec!["the gateway ends: the configuration is read no further".to_owned()]);
                    }
                    None => return Err(vec!["the gateway ends".to_owned()]),
                },
            }
        };
        let Ok((reload, before, result)) = worked else {
            return Err(self.refuse(vec!["the load has panicked".to_owned()]));
        };
        self.reload = Some(reload);
        let files = match &result {
            Ok(loaded) => loaded.files.clone(),
            Err(refused) => refused.files.clone(),
        };
        self.watched.send_replace(Watched::new(files, before));
        let Loaded { gateway, warnings, .. } = result.map_err(|refused| self.refuse(refused.errors))?;
        let prepared =
            self.prepare(&gateway, || Ok(())).map_err(|error| self.refuse(vec![error.to_string()]))?;
        for warning in &warnings {
            log::warn!("{warning}");
        }
        self.warn_of_constants(&gateway);
        let generation = gateway.generation;
        (self.parts.adopted)(&gateway);
        let gone = self.commit(gateway, prepared);
        self.retire(gone).await;
        self.parts.counts.reloads_applied.fetch_add(1, Ordering::Relaxed);
        log::info!("configuration reloaded: generation {generation}");
        Ok(generation)
    }

    fn refuse(&self, errors: Vec<String>) -> Vec<String> {
        self.parts.counts.reloads_refused.fetch_add(1, Ordering::Relaxed);
        self.parts.counts.stale.store(true, Ordering::Relaxed);
        for error in &errors {
            log::error!("{error}");
        }
        let generation = self.parts.gateway.generation;
        log::error!("configuration refused: generation {generation} stays in force");
        errors
    }

    /// Names what only a restart changes.
    fn warn_of_constants(&self, gateway: &Gateway) {
        let (old, new) = (&self.started_with, &gateway.settings);
        let changed = [
            ("server.workers", &new.sites.workers, old.workers != new.workers),
            ("server.state", &new.sites.state, old.state != new.state),
            ("server.status", &new.sites.status, old.status != new.status),
            ("server.user", &new.sites.user, old.user != new.user),
        ];
        for (key, site, _) in changed.iter().filter(|(_, _, changed)| *changed) {
            log::warn!("{site}: {key} has changed and takes effect at the next restart");
        }
    }

    /// Binds what is new, settles, and sets up TLS; changes nothing that serves.
    fn prepare(
        &self,
        gateway: &Gateway,
        settle: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Vec<Prepared>, Error> {
        let bind = |listener: &Arc<Listener>| match self.listening.get(&listener.name) {
            Some(_) => Ok(None),
            None => self.bind_new(listener, gateway).map(Some).map_err(|cause| Error::Bind {
                address: listener.address.to_string(),
                place: Some(listener.site.clone()),
                cause,
            }),
        };
        let bound = gateway.listeners.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        settle()?;
        let mut generated = None;
        let mut prepared = Vec::new();
        for (listener, bound) in gateway.listeners.iter().zip(bound) {
            let known = self.listening.get(&listener.name);
            let previous = known.and_then(|known| known.endpoint.plan().tls.clone());
            let tls = tls(listener, previous.as_ref(), &mut generated, gateway)?;
            let (socket, heir_of) = bound.map_or((None, None), |(socket, heir_of)| (Some(socket), heir_of));
            prepared.push(Prepared { listener: Arc::clone(listener), socket, heir_of, tls });
        }
        Ok(prepared)
    }

    /// A socket for a listener that is new. A listener that leaves in the same reload may hold its port: its socket is taken over
    /// where the address is the same, and bound beside where it is not. Also says whose socket was taken over.
    fn bind_new(
        &self,
        listener: &Listener,
        gateway: &Gateway,
    ) -> std::io::Result<(Socket, Option<Arc<str>>)> {
        let leaving: Vec<_> =
            self.listening.iter().filter(|(name, _)| gateway.listener(name).is_none()).collect();
        if let Some((name, known)) =
            leaving.iter().find(|(_, known)| known.endpoint.local == listener.address)
        {
            return Ok((known.socket.try_clone()?, Some(Arc::clone(name))));
        }
        let bound = Socket::bind(&listener.address);
        let (ListenAddress::Tcp(address), Err(error)) = (&listener.address, &bound) else {
            return bound.map(|socket| (socket, None));
        };
        let beside: Vec<_> = leaving
            .iter()
            .filter(|(_, known)| matches!(&known.endpoint.local, ListenAddress::Tcp(own) if own.port() == address.port()))
            .map(|(_, known)| &known.socket)
            .collect();
        if error.kind() != std::io::ErrorKind::AddrInUse || beside.is_empty() {
            return bound.map(|socket| (socket, None));
        }
        Socket::bind_beside(*address, &beside).map(|socket| (socket, None))
    }

    /// Puts a configuration in force; cannot fail. Returns the listeners that are no more.
    fn commit(&mut self, gateway: Arc<Gateway>, prepared: Vec<Prepared>) -> Vec<Listening> {
        let kept: BTreeSet<_> = gateway.listeners.iter().map(|l| Arc::clone(&l.name)).collect();
        gateway.remember(self.former(&gateway));
        // First the snapshots: a connection of a new listener finds itself in the one it is served with.
        for snapshots in &self.parts.snapshots {
            snapshots.store(gateway.for_a_worker());
        }
        let mut expiries = Vec::new();
        for Prepared { listener, socket, heir_of, tls } in prepared {
            if let Some(known) = heir_of.and_then(|name| self.listening.get_mut(&name)) {
                known.inherited = true;
            }
            expiries.extend(tls.iter().flat_map(|change| change.expiries(&listener.name)));
            let plan = Plan {
                redirect: listener.redirect,
                tls: tls.map(Change::commit),
                proxied: listener.proxied.clone(),
            };
            match socket {
                Some(socket) => self.listen(&listener, socket, plan),
                None => {
                    if let Some(known) = self.listening.get(&listener.name) {
                        known.endpoint.set_plan(plan);
                    }
                }
            }
        }
        let gone: Vec<_> = self.listening.keys().filter(|name| !kept.contains(*name)).cloned().collect();
        let gone = gone.iter().filter_map(|name| self.listening.remove(name)).collect();
        self.parts.counts.set_expiries(expiries);
        self.parts.counts.generation.store(gateway.generation, Ordering::Relaxed);
        self.parts.counts.stale.store(false, Ordering::Relaxed);
        self.parts.status.set_gateway(Arc::clone(&gateway));
        self.parts.gateway = gateway;
        let addresses = self.listening.iter().map(|(name, l)| (Arc::clone(name), l.endpoint.local.clone()));
        *self.parts.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses.collect();
        gone
    }

    /// Listeners that are no more, or are about to be, and may have connections.
    fn former(&self, next: &Gateway) -> Vec<Arc<Listener>> {
        let counts: BTreeMap<_, _> = self.parts.counts.listeners().into_iter().collect();
        let connected = |name| counts.get(name).is_some_and(|counts| counts.open() > 0);
        let known = self.parts.gateway.known_listeners();
        let gone = known.filter(|listener| next.listener(&listener.name).is_none());
        gone.filter(|l| self.listening.contains_key(&l.name) || connected(&l.name)).cloned().collect()
    }

    fn listen(&mut self, listener: &Listener, socket: Socket, plan: Plan) {
        let local = socket.local(&listener.address);
        log::info!("listening on {local}");
        let endpoint = Arc::new(Endpoint::new(Arc::clone(&listener.name), local, plan, &self.parts.counts));
        for (index, orders) in self.parts.orders.iter().enumerate() {
            match socket.try_clone() {
                Ok(clone) => {
                    let _ = orders.send(Order::Listen(Arc::clone(&endpoint), clone));
                }
                // The other workers accept for it.
                Err(error) => log::error!("{}: worker {index} cannot accept: {error}", listener.name),
            }
        }
        let listening = Listening { endpoint, socket, inherited: false };
        self.listening.insert(Arc::clone(&listener.name), listening);
    }

    /// Ends listeners: no connection begins any more, those under way arrive, the queues are emptied, the connections end after
    /// their next answer.
    async fn retire(&self, gone: Vec<Listening>) {
        if gone.is_empty() {
            return;
        }
        for Listening { endpoint, socket, inherited } in &gone {
            endpoint.drain();
            // The filter would act on the heir's handle too.
            if !inherited {
                socket.turn_away();
            }
        }
        sleep(ARRIVING).await;
        let mut stopped = Vec::new();
        for Listening { endpoint, socket, .. } in gone {
            // Ours goes first: the last worker's clone goes right after it has seen the queue empty.
            drop(socket);
            for orders in &*self.parts.orders {
                let (done, ended) = oneshot::channel();
                if orders.send(Order::Stop(Arc::clone(&endpoint), done)).is_ok() {
                    stopped.push(ended);
                }
            }
        }
        for ended in stopped {
            let _ = ended.await;
        }
    }

    /// The rule that loses nothing: never close a keep-alive connection whose last answer did not say so. Idle ones wait
    /// for their next request, which is answered with `Connection: close`, or for their ordinary end.
    async fn drain(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) {
        self.parts.status.set_ready(false);
        let patience = self.parts.gateway.settings.drain;
        let _ = self.parts.counts.draining.set(SystemTime::now());
        log::info!("draining: {} connections open, at most {patience:?}", self.parts.counts.open());
        let gone = std::mem::take(&mut self.listening).into_values().collect();
        self.retire(gone).await;
        let deadline = Instant::now() + patience;
        loop {
            let open = self.parts.counts.open();
            if open == 0 {
                return log::info!("drained");
            }
            if Instant::now() >= deadline {
                return log::warn!("drain time is over: closing {open} connections");
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                command = commands.recv() => match command {
                    None | Some(Command::Drain | Command::Stop) => {
                        return log::warn!("told again: closing {open} connections");
                    }
                    Some(Command::ReopenLogs) => (self.parts.reopen_logs)(),
                    Some(Command::Lost(index)) => log::error!("worker {index} has ended"),
                    Some(Command::Reload(done)) => {
                        let errors = vec!["draining: there is nothing left to reload".to_owned()];
                        if let Some(done) = done {
                            let _ = done.send(Err(errors));
                        }
                    }
                },
            }
        }
    }
}

/// TLS of a listener; a certificate is generated at most once a load.
fn tls(
    listener: &Listener,
    previous: Option<&Arc<Terminator>>,
    generated: &mut Option<Arc<Certificate>>,
    gateway: &Gateway,
) -> Result<Option<Change>, Error> {
    let Some(tls) = &listener.tls else { return Ok(None) };
    let failed = |cause: String| Error::Tls { place: listener.site.clone(), cause };
    let own = match (&tls.certificates, &*generated) {
        (Some(_), _) => None,
        (None, Some(made)) => Some(Arc::clone(made)),
        (None, None) => {
            let directory = &gateway.settings.state;
            let made = certificates::generated(directory).map_err(|error| {
                failed(format!("cannot keep a generated certificate in `{}`: {error}", directory.display()))
            })?;
            Some(Arc::clone(generated.insert(Arc::new(made))))
        }
    };
    Terminator::of(listener, tls, own.as_deref(), previous).map(Some).map_err(failed)
}
