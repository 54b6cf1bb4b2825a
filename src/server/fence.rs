//! The fence around a request's body: how much of what arrives belongs to it, and in which form it goes on.
//!
//! Content whose length is known goes on as it is. Chunks do not: what one read has brought goes on as one chunk of ours, without
//! extensions and trailers. Pingora forwards each chunk as a piece of its own, for which it takes 5 µs, so a client must not be
//! the one to say how many there are; and a reader behind the fence has nothing of the client's wrapping to read differently.

use std::io;

use tokio::io::ReadBuf;

use crate::framing::{Body, Chunked};

/// The line before a chunk of ours, its size in four digits, to be filled in.
const SIZE: &[u8] = b"0000\r\n";
/// What ends a chunk.
const END: &[u8] = b"\r\n";
/// What ends the body.
const LAST: &[u8] = b"0\r\n\r\n";

/// How much of what arrives belongs to the request now served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fence {
    /// Nothing more: what arrives is the next request's and is kept.
    Closed,
    /// So many bytes are left, and so many have passed.
    Length { left: u64, carried: u64 },
    /// Until the chunked body ends.
    Chunked(Chunked),
    /// Everything: HTTP/2, or a tunnel after a protocol switch.
    Open,
    /// The body was malformed; nothing that follows can be understood.
    Broken,
}

impl From<Body> for Fence {
    fn from(body: Body) -> Self {
        match body {
            Body::None | Body::Length(0) => Self::Closed,
            Body::Length(left) => Self::Length { left, carried: 0 },
            Body::Chunked => Self::Chunked(Chunked::default()),
        }
    }
}

impl Fence {
    /// Bytes of content that have passed; none where it is not content that is waited for.
    pub(super) fn carried(&self) -> Option<u64> {
        match self {
            Self::Length { carried, .. } => Some(*carried),
            Self::Chunked(chunked) => Some(chunked.carried()),
            Self::Closed | Self::Open | Self::Broken => None,
        }
    }

    /// Lets what belongs to the body through into `buf`, and says how many of these bytes it has taken: none where none may
    /// pass. Some may be taken though nothing comes through, when they are but the wrapping of content that follows.
    ///
    /// # Errors
    /// `InvalidData` from a mistake in the body on; `InvalidInput` for a buffer that is too small for a chunk.
    pub(super) fn pass(&mut self, bytes: &[u8], buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        let here = bytes.get(..buf.remaining()).unwrap_or(bytes);
        match self {
            Self::Closed => Ok(0),
            Self::Open => {
                buf.put_slice(here);
                Ok(here.len())
            }
            Self::Length { left, carried } => {
                let length = here.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                buf.put_slice(here.get(..length).unwrap_or_default());
                let count = u64::try_from(length).unwrap_or(0);
                *left -= count;
                *carried += count;
                if *left == 0 {
                    *self = Self::Closed;
                }
                Ok(length)
            }
            Self::Chunked(chunked) => {
                let passed = join(chunked, bytes, buf);
                if passed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
                    *self = Self::Broken;
                } else if chunked.is_done() {
                    *self = Self::Closed;
                }
                passed
            }
            Self::Broken => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Takes bytes of a chunked body and writes their content as one chunk, and the end of the body where it ends.
fn join(chunked: &mut Chunked, bytes: &[u8], buf: &mut ReadBuf<'_>) -> io::Result<usize> {
    let room = buf.remaining().saturating_sub(SIZE.len() + END.len() + LAST.len()).min(usize::from(u16::MAX));
    if room == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let start = buf.filled().len();
    buf.put_slice(SIZE);
    let taken = chunked.unwrap(bytes.get(..room).unwrap_or(bytes), |content| buf.put_slice(content));
    let taken = match taken {
        Ok(taken) => taken,
        Err(bad) => {
            buf.set_filled(start);
            return Err(io::Error::new(io::ErrorKind::InvalidData, bad));
        }
    };
    match u16::try_from(buf.filled().len() - start - SIZE.len()) {
        // A chunk of nothing would be the last.
        Ok(0) | Err(_) => buf.set_filled(start),
        Ok(length) => {
            for (place, digit) in buf.filled_mut().iter_mut().skip(start).zip(hexadecimal(length)) {
                *place = digit;
            }
            buf.put_slice(END);
        }
    }
    if chunked.is_done() {
        buf.put_slice(LAST);
    }
    Ok(taken)
}

fn hexadecimal(length: u16) -> [u8; 4] {
    let [high, low] = length.to_be_bytes();
    [high >> 4, high & 15, low >> 4, low & 15].map(|digit| match digit {
        0..10 => b'0' + digit,
        _ => b'a' + digit - 10,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes of a stream that is read in pieces of this size into buffers of that one, and what is left behind.
    fn passed(
        body: Body,
        stream: &[u8],
        piece: usize,
        buffer: usize,
    ) -> io::Result<(Vec<u8>, Vec<u8>, Fence)> {
        let mut fence = Fence::from(body);
        let (mut out, mut waiting) = (Vec::new(), Vec::new());
        for bytes in stream.chunks(piece) {
            waiting.extend_from_slice(bytes);
            loop {
                let mut space = vec![0; buffer];
                let mut buf = ReadBuf::new(&mut space);
                let taken = fence.pass(&waiting, &mut buf)?;
                out.extend_from_slice(buf.filled());
                waiting.drain(..taken);
                if taken == 0 || waiting.is_empty() {
                    break;
                }
            }
        }
        Ok((out, waiting, fence))
    }

    /// The content of chunks of ours, which have nothing but four digits, content and one end.
    fn content(mut ours: &[u8]) -> (Vec<u8>, usize) {
        let (mut content, mut count) = (Vec::new(), 0);
        while ours != LAST {
            let (size, rest) = ours.split_at(4);
            let size = usize::from_str_radix(std::str::from_utf8(size).unwrap(), 16).unwrap();
            assert!(size > 0 && rest.starts_with(b"\r\n") && rest[2 + size..].starts_with(b"\r\n"));
            content.extend_from_slice(&rest[2..2 + size]);
            count += 1;
            ours = &rest[4 + size..];
        }
        (content, count)
    }

    #[test]
    fn chunks_of_one_read_become_one_and_nothing_but_content_and_its_end_passes() {
        let rows: [(&[u8], &[u8]); 4] = [
            (b"1\r\na\r\n1;x=y\r\nb\r\n0001\r\nc\r\n0\r\n\r\n", b"abc"),
            (b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX: 1\r\nContent-Length: 5\r\n\r\n", b"abc0123456789"),
            (b"0\r\n\r\n", b""),
            (b"2\r\n\r\n\r\n5\r\n0\r\n\r\n\r\n00\r\n\r\n", b"\r\n0\r\n\r\n"),
        ];
        for (stream, expected) in rows {
            let behind = b"GET / HTTP/1.1\r\n";
            let wire = [stream, behind].concat();
            for piece in 1..=wire.len() {
                for buffer in [14, 20, 65536] {
                    let (out, rest, fence) = passed(Body::Chunked, &wire, piece, buffer).unwrap();
                    assert_eq!(content(&out).0, expected, "{piece} {buffer}");
                    assert_eq!((rest.as_slice(), fence), (&behind[..], Fence::Closed), "{piece} {buffer}");
                }
            }
            let (out, ..) = passed(Body::Chunked, &wire, wire.len(), 65536).unwrap();
            assert_eq!(content(&out).1, usize::from(!expected.is_empty()));
        }
    }

    #[test]
    fn a_large_chunk_passes_as_it_comes() {
        let stream = [b"20000\r\n", &[b'x'; 0x20000][..], b"\r\n0\r\n\r\n"].concat();
        for (piece, buffer) in [(32768, 65536), (200_000, 65536), (200_000, 200_000), (5000, 100)] {
            let (out, rest, fence) = passed(Body::Chunked, &stream, piece, buffer).unwrap();
            assert_eq!(content(&out).0, [b'x'; 0x20000]);
            assert_eq!((rest.len(), fence), (0, Fence::Closed));
        }
        let mut fence = Fence::from(Body::Chunked);
        let mut space = [0; 64];
        let mut buf = ReadBuf::new(&mut space);
        assert_eq!(fence.pass(b"20000\r\nx", &mut buf).unwrap(), 8);
        assert_eq!(
            (buf.filled(), fence.carried()),
            (&b"0001\r\nx\r\n"[..], Some(1)),
            "what has come goes on at once"
        );
    }

    #[test]
    fn behind_a_mistake_nothing_passes_ever() {
        let mut fence = Fence::from(Body::Chunked);
        let mut space = [0; 64];
        let mut buf = ReadBuf::new(&mut space);
        let error = fence.pass(b"1\r\na\r\n1\r\nbc\r\n", &mut buf).unwrap_err();
        assert_eq!(
            (error.kind(), buf.filled(), fence),
            (io::ErrorKind::InvalidData, &b""[..], Fence::Broken)
        );
        assert!(fence.pass(b"0\r\n\r\n", &mut buf).is_err());
        let mut small = [0; 13];
        let error = Fence::from(Body::Chunked).pass(b"0\r\n\r\n", &mut ReadBuf::new(&mut small)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_body_of_known_length_passes_to_the_byte() {
        for piece in 1..8 {
            let (out, rest, fence) = passed(Body::Length(5), b"abcdeGET", piece, 3).unwrap();
            assert_eq!((out.as_slice(), rest.as_slice(), fence), (&b"abcde"[..], &b"GET"[..], Fence::Closed));
        }
        assert_eq!(passed(Body::None, b"GET", 3, 9).unwrap().1, b"GET");
    }
}
