//! Of a key of any length, the 128 bits by which it is found.
//!
//! SipHash-1-3 with a secret of this gateway's: who does not know it cannot make two keys that are taken for one, nor keys that
//! fall into one set of a table. Half of the bits are the key's fingerprint, the others choose its place, so a key is taken for
//! another only if it falls into the same set *and* has its fingerprint: 56 bits, as 8 tell its class. The two sets of a key
//! hold fourteen, so a new key meets its like there with probability 14 · 2⁻⁵⁶: of 10⁹ keys one in five million times.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher13};
use zeroize::Zeroizing;

/// The secret that keys are hashed with. It goes with what is saved by it.
#[derive(Clone)]
pub struct HashKey {
    bytes: Zeroizing<[u8; 16]>,
}

impl HashKey {
    /// A new one; none where the machine has no randomness.
    pub fn random() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 16]);
        aws_lc_rs::rand::fill(&mut *bytes).ok()?;
        Some(Self { bytes })
    }

    /// One that was saved.
    pub const fn from_bytes(bytes: Zeroizing<[u8; 16]>) -> Self {
        Self { bytes }
    }

    /// To be saved where nobody else reads it.
    pub const fn bytes(&self) -> &Zeroizing<[u8; 16]> {
        &self.bytes
    }

    /// Begins a key. Allocates nothing, however long it becomes.
    pub fn hasher(&self) -> KeyHasher {
        KeyHasher { state: SipHasher13::new_with_key(&self.bytes) }
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashKey").finish_non_exhaustive()
    }
}

/// A key that is being read, part by part.
#[derive(Clone)]
pub struct KeyHasher {
    state: SipHasher13,
}

impl KeyHasher {
    /// Adds a part. Parts do not run into each other: `ab`, `c` is not `a`, `bc`.
    pub fn part(&mut self, bytes: &[u8]) {
        self.state.write_u64(bytes.len() as u64);
        self.state.write(bytes);
    }

    /// The key, of the class of those that share a [`Gcra`](super::Gcra). Keys of different classes are different keys.
    pub fn finish(&self, class: u8) -> KeyHash {
        let hash = self.state.finish128();
        KeyHash { fingerprint: (hash.h1 & !0xff) | u64::from(class), place: hash.h2 }
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyHasher").finish_non_exhaustive()
    }
}

/// A key, as tables know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash {
    /// The lowest eight bits are the class.
    pub(super) fingerprint: u64,
    pub(super) place: u64,
}

impl KeyHash {
    /// From bits that are evenly distributed and that nobody outside can choose.
    pub const fn from_bits(fingerprint: u64, place: u64) -> Self {
        Self { fingerprint, place }
    }

    /// Which class of keys it is of: those that share a [`Gcra`](super::Gcra).
    pub const fn class(self) -> u8 {
        Self::class_of(self.fingerprint)
    }

    /// The same, by the fingerprint alone.
    pub(super) const fn class_of(fingerprint: u64) -> u8 {
        fingerprint.to_le_bytes()[0]
    }

    /// Both halves, as [`KeyHash::from_bits`] takes them.
    pub const fn bits(self) -> (u64, u64) {
        (self.fingerprint, self.place)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn secret(byte: u8) -> HashKey {
        HashKey::from_bytes(Zeroizing::new([byte; 16]))
    }

    fn hash(secret: &HashKey, parts: &[&[u8]], class: u8) -> KeyHash {
        let mut hasher = secret.hasher();
        parts.iter().for_each(|part| hasher.part(part));
        hasher.finish(class)
    }

    #[test]
    fn keys_are_told_apart_by_secret_parts_and_class() {
        let parts: &[&[&[u8]]] =
            &[&[], &[b""], &[b"", b""], &[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"], &[b"abc", b""]];
        let mut seen = HashSet::new();
        for secret in [secret(1), secret(2)] {
            for parts in parts {
                for class in [0, 1, 255] {
                    let key = hash(&secret, parts, class);
                    assert_eq!(key, hash(&secret, parts, class));
                    assert_eq!(key.fingerprint & 0xff, u64::from(class));
                    assert!(seen.insert(key.fingerprint), "{parts:?}");
                }
                assert!(seen.insert(hash(&secret, parts, 0).place), "{parts:?}");
            }
        }
    }

    #[test]
    fn a_long_key_is_read_to_its_end() {
        let long = vec![b'k'; 8 << 10];
        let mut other = long.clone();
        *other.last_mut().unwrap() = b'l';
        let secret = secret(3);
        assert_ne!(hash(&secret, &[&long], 0), hash(&secret, &[&other], 0));
    }

    #[test]
    fn secrets_are_new_and_are_not_shown() {
        let (one, other) = (HashKey::random().unwrap(), HashKey::random().unwrap());
        assert_ne!(one.bytes(), other.bytes());
        let shown = format!("{:?}{:?}", secret(77), secret(77).hasher());
        assert!(!shown.contains("77"), "{shown}");
    }
}
