//! Distinguished names as text (RFC 4514), so that equal texts are equal names.

use std::fmt::Write as _;

use openssl::x509::{X509NameRef, X509Ref};

/// Attribute types that have a name: those of RFC 4514 §3, and what OpenSSL calls a few others.
const TYPES: &[(&[u8], &str)] = &[
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 9], "street"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 42], "GN"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// A name's parts, in the order of RFC 4514: the last of the encoding first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) text: String,
    /// The first common name, as it is.
    pub(super) common: Option<String>,
}

/// The subject's name; empty where its encoding cannot be read.
pub(super) fn subject(certificate: &X509Ref) -> String {
    of(certificate.subject_name()).unwrap_or_default().text
}

/// The issuer's.
pub(super) fn issuer(certificate: &X509Ref) -> String {
    of(certificate.issuer_name()).unwrap_or_default().text
}

/// None where its encoding cannot be read.
pub(super) fn of(name: &X509NameRef) -> Option<Name> {
    parse(&name.to_der().ok()?)
}

/// A name in DER: `SEQUENCE OF SET OF SEQUENCE {type, value}` (RFC 5280 §4.1.2.4).
pub(super) fn parse(der: &[u8]) -> Option<Name> {
    let mut sets = Vec::new();
    let mut rest = content(der, 0x30)?;
    while !rest.is_empty() {
        let set = Element::read(&mut rest).filter(|set| set.tag == 0x31)?;
        sets.push(set.content);
    }
    let mut name = Name::default();
    for mut set in sets.into_iter().rev() {
        if !name.text.is_empty() {
            name.text.push(',');
        }
        let mut first = true;
        while !set.is_empty() {
            let pair = Element::read(&mut set).filter(|pair| pair.tag == 0x30)?;
            let mut pair = pair.content;
            let kind = Element::read(&mut pair).filter(|kind| kind.tag == 0x06)?;
            let value = Element::read(&mut pair).filter(|_| pair.is_empty())?;
            if !std::mem::replace(&mut first, false) {
                name.text.push('+');
            }
            write(kind.content, &value, &mut name)?;
        }
    }
    Some(name)
}

fn write(kind: &[u8], value: &Element<'_>, name: &mut Name) -> Option<()> {
    let known = TYPES.iter().find(|(id, _)| *id == kind).map(|(_, word)| *word);
    match known {
        Some(word) => name.text.push_str(word),
        None => dotted(kind, &mut name.text)?,
    }
    name.text.push('=');
    // A type without a name of its own is written with its value's encoding (RFC 4514 §2.4).
    match (known, value.text()) {
        (Some(word), Some(text)) => {
            escape(&text, &mut name.text);
            if word == "CN" && name.common.is_none() {
                name.common = Some(text);
            }
        }
        _ => {
            name.text.push('#');
            hex(value.whole, &mut name.text);
        }
    }
    Some(())
}

/// RFC 4514 §2.4; what is no ASCII, and controls, by their bytes in hex: the text fits logs and header fields.
fn escape(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (at, c) in text.char_indices() {
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => {
                out.push('\\');
                out.push(c);
            }
            '#' if at == 0 => out.push_str("\\#"),
            ' ' if at == 0 || at == last => out.push_str("\\ "),
            ' '..='~' => out.push(c),
            _ => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    // A String takes everything.
                    let _ = write!(out, "\\{byte:02X}");
                }
            }
        }
    }
}

fn hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        let _ = write!(out, "{byte:02X}");
    }
}

/// An object identifier in dotted form (X.690 §8.19).
fn dotted(id: &[u8], out: &mut String) -> Option<()> {
    let mut arcs = Vec::new();
    let mut arc: u64 = 0;
    for byte in id {
        arc = arc.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            arcs.push(std::mem::take(&mut arc));
        }
    }
    let (first, rest) = arcs.split_first()?;
    let root = (first / 40).min(2);
    let _ = write!(out, "{root}.{}", first - root * 40);
    for arc in rest {
        let _ = write!(out, ".{arc}");
    }
    Some(())
}

/// One element of DER.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// Takes the next one off. None where there is no whole one (X.690 §8.1).
    fn read(from: &mut &'a [u8]) -> Option<Self> {
        let whole = *from;
        let [tag, length, rest @ ..] = whole else { return None };
        let (length, rest) = match length {
            0..=0x7f => (usize::from(*length), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = whole.get(..whole.len() - rest.len())?;
        *from = rest;
        Some(Self { tag: *tag, content, whole })
    }

    /// The text of a string; none for other values.
    fn text(&self) -> Option<String> {
        match self.tag {
            // UTF8String, PrintableString, IA5String.
            0x0c | 0x13 | 0x16 => std::str::from_utf8(self.content).ok().map(str::to_owned),
            // TeletexString, in practice Latin-1.
            0x14 => Some(self.content.iter().map(|byte| char::from(*byte)).collect()),
            // BMPString.
            0x1e => {
                let units = self.content.chunks(2).map(|pair| match pair {
                    [high, low] => Some(u16::from_be_bytes([*high, *low])),
                    _ => None,
                });
                String::from_utf16(&units.collect::<Option<Vec<_>>>()?).ok()
            }
            _ => None,
        }
    }
}

fn content(der: &[u8], tag: u8) -> Option<&[u8]> {
    let mut rest = der;
    let element = Element::read(&mut rest).filter(|element| element.tag == tag && rest.is_empty())?;
    Some(element.content)
}
