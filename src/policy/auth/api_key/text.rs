//! What a key looks like: `pk_ID_SECRET`, with an id that may be told to anybody and 256 bits that may not.

use zeroize::Zeroizing;

use super::table::Hash;
use crate::config::Secret;

/// Letters and digits: a double click selects all of a key, and it stands in a URL as it is.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 62^43 > 2^256.
const SECRET_DIGITS: usize = 43;
/// 36^12 are 62 bits: ids of a million keys meet once in ten million tries.
const ID_DIGITS: usize = 12;
/// The lengths that a key may have, those made elsewhere included (AWS: 20–128 characters).
pub(super) const LENGTHS: std::ops::RangeInclusive<usize> = 20..=128;

/// A new id: twelve lower-case letters and digits.
///
/// # Errors
/// The system gives no random bytes.
pub(super) fn new_id() -> Result<String, NoRandomness> {
    let mut id = String::with_capacity(ID_DIGITS);
    while id.len() < ID_DIGITS {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        // The first 36 of the 62 digits, upper case lowered; bytes beyond the last multiple of 36 would favour some.
        let fit = bytes.iter().filter(|byte| **byte < 252).map(|byte| usize::from(byte % 36));
        let digits = fit.filter_map(|number| DIGITS.get(number)).map(|digit| digit.to_ascii_lowercase());
        id.extend(digits.map(char::from).take(ID_DIGITS - id.len()));
    }
    Ok(id)
}

/// A new key of this id.
///
/// # Errors
/// The system gives no random bytes.
pub(super) fn new_key(id: &str) -> Result<Secret, NoRandomness> {
    let mut number = Zeroizing::new([0_u8; 32]);
    aws_lc_rs::rand::fill(&mut *number).map_err(|_| NoRandomness)?;
    let mut key = String::with_capacity(4 + id.len() + SECRET_DIGITS);
    key.push_str("pk_");
    key.push_str(id);
    key.push('_');
    for _ in 0..SECRET_DIGITS {
        key.push(char::from(next_digit(&mut number)));
    }
    Ok(Secret::new(key))
}

/// Whether a text looks as keys look that were made here.
pub(super) fn has_our_form(text: &str) -> bool {
    let parts = text.strip_prefix("pk_").and_then(|rest| rest.split_once('_'));
    let is_plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric());
    parts.is_some_and(|(id, secret)| {
        (id.len(), secret.len()) == (ID_DIGITS, SECRET_DIGITS) && is_plain(id) && is_plain(secret)
    })
}

/// Divides a number (the greatest byte first) by 62, and gives the digit that is left.
fn next_digit(number: &mut [u8; 32]) -> u8 {
    let mut rest = 0_u16;
    for byte in number {
        let value = rest << 8 | u16::from(*byte);
        *byte = u8::try_from(value / 62).unwrap_or_default();
        rest = value % 62;
    }
    DIGITS.get(usize::from(rest)).copied().unwrap_or(b'0')
}

/// What is kept of a key.
pub(super) fn hash(key: &[u8]) -> Hash {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

/// The system gives no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRandomness;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_plain_text_of_their_id_and_never_twice_the_same() {
        let mut seen = BTreeSet::new();
        for _ in 0..1000 {
            let id = new_id().unwrap();
            let key = new_key(&id).unwrap();
            assert_eq!(id.len(), 12);
            assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{id}");
            let secret = key.strip_prefix(&format!("pk_{id}_")).unwrap();
            assert_eq!(secret.len(), 43);
            assert!(secret.bytes().all(|b| b.is_ascii_alphanumeric()), "{}", &*key);
            assert!(
                LENGTHS.contains(&key.len()) && has_our_form(&key) && !has_our_form(&format!("x{}", &*key))
            );
            assert!(seen.insert(id) && seen.insert(key.to_string()));
        }
    }

    #[test]
    fn all_256_bits_are_in_the_digits() {
        let digits = |mut number: [u8; 32]| (0..43).map(|_| next_digit(&mut number)).collect::<Vec<_>>();
        let mut seen = BTreeSet::from([digits([0; 32]), digits([255; 32])]);
        for bit in 0..256 {
            let mut number = [0; 32];
            number[bit / 8] = 1 << (bit % 8);
            assert!(seen.insert(digits(number)), "bit {bit}");
        }
        let mut rest = [255; 32];
        for _ in 0..43 {
            next_digit(&mut rest);
        }
        assert_eq!(rest, [0; 32], "43 digits hold it whole");
    }
}
