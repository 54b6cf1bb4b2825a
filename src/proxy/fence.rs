//! The fence around a server's answers: where each ends by our own reading, and so what of the stream Pingora gets to see.
//!
//! Pingora parses leniently (folded fields, spaces before colons, both framings at once). It is given a head only once that
//! head is complete and has one reading (`framing::response`), and of what follows exactly the content that the head
//! announces. What a server sends beyond is nobody's answer.

use super::failures::Failure;
use crate::framing::response::{self, Answer, Asked, Content};
use crate::framing::{BadChunk, Cause, Chunked, Denial};

/// Interim answers (RFC 9110 §15.2) that a server may send before its answer.
const INTERIM: u32 = 32;

/// Why an answer cannot be passed on: in a word for metrics, and what happened for the log.
pub(super) type Unfit = (Failure, &'static str);

/// How much of what arrives belongs to the answer to one request.
#[derive(Debug)]
pub(super) struct Fence {
    asked: Asked,
    state: State,
    /// How much of an incomplete head has been looked at.
    searched: usize,
    interim: u32,
    overfull: bool,
}

#[derive(Debug)]
enum State {
    /// The final head has not come.
    Head,
    Length(u64),
    Chunked(Chunked),
    /// Until the server closes, or a tunnel.
    Open,
    /// The answer is whole.
    Closed,
}

impl Fence {
    pub(super) fn new(asked: Asked) -> Self {
        Self { asked, state: State::Head, searched: 0, interim: 0, overfull: false }
    }

    /// Whether the answer is whole: nothing that follows belongs to it.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether the answer's end is one that all readers agree about.
    pub(super) fn is_overfull(&self) -> bool {
        self.overfull
    }

    /// Takes the bytes that came next and says how many of them may pass. Those behind are of a head that is not complete,
    /// to be offered again with what follows them, or no part of the answer once the fence is closed.
    ///
    /// # Errors
    /// Why the answer has two readings, or is none. The connection is of no use afterwards.
    pub(super) fn admit(&mut self, bytes: &[u8]) -> Result<usize, Unfit> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && !rest.is_empty()
        {
            match &mut self.state {
                State::Closed => break,
                State::Open => return Ok(bytes.len()),
                State::Length(left) => {
                    let here = u64::try_from(rest.len()).unwrap_or(u64::MAX).min(*left);
                    *left -= here;
                    at += usize::try_from(here).unwrap_or(rest.len());
                    if *left == 0 {
                        self.state = State::Closed;
                    }
                }
                State::Chunked(chunked) => {
                    at += chunked.scan(rest).map_err(bad_chunk)?;
                    if chunked.is_done() {
                        self.state = State::Closed;
                    }
                }
                State::Head => match self.head(rest)? {
                    Some(length) => at += length,
                    None => break,
                },
            }
        }
        Ok(at)
    }

    /// A head at the beginning of these bytes; its length, or none if it is not complete.
    fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Unfit> {
        if self.searched > 0 && !response::is_complete(bytes, self.searched).map_err(denied)? {
            self.searched = bytes.len();
            return Ok(None);
        }
        let Some((length, answer)) = response::judge(bytes, self.asked).map_err(denied)? else {
            self.searched = bytes.len();
            return Ok(None);
        };
        self.searched = 0;
        let Answer { content, overfull } = answer;
        self.overfull = overfull;
        self.state = match content {
            Content::Interim => {
                self.interim += 1;
                if self.interim > INTERIM {
                    return Err((Failure::TooMuch("response_interim"), "more interim answers than allowed"));
                }
                State::Head
            }
            Content::None | Content::Length(0) => State::Closed,
            Content::Length(length) => State::Length(length),
            Content::Chunked => State::Chunked(Chunked::default()),
            Content::Close | Content::Tunnel => State::Open,
        };
        Ok(Some(length))
    }
}

fn denied(denial: Denial) -> Unfit {
    let failure = match denial.cause {
        Cause::HeadersTooLarge => Failure::TooMuch(denial.reason),
        _ => Failure::BadResponse,
    };
    (failure, denial.message)
}

fn bad_chunk(bad: BadChunk) -> Unfit {
    let failure = match bad {
        BadChunk::TRAILERS => Failure::TooMuch("response_trailers"),
        BadChunk::EXTENSIONS => Failure::TooMuch("response_chunk_extensions"),
        _ => Failure::BadResponse,
    };
    (failure, bad.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes of a stream that arrives in pieces of this size, and what is left behind.
    fn passed(stream: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, bool), Unfit> {
        let mut fence = Fence::new(Asked::default());
        let (mut out, mut waiting) = (Vec::new(), Vec::new());
        for bytes in stream.chunks(piece) {
            waiting.extend_from_slice(bytes);
            let admitted = fence.admit(&waiting)?;
            out.extend(waiting.drain(..admitted));
        }
        Ok((out, waiting, fence.is_closed()))
    }

    #[test]
    fn an_answer_passes_however_it_arrives_and_nothing_behind_it() {
        let extra = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong";
        let answers: [&[u8]; 6] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 204 None\r\n\r\n",
            b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nright\r\n0\r\nA: b\r\n\r\n",
            b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        ];
        for answer in answers {
            let stream = [answer, extra].concat();
            for piece in 1..=stream.len() {
                let (out, rest, closed) = passed(&stream, piece).unwrap();
                assert_eq!((out.as_slice(), rest.as_slice(), closed), (answer, &extra[..], true), "{piece}");
            }
        }
    }

    #[test]
    fn a_head_passes_whole_or_not_at_all() {
        let mut fence = Fence::new(Asked::default());
        assert_eq!(fence.admit(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r"), Ok(0));
        let mut fence = Fence::new(Asked::default());
        assert_eq!(fence.admit(b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\n"), Ok(19));
        let mut open = Fence::new(Asked::default());
        assert_eq!(open.admit(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1"), Ok(27));
        assert_eq!(open.admit(b" 200 OK\r\n\r\n"), Ok(11));
        assert!(!open.is_closed());
    }

    #[test]
    fn what_cannot_be_read_passes_no_further() {
        let table: [(&[u8], &str); 4] = [
            (b"HTTP/1.1 200 OK\nX: y\n\n", "a line of the head ends in a bare line feed"),
            (b"220 smtp ready\r\n", "what came is no HTTP response"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nright\r\n0\r\n\r\n",
                "a chunk's size is not hexadecimal",
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nright0\r\n\r\n",
                "a chunk is longer than its size",
            ),
        ];
        for (stream, message) in table {
            for piece in 1..=stream.len() {
                assert_eq!(passed(stream, piece).unwrap_err(), (Failure::BadResponse, message));
            }
        }
        let flood = "HTTP/1.1 100 Go\r\n\r\n".repeat(33);
        assert_eq!(passed(flood.as_bytes(), 7).unwrap_err().0, Failure::TooMuch("response_interim"));
        let held = "HTTP/1.1 100 Go\r\n\r\n".repeat(32);
        assert!(passed(held.as_bytes(), 7).is_ok());
    }

    #[test]
    fn each_bound_has_a_word_of_its_own() {
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let table = [
            (format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(64 << 10)), "response_header_bytes"),
            (format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(257)), "response_header_fields"),
            ("HTTP/1.1 103 Hints\r\n\r\n".repeat(33), "response_interim"),
            (format!("{chunks}0\r\n{}\r\n", "X: y\r\n".repeat(2000)), "response_trailers"),
            (format!("{chunks}1;{}\r\nx\r\n", "e".repeat(2000)), "response_chunk_extensions"),
        ];
        for (stream, word) in table {
            for piece in [1000, stream.len()] {
                let refused = passed(stream.as_bytes(), piece).unwrap_err().0;
                assert_eq!(refused, Failure::TooMuch(word));
            }
        }
    }

    #[test]
    fn what_was_asked_says_where_an_answer_ends() {
        let head = Asked { head: true, ..Asked::default() };
        let mut fence = Fence::new(head);
        assert_eq!(fence.admit(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"), Ok(38));
        assert!(fence.is_closed());
        let switch = b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\n\r\nhello";
        assert!(Fence::new(head).admit(switch).is_err());
        let mut fence = Fence::new(Asked { upgrade: true, ..Asked::default() });
        assert_eq!(fence.admit(switch), Ok(switch.len()));
        let mut fence = Fence::new(Asked::default());
        assert_eq!(fence.admit(b"HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n"), Ok(40));
        assert!(fence.is_closed() && fence.is_overfull());
    }
}
