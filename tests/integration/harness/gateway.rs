//! A real gateway process: started on port 0, watched, stopped by its id.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::exchange::{self, Connection, Response};
use super::{Metrics, Place, eventually};

/// What the process has written to standard error so far.
#[derive(Debug, Default)]
struct Said {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Said {
    /// A test that fails while it waits must not take the lock with it: the words are wanted all the more then.
    fn lock(&self) -> MutexGuard<'_, (Vec<String>, bool)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, line: String) {
        self.lock().0.push(line);
        self.more.notify_all();
    }

    fn end(&self) {
        self.lock().1 = true;
        self.more.notify_all();
    }

    fn all(&self) -> String {
        self.lock().0.join("\n")
    }
}

/// A gateway that serves. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) place: Place,
    child: Child,
    said: Arc<Said>,
    /// Where it listens, in the order of the configuration: an address, or `unix:/path`.
    listeners: Vec<String>,
    status: Option<SocketAddr>,
}

impl Running {
    /// Starts with `rest` after the base configuration.
    pub(crate) fn with(rest: &str) -> Self {
        Place::new().start(rest)
    }

    /// Starts, and waits until every listener and the status address have said where they are and `/readyz` is 200.
    pub(super) fn start(place: Place, config: &Path, text: &str) -> Self {
        let mut child = place
            .command()
            .arg("run")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Said::default());
        let (heard, errors) = (Arc::clone(&said), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
                heard.hear(String::from_utf8_lossy(&line).into_owned());
            }
            heard.end();
        });
        let mut own = Self { place, child, said, listeners: Vec::new(), status: None };
        own.find_addresses(text);
        own
    }

    fn find_addresses(&mut self, text: &str) {
        let configured: Vec<_> = text.lines().filter_map(configured_address).collect();
        let with_status = !text.contains("status: none");
        let (listeners, status) = self.await_lines(|lines| {
            let announced = announced(lines);
            let of = |address: &String| announced.iter().find(|own| same_host(address, own)).cloned();
            let listeners: Option<Vec<_>> = configured.iter().map(of).collect();
            let status = lines.iter().find_map(|line| status_address(line));
            let all = !with_status || status.is_some();
            listeners.filter(|_| all).map(|listeners| (listeners, status))
        });
        self.listeners = listeners;
        self.status = status;
        if self.status.is_some() {
            eventually("/readyz to be 200", || (self.ready() == Some(200)).then_some(()));
        }
    }

    fn await_lines<T>(&self, find: impl Fn(&[String]) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut lines = self.said.lock();
        loop {
            if let Some(found) = find(&lines.0) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !lines.1 && !left.is_zero(),
                "the gateway {} without the lines the harness waits for (`listening on ADDRESS` for each listener, \
                 `status on ADDRESS`); it said:\n{}",
                if lines.1 { "ended" } else { "ran 20 s" },
                lines.0.join("\n")
            );
            lines = self
                .said
                .more
                .wait_timeout(lines, left.min(Duration::from_millis(200)))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for a line of the operational log that has this in it.
    pub(crate) fn await_line(&self, part: &str) -> String {
        self.await_lines(|lines| lines.iter().find(|line| line.contains(part)).cloned())
    }

    /// The operational log so far.
    pub(crate) fn said(&self) -> String {
        self.said.all()
    }

    /// The first listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener(0)
    }

    /// A listener by its place in the configuration.
    pub(crate) fn listener(&self, index: usize) -> SocketAddr {
        let address = &self.listeners[index];
        address.parse().unwrap_or_else(|_| panic!("listener {index} is at `{address}`, no IP address"))
    }

    /// Where a listener added by a reload, on an IP address no other listener has, has said it is.
    pub(crate) fn await_listener(&self, address: &str) -> SocketAddr {
        let address = address.to_owned();
        self.await_lines(|lines| announced(lines).into_iter().find(|own| same_host(&address, own)))
            .parse()
            .unwrap()
    }

    /// The status address.
    pub(crate) fn status(&self) -> SocketAddr {
        self.status.expect("this gateway has no status address")
    }

    /// The status of `/readyz`, or none if nobody answers.
    pub(crate) fn ready(&self) -> Option<u16> {
        Connection::try_open(self.status())?
            .try_get_of("localhost", "/readyz")
            .map(|response| response.status)
    }

    /// GET on the first listener, on a connection of its own, `Host: example.com`.
    pub(crate) fn get(&self, path: &str) -> Response {
        exchange::get(self.address(), path)
    }

    /// Sends these bytes on a connection of their own to the first listener and reads one response.
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) -> Response {
        exchange::send(self.address(), bytes)
    }

    /// GET on the status address.
    pub(crate) fn told(&self, path: &str) -> Response {
        Connection::open(self.status()).try_get_of("localhost", path).expect("no response")
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let response = self.told("/metrics");
        assert_eq!(response.status, 200, "/metrics: {response:?}");
        Metrics::parse(&response.text())
    }

    /// Waits until a metric has this value.
    pub(crate) fn await_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        eventually(&format!("{name}{labels:?} to be {value}; said:\n{}", self.said()), || {
            let now = self.metrics().get(name, labels);
            now.is_some_and(|now| (now - value).abs() < 1e-9).then_some(())
        });
    }

    /// Saves another configuration (base + `rest`) by renaming it over the old one.
    pub(crate) fn save(&self, rest: &str) {
        self.place.write("portcullis.yaml", Place::with_base(rest));
    }

    /// Saves another configuration (base + `rest`) and waits until it is in force.
    pub(crate) fn reload(&self, rest: &str) {
        self.reload_whole(&Place::with_base(rest));
    }

    /// The same, with exactly this configuration.
    pub(crate) fn reload_whole(&self, text: &str) {
        let before = self.generation();
        self.place.write("portcullis.yaml", text);
        self.signal(Signal::HUP);
        eventually(&format!("generation {} and more; said:\n{}", before + 1.0, self.said()), || {
            (self.generation() > before).then_some(())
        });
    }

    pub(crate) fn generation(&self) -> f64 {
        self.metrics().of("portcullis_config_generation", &[])
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signal_pid(self.pid(), signal);
    }

    /// Whether the process still lives.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {limit:?}; it said:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and the end with status 0.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait(Duration::from_secs(10));
        assert_eq!(status.code(), Some(0), "after SIGTERM; it said:\n{}", self.said());
    }

    /// Stops it and starts another with the same files.
    pub(crate) fn restart(mut self) -> Self {
        self.stop();
        self.again()
    }

    /// SIGKILL, and another with the same files.
    pub(crate) fn kill_and_restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.again()
    }

    fn again(mut self) -> Self {
        let place = std::mem::replace(&mut self.place, Place::new());
        let text = place.read("portcullis.yaml");
        place.start_existing(&text)
    }

    /// Resident memory in KiB: `VmRSS` now, `VmHWM` at its highest.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("── the gateway said ──\n{}\n── end ──", self.said());
        }
    }
}

/// What stands after `- address:`, without quotes.
fn configured_address(line: &str) -> Option<String> {
    let address = line.trim_start().strip_prefix("- address:")?;
    Some(address.trim().trim_matches('\'').to_owned())
}

/// The addresses after `listening on`, in text lines and JSON objects alike.
fn announced(lines: &[String]) -> Vec<String> {
    let end = |c: char| c.is_whitespace() || c == '"' || c == ',';
    lines
        .iter()
        .filter_map(|line| line.split_once("listening on "))
        .map(|(_, after)| after.split(end).next().unwrap_or_default().to_owned())
        .collect()
}

/// Whether an announced address is that of a configured one: equal but for a port that was 0.
fn same_host(configured: &str, announced: &str) -> bool {
    match configured.strip_suffix(":0") {
        Some(host) => announced.rsplit_once(':').is_some_and(|(own, _)| own == host),
        None => configured.trim_start_matches("unix:") == announced.trim_start_matches("unix:"),
    }
}

/// The address in a line that announces the status address.
fn status_address(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("status ")?;
    after.split(|c: char| c.is_whitespace() || matches!(c, '"' | ',')).find_map(|word| word.parse().ok())
}

pub(super) fn signal_pid(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // A process that has just ended is no failure: the test looks at its status.
    rustix::process::kill_process(pid, signal).ok();
}
