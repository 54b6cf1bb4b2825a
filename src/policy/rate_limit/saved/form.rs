//! The form in which buckets leave the process: into a file, or to a process that takes over.
//!
//! It begins with a mark and a version, which any version can read. Then come frames: a byte for the kind, the length, the
//! content, and the first eight bytes of a SHA-256 over all frames so far. So what is cut short, damaged or in another order ends
//! the reading there; what came before is good, as buckets do not depend on each other. Numbers have the lowest byte first.
//!
//! | frame | content |
//! |---|---|
//! | begin | when debts were taken, and when the process began that wrote them, in nanoseconds since 1970 |
//! | table | one limit's [`Head`]: how it is found, the secret of its keys, its rates |
//! | buckets | buckets of the table before, [`Saved::BYTES`] each |
//! | penalties | keys of that table that are cooled off, or were lately, [`SavedPenalty::BYTES`] each |
//! | end | how many buckets there are |
//!
//! A reader holds one frame, 64 KiB, however long the stream is.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};
use zeroize::Zeroizing;

use super::Saved;
use crate::policy::rate_limit::fleet::SavedClaim;
use crate::policy::rate_limit::penalty::SavedPenalty;
use crate::policy::rate_limit::{Gcra, HashKey};

const MARK: &[u8; 12] = b"PortcullisRL";
/// Another way to place keys in a table is another version too.
const VERSION: u32 = 2;
/// The longest content of a frame.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 10;
const CHECK_BYTES: usize = 8;
/// Kind and length.
const START_BYTES: usize = 5;

const BEGIN: u8 = 1;
const TABLE: u8 = 2;
const BUCKETS: u8 = 3;
const END: u8 = 4;
const PENALTIES: u8 = 5;
const LEASES: u8 = 6;
const CLAIMS: u8 = 7;

/// What is said of a table before its buckets.
#[derive(Clone, Debug)]
pub(in crate::policy::rate_limit) struct Head {
    /// By which it is found: kind, name, key.
    pub(in crate::policy::rate_limit) definition: Box<str>,
    pub(in crate::policy::rate_limit) hash: HashKey,
    pub(in crate::policy::rate_limit) sets: u32,
    pub(in crate::policy::rate_limit) classes: Vec<ClassHead>,
}

/// What keys of one class may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy::rate_limit) struct ClassHead {
    pub(in crate::policy::rate_limit) class: u8,
    /// The value that has this limit of its own; empty for the class 0, of all others.
    pub(in crate::policy::rate_limit) value: Box<str>,
    pub(in crate::policy::rate_limit) gcra: Gcra,
}

/// Why a stream ends before its end.
#[derive(Debug)]
pub(super) enum Unusable {
    Foreign,
    Version(u32),
    Damaged,
    Cut,
    Late,
    Io(io::Error),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("it is none of the gateway's"),
            Self::Version(version) => write!(f, "it is of version {version}, this gateway's is {VERSION}"),
            Self::Damaged => f.write_str("it is damaged"),
            Self::Cut => f.write_str("it ends too early"),
            Self::Late => f.write_str("to read it takes too long"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof { Self::Cut } else { Self::Io(error) }
    }
}

/// Writes frames.
pub(super) struct Writer<'a> {
    to: &'a mut dyn Write,
    sum: Context,
    frame: Zeroizing<Vec<u8>>,
    bytes: u64,
    buckets: u64,
}

impl<'a> Writer<'a> {
    /// `taken` is when debts are taken, `began` when this process did, in nanoseconds since 1970.
    pub(super) fn begin(to: &'a mut dyn Write, taken: u64, began: u64) -> io::Result<Self> {
        to.write_all(MARK)?;
        to.write_all(&VERSION.to_le_bytes())?;
        let frame = Zeroizing::new(Vec::with_capacity(START_BYTES + FRAME_BYTES_MAX + CHECK_BYTES));
        let mut own = Self { to, sum: Context::new(&SHA256), frame, bytes: 0, buckets: 0 };
        own.write(BEGIN, |content| {
            content.extend_from_slice(&taken.to_le_bytes());
            content.extend_from_slice(&began.to_le_bytes());
        })?;
        Ok(own)
    }

    /// Whether there is room for it in a frame; where there is not, nothing is written.
    pub(super) fn table(&mut self, head: &Head) -> io::Result<bool> {
        if !head.fits() {
            return Ok(false);
        }
        self.write(TABLE, |content| head.push(content))?;
        Ok(true)
    }

    /// The next buckets of the table before, as many as fit in a frame; whether there may be more.
    pub(super) fn some_buckets(&mut self, saved: &mut impl Iterator<Item = Saved>) -> io::Result<bool> {
        let (number, is_full) = self.some(BUCKETS, &mut saved.map(Saved::to_bytes))?;
        self.buckets += number;
        Ok(is_full)
    }

    /// The next penalties of the table before, as many as fit in a frame; whether there may be more.
    pub(super) fn some_penalties(
        &mut self,
        saved: &mut impl Iterator<Item = SavedPenalty>,
    ) -> io::Result<bool> {
        Ok(self.some(PENALTIES, &mut saved.map(SavedPenalty::to_bytes))?.1)
    }

    /// Whose claims come next. Whether there is room for the name in a frame.
    pub(super) fn leases(&mut self, definition: &str) -> io::Result<bool> {
        if definition.len() > FRAME_BYTES_MAX {
            return Ok(false);
        }
        self.write(LEASES, |content| content.extend_from_slice(definition.as_bytes()))?;
        Ok(true)
    }

    /// The next claims of the leases before, as many as fit in a frame; whether there may be more.
    pub(super) fn some_claims(&mut self, saved: &mut impl Iterator<Item = SavedClaim>) -> io::Result<bool> {
        Ok(self.some(CLAIMS, &mut saved.map(SavedClaim::to_bytes))?.1)
    }

    /// How many bytes have been written.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the stream: how many buckets there are.
    pub(super) fn end(mut self) -> io::Result<u64> {
        let buckets = self.buckets;
        self.write(END, |content| content.extend_from_slice(&buckets.to_le_bytes()))?;
        Ok(buckets)
    }

    /// How many there were, and whether the frame is full.
    fn some<const LENGTH: usize>(
        &mut self,
        kind: u8,
        items: &mut impl Iterator<Item = [u8; LENGTH]>,
    ) -> io::Result<(u64, bool)> {
        let (most, mut number) = (FRAME_BYTES_MAX / LENGTH, 0);
        self.write(kind, |content| {
            for item in items.take(most) {
                content.extend_from_slice(&item);
                number += 1;
            }
        })?;
        Ok((number as u64, number == most))
    }

    fn write(&mut self, kind: u8, content: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.frame.clear();
        self.frame.extend_from_slice(&[kind, 0, 0, 0, 0]);
        content(&mut self.frame);
        let length = u32::try_from(self.frame.len() - START_BYTES).map_err(io::Error::other)?;
        let places = self.frame.iter_mut().skip(1);
        places.zip(length.to_le_bytes()).for_each(|(to, from)| *to = from);
        let check = checked(&mut self.sum, &[&self.frame]);
        self.frame.extend_from_slice(&check);
        self.bytes += self.frame.len() as u64;
        self.to.write_all(&self.frame)
    }
}

/// Reads frames.
pub(super) struct Reader<'a> {
    from: &'a mut dyn Read,
    sum: Context,
    frame: Zeroizing<Vec<u8>>,
    taken: u64,
    began: u64,
    buckets: u64,
}

/// What comes next.
pub(super) enum Frame<'a> {
    Table(Head),
    Buckets(&'a [[u8; Saved::BYTES]]),
    Penalties(&'a [[u8; SavedPenalty::BYTES]]),
    Leases(&'a str),
    Claims(&'a [[u8; SavedClaim::BYTES]]),
    End,
}

impl<'a> Reader<'a> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// There is none of ours.
    pub(super) fn begin(from: &'a mut dyn Read) -> Result<Self, Unusable> {
        let (mut mark, mut version) = ([0; MARK.len()], [0; 4]);
        from.read_exact(&mut mark)?;
        if mark != *MARK {
            return Err(Unusable::Foreign);
        }
        from.read_exact(&mut version)?;
        let version = u32::from_le_bytes(version);
        if version != VERSION {
            return Err(Unusable::Version(version));
        }
        let frame = Zeroizing::new(Vec::with_capacity(FRAME_BYTES_MAX + CHECK_BYTES));
        let mut own = Self { from, sum: Context::new(&SHA256), frame, taken: 0, began: 0, buckets: 0 };
        let kind = own.read()?;
        let [taken, began] = match own.frame.as_chunks() {
            ([taken, began], []) if kind == BEGIN => [*taken, *began].map(u64::from_le_bytes),
            _ => return Err(Unusable::Damaged),
        };
        (own.taken, own.began) = (taken, began);
        Ok(own)
    }

    /// When the process began that wrote it, in nanoseconds since 1970.
    pub(super) const fn began(&self) -> u64 {
        self.began
    }

    /// When debts were taken, in nanoseconds since 1970.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    /// The next frame.
    ///
    /// # Errors
    /// It is not there, or not as it was written. Nothing is to be read after that.
    pub(super) fn next(&mut self) -> Result<Frame<'_>, Unusable> {
        match self.read()? {
            TABLE => Head::read(&self.frame).map(Frame::Table).ok_or(Unusable::Damaged),
            BUCKETS => {
                let buckets = whole(&self.frame)?;
                self.buckets = self.buckets.saturating_add(buckets.len() as u64);
                Ok(Frame::Buckets(buckets))
            }
            PENALTIES => whole(&self.frame).map(Frame::Penalties),
            LEASES => std::str::from_utf8(&self.frame).map(Frame::Leases).map_err(|_| Unusable::Damaged),
            CLAIMS => whole(&self.frame).map(Frame::Claims),
            END if *self.frame == self.buckets.to_le_bytes() => Ok(Frame::End),
            _ => Err(Unusable::Damaged),
        }
    }

    /// Reads a frame's content and returns its kind.
    fn read(&mut self) -> Result<u8, Unusable> {
        let mut start = [0; START_BYTES];
        self.from.read_exact(&mut start)?;
        let [kind, length @ ..] = start;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(Unusable::Damaged);
        }
        self.frame.clear();
        self.frame.resize(length + CHECK_BYTES, 0);
        self.from.read_exact(&mut self.frame)?;
        let (content, check) = self.frame.split_at_checked(length).ok_or(Unusable::Damaged)?;
        if check != checked(&mut self.sum, &[&start, content]) {
            return Err(Unusable::Damaged);
        }
        self.frame.truncate(length);
        Ok(kind)
    }
}

/// Things of one length, and nothing beside.
fn whole<const LENGTH: usize>(content: &[u8]) -> Result<&[[u8; LENGTH]], Unusable> {
    match content.as_chunks() {
        (things, []) => Ok(things),
        _ => Err(Unusable::Damaged),
    }
}

/// The check of a frame, which is of all before it too.
fn checked(sum: &mut Context, parts: &[&[u8]]) -> [u8; CHECK_BYTES] {
    parts.iter().for_each(|part| sum.update(part));
    let digest = sum.clone().finish();
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

impl Head {
    /// Whether it can be written.
    pub(in crate::policy::rate_limit) fn fits(&self) -> bool {
        self.length() <= FRAME_BYTES_MAX
    }

    fn length(&self) -> usize {
        let classes = self.classes.iter().map(|class| 1 + Gcra::BYTES + 2 + class.value.len());
        16 + 4 + 2 + self.definition.len() + classes.sum::<usize>()
    }

    fn push(&self, content: &mut Vec<u8>) {
        content.extend_from_slice(&**self.hash.bytes());
        content.extend_from_slice(&self.sets.to_le_bytes());
        push_text(content, &self.definition);
        for ClassHead { class, value, gcra } in &self.classes {
            content.push(*class);
            content.extend_from_slice(&gcra.to_bytes());
            push_text(content, value);
        }
    }

    /// None where it is not what [`Head::push`] writes.
    fn read(mut content: &[u8]) -> Option<Self> {
        let from = &mut content;
        let hash = HashKey::from_bytes(Zeroizing::new(bytes(from)?));
        let sets = u32::from_le_bytes(bytes(from)?);
        let definition = text(from)?;
        let mut classes = Vec::new();
        while !from.is_empty() {
            let [class] = bytes(from)?;
            let gcra = Gcra::from_bytes(&bytes(from)?)?;
            classes.push(ClassHead { class, gcra, value: text(from)? });
        }
        Some(Self { definition, hash, sets, classes })
    }
}

/// A text is shorter than a frame.
fn push_text(content: &mut Vec<u8>, text: &str) {
    content.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    content.extend_from_slice(text.as_bytes());
}

fn bytes<const LENGTH: usize>(from: &mut &[u8]) -> Option<[u8; LENGTH]> {
    let (first, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*first)
}

fn text(from: &mut &[u8]) -> Option<Box<str>> {
    let length = u16::from_le_bytes(bytes(from)?);
    let (text, rest) = from.split_at_checked(length.into())?;
    *from = rest;
    std::str::from_utf8(text).ok().map(Into::into)
}
