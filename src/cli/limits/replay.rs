//! The requests of a log, in order, and what a limit makes of them: the same table of buckets as in the gateway.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

use super::sample::{KEYS_MAX, Sample};
use crate::policy::rate_limit::{Buckets, Gcra, KeyHash, Nanos};

/// Requests that are held back, to be put in order: a line is written when a request ends, and tells when it began.
const HELD_MAX: usize = 1 << 16;
/// Bytes of a request: its time, and its key's hash.
const BYTES: usize = 24;
/// The table that a limit is replayed with.
const MEMORY: usize = 64 << 20;

/// A request: when it was (milliseconds since 1970), and its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Request {
    pub(super) at: u64,
    bits: (u64, u64),
}

/// Puts requests in order, as far as they are not too far from it.
#[derive(Default)]
pub(super) struct Order {
    held: BinaryHeap<Reverse<Request>>,
    latest: u64,
    /// Those that came too late for that: taken for as late as the one before them.
    pub(super) late: u64,
}

/// The requests of a log in a file that has no name, 24 bytes each.
pub(super) struct Spool {
    file: BufWriter<File>,
    requests: u64,
}

/// What a limit makes of a log.
pub(super) struct Replay {
    /// Requests that it refuses.
    pub(super) refused: u64,
    /// Of which keys, and how many of each.
    pub(super) keys: Sample<u64>,
    /// Requests that passed because the table was full, or whose bucket was forgotten for that.
    pub(super) overflows: u64,
}

impl Request {
    pub(super) fn new(at: u64, key: KeyHash) -> Self {
        Self { at, bits: key.bits() }
    }

    pub(super) fn key(&self) -> KeyHash {
        KeyHash::from_bits(self.bits.0, self.bits.1)
    }

    fn to_bytes(self) -> [u8; BYTES] {
        let words = [self.at, self.bits.0, self.bits.1].map(u64::to_le_bytes);
        let mut bytes = [0; BYTES];
        bytes.iter_mut().zip(words.as_flattened()).for_each(|(to, from)| *to = *from);
        bytes
    }

    fn from_bytes(bytes: &[u8; BYTES]) -> Self {
        let word = |at: usize| {
            let own = bytes.iter().skip(8 * at).take(8).rev();
            own.fold(0_u64, |word, byte| word << 8 | u64::from(*byte))
        };
        Self { at: word(0), bits: (word(1), word(2)) }
    }
}

impl Order {
    /// Takes one, and gives the oldest where enough are held.
    pub(super) fn push(&mut self, request: Request) -> Option<Request> {
        self.held.push(Reverse(request));
        if self.held.len() > HELD_MAX { self.pop() } else { None }
    }

    /// The oldest of those that are held.
    pub(super) fn pop(&mut self) -> Option<Request> {
        let Reverse(mut request) = self.held.pop()?;
        self.late += u64::from(request.at < self.latest);
        request.at = request.at.max(self.latest);
        self.latest = request.at;
        Some(request)
    }
}

impl Spool {
    /// # Errors
    /// The directory for temporary files cannot be written.
    pub(super) fn new() -> io::Result<Self> {
        let directory = std::env::temp_dir();
        let mut file = Err(io::ErrorKind::AlreadyExists.into());
        for number in 0..100 {
            let path = directory.join(format!("portcullis-limits-{}-{number}", std::process::id()));
            file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            match &file {
                Ok(_) => {
                    std::fs::remove_file(&path)?;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(_) => break,
            }
        }
        Ok(Self { file: BufWriter::with_capacity(1 << 16, file?), requests: 0 })
    }

    /// # Errors
    /// The disk is full.
    pub(super) fn write(&mut self, request: Request) -> io::Result<()> {
        self.requests += 1;
        self.file.write_all(&request.to_bytes())
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// Asks a limit about each request, in order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn replay(&mut self, gcra: &Gcra) -> io::Result<Replay> {
        self.file.flush()?;
        let file = self.file.get_mut();
        file.rewind()?;
        let mut from = BufReader::with_capacity(1 << 16, file);
        let buckets = Buckets::new(MEMORY, gcra);
        let mut replay = Replay { refused: 0, keys: Sample::new(KEYS_MAX), overflows: 0 };
        let (mut bytes, mut now) = ([0; BYTES], Nanos::default());
        for _ in 0..self.requests {
            from.read_exact(&mut bytes)?;
            let request = Request::from_bytes(&bytes);
            now = Nanos::from_nanos(request.at.saturating_mul(1_000_000));
            if !buckets.take(request.key(), gcra, 1, now).passed() {
                replay.refused += 1;
                if let Some(count) = replay.keys.of(request.key(), || 0) {
                    *count += 1;
                }
            }
        }
        let figures = buckets.figures(now);
        replay.overflows = figures.overflows + figures.evictions;
        Ok(replay)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request(at: u64, key: u64) -> Request {
        Request::new(at, KeyHash::from_bits(key << 8, key.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    #[test]
    fn requests_are_put_in_order() {
        let mut order = Order::default();
        let number = HELD_MAX as u64 + 1000;
        let mut given: Vec<_> = (0..number).filter_map(|at| order.push(request(at ^ 0xff, at))).collect();
        given.extend(order.push(request(5, 1)));
        given.extend(std::iter::from_fn(|| order.pop()));
        assert_eq!(given.len() as u64, number + 1);
        assert!(given.is_sorted_by_key(|request| request.at));
        assert_eq!(order.late, 1);
    }

    #[test]
    fn a_log_is_replayed_as_the_gateway_would_have_decided() {
        let mut spool = Spool::new().unwrap();
        // 1: a burst of ten, and ten more in two seconds; 2: one a second; 3: fifty at once.
        let mut requests: Vec<_> =
            (0..20_u64).map(|number| request(200 * (number / 10 * number.saturating_sub(9)), 1)).collect();
        requests.extend((0..20).map(|number| request(1000 * number, 2)));
        requests.extend((0..50).map(|_| request(7000, 3)));
        requests.sort_unstable();
        for request in &requests {
            spool.write(*request).unwrap();
        }
        assert_eq!(spool.requests(), 90);
        for (count, burst, refused) in
            [(10, 10, vec![(3, 40)]), (10, 50, vec![]), (1, 10, vec![(1, 8), (3, 40)])]
        {
            let replay = spool.replay(&Gcra::new(count, Duration::from_secs(1), burst)).unwrap();
            let mut keys: Vec<_> =
                replay.keys.iter().map(|(key, count)| (key.bits().0 >> 8, *count)).collect();
            keys.sort_unstable();
            assert_eq!(keys, refused, "{count}/1s, {burst}");
            assert_eq!(replay.refused, refused.iter().map(|(_, count)| count).sum::<u64>());
            assert_eq!(replay.overflows, 0);
        }
    }

    #[test]
    fn what_is_spooled_comes_back() {
        for request in [request(0, 0), request(u64::MAX, 7), Request { at: 1 << 40, bits: (u64::MAX, 1) }] {
            assert_eq!(Request::from_bytes(&request.to_bytes()), request);
        }
    }
}
