//! A strict scanner of chunked bodies (RFC 9112 §7.1): it says where the body ends and changes nothing.

/// Bytes of extensions in one chunk's line.
const EXTENSION_BYTES: u32 = 1024;
/// Bytes of extensions in a whole body: one-byte chunks with long extensions cost more than they carry.
const EXTENSIONS_BYTES: u32 = 16 * 1024;
/// Bytes of trailers.
const TRAILERS: u32 = 8 * 1024;

/// Why a chunked body cannot be read in one way only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked body: {0}")]
pub struct BadChunk(pub &'static str);

impl BadChunk {
    /// Extensions beyond a bound.
    pub const EXTENSIONS: Self = Self("chunk extensions are longer than allowed");
    /// Trailers beyond their bound.
    pub const TRAILERS: Self = Self("trailers are longer than allowed");
}

/// A chunked body on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    size: u64,
    carried: u64,
    line: u32,
    extensions: u32,
    trailers: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension(Extension),
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerFeed,
    EndFeed,
    Done,
}

/// Where in a chunk's extensions: `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 §7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// A name is to come.
    Begins,
    Name,
    /// White space behind a name, or a value.
    AfterName,
    AfterValue,
    /// A value is to come.
    Equals,
    Token,
    Quoted,
    Escaped,
}

impl Extension {
    /// The next byte; none where there cannot be such a one. A CR ends them where one may.
    fn step(self, byte: u8) -> Option<Self> {
        let is_token = super::bytes::is_token(byte);
        Some(match (self, byte) {
            (Self::Begins | Self::Equals | Self::AfterName | Self::AfterValue, b'\t' | b' ') => self,
            (Self::Name, b'\t' | b' ') => Self::AfterName,
            (Self::Token, b'\t' | b' ') => Self::AfterValue,
            (Self::Begins | Self::Name, _) if is_token => Self::Name,
            (Self::Equals | Self::Token, _) if is_token => Self::Token,
            (Self::Name | Self::AfterName, b'=') => Self::Equals,
            (Self::Name | Self::AfterName | Self::Token | Self::AfterValue, b';') => Self::Begins,
            (Self::Equals, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::AfterValue,
            (Self::Quoted, b'\\') => Self::Escaped,
            (Self::Quoted | Self::Escaped, b'\t' | 0x20..=0x7e | 0x80..) => Self::Quoted,
            _ => return None,
        })
    }

    fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::AfterName | Self::Token | Self::AfterValue)
    }
}

impl Default for Chunked {
    fn default() -> Self {
        Self { state: State::Size, size: 0, carried: 0, line: 0, extensions: 0, trailers: 0 }
    }
}

impl Chunked {
    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of content so far, without what they are wrapped in.
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// Takes the next bytes and says how many of them belong to the body: fewer than given only at its end.
    ///
    /// # Errors
    /// What makes the body ambiguous; the connection is of no use afterwards.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        self.unwrap(bytes, |_| {})
    }

    /// As [`Chunked::scan`], and gives the content piece by piece, without what it is wrapped in.
    ///
    /// # Errors
    /// As [`Chunked::scan`]; what was before the mistake has been given.
    pub fn unwrap(&mut self, bytes: &[u8], mut content: impl FnMut(&[u8])) -> Result<usize, BadChunk> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && let Some(byte) = rest.first()
        {
            match self.state {
                State::Done => break,
                State::Data => {
                    let here = rest.len().min(usize::try_from(self.size).unwrap_or(usize::MAX));
                    content(rest.get(..here).unwrap_or_default());
                    let count = u64::try_from(here).unwrap_or(u64::MAX);
                    self.size -= count;
                    self.carried = self.carried.saturating_add(count);
                    at += here;
                    if self.size == 0 {
                        self.state = State::DataReturn;
                    }
                }
                _ => {
                    self.state = self.step(*byte)?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    /// One byte outside of a chunk's data.
    fn step(&mut self, byte: u8) -> Result<State, BadChunk> {
        match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte),
            (State::Size, b'\r') if self.line > 0 => Ok(State::SizeFeed),
            (State::Size, b';') if self.line > 0 => {
                self.line = 0;
                Ok(State::Extension(Extension::Begins))
            }
            (State::Size, _) => Err(BadChunk("a chunk's size is not hexadecimal")),
            (State::Extension(extension), b'\r') if extension.may_end() => Ok(State::SizeFeed),
            (State::Extension(extension), _) => {
                self.line += 1;
                self.extensions += 1;
                if self.line > EXTENSION_BYTES || self.extensions > EXTENSIONS_BYTES {
                    return Err(BadChunk::EXTENSIONS);
                }
                let next = extension.step(byte).map(State::Extension);
                next.ok_or(BadChunk("a chunk extension is not `;name` or `;name=value`"))
            }
            (State::SizeFeed, b'\n') => {
                self.line = 0;
                Ok(if self.size == 0 { State::TrailerStart } else { State::Data })
            }
            (State::DataReturn, b'\r') => Ok(State::DataFeed),
            (State::DataFeed, b'\n') => Ok(State::Size),
            (State::DataReturn | State::DataFeed, _) => Err(BadChunk("a chunk is longer than its size")),
            (State::TrailerStart, b'\r') => Ok(State::EndFeed),
            (State::EndFeed, b'\n') => Ok(State::Done),
            (State::TrailerStart | State::TrailerName | State::TrailerValue, _) => self.trailer(byte),
            (State::TrailerFeed, b'\n') => Ok(State::TrailerStart),
            (State::SizeFeed | State::TrailerFeed | State::EndFeed, _) => {
                Err(BadChunk("a carriage return stands alone"))
            }
            (State::Data | State::Done, _) => Ok(self.state),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<State, BadChunk> {
        self.line += 1;
        // 15 digits always fit; leading zeros count, or a size could be written without end.
        if self.line > 15 {
            return Err(BadChunk("a chunk's size is too large"));
        }
        let digit = char::from(byte).to_digit(16).unwrap_or_default();
        self.size = self.size * 16 + u64::from(digit);
        Ok(State::Size)
    }

    fn trailer(&mut self, byte: u8) -> Result<State, BadChunk> {
        self.trailers += 1;
        if self.trailers > TRAILERS {
            return Err(BadChunk::TRAILERS);
        }
        match (self.state, byte) {
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerValue, b'\r') => Ok(State::TrailerFeed),
            (State::TrailerValue, b'\t' | 0x20..=0x7e | 0x80..) => Ok(State::TrailerValue),
            (State::TrailerStart | State::TrailerName, byte) if super::bytes::is_token(byte) => {
                Ok(State::TrailerName)
            }
            _ => Err(BadChunk("a trailer is not a field")),
        }
    }
}
