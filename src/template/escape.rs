//! How a value is written where it stands: in a log line, a header field, an address, JSON, HTML.

/// Where a text goes, and so what its values must not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// A line of a log: printable ASCII; the rest, quotes and backslashes are `\xNN`, so that a line can neither be split nor
    /// forged. What is not known is `-`.
    Log,
    /// A header field's value: printable ASCII; the rest is `\xNN`, and so is a backslash before `x` (`\x5Cx`) and a space at either
    /// end, which whoever reads the field takes away. So two values never arrive alike; `DOMAIN\user` stays as it is.
    Header,
    /// An address: in a path what is no `pchar` (RFC 3986 §3.3) is percent-encoded and escapes stay as they are; in an authority
    /// and in a query all that is not unreserved is.
    Url,
    /// A text in JSON, within quotes the template has.
    Json,
    /// A text in HTML or XML, in an attribute too.
    Html,
    /// Plain text: control characters are `\xNN`.
    Text,
}

/// Which part of an address a value stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// Nothing has been written yet.
    Start,
    /// After `//`.
    Authority,
    /// After it, or from a first `/`.
    Path,
    /// After `?` or `#`.
    Query,
}

impl Position {
    /// Where one stands after `text`.
    pub(super) fn after(self, text: &str) -> Self {
        let (mut position, rest) = match (self, text.split_once("//")) {
            (Self::Start, Some((scheme, rest))) if is_scheme(scheme) => (Self::Authority, rest),
            (Self::Start, _) if !text.is_empty() => (Self::Path, text),
            _ => (self, text),
        };
        for byte in rest.bytes() {
            position = match (position, byte) {
                (Self::Query, _) | (_, b'?' | b'#') => Self::Query,
                (Self::Authority, b'/') => Self::Path,
                _ => position,
            };
        }
        position
    }
}

/// Whether a host follows `//` behind this: a scheme and its colon, or nothing (RFC 3986 §4.2).
pub(super) fn is_scheme(text: &str) -> bool {
    text.is_empty() || text.ends_with(':') && !text.contains(['/', '?', '#'])
}

/// Appends a value as it may stand there; in an address, in its path.
pub fn escape(escape: Escape, value: &[u8], out: &mut Vec<u8>) {
    push(escape, Position::Path, value, out);
}

/// Whether a value may stand there as it is, wherever that is; false says nothing.
pub(super) fn is_plain(escape: Escape, value: &[u8]) -> bool {
    let plain: fn(u8) -> bool = match escape {
        Escape::Url => |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'),
        Escape::Log | Escape::Header | Escape::Json | Escape::Html | Escape::Text => {
            |b| (0x20..0x7f).contains(&b) && !matches!(b, b'"' | b'\\' | b'&' | b'<' | b'>' | b'\'')
        }
    };
    let is_cut = escape == Escape::Header && matches!(value, [b' ', ..] | [.., b' ']);
    !is_cut && value.iter().all(|b| plain(*b))
}

/// Appends `value` as it may stand there.
pub(super) fn push(escape: Escape, position: Position, value: &[u8], out: &mut Vec<u8>) {
    match escape {
        Escape::Log => push_visible(value, |b| b == b'"' || b == b'\\', out),
        Escape::Header => push_field(value, out),
        Escape::Url => push_url(position, value, out),
        Escape::Json => push_json(value, out),
        Escape::Html => push_text(value, html_entity, out),
        Escape::Text => push_text(value, |_| None, out),
    }
}

fn push_visible(value: &[u8], also: impl Fn(u8) -> bool, out: &mut Vec<u8>) {
    let plain = |b: u8| (0x20..=0x7e).contains(&b) && !also(b);
    if value.iter().all(|b| plain(*b)) {
        out.extend_from_slice(value);
        return;
    }
    for &byte in value {
        if plain(byte) {
            out.push(byte);
        } else {
            push_hex(b"\\x", byte, out);
        }
    }
}

/// What is escaped must not look like what is not: a backslash stands for itself but before `x`. Who reads it back takes `\xNN` for
/// a byte wherever it stands. Spaces at the ends are no part of a field's value (RFC 9110 §5.5).
fn push_field(value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value;
    while let Some((&byte, behind)) = rest.split_first() {
        let plain = match byte {
            b'\\' => behind.first() != Some(&b'x'),
            b' ' => rest.len() < value.len() && !behind.is_empty(),
            byte => (0x21..=0x7e).contains(&byte),
        };
        if plain {
            out.push(byte);
        } else {
            push_hex(b"\\x", byte, out);
        }
        rest = behind;
    }
}

fn push_url(position: Position, value: &[u8], out: &mut Vec<u8>) {
    for (at, &byte) in value.iter().enumerate() {
        let kept = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~')
            || match position {
                // A host's literal and port; never `@`, `/` or `?`, which would make another host of it.
                Position::Authority => matches!(byte, b'[' | b']' | b':'),
                // No scheme and no host may come out of a value that begins the address (RFC 3986 §4.2).
                Position::Start if byte == b':' => {
                    value.get(..at).is_some_and(|before| before.contains(&b'/'))
                }
                Position::Start if byte == b'/' => at != 1 || value.first() != Some(&b'/'),
                Position::Path | Position::Start => match byte {
                    b'%' => is_escape(value.get(at..at + 3)),
                    _ => b"/!$&'()*+,;=:@".contains(&byte),
                },
                Position::Query => byte == b'/',
            };
        if kept {
            out.push(byte);
        } else {
            push_hex(b"%", byte, out);
        }
    }
}

fn is_escape(three: Option<&[u8]>) -> bool {
    matches!(three, Some([b'%', high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

/// Appends a text as JSON has it within quotes (RFC 8259 §7). Invalid UTF-8 becomes U+FFFD; control characters, those above
/// U+007F too, and line separators are escaped.
pub fn push_json(value: &[u8], out: &mut Vec<u8>) {
    // Almost every value is plain: one pass that does not stop early, so that the compiler makes vector code of it, and one
    // copy (a record's line: 0.88 µs → 0.43 on the record bench).
    let plain = |b: u8| (0x20..0x7f).contains(&b) & (b != b'"') & (b != b'\\');
    if value.iter().fold(true, |all, b| all & plain(*b)) {
        out.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\u{2028}' => out.extend_from_slice(b"\\u2028"),
                '\u{2029}' => out.extend_from_slice(b"\\u2029"),
                char if char.is_control() => {
                    // All of Unicode's control characters are below U+00A0.
                    push_hex(b"\\u00", u8::try_from(u32::from(char)).unwrap_or(b'?'), out);
                }
                char => push_char(char, out),
            }
        }
        if !chunk.invalid().is_empty() {
            push_char(char::REPLACEMENT_CHARACTER, out);
        }
    }
}

fn push_text(value: &[u8], entity: impl Fn(char) -> Option<&'static str>, out: &mut Vec<u8>) {
    for chunk in value.utf8_chunks() {
        for char in chunk.valid().chars() {
            match entity(char) {
                Some(entity) => out.extend_from_slice(entity.as_bytes()),
                None if char.is_control() => {
                    push_hex(b"\\x", u8::try_from(u32::from(char)).unwrap_or(b'?'), out);
                }
                None => push_char(char, out),
            }
        }
        if !chunk.invalid().is_empty() {
            push_char(char::REPLACEMENT_CHARACTER, out);
        }
    }
}

fn html_entity(char: char) -> Option<&'static str> {
    match char {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some("&#39;"),
        _ => None,
    }
}

fn push_char(char: char, out: &mut Vec<u8>) {
    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
}

fn push_hex(prefix: &[u8], byte: u8, out: &mut Vec<u8>) {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 };
    out.extend_from_slice(prefix);
    out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(escape: Escape, value: &[u8]) -> String {
        let mut out = Vec::new();
        push(escape, Position::Path, value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_place_has_its_own_dangers() {
        let value = "a\r\n\"\\<é>\u{7f}\u{85}\u{2028}%20%zz?#".as_bytes();
        assert_eq!(
            written(Escape::Log, value),
            r"a\x0D\x0A\x22\x5C<\xC3\xA9>\x7F\xC2\x85\xE2\x80\xA8%20%zz?#"
        );
        assert_eq!(
            written(Escape::Header, value),
            "a\\x0D\\x0A\"\\<\\xC3\\xA9>\\x7F\\xC2\\x85\\xE2\\x80\\xA8%20%zz?#"
        );
        assert_eq!(written(Escape::Url, value), "a%0D%0A%22%5C%3C%C3%A9%3E%7F%C2%85%E2%80%A8%20%25zz%3F%23");
        assert_eq!(written(Escape::Json, value), "a\\r\\n\\\"\\\\<é>\\u007F\\u0085\\u2028%20%zz?#");
        assert_eq!(written(Escape::Html, value), "a\\x0D\\x0A&quot;\\&lt;é&gt;\\x7F\\x85\u{2028}%20%zz?#");
        assert_eq!(written(Escape::Text, value), "a\\x0D\\x0A\"\\<é>\\x7F\\x85\u{2028}%20%zz?#");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_or_escaped() {
        assert_eq!(written(Escape::Log, b"a\xff\xc3"), r"a\xFF\xC3");
        assert_eq!(written(Escape::Json, b"a\xff\xc3"), "a\u{fffd}\u{fffd}");
        assert_eq!(written(Escape::Text, b"\xe2\x82z"), "\u{fffd}z");
    }

    #[test]
    fn json_reads_back_what_was_written() {
        for value in ["", "plain", "\u{0}\u{1f}\u{7f}\u{9f}\u{a0}\"\\/\u{2029}", "日本\t語"] {
            let text = format!("\"{}\"", written(Escape::Json, value.as_bytes()));
            assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
        }
    }

    #[test]
    fn an_address_knows_where_it_stands() {
        let start = Position::Start;
        assert_eq!(start.after("https://"), Position::Authority);
        assert_eq!(start.after("//"), Position::Authority);
        assert_eq!(start.after("https://a.example"), Position::Authority);
        assert_eq!(start.after("https://a.example/x"), Position::Path);
        assert_eq!(start.after("https://a.example?x"), Position::Query);
        assert_eq!(start.after("/a//b"), Position::Path);
        assert_eq!(start.after("/a?b=/c"), Position::Query);
        assert_eq!(start.after("/a?b=https://"), Position::Query);
        assert_eq!(start.after("/a:b://c"), Position::Path);
        assert_eq!(start.after(""), Position::Start);
        assert_eq!(Position::Authority.after(".example.com/"), Position::Path);
    }

    /// Takes `\xNN` for a byte, wherever it stands.
    fn read_back(field: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = field.as_bytes();
        while let Some((&first, behind)) = rest.split_first() {
            rest = match rest {
                [b'\\', b'x', high, low, after @ ..] => {
                    let digit = |digit: &u8| u8::try_from(char::from(*digit).to_digit(16).unwrap()).unwrap();
                    bytes.push(digit(high) << 4 | digit(low));
                    after
                }
                _ => {
                    bytes.push(first);
                    behind
                }
            };
        }
        bytes
    }

    #[test]
    fn what_stands_in_a_field_is_one_value() {
        for (value, expected) in [
            (&b"alice"[..], "alice"),
            (b"DOMAIN\\alice", "DOMAIN\\alice"),
            (b"DOMAIN\\xavier", "DOMAIN\\x5Cxavier"),
            (b"DOMAIN\\Xavier", "DOMAIN\\Xavier"),
            (b"\xe9", "\\xE9"),
            // What would be the same as the one before.
            (b"\\xE9", "\\x5CxE9"),
            (b"\\x5CxE9", "\\x5Cx5CxE9"),
            (b"\\\\x", "\\\\x5Cx"),
            (b"\\", "\\"),
            (b"al ice", "al ice"),
            (b" alice ", "\\x20alice\\x20"),
            (b" ", "\\x20"),
            (b"  ", "\\x20\\x20"),
        ] {
            assert_eq!(written(Escape::Header, value), expected);
            assert_eq!(read_back(expected), value, "{expected}");
        }
    }

    proptest::proptest! {
        #[test]
        fn two_values_never_come_out_alike(value in "(\\\\|x| |[0-9A-F]|\u{e9}|\u{0}){0,12}") {
            let field = written(Escape::Header, value.as_bytes());
            assert_eq!(read_back(field.trim()), value.as_bytes());
        }

        #[test]
        fn no_value_leaves_its_place(value: Vec<u8>) {
            let visible = |text: &str| text.bytes().all(|b| (0x20..=0x7e).contains(&b));
            let line = written(Escape::Log, &value);
            assert!(visible(&line) && !line.contains('"'), "{line}");
            let field = written(Escape::Header, &value);
            assert!(visible(&field));
            assert_eq!(read_back(field.trim()), value, "{field}");
            assert!(!is_plain(Escape::Header, &value) || field.as_bytes() == value);
            let url = written(Escape::Url, &value);
            assert!(visible(&url) && !url.contains([' ', '"', '<', '>', '\\', '?', '#']), "{url}");
            for escape in [Escape::Json, Escape::Html, Escape::Text] {
                assert!(!written(escape, &value).contains(char::is_control));
            }
            let json = format!("\"{}\"", written(Escape::Json, &value));
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), String::from_utf8_lossy(&value));
            assert!(!is_plain(Escape::Log, &value) || line.as_bytes() == value);
            assert!(!is_plain(Escape::Url, &value) || url.as_bytes() == value);
        }
    }
}
