//! Classes of bytes: by a table for names, eight at a time for what is most of a head.

/// A character of a token (RFC 9110 §5.6.2).
#[expect(clippy::indexing_slicing, reason = "there are 256 of them, one for each byte")]
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// A table: every byte of every name is looked up.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        #[expect(clippy::indexing_slicing, reason = "a byte")]
        {
            table[byte as usize] = byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
        }
        byte += 1;
    }
    table
};

/// Whether all are characters of a field's value: visible, space, tab, or obs-text (RFC 9110 §5.5).
pub(super) fn is_value(bytes: &[u8]) -> bool {
    find_control(bytes).is_none()
}

/// Where the first byte is that no field's value may have. In a head with one reading that is the CR at the end of the line: one
/// pass finds the line's end and judges the value.
#[inline]
pub(super) fn find_control(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let rest = bytes.get(from..)?;
        let at = from + first(rest, controls).unwrap_or_else(|| rest.len() / 8 * 8);
        // A tab, or among the last seven bytes.
        match bytes.get(at)? {
            b'\t' | b' '..=0x7e | 0x80.. => from = at + 1,
            _ => return Some(at),
        }
    }
}

/// How many characters of a token are at the beginning of these bytes.
#[inline]
pub(super) fn token_length(bytes: &[u8]) -> usize {
    let mut length = first(bytes, |word| !plain(word) & HIGH).unwrap_or_else(|| bytes.len() / 8 * 8);
    // What is left is a colon for nearly all names; else a table tells.
    while bytes.get(length).is_some_and(|b| *b != b':' && is_token(*b)) {
        length += 1;
    }
    length
}

/// Where the first byte is whose highest bit a mask of its word has; bytes behind the last whole word are not looked at.
#[inline]
fn first(bytes: &[u8], mask: impl Fn(u64) -> u64) -> Option<usize> {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().enumerate().find_map(|(index, word)| {
        let found = mask(u64::from_le_bytes(*word));
        (found != 0).then(|| index * 8 + found.trailing_zeros() as usize / 8)
    })
}

/// One in each of eight bytes, and the highest bit of each.
const ALL: u64 = u64::MAX / 255;
const HIGH: u64 = ALL * 0x80;

/// The highest bit of bytes that are control characters: of the first that is one, and of none before. (Behind it a difference may
/// have borrowed.)
const fn controls(word: u64) -> u64 {
    let below_space = word.wrapping_sub(ALL * 0x20);
    let delete = (word ^ (ALL * 0x7f)).wrapping_sub(ALL);
    (below_space | delete) & !word & HIGH
}

/// Sets the highest bit of each of eight bytes, of 7 bits each, that is at least `least`. No sum leaves its byte.
const fn at_least(low: u64, least: u8) -> u64 {
    low + ALL * (0x80 - least as u64)
}

/// Sets the highest bit of each of the eight bytes that is a letter, a digit or a hyphen; other bits are of no meaning.
const fn plain(word: u64) -> u64 {
    let low = word & !HIGH;
    let lower = low | (ALL * 0x20);
    let letter = at_least(lower, b'a') & !at_least(lower, b'z' + 1);
    let digit = at_least(low, b'0') & !at_least(low, b'9' + 1);
    let hyphen = !at_least(low ^ (ALL * b'-' as u64), 1);
    (letter | digit | hyphen) & !word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_found_in_every_place() {
        for byte in 0..=u8::MAX {
            let control = byte.is_ascii_control() && byte != b'\t';
            for place in 0..40 {
                for around in [b'a', b'\t', b' ', 0x80, 0xff] {
                    let mut bytes = [around; 40];
                    bytes[place] = byte;
                    assert_eq!(
                        find_control(&bytes),
                        control.then_some(place),
                        "{byte:#x} behind {around:#x}"
                    );
                }
                let mut bytes = [0x7f; 40];
                bytes[..place].fill(byte);
                assert_eq!(find_control(&bytes), Some(if control { 0 } else { place }), "{byte:#x}");
            }
        }
    }

    #[test]
    fn a_token_ends_at_the_first_byte_that_it_may_not_have() {
        for byte in 0..=u8::MAX {
            for place in 0..40 {
                let mut bytes = *b"Abcdefghij-019_z`AZ9~abcdefghij-0123456-";
                bytes[place] = byte;
                let end = if is_token(byte) { 40 } else { place };
                assert_eq!(token_length(&bytes), end, "{byte:#x} at {place}");
            }
        }
        assert_eq!((token_length(b""), token_length(b": 12345678")), (0, 0));
    }
}
