//! Where log lines go: a bounded buffer a worker, and a thread that writes them out. A slow or full disk never slows a request.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::AccessTarget;
use super::shard::Shards;

/// What a worker may have waiting; what comes above it is dropped and counted. At 400 bytes a line and a swap every 10 ms this is
/// 250,000 lines a second and worker.
const BUFFER_BYTES: usize = 1 << 20;

/// How often buffers are swapped while there is traffic. A timer rather than a wake-up a request, which would cost a system call
/// each.
const SWAP_EVERY: Duration = Duration::from_millis(10);

/// After so many empty rounds the writer sleeps until it is woken.
const IDLE_ROUNDS: u32 = 100;

/// How often the same trouble is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What the lines of a sink are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lines {
    /// A line a request.
    Access,
    /// What the gateway says of itself. Its troubles are not told: they would be lines of it.
    Operational,
}

/// A log's way out. Dropped, it writes what is left in the background.
#[derive(Debug)]
pub(super) struct Sink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lines: Lines,
    target: AccessTarget,
    /// All made from the start: the writer that goes to sleep must not miss one (see `Sink::write`).
    buffers: Shards<Mutex<Vec<u8>>>,
    /// Lines that were lost.
    dropped: Arc<AtomicU64>,
    /// The writer, once a first line has come or `start` was called.
    writer: OnceLock<Thread>,
    parked: AtomicBool,
    reopen: AtomicBool,
    stopped: AtomicBool,
    flushes: Mutex<Flushes>,
    flushed: Condvar,
}

/// Flushes asked for and done.
#[derive(Clone, Copy, Debug, Default)]
struct Flushes {
    asked: u64,
    done: u64,
}

impl Sink {
    /// A sink that has not opened anything yet: the first line or [`Sink::start`] does.
    pub(super) fn new(lines: Lines, target: AccessTarget, dropped: Arc<AtomicU64>) -> Self {
        let shared = Shared {
            lines,
            target,
            buffers: Shards::made(),
            dropped,
            writer: OnceLock::new(),
            parked: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            flushes: Mutex::default(),
            flushed: Condvar::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Where lines go.
    pub(super) fn target(&self) -> &AccessTarget {
        &self.shared.target
    }

    /// Starts the writer, which opens the target.
    pub(super) fn start(&self) {
        self.shared.writer.get_or_init(|| {
            let shared = Arc::clone(&self.shared);
            let lines = shared.lines;
            let spawned = thread::Builder::new().name(lines.thread().to_owned()).spawn(move || {
                Writer { output: None, torn: false, told: None, shared }.run();
            });
            match spawned {
                Ok(handle) => handle.thread().clone(),
                Err(error) => {
                    // Buffers fill, and lines are dropped and counted.
                    if lines == Lines::Access {
                        log::error!("the access log's writer cannot be started: {error}");
                    }
                    thread::current()
                }
            }
        });
    }

    /// Appends one line, which `write` puts at the end of the buffer; it is dropped, and counted, where the buffer is full.
    pub(super) fn write(&self, worker: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let shared = &self.shared;
        {
            let mut buffer = lock(shared.buffers.of(worker));
            let before = buffer.len();
            if before < BUFFER_BYTES {
                write(&mut buffer);
            }
            if before >= BUFFER_BYTES || buffer.len() > BUFFER_BYTES {
                buffer.truncate(before);
                shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        if shared.writer.get().is_none() {
            self.start();
        }
        // Between this line and the writer's `park` stands the buffer's lock: it either sees the line or has said before that it
        // parks.
        if shared.parked.load(Ordering::Acquire) && shared.parked.swap(false, Ordering::AcqRel) {
            shared.wake();
        }
    }

    /// Opens the file anew, as logrotate wants after it has moved it. If that fails the old one is kept.
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.shared.wake();
    }

    /// Waits until all lines so far are written, but no longer than `patience`. Whether they are.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let shared = &self.shared;
        if shared.writer.get().is_none() {
            return true;
        }
        let mut flushes = lock(&shared.flushes);
        flushes.asked += 1;
        let asked = flushes.asked;
        shared.wake();
        let waited = shared.flushed.wait_timeout_while(flushes, patience, |flushes| flushes.done < asked);
        let (flushes, _timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        flushes.done >= asked
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.wake();
    }
}

impl Lines {
    fn thread(self) -> &'static str {
        match self {
            Self::Access => "access-log",
            Self::Operational => "log",
        }
    }
}

impl Shared {
    fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }
}

/// The thread's own things.
struct Writer {
    shared: Arc<Shared>,
    output: Option<File>,
    /// Whether the last line was cut by an error: the next begins on a line of its own.
    torn: bool,
    told: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        self.open();
        let mut batch = Vec::new();
        let mut idle = 0;
        loop {
            // What is asked before a round is served by it.
            let asked = lock(&self.shared.flushes).asked;
            let last = self.shared.stopped.load(Ordering::Acquire);
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.open();
            }
            let wrote = self.round(&mut batch);
            lock(&self.shared.flushes).done = asked;
            self.shared.flushed.notify_all();
            if last {
                return;
            }
            idle = if wrote { 0 } else { idle + 1 };
            if idle < IDLE_ROUNDS {
                thread::park_timeout(SWAP_EVERY);
                continue;
            }
            batch.shrink_to(64 << 10);
            self.shared.parked.store(true, Ordering::Release);
            if self.is_idle() {
                thread::park();
            }
            self.shared.parked.store(false, Ordering::Release);
            idle = 0;
        }
    }

    /// Nothing to do at all. Looks through every buffer's lock: see `Sink::write`.
    fn is_idle(&self) -> bool {
        let flushes = *lock(&self.shared.flushes);
        flushes.asked == flushes.done
            && !self.shared.stopped.load(Ordering::Acquire)
            && !self.shared.reopen.load(Ordering::Acquire)
            && self.shared.buffers.iter().all(|buffer| lock(buffer).is_empty())
    }

    /// Writes what the workers have; whether there was anything.
    fn round(&mut self, batch: &mut Vec<u8>) -> bool {
        let mut wrote = false;
        let shared = Arc::clone(&self.shared);
        for buffer in shared.buffers.iter() {
            batch.clear();
            std::mem::swap(&mut *lock(buffer), batch);
            if !batch.is_empty() {
                wrote = true;
                self.write(batch);
            }
        }
        wrote
    }

    /// Writes a batch, or what is left of it after errors: those lines are dropped and counted.
    fn write(&mut self, batch: &[u8]) {
        if self.output.is_none() {
            self.open();
        }
        let Some(output) = &mut self.output else {
            self.lose(batch);
            return;
        };
        if self.torn {
            match output.write_all(b"\n") {
                Ok(()) => self.torn = false,
                Err(error) => return self.failed(batch, &error),
            }
        }
        let mut rest = batch;
        while !rest.is_empty() {
            match output.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody made our standard output non-blocking; its reader is slow, and we can wait.
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock
                        && !self.shared.stopped.load(Ordering::Acquire) =>
                {
                    thread::park_timeout(SWAP_EVERY);
                }
                Err(error) => {
                    let written = batch.len() - rest.len();
                    self.torn = written > 0 && batch.get(written - 1) != Some(&b'\n');
                    return self.failed(rest, &error);
                }
            }
        }
    }

    fn failed(&mut self, lost: &[u8], error: &io::Error) {
        self.lose(lost);
        self.tell("written", error);
    }

    fn lose(&self, lines: &[u8]) {
        let lost = memchr::memchr_iter(b'\n', lines).count();
        self.shared.dropped.fetch_add(u64::try_from(lost).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn open(&mut self) {
        let opened = match &self.shared.target {
            AccessTarget::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            AccessTarget::Stderr => io::stderr().as_fd().try_clone_to_owned().map(File::from),
            AccessTarget::File(path) => OpenOptions::new().append(true).create(true).mode(0o640).open(path),
        };
        match opened {
            Ok(file) => {
                self.output = Some(file);
                self.torn = false;
            }
            Err(error) => self.tell("opened", &error),
        }
    }

    fn tell(&mut self, what: &str, error: &io::Error) {
        if self.shared.lines == Lines::Operational {
            return;
        }
        let now = Instant::now();
        if self.told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY) {
            self.told = Some(now);
            let dropped = self.shared.dropped.load(Ordering::Relaxed);
            let target = &self.shared.target;
            let kept = if self.output.is_some() { "; the file that was open is kept" } else { "" };
            let cure = match error.kind() {
                ErrorKind::PermissionDenied => "; have it made for the user that the gateway runs as",
                _ => "",
            };
            log::error!(
                "the access log {target} cannot be {what}: {error}{kept}{cure}; {dropped} lines lost so far"
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn sink(path: impl Into<PathBuf>) -> Sink {
        Sink::new(Lines::Access, AccessTarget::File(path.into()), Arc::default())
    }

    fn dropped(sink: &Sink) -> u64 {
        sink.shared.dropped.load(Ordering::Relaxed)
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn lines_are_written_whole_by_all_workers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let sink = sink(&path);
        thread::scope(|scope| {
            for worker in 0..4 {
                let sink = &sink;
                scope.spawn(move || {
                    for number in 0..1_000 {
                        sink.write(worker, |out| writeln!(out, "{worker} {number}").unwrap());
                    }
                });
            }
        });
        assert!(sink.flush(PATIENCE));
        let text = std::fs::read_to_string(&path).unwrap();
        for worker in 0..4 {
            let own: Vec<_> = text.lines().filter_map(|l| l.strip_prefix(&format!("{worker} "))).collect();
            assert_eq!(own, (0..1_000).map(|n| n.to_string()).collect::<Vec<_>>());
        }
        assert_eq!(dropped(&sink), 0);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o137, 0, "{mode:o}");
    }

    #[test]
    fn an_idle_writer_is_woken_by_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let sink = sink(&path);
        sink.start();
        let until = Instant::now() + PATIENCE;
        while !sink.shared.parked.load(Ordering::Acquire) {
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(5));
        }
        sink.write(0, |out| out.extend_from_slice(b"woken\n"));
        while std::fs::read(&path).unwrap() != b"woken\n" {
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_how_many() {
        let sink = sink("/dev/full");
        for _ in 0..100 {
            sink.write(0, |out| out.extend_from_slice(b"a line\n"));
        }
        assert!(sink.flush(PATIENCE));
        assert_eq!(dropped(&sink), 100);
    }

    #[test]
    fn a_target_that_cannot_be_opened_loses_lines() {
        let sink = sink("/nonexistent/log");
        sink.write(0, |out| out.extend_from_slice(b"a line\n"));
        assert!(sink.flush(PATIENCE));
        assert_eq!(dropped(&sink), 1);
    }

    #[test]
    fn a_reader_that_does_not_read_slows_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        // Both ends: a FIFO opened for writing alone waits for its reader.
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let sink = sink(&path);
        let line = [b'x'; 1023].iter().copied().chain([b'\n']).collect::<Vec<_>>();
        let began = Instant::now();
        for _ in 0..8_000 {
            sink.write(0, |out| out.extend_from_slice(&line));
        }
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(!sink.flush(Duration::from_millis(50)), "nothing can be flushed into a full pipe");
        // A buffer, a batch under way and what the pipe holds; the rest is lost and counted.
        assert!((4_000..8_000).contains(&dropped(&sink)), "{}", dropped(&sink));
        let began = Instant::now();
        drop(sink);
        assert!(began.elapsed() < Duration::from_secs(1));
        drop(reader);
    }

    #[test]
    fn a_closed_pipe_is_no_end() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&writer);
        let sink = sink(format!("/proc/self/fd/{fd}"));
        sink.write(0, |out| out.extend_from_slice(b"a line\n"));
        assert!(sink.flush(PATIENCE));
        assert_eq!(dropped(&sink), 1);
    }

    #[test]
    fn a_moved_file_is_left_for_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("log"), directory.path().join("log.1"));
        let sink = sink(&path);
        sink.write(0, |out| out.extend_from_slice(b"before\n"));
        assert!(sink.flush(PATIENCE));
        std::fs::rename(&path, &moved).unwrap();
        sink.reopen();
        sink.write(0, |out| out.extend_from_slice(b"after\n"));
        assert!(sink.flush(PATIENCE));
        assert_eq!(std::fs::read(&moved).unwrap(), b"before\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"after\n");
    }

    #[test]
    fn what_is_left_is_written_when_the_sink_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let sink = sink(&path);
        sink.write(0, |out| out.extend_from_slice(b"last\n"));
        drop(sink);
        let until = Instant::now() + PATIENCE;
        while std::fs::read(&path).unwrap_or_default() != b"last\n" {
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_torn_line_does_not_take_the_next_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let output = Some(File::create(&path).unwrap());
        let mut writer = Writer { shared: sink(&path).shared.clone(), output, torn: true, told: None };
        writer.write(b"next\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"\nnext\n");
    }
}
