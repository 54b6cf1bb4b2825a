//! A bucket on its way into another table, or into a file.
//!
//! What keys owe outlives the process: when it ends it writes all buckets below full into one file of `server.state`
//! ([`LimitsFile`]), and the next one reads it before it serves anybody. [`form`] is what stands in the file, [`carry`] is what
//! a table gives and takes.

mod carry;
mod file;
mod form;
mod retired;

pub use carry::Kept;
pub use file::LimitsFile;
pub(super) use form::{ClassHead, Head};

use std::time::Duration;

use super::gcra::Gcra;

/// What a key owes: 20 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    pub(super) set: u32,
    pub(super) fingerprint: u64,
    /// In nanoseconds from when it was saved.
    pub(super) debt: u64,
}

impl Saved {
    /// Its length in bytes.
    pub const BYTES: usize = 20;

    /// Which class of keys it is of: those that share a [`Gcra`].
    pub const fn class(&self) -> u8 {
        self.fingerprint.to_le_bytes()[0]
    }

    /// In nanoseconds from when it was saved.
    pub(super) const fn debt(&self) -> u64 {
        self.debt
    }

    /// The same bucket when this time has passed.
    #[must_use]
    pub fn aged(self, age: Duration) -> Self {
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        Self { debt: self.debt.saturating_sub(age), ..self }
    }

    /// The same bucket under a new limit: see [`Gcra`].
    #[must_use]
    pub fn scaled(self, old: &Gcra, new: &Gcra) -> Self {
        Self { debt: old.scaled(self.debt, new), ..self }
    }

    /// The same bucket in another class.
    #[must_use]
    pub fn in_class(self, class: u8) -> Self {
        Self { fingerprint: (self.fingerprint & !0xff) | u64::from(class), ..self }
    }

    /// To be written: set, fingerprint, debt, each with the lowest byte first.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let fields = self.set.to_le_bytes().into_iter().chain(self.fingerprint.to_le_bytes());
        bytes.iter_mut().zip(fields.chain(self.debt.to_le_bytes())).for_each(|(to, from)| *to = from);
        bytes
    }

    /// As it was written. Any bytes are a bucket; which are ours, the file must know.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut bytes = bytes.iter().copied();
        let mut number = |length: u32| {
            (0..length)
                .fold(0_u64, |number, at| number | u64::from(bytes.next().unwrap_or_default()) << (8 * at))
        };
        let set = u32::try_from(number(4)).unwrap_or(u32::MAX);
        Self { set, fingerprint: number(8), debt: number(8) }
    }
}
