//! What a key looks like: `pk_ID_SECRET`, with an id that may be told to anybody and 256 bits that may not.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
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
/// How often a value is decoded: once by a gateway, once by a server behind it.
const DECODED_MAX: usize = 2;

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

/// Whether a text could be a key's id.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Whether a text looks as keys look that were made here.
pub(super) fn has_our_form(text: &str) -> bool {
    let parts = text.strip_prefix("pk_").and_then(|rest| rest.split_once('_'));
    let is_plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric());
    parts.is_some_and(|(id, secret)| {
        (id.len(), secret.len()) == (ID_DIGITS, SECRET_DIGITS) && is_plain(id) && is_plain(secret)
    })
}

/// Whether a value is a key by `is_one`, or holds one that somebody has dressed up: in quotes, behind a scheme (`Bearer …`), in a list, as the
/// value of a name, with percent signs for some of its bytes, or for the percent signs of these. One server or another reads the key in
/// it all the same. Costs a pass over the value, and a question a part of it that is as long as a key.
pub(super) fn is_in(value: &str, is_one: impl Fn(&str) -> bool) -> bool {
    let mut text = Cow::Borrowed(value);
    for _ in 0..=DECODED_MAX {
        if text.len() < *LENGTHS.start() {
            return false;
        }
        let is_wide = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | ';');
        let is_narrow = |c: char| {
            is_wide(c) || matches!(c, '=' | ':' | '&' | '<' | '>' | '(' | ')' | '[' | ']' | '{' | '}')
        };
        let parts = text.split(is_wide).chain(text.split(is_narrow));
        if std::iter::once(&*text).chain(parts).any(|part| LENGTHS.contains(&part.len()) && is_one(part)) {
            return true;
        }
        if !text.contains('%') {
            return false;
        }
        text = Cow::Owned(percent_decode_str(&text).decode_utf8_lossy().into_owned());
    }
    false
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
            assert!(is_id(&id), "{id}");
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
    fn a_key_is_found_however_it_is_dressed_up() {
        let key = format!("pk_{}_{}", "a".repeat(12), "B".repeat(43));
        let foreign = "c2VjcmV0IG9mIGFub3RoZXIgZ2F0ZXdheQ==";
        let is_one = |text: &str| has_our_form(text) || text == foreign;
        let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        for key in [&key, foreign] {
            for value in [
                key.to_owned(),
                format!("\"{key}\""),
                format!("'{key}'"),
                format!("Bearer {key}"),
                format!("ApiKey  \"{key}\" "),
                format!("{key}, {key}"),
                format!("x, {key}"),
                format!("other\t{key}"),
                escaped(key),
                escaped(&escaped(key)),
                escaped(&format!("Bearer {key}")),
                format!("\"{}\"", escaped(key)),
                key.replacen('c', "%63", 1).replacen('p', "%70", 1),
            ] {
                assert!(is_in(&value, is_one), "{value}");
            }
            for value in [
                format!("x{key}"),
                format!("{key}.{key}"),
                key.to_uppercase(),
                "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln".to_owned(),
                "100%".repeat(10),
                String::new(),
            ] {
                assert!(!is_in(&value, is_one), "{value}");
            }
        }
        for value in [format!("key={key}"), format!("{{\"key\":\"{key}\"}}"), format!("ApiKey:{key}")] {
            assert!(is_in(&value, is_one), "{value}");
        }
        // Bounded, whatever stands there.
        let asked = std::cell::Cell::new(0);
        let long = "aaaaaaaaaaaaaaaaaaaa ".repeat(3000);
        is_in(&long, |_| {
            asked.set(asked.get() + 1);
            false
        });
        assert_eq!(asked.get(), 6000);
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
