//! A ledger: clients that keep their connections, never retry, and write down every request; an origin that does the
//! same; and the comparison of both.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Origin;
use super::exchange::Connection;
use super::origin::field;

/// The origin's side.
pub(crate) struct Ledger {
    pub(crate) origin: Origin,
    seen: Arc<Mutex<HashMap<u64, u32>>>,
    next: Arc<AtomicU64>,
    leaving: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Sheet>>,
}

/// What clients wrote down.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    pub(crate) answered: Vec<u64>,
    pub(crate) failed: Vec<String>,
    pub(crate) slowest: Duration,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        let seen: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
        let written = Arc::clone(&seen);
        let origin = Origin::each(move |head, peer| {
            let Some(id) = field(head, "x-ledger") else { return peer.answer(400, "no x-ledger") };
            *written.lock().unwrap().entry(id.parse().unwrap()).or_default() += 1;
            std::thread::sleep(Duration::from_millis(2));
            peer.answer(200, id)
        });
        let (next, leaving, stop) = (Arc::default(), Arc::default(), Arc::default());
        Self { origin, seen, next, leaving, stop, clients: Vec::new() }
    }

    /// Starts this many clients, each on a connection of its own.
    pub(crate) fn start_clients(&mut self, count: usize, address: SocketAddr) {
        for _ in 0..count {
            let (next, leaving, stop) =
                (Arc::clone(&self.next), Arc::clone(&self.leaving), Arc::clone(&self.stop));
            self.clients.push(std::thread::spawn(move || keep_asking(address, &next, &leaving, &stop)));
        }
    }

    /// Requests sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// From now on a client whose connection is closed by `Connection: close` goes home instead of connecting anew.
    pub(crate) fn expect_farewell(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// Tells the clients to end after their next response, and gathers what they wrote down.
    pub(crate) fn finish(&mut self) -> Sheet {
        self.stop.store(true, Ordering::SeqCst);
        self.gather()
    }

    /// Waits until every client has gone home by itself.
    pub(crate) fn gather(&mut self) -> Sheet {
        let mut sheet = Sheet::default();
        for client in self.clients.drain(..) {
            let one = client.join().unwrap();
            sheet.answered.extend(one.answered);
            sheet.failed.extend(one.failed);
            sheet.slowest = sheet.slowest.max(one.slowest);
        }
        sheet
    }

    /// Fails unless every request was answered and the origin saw each exactly once.
    #[track_caller]
    pub(crate) fn reconcile(&self, sheet: &Sheet) {
        let seen = self.seen.lock().unwrap();
        let twice: Vec<_> = seen.iter().filter(|(_, times)| **times != 1).collect();
        let unseen: Vec<_> = sheet.answered.iter().filter(|id| !seen.contains_key(id)).collect();
        assert!(
            sheet.failed.is_empty()
                && twice.is_empty()
                && unseen.is_empty()
                && seen.len() == sheet.answered.len(),
            "of {} requests {} were answered and the origin saw {}; lost: {:?}; seen twice: {twice:?}; answered but \
             unseen: {unseen:?}",
            self.sent(),
            sheet.answered.len(),
            seen.len(),
            &sheet.failed[..sheet.failed.len().min(10)],
        );
    }
}

fn keep_asking(address: SocketAddr, next: &AtomicU64, leaving: &AtomicBool, stop: &AtomicBool) -> Sheet {
    let mut sheet = Sheet::default();
    let mut connection: Option<Connection> = None;
    while !stop.load(Ordering::SeqCst) {
        let Some(open) = connection.take().or_else(|| Connection::try_open(address)) else {
            sheet.failed.push("could not connect".to_owned());
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let id = next.fetch_add(1, Ordering::SeqCst);
        let began = Instant::now();
        match ask(open, id) {
            Err(why) => sheet.failed.push(format!("request {id}: {why}")),
            Ok(kept) => {
                sheet.answered.push(id);
                if kept.is_none() && leaving.load(Ordering::SeqCst) {
                    break;
                }
                connection = kept;
            }
        }
        sheet.slowest = sheet.slowest.max(began.elapsed());
    }
    sheet
}

/// One request; gives the connection back unless the response said that it closes.
fn ask(mut connection: Connection, id: u64) -> Result<Option<Connection>, String> {
    let request = format!("GET /ledger HTTP/1.1\r\nHost: example.com\r\nX-Ledger: {id}\r\n\r\n");
    connection.try_write(request).map_err(|e| format!("cannot send: {e}"))?;
    let response = connection.try_response(false).map_err(|e| e.to_string())?;
    if response.status != 200 || response.text() != id.to_string() {
        return Err(format!("{} {}", response.status, response.text()));
    }
    Ok((!response.closes()).then_some(connection))
}
