//! The protocol of Redis and Valkey (RESP 2), as much of it as the gateway speaks. What a server says is bounded in length and depth:
//! whoever has taken its place can end the connection by it and nothing else.

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The longest line: a number, a length, the text of an error.
const LINE_MAX: usize = 1 << 10;
/// The longest text.
const TEXT_MAX: usize = 4 << 10;
/// The most values of a list, and how deep lists may stand in each other (`ROLE` of a master lists its replicas).
const LIST_MAX: usize = 256;
const DEPTH_MAX: u8 = 4;
/// The most of one answer.
const ANSWER_MAX: usize = 64 << 10;

/// An answer, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `OK`, `PONG`, and texts: names, addresses.
    Text(Vec<u8>),
    Number(i64),
    List(Vec<Self>),
    Nothing,
    /// The word that an error begins with: `WRONGPASS`. What follows is the server's, and goes nowhere.
    Error(Box<str>),
    /// A node of a cluster says which one has this slot: `-MOVED 3999 127.0.0.1:6381`.
    Moved {
        slot: u16,
        to: Box<str>,
    },
}

/// What came is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Appends a command to what will be sent.
pub(super) fn push_command(to: &mut Vec<u8>, words: &[&[u8]]) {
    push_length(to, b'*', words.len());
    for word in words {
        push_length(to, b'$', word.len());
        to.extend_from_slice(word);
        to.extend_from_slice(b"\r\n");
    }
}

fn push_length(to: &mut Vec<u8>, mark: u8, length: usize) {
    to.push(mark);
    to.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    to.extend_from_slice(b"\r\n");
}

/// Reads one answer; what was read beyond it stays in `buffer`.
///
/// # Errors
/// The connection ends or fails, or what comes is no answer, or one that is too long.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<Value> {
    loop {
        let mut rest = &buffer[..];
        match value(&mut rest, 0) {
            Ok(Some(value)) => {
                let taken = buffer.len() - rest.len();
                buffer.advance(taken);
                return Ok(value);
            }
            Ok(None) if buffer.len() <= ANSWER_MAX => {}
            Ok(None) | Err(Malformed) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "what it says is not Redis's protocol",
                ));
            }
        }
        if from.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The value that `rest` begins with; none where it has not come in full.
fn value(rest: &mut &[u8], depth: u8) -> Result<Option<Value>, Malformed> {
    let Some(line) = line(rest)? else { return Ok(None) };
    let (mark, said) = line.split_first().ok_or(Malformed)?;
    match mark {
        b'+' => Ok(Some(Value::Text(said.to_vec()))),
        b'-' => Ok(Some(moved(said).unwrap_or_else(|| Value::Error(word(said))))),
        b':' => number(said).map(|number| Some(Value::Number(number))),
        b'$' => match length(said, TEXT_MAX)? {
            None => Ok(Some(Value::Nothing)),
            Some(length) => {
                let Some((text, after)) = rest.split_at_checked(length) else { return Ok(None) };
                let Some((end, after)) = after.split_at_checked(2) else { return Ok(None) };
                if end != b"\r\n" {
                    return Err(Malformed);
                }
                let text = text.to_vec();
                *rest = after;
                Ok(Some(Value::Text(text)))
            }
        },
        b'*' => match length(said, LIST_MAX)? {
            None => Ok(Some(Value::Nothing)),
            Some(_) if depth >= DEPTH_MAX => Err(Malformed),
            Some(length) => {
                let mut list = Vec::new();
                for _ in 0..length {
                    let Some(item) = value(rest, depth + 1)? else { return Ok(None) };
                    list.push(item);
                }
                Ok(Some(Value::List(list)))
            }
        },
        _ => Err(Malformed),
    }
}

/// Takes a line, without its end.
fn line<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    let Some(at) = memchr::memchr(b'\n', rest.get(..LINE_MAX.min(rest.len())).unwrap_or_default()) else {
        return if rest.len() < LINE_MAX { Ok(None) } else { Err(Malformed) };
    };
    let (line, after) = rest.split_at_checked(at + 1).ok_or(Malformed)?;
    *rest = after;
    line.strip_suffix(b"\r\n").map(Some).ok_or(Malformed)
}

fn number(said: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(said).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
}

/// A length; none for what is not there (`-1`).
fn length(said: &[u8], most: usize) -> Result<Option<usize>, Malformed> {
    match number(said)? {
        -1 => Ok(None),
        length => usize::try_from(length).ok().filter(|length| *length <= most).map(Some).ok_or(Malformed),
    }
}

fn moved(said: &[u8]) -> Option<Value> {
    let (slot, to) = std::str::from_utf8(said).ok()?.strip_prefix("MOVED ")?.split_once(' ')?;
    Some(Value::Moved { slot: slot.parse().ok()?, to: to.into() })
}

/// Capital letters, 24 at the most: what goes into our log.
fn word(said: &[u8]) -> Box<str> {
    let word: String =
        said.iter().take(24).take_while(|b| b.is_ascii_uppercase()).map(|b| char::from(*b)).collect();
    if word.is_empty() { "ERR".into() } else { word.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> Result<Option<Value>, Malformed> {
        let mut rest = bytes;
        let read = value(&mut rest, 0);
        if matches!(read, Ok(Some(_))) {
            assert_eq!(rest, b"", "{bytes:?}");
        }
        read
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn commands_are_lists_of_texts() {
        let mut sent = Vec::new();
        push_command(&mut sent, &[b"SET", b"a\r\nb", b""]);
        assert_eq!(sent, b"*3\r\n$3\r\nSET\r\n$4\r\na\r\nb\r\n$0\r\n\r\n");
    }

    #[test]
    fn answers_of_every_kind_are_understood_and_pieces_of_them_waited_for() {
        let list = Value::List(vec![Value::Number(-3), Value::List(vec![text("a")]), Value::Nothing]);
        for (bytes, meant) in [
            ("+OK\r\n", text("OK")),
            ("-WRONGPASS invalid \u{1b}[31m pair\r\n", Value::Error("WRONGPASS".into())),
            ("-lower case\r\n", Value::Error("ERR".into())),
            ("-MOVED 3999 ::1:7001\r\n", Value::Moved { slot: 3999, to: "::1:7001".into() }),
            ("-MOVED x y\r\n", Value::Error("MOVED".into())),
            (":42\r\n", Value::Number(42)),
            ("$-1\r\n", Value::Nothing),
            ("*-1\r\n", Value::Nothing),
            ("$0\r\n\r\n", text("")),
            ("$4\r\na\r\nb\r\n", text("a\r\nb")),
            ("*3\r\n:-3\r\n*1\r\n$1\r\na\r\n$-1\r\n", list),
        ] {
            assert_eq!(read_all(bytes.as_bytes()), Ok(Some(meant)), "{bytes:?}");
            for cut in 0..bytes.len() {
                assert_eq!(read_all(&bytes.as_bytes()[..cut]), Ok(None), "{bytes:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_answer_or_too_long_is_refused_at_once() {
        let long = "x".repeat(LINE_MAX);
        let deep = "*1\r\n".repeat(usize::from(DEPTH_MAX) + 1);
        for bytes in [
            "HTTP/1.1 400 Bad Request\r\n",
            "\r\n",
            ":x\r\n",
            ":1\n",
            "$5000\r\n",
            "$-2\r\n",
            "$99999999999999999999\r\n",
            "*257\r\n",
            "$1\r\nabc",
            &deep,
            &long,
        ] {
            assert_eq!(read_all(bytes.as_bytes()), Err(Malformed), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn answers_that_come_together_are_read_one_by_one() {
        let mut from: &[u8] = b":1\r\n:2\r\n";
        let mut buffer = BytesMut::new();
        assert_eq!(read(&mut from, &mut buffer).await.unwrap(), Value::Number(1));
        assert_eq!(read(&mut from, &mut buffer).await.unwrap(), Value::Number(2));
        let ended = read(&mut from, &mut buffer).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
        // Each value is within bounds, the whole is not.
        let list = format!("*256\r\n{}", format!("$4096\r\n{}\r\n", "x".repeat(4096)).repeat(255));
        let mut from = list.as_bytes();
        let endless = read(&mut from, &mut BytesMut::new()).await.unwrap_err();
        assert_eq!(endless.kind(), io::ErrorKind::InvalidData);
    }
}
