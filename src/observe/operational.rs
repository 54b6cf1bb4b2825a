//! The operational log: what the gateway says of itself, through `log`, to standard error.
//!
//! Until the gateway serves, lines are written where they are said. From then on a thread writes them ([`let_a_thread_write`]): where
//! nobody reads standard error (a log collector that hangs, a terminal that is held), nobody who says something may wait for it,
//! be it a reload, the signal to stop or a request at `debug`. What finds no room is dropped, and how much is said afterwards.
//!
//! Pingora says something for each failed request, with its query, which may hold secrets. Our record of that request has the
//! same facts, so Pingora is silent unless the list of levels names it. So is the crate `redis`: it quotes what a store's nodes have said.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use log::{LevelFilter, Log, Metadata};

use super::sink::{Lines, Sink};
use super::{AccessTarget, Config, Format};
use crate::config::{Build, Spanned};
use crate::record::Timestamp;
use crate::template::{Escape, escape, push_json};

/// Whose messages are off unless they are named.
const LOUD: [&str; 2] = ["pingora", "redis"];

/// What is said, and how; compiled from `log.level` and `log.format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    format: Format,
    /// By the beginning of a target; the longest that fits decides. The empty one is for all others.
    levels: Vec<(Box<str>, LevelFilter)>,
}

impl Default for Settings {
    /// Until a configuration is known: `info`, as text.
    fn default() -> Self {
        let loud = LOUD.map(|loud| (loud.into(), LevelFilter::Off));
        let levels = std::iter::once(("".into(), LevelFilter::Info)).chain(loud).collect();
        Self { format: Format::Text, levels }
    }
}

impl Settings {
    /// Compiles `log.level` and `log.format`. None when `build.errors` says why.
    pub fn compile(config: &Config, build: &mut Build) -> Option<Self> {
        match parse(&config.level) {
            Ok(levels) => Some(Self { format: config.format, levels }),
            Err(cause) => {
                refuse(&config.level, cause, build);
                None
            }
        }
    }

    /// From now on; may be called again at every reload.
    pub fn apply(&self) {
        *LOGGER.settings.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(self.clone()));
        let most = self.levels.iter().map(|(_, level)| *level).max().unwrap_or(LevelFilter::Info);
        // Fails where somebody else's logger is installed (a test's): then that one hears us.
        let _ = log::set_logger(&LOGGER);
        log::set_max_level(most);
    }

    fn level_of(&self, target: &str) -> LevelFilter {
        let fitting = self.levels.iter().filter(|(name, _)| target.starts_with(&**name));
        fitting.max_by_key(|(name, _)| name.len()).map_or(LevelFilter::Off, |(_, level)| *level)
    }

    fn line(&self, at: SystemTime, record: &log::Record<'_>) -> Vec<u8> {
        let at = Timestamp::of(at);
        let message = record.args().to_string();
        let mut line = Vec::with_capacity(message.len() + 96);
        // A Vec takes all that is written.
        match self.format {
            Format::Text => {
                let _ = write!(line, "{} {:<5} {}: ", at.as_str(), record.level(), record.target());
                escape(Escape::Text, message.as_bytes(), &mut line);
                line.push(b'\n');
            }
            Format::Json => {
                let level = match record.level() {
                    log::Level::Error => "error",
                    log::Level::Warn => "warn",
                    log::Level::Info => "info",
                    log::Level::Debug => "debug",
                    log::Level::Trace => "trace",
                };
                let _ = write!(line, "{{\"time\":\"{}\",\"level\":\"{level}\",\"target\":\"", at.as_str());
                push_json(record.target().as_bytes(), &mut line);
                line.extend_from_slice(b"\",\"message\":\"");
                push_json(message.as_bytes(), &mut line);
                line.extend_from_slice(b"\"}\n");
            }
        }
        line
    }
}

/// `info`, or `portcullis=debug,pingora=warn`; a level without a name is for all others, which else are at `warn`.
fn parse(text: &str) -> Result<Vec<(Box<str>, LevelFilter)>, String> {
    let mut levels: Vec<(Box<str>, LevelFilter)> = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (target, level) = match item.split_once('=') {
            Some((target, _)) if target.trim().is_empty() => {
                return Err(format!("`{item}` has a level without a name"));
            }
            Some((target, level)) => (target.trim(), level.trim()),
            None => ("", item),
        };
        let level = level.parse().map_err(|_| format!("`{level}` is no level"))?;
        if levels.iter().any(|(known, _)| **known == *target) {
            return Err(match target {
                "" => "two levels for all targets".to_owned(),
                target => format!("two levels for `{target}`"),
            });
        }
        levels.push((target.into(), level));
    }
    if !levels.iter().any(|(target, _)| target.is_empty()) {
        levels.push(("".into(), LevelFilter::Warn));
    }
    for loud in LOUD {
        if !levels.iter().any(|(target, _)| &**target == loud) {
            levels.push((loud.into(), LevelFilter::Off));
        }
    }
    Ok(levels)
}

fn refuse(level: &Spanned<String>, cause: String, build: &mut Build) {
    let cure = "write `error`, `warn`, `info`, `debug`, `trace` or `off`, or a list such as `portcullis=debug,pingora=warn`";
    build.errors.push(&level.site, &*level.path, cause, cure);
}

/// From now on a thread writes the lines, and nobody else waits for standard error. Called once, when the process has become the
/// user that it stays: a thread that is there before would not change with it.
pub fn let_a_thread_write() {
    LOGGER.output.get_or_init(|| Output::new(AccessTarget::Stderr)).sink.start();
}

/// Waits until every line so far is written, but no longer than `patience`. Whether they are: false where nobody reads them.
pub fn flush(patience: Duration) -> bool {
    LOGGER.output.get().is_none_or(|output| output.sink.flush(patience))
}

#[derive(Debug)]
struct Logger {
    settings: RwLock<Option<Arc<Settings>>>,
    output: OnceLock<Output>,
}

static LOGGER: Logger = Logger { settings: RwLock::new(None), output: OnceLock::new() };

/// The thread that writes.
#[derive(Debug)]
struct Output {
    sink: Sink,
    dropped: Arc<AtomicU64>,
    /// How many of those are said.
    told: AtomicU64,
}

impl Output {
    fn new(target: AccessTarget) -> Self {
        let dropped = Arc::default();
        Self {
            sink: Sink::new(Lines::Operational, target, Arc::clone(&dropped)),
            dropped,
            told: AtomicU64::new(0),
        }
    }

    /// A line, and before it how many were lost since the last one that found room.
    fn write(&self, settings: &Settings, line: &[u8]) {
        self.sink.write(0, |out| {
            let dropped = self.dropped.load(Ordering::Relaxed);
            let lost = dropped - self.told.swap(dropped, Ordering::Relaxed);
            if lost > 0 {
                let args = format_args!("{lost} lines of this log were lost: nobody read it");
                let record =
                    log::Record::builder().level(log::Level::Warn).target(module_path!()).args(args).build();
                out.extend_from_slice(&settings.line(SystemTime::now(), &record));
            }
            out.extend_from_slice(line);
        });
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        settings.as_ref().is_some_and(|settings| metadata.level() <= settings.level_of(metadata.target()))
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Not held while the line is made: what is shown may itself want to log.
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(settings) = settings {
            let line = settings.line(SystemTime::now(), record);
            match self.output.get() {
                Some(output) => output.write(&settings, &line),
                // Where standard error is gone there is nobody left to tell.
                None => drop(std::io::stderr().lock().write_all(&line)),
            }
        }
    }

    fn flush(&self) {
        flush(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(level: &str, format: Format) -> Result<Settings, String> {
        let mut level = Spanned::unwritten(level.to_owned());
        level.path = "log.level".into();
        let config = Config { level, format, ..Config::default() };
        let mut build = Build::default();
        let settings = Settings::compile(&config, &mut build);
        settings.ok_or_else(|| build.errors.errors()[0].cause.clone())
    }

    #[test]
    fn levels_go_by_the_longest_name_and_who_is_loud_is_silent_unless_named() {
        use LevelFilter::{Debug, Error, Info, Off, Trace, Warn};
        for (text, target, level) in [
            ("info", "portcullis::server", Info),
            ("info", "pingora_proxy", Off),
            ("trace", "pingora_core::protocols", Off),
            ("info,pingora=warn", "pingora_proxy", Warn),
            ("info,pingora_proxy=warn", "pingora_core", Off),
            ("info,pingora_proxy=warn", "pingora_proxy", Warn),
            ("portcullis=debug,pingora=warn", "portcullis::observe", Debug),
            ("portcullis=debug, portcullis::observe = error", "portcullis::observe::sink", Error),
            ("portcullis=debug", "hickory", Warn),
            ("trace", "redis::cluster_handling", Off),
            ("info,redis=debug", "redis::cluster_handling", Debug),
            ("info", "portcullis::state::redis", Info),
            ("TRACE", "anything", Trace),
            ("off", "portcullis", Off),
        ] {
            assert_eq!(settings(text, Format::Text).unwrap().level_of(target), level, "{text} {target}");
        }
        assert_eq!(
            settings("info", Format::Text).unwrap().level_of("pingora"),
            Settings::default().level_of("pingora")
        );
    }

    #[test]
    fn where_nobody_reads_lines_are_dropped_and_counted_aloud() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        // Both ends: a FIFO opened for writing alone waits for its reader.
        let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let output = Output::new(AccessTarget::File(path));
        let settings = Settings::default();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let began = std::time::Instant::now();
        for _ in 0..4_000 {
            output.write(&settings, &line);
        }
        assert!(began.elapsed() < Duration::from_secs(5), "nobody waits");
        assert!(!output.sink.flush(Duration::from_millis(50)), "nothing can be flushed into a full pipe");
        let lost = output.dropped.load(Ordering::Relaxed);
        assert!((1_000..4_000).contains(&lost), "{lost}");
        let heard = std::thread::spawn(move || {
            let mut heard = Vec::new();
            let mut piece = [0; 65536];
            while !heard.ends_with(b"the last\n") {
                let read = std::io::Read::read(&mut reader, &mut piece).unwrap();
                heard.extend_from_slice(&piece[..read]);
            }
            String::from_utf8(heard).unwrap()
        });
        assert!(output.sink.flush(Duration::from_secs(10)));
        output.write(&settings, b"first\n");
        output.write(&settings, b"the last\n");
        let heard = heard.join().unwrap();
        let said = format!(
            "WARN  {}: {lost} lines of this log were lost: nobody read it\nfirst\nthe last\n",
            module_path!().trim_end_matches("::tests")
        );
        assert!(heard.ends_with(&said), "{:?}", heard.lines().rev().take(3).collect::<Vec<_>>());
    }

    #[test]
    fn a_wrong_level_is_an_error() {
        for (text, cause) in [
            ("verbose", "`verbose` is no level"),
            ("", "`` is no level"),
            ("portcullis=", "`` is no level"),
            ("=info", "`=info` has a level without a name"),
            ("info,debug", "two levels for all targets"),
            ("a=info,a=warn", "two levels for `a`"),
        ] {
            assert_eq!(settings(text, Format::Text).unwrap_err(), cause);
        }
    }

    #[test]
    fn a_line_is_a_line_whatever_is_said() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_512_875_120);
        let said = "one\r\ntwo \u{1b}[31m \"é\"";
        let line = |format| {
            let settings = settings("info", format).unwrap();
            let args = format_args!("{said}");
            let record =
                log::Record::builder().level(log::Level::Warn).target("portcullis::x").args(args).build();
            String::from_utf8(settings.line(at, &record)).unwrap()
        };
        assert_eq!(
            line(Format::Text),
            "2026-11-24T09:34:35.120Z WARN  portcullis::x: one\\x0D\\x0Atwo \\x1B[31m \"é\"\n"
        );
        assert_eq!(
            line(Format::Json),
            "{\"time\":\"2026-11-24T09:34:35.120Z\",\"level\":\"warn\",\"target\":\"portcullis::x\",\
             \"message\":\"one\\r\\ntwo \\u001B[31m \\\"é\\\"\"}\n"
        );
    }
}
