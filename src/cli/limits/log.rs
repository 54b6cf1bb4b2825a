//! Access logs, line by line, as `log.access.format: json` writes them; several at once, in the order of their times.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Deserialize;

/// What is longer is no line of ours.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Milliseconds since 1970: what is later (in the year 2116) is no time of a request's.
const TIME_MAX: u64 = 4_600_000_000_000;
/// By how much a log's next line may be later than the one before and still be waited for, in milliseconds. What jumps farther (a clock that
/// was set, a gap, the beginning of a log) is read at once and held back by the order of requests: else one odd time would keep the rest of
/// its log until all others have ended.
const JUMP: u64 = 60_000;
/// What compressed files begin with: gzip, zstd, xz, bzip2.
const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh"];

/// What matters here of a line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line<'a> {
    /// Milliseconds since 1970.
    pub(super) request_time_epoch: u64,
    #[serde(borrow)]
    pub(super) route: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) identity: Identity<'a>,
    #[serde(borrow)]
    pub(super) domain_name: Option<Cow<'a, str>>,
    pub(super) status: Option<u16>,
    #[serde(borrow)]
    pub(super) error: Option<Said<'a>>,
    #[serde(default, borrow)]
    pub(super) would: Vec<Said<'a>>,
}

/// Who asks.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity<'a> {
    /// None where the peer is on a Unix socket: then it is this machine, as limits count it.
    pub(super) source_ip: Option<IpAddr>,
    #[serde(borrow)]
    pub(super) user: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) api_key_id: Option<Cow<'a, str>>,
}

/// What a policy has refused, or would have.
#[derive(Debug, Deserialize)]
pub(super) struct Said<'a> {
    #[serde(borrow)]
    pub(super) policy: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) reason: Cow<'a, str>,
}

impl<'a> Line<'a> {
    /// None where this is no line of an access log.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let line: Self = serde_json::from_slice(text).ok()?;
        (line.request_time_epoch <= TIME_MAX).then_some(line)
    }

    pub(super) fn client(&self) -> IpAddr {
        self.identity.source_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

/// Logs that are read side by side: first whichever line is oldest. `T` is what is kept of a line.
pub(super) struct Logs<T> {
    logs: Vec<Log<T>>,
    /// Device and number of the files among them.
    files: Vec<(u64, u64)>,
    pub(super) lines: u64,
    /// Lines that are none of an access log's.
    pub(super) malformed: u64,
}

struct Log<T> {
    name: String,
    from: Box<dyn BufRead>,
    line: Vec<u8>,
    /// The time of the line that was given last.
    last: u64,
    /// What was read last, and its time; it has not been given yet.
    next: Option<(u64, T)>,
    begun: bool,
    ended: bool,
}

impl<T> Logs<T> {
    pub(super) fn new() -> Self {
        Self { logs: Vec::new(), files: Vec::new(), lines: 0, malformed: 0 }
    }

    /// `-` is standard input.
    ///
    /// # Errors
    /// Which cannot be read, and why.
    pub(super) fn open(&mut self, path: &Path) -> Result<(), (String, io::Error)> {
        let name = path.display().to_string();
        match path.as_os_str().as_encoded_bytes() {
            b"-" => self.add(name, io::stdin()),
            _ => match File::open(path) {
                Ok(file) => {
                    let about = file.metadata().map_err(|error| (name.clone(), error))?;
                    let same = (about.dev(), about.ino());
                    if about.is_file() && self.files.contains(&same) {
                        return Err((
                            name,
                            io::Error::other("it is named twice, and would be counted twice"),
                        ));
                    }
                    self.files.push(same);
                    self.add(name, file);
                }
                Err(error) => return Err((name, error)),
            },
        }
        Ok(())
    }

    pub(super) fn add(&mut self, name: String, from: impl Read + 'static) {
        let from = Box::new(BufReader::with_capacity(1 << 16, from));
        self.logs.push(Log { name, from, line: Vec::new(), last: 0, next: None, begun: false, ended: false });
    }

    /// What `take` keeps of the oldest line that comes next in any log, where none jumps ahead; none at the end of all. Lines are read, and
    /// given to `take`, one a log ahead.
    ///
    /// # Errors
    /// Which log cannot be read any more, and why.
    pub(super) fn next(
        &mut self,
        mut take: impl FnMut(&Line<'_>) -> T,
    ) -> Result<Option<T>, (String, io::Error)> {
        for log in self.logs.iter_mut().filter(|log| log.next.is_none() && !log.ended) {
            let (lines, malformed) = (&mut self.lines, &mut self.malformed);
            log.advance(&mut take, lines, malformed).map_err(|error| (log.name.clone(), error))?;
        }
        let oldest = self.logs.iter_mut().filter(|log| log.next.is_some());
        let oldest = oldest.min_by_key(|log| log.next.as_ref().map(|(at, _)| log.waits_until(*at)));
        let Some((log, (at, kept))) = oldest.and_then(|log| log.next.take().map(|next| (log, next))) else {
            return Ok(None);
        };
        log.last = at;
        Ok(Some(kept))
    }
}

impl<T> Log<T> {
    /// Up to which time other logs are read before a line of this time.
    const fn waits_until(&self, at: u64) -> u64 {
        if at > self.last.saturating_add(JUMP) { self.last } else { at }
    }

    /// To the next line that is one.
    fn advance(
        &mut self,
        take: &mut impl FnMut(&Line<'_>) -> T,
        lines: &mut u64,
        malformed: &mut u64,
    ) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            let start = self.from.fill_buf()?;
            if COMPRESSED.iter().any(|mark| start.starts_with(mark)) {
                return Err(io::Error::other(
                    "it is compressed; `zcat FILE | portcullis limits --log -` reads gzip",
                ));
            }
        }
        loop {
            let whole = self.read_line()?;
            if self.line.is_empty() && whole {
                self.ended = true;
                return Ok(());
            }
            if self.line.trim_ascii().is_empty() && whole {
                continue;
            }
            *lines += 1;
            match Line::parse(&self.line).filter(|_| whole) {
                Some(line) => {
                    self.next = Some((line.request_time_epoch, take(&line)));
                    return Ok(());
                }
                None => *malformed += 1,
            }
        }
    }

    /// The next line; empty at the end. False where it was too long to be kept.
    fn read_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        let mut whole = true;
        loop {
            let there = match self.from.fill_buf() {
                Ok(there) => there,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let (piece, ended) = match memchr::memchr(b'\n', there) {
                Some(at) => (there.get(..=at).unwrap_or(there), true),
                None => (there, there.is_empty()),
            };
            whole &= self.line.len() + piece.len() <= LINE_BYTES_MAX;
            if whole {
                self.line.extend_from_slice(piece);
            }
            let read = piece.len();
            self.from.consume(read);
            if ended {
                return Ok(whole);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: u64, client: &str) -> String {
        format!("{{\"requestTimeEpoch\":{at},\"identity\":{{\"sourceIp\":\"{client}\"}},\"status\":200}}\n")
    }

    fn read(texts: &[Vec<u8>]) -> (Vec<u64>, u64, u64) {
        let mut logs = Logs::new();
        for text in texts {
            logs.add("log".to_owned(), io::Cursor::new(text.clone()));
        }
        let next = || logs.next(|line| line.request_time_epoch).unwrap();
        let times = std::iter::from_fn(next).collect();
        (times, logs.malformed, logs.lines)
    }

    #[test]
    fn what_a_line_tells_is_read_and_what_it_does_not_need_is_not() {
        let text = concat!(
            r#"{"requestTime":"2026-11-24T09:34:35.120Z","requestTimeEpoch":1795512875120,"requestId":"a","generation":3,"#,
            r#""route":"or\"ders","labels":{"api":{"deep":[1,2]}},"identity":{"sourceIp":"2001:db8::1","user":"alice","#,
            r#""apiKeyId":"key-7","clientCert":{}},"domainName":"a.test","status":403,"#,
            r#""error":{"responseType":"ACCESS_DENIED","reason":"not_allowed","policy":"access.office"},"#,
            r#""would":[{"policy":"rate_limits.few","reason":"rate","site":"a:1"},{"reason":"origin"}]}"#
        );
        let line = Line::parse(text.as_bytes()).unwrap();
        assert_eq!((line.request_time_epoch, line.status), (1_795_512_875_120, Some(403)));
        assert_eq!((line.route.as_deref(), line.domain_name.as_deref()), (Some("or\"ders"), Some("a.test")));
        assert_eq!(line.client().to_string(), "2001:db8::1");
        assert_eq!(line.identity.user.as_deref(), Some("alice"));
        assert_eq!(line.identity.api_key_id.as_deref(), Some("key-7"));
        assert_eq!(line.error.unwrap().policy.as_deref(), Some("access.office"));
        assert_eq!((line.would.len(), &*line.would[0].reason), (2, "rate"));
        assert_eq!(Line::parse(b"{\"requestTimeEpoch\":1}").unwrap().client().to_string(), "127.0.0.1");
    }

    #[test]
    fn what_is_no_line_is_counted_and_passed_over() {
        let deep = [vec![b'['; 1 << 19], b"\n".to_vec()].concat();
        let long = [b"{\"x\":\"".to_vec(), vec![b'a'; LINE_BYTES_MAX], b"\"}\n".to_vec()].concat();
        let odd: [&[u8]; 10] = [
            b"192.0.2.1 - - [24/Nov/2026] \"GET / HTTP/1.1\" 200\n",
            b"{\"requestTimeEpoch\":\"1\"}\n",
            b"{\"requestTimeEpoch\":-1}\n",
            b"{\"requestTimeEpoch\":99999999999999999}\n",
            b"{\"requestTimeEpoch\":1,\"requestTimeEpoch\":2}\n",
            b"{\"requestTimeEpoch\":1,\"identity\":{\"sourceIp\":\"nowhere\"}}\n",
            b"{\"requestTimeEpoch\":1,\"route\":\"\xff\"}\n",
            b"[]\n",
            &deep,
            &long,
        ];
        let mut text = line(5, "192.0.2.1").into_bytes();
        odd.iter().for_each(|odd| text.extend_from_slice(odd));
        text.extend_from_slice(b"\n   \r\n");
        text.extend_from_slice(line(6, "192.0.2.1").trim_end().as_bytes());
        assert_eq!(read(&[text]), (vec![5, 6], 10, 12));
        assert_eq!(read(&[Vec::new()]), (Vec::new(), 0, 0));
        assert_eq!(read(&[b"{\"requestTi".to_vec()]), (Vec::new(), 1, 1), "a line that is cut off");
    }

    #[test]
    fn logs_of_several_gateways_are_read_side_by_side() {
        let of = |times: &[u64]| times.iter().map(|at| line(*at, "::1")).collect::<String>().into_bytes();
        let (times, ..) = read(&[of(&[7, 8, 30]), of(&[]), of(&[1, 2, 9]), of(&[3, 25])]);
        assert_eq!(times, [1, 2, 3, 7, 8, 9, 25, 30]);
    }

    #[test]
    fn a_time_that_jumps_ahead_does_not_keep_the_rest_of_its_log() {
        let of = |times: &[u64]| times.iter().map(|at| line(*at, "::1")).collect::<String>().into_bytes();
        let minute = 60_000;
        let far = TIME_MAX;
        let logs = [of(&[far, 10, far, 30, 50]), of(&[20, 40, 60 + 2 * minute, 61 + 2 * minute])];
        let (times, ..) = read(&logs);
        assert_eq!(times, [far, 10, far, 20, 30, 40, 60 + 2 * minute, 50, 61 + 2 * minute]);
    }

    #[test]
    fn what_is_compressed_or_named_twice_is_told_to_be_so() {
        for mark in COMPRESSED {
            let mut logs = Logs::new();
            logs.add("log.gz".to_owned(), io::Cursor::new([mark, b"\x08\x00{}\n"].concat()));
            let (name, error) = logs.next(|_| ()).unwrap_err();
            assert!(name == "log.gz" && error.to_string().starts_with("it is compressed; `zcat "), "{error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let link = file.path().with_extension("link");
        std::os::unix::fs::symlink(file.path(), &link).unwrap();
        let mut logs = Logs::<()>::new();
        logs.open(file.path()).unwrap();
        let (_, error) = logs.open(&link).unwrap_err();
        std::fs::remove_file(&link).unwrap();
        assert!(error.to_string().starts_with("it is named twice"), "{error}");
        logs.open(Path::new("/dev/null")).unwrap();
        logs.open(Path::new("/dev/null")).unwrap();
    }
}
