//! Where the frames of HTTP/2 are in the bytes of a connection: their headers, wherever these are cut (RFC 9113 §4.1).
//!
//! Nothing is refused here; what frames may cost is the rim's business, and what they say h2's.

/// Before the first frame of a client (RFC 9113 §3.4).
pub const PREFACE: usize = 24;
/// A frame's length, type, flags and stream (RFC 9113 §4.1).
const HEADER: usize = 9;
/// Of a GOAWAY's payload: the last stream and the error code (RFC 9113 §6.8).
const PEEKED: usize = 8;
/// Content of a message (RFC 9113 §6.1).
pub const DATA: u8 = 0;
/// Begins a header block (RFC 9113 §6.2).
pub const HEADERS: u8 = 1;
/// Ends a stream, with an error code (RFC 9113 §6.4).
pub const RST_STREAM: u8 = 3;
/// Ends a connection, with an error code (RFC 9113 §6.8).
pub const GOAWAY: u8 = 7;
/// Opens a window, of a stream or of the connection, by so many bytes (RFC 9113 §6.9).
pub const WINDOW_UPDATE: u8 = 8;
/// Goes on with a header block (RFC 9113 §6.10).
pub const CONTINUATION: u8 = 9;
/// The flag of DATA and HEADERS that ends a stream's direction.
pub const END_STREAM: u8 = 0x1;
/// The flag that ends a header block.
pub const END_HEADERS: u8 = 0x4;

/// The head of a frame, and the first bytes of those whose error code or increment matters.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Bytes of its payload.
    pub length: usize,
    /// Its type (RFC 9113 §6); may be one that nobody has given a meaning.
    pub kind: u8,
    /// Its flags, whose meaning its type gives them.
    pub flags: u8,
    /// Its stream; 0 for the connection.
    pub stream: u32,
    /// The first four bytes of a RST_STREAM's or WINDOW_UPDATE's payload, the first eight of a GOAWAY's, or all where there are fewer; of others none.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Whether a flag is set.
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The number of 32 bits at this place of the payload; 0 where the frame is too short for it.
    pub fn code(self, at: usize) -> u32 {
        let bytes = self.payload.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }
}

/// Where in its frames a direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// Between two frames.
    Nothing,
    /// Within the preface.
    Preface,
    /// Within a frame's header, or the part of its payload that is wanted with it.
    Header,
    /// Within the payload of a frame of this type.
    Payload(u8),
}

/// Finds frames in what passes, wherever it is cut.
#[derive(Debug)]
pub struct Scanner {
    skip: usize,
    head: [u8; HEADER + PEEKED],
    have: usize,
    /// The type of the last frame.
    last: Option<u8>,
}

impl Scanner {
    /// For a direction whose first frame comes after so many bytes: [`PREFACE`] from a client.
    pub fn after(preface: usize) -> Self {
        Self { skip: preface, head: [0; HEADER + PEEKED], have: 0, last: None }
    }

    /// What has been begun and not finished.
    pub fn unfinished(&self) -> Unfinished {
        match (self.have, self.skip) {
            (0, 0) => Unfinished::Nothing,
            (0, _) => self.last.map_or(Unfinished::Preface, Unfinished::Payload),
            _ => Unfinished::Header,
        }
    }

    /// Tells each frame as soon as its header, and what is wanted of its payload, has passed. The next bytes go on where these end.
    pub fn scan(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame<'_>)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
            let missing = HEADER + self.peeked() - self.have;
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            if let Some(room) = self.head.get_mut(self.have..self.have + taken.len()) {
                room.copy_from_slice(taken);
            }
            self.have += taken.len();
            bytes = rest;
            let peeked = self.peeked();
            if self.have < HEADER + peeked {
                continue;
            }
            let [a, b, c, kind, flags, id @ .., _, _, _, _, _, _, _, _] = self.head;
            let stream = u32::from_be_bytes(id) & (u32::MAX >> 1);
            let length = self.length();
            let payload = self.head.get(HEADER..HEADER + peeked).unwrap_or_default();
            debug_assert_eq!([a, b, c], length.to_be_bytes()[5..]);
            each(Frame { length, kind, flags, stream, payload });
            self.last = Some(kind);
            self.skip = length - peeked;
            self.have = 0;
        }
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head.map(usize::from);
        a << 16 | b << 8 | c
    }

    /// How much of the payload is wanted, once the header is there.
    fn peeked(&self) -> usize {
        let [.., kind] = *self.head.first_chunk::<4>().unwrap_or(&[0; 4]);
        let wanted = match kind {
            _ if self.have < HEADER => 0,
            RST_STREAM | WINDOW_UPDATE => 4,
            GOAWAY => PEEKED,
            _ => 0,
        };
        self.length().min(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 0x1;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn where_a_direction_is_can_be_asked() {
        let mut scanner = Scanner::after(PREFACE);
        assert_eq!(scanner.unfinished(), Unfinished::Preface);
        scanner.scan(&[0; PREFACE], |_| {});
        assert_eq!(scanner.unfinished(), Unfinished::Nothing);
        let bytes = frame(HEADERS, END_HEADERS, b"abc");
        for (n, byte) in bytes.iter().enumerate() {
            scanner.scan(&[*byte], |frame| assert_eq!(frame.stream, 1));
            let now = match n + 1 {
                ..HEADER => Unfinished::Header,
                at if at < bytes.len() => Unfinished::Payload(HEADERS),
                _ => Unfinished::Nothing,
            };
            assert_eq!(scanner.unfinished(), now, "{n}");
        }
    }

    /// What comes of these frames, in pieces of `cut` bytes.
    fn seen(bytes: &[u8], cut: usize, preface: usize) -> Vec<(u8, u8, usize, Vec<u8>)> {
        let mut scanner = Scanner::after(preface);
        let mut seen = Vec::new();
        for piece in bytes.chunks(cut) {
            scanner.scan(piece, |f| seen.push((f.kind, f.flags, f.length, f.payload.to_vec())));
        }
        seen
    }

    #[test]
    fn frames_are_found_wherever_they_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, &[0; 12]));
        bytes.extend(frame(DATA, END_STREAM, &[7; 300]));
        bytes.extend(frame(RST_STREAM, 0, &[0, 0, 0, 8]));
        bytes.extend(frame(DATA, 0, &[]));
        bytes.extend(frame(GOAWAY, 0, &[0, 0, 0, 1, 0, 0, 0, 11, b'x', b'y']));
        bytes.extend(frame(RST_STREAM, 0, &[9]));
        bytes.extend(frame(99, 0, &[0; 70]));
        let whole = [
            (SETTINGS, 0, 12, vec![]),
            (DATA, END_STREAM, 300, vec![]),
            (RST_STREAM, 0, 4, vec![0, 0, 0, 8]),
            (DATA, 0, 0, vec![]),
            (GOAWAY, 0, 10, vec![0, 0, 0, 1, 0, 0, 0, 11]),
            (RST_STREAM, 0, 1, vec![9]),
            (99, 0, 70, vec![]),
        ];
        for cut in 1..bytes.len() {
            assert_eq!(seen(&bytes, cut, PREFACE), whole, "in pieces of {cut}");
        }
    }
}
