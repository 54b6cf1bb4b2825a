//! What a plain scalar is: the core schema of YAML 1.2 (§10.3.2), in which `yes` and `on` are texts.

/// A scalar with its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Typed<'a> {
    Null,
    Bool(bool),
    /// A whole number from 0.
    Whole(u64),
    /// A whole number below 0.
    Negative(i64),
    /// Any other number, and whole ones of more than 64 bits.
    Fraction(f64),
    Text(&'a str),
}

/// The type of a plain scalar.
///
/// `1.0` is the whole number 1, as JSON Schema counts it. `.inf` and `.nan` stay texts: no key knows them.
pub(super) fn typed(text: &str) -> Typed<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Typed::Null,
        "true" | "True" | "TRUE" => return Typed::Bool(true),
        "false" | "False" | "FALSE" => return Typed::Bool(false),
        _ => {}
    }
    let based = |prefix, base| text.strip_prefix(prefix).map(|digits| unsigned(digits, base));
    if let Some(number) = based("0x", 16).or_else(|| based("0o", 8)) {
        return number.map_or(Typed::Text(text), Typed::Whole);
    }
    if !looks_like_a_number(text) {
        return Typed::Text(text);
    }
    if let Ok(number) = text.trim_start_matches('+').parse() {
        return Typed::Whole(number);
    }
    if let Ok(number) = text.parse() {
        return Typed::Negative(number);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => whole(number).unwrap_or(Typed::Fraction(number)),
        _ => Typed::Text(text),
    }
}

/// Digits of a base, without the sign that `from_str_radix` would take.
fn unsigned(digits: &str, base: u32) -> Option<u64> {
    digits.starts_with(|c: char| c.is_digit(base)).then(|| u64::from_str_radix(digits, base).ok())?
}

/// `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn looks_like_a_number(text: &str) -> bool {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, "")) => digits(whole),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(mantissa),
    };
    mantissa_fits && exponent.is_none_or(|e| digits(e.strip_prefix(['-', '+']).unwrap_or(e)))
}

fn whole(number: f64) -> Option<Typed<'static>> {
    /// Below, a double tells every whole number from the next (2^53); this one stands for its neighbour too.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() != 0.0 || number.abs() >= EXACT {
        return None;
    }
    let text = format!("{number:.0}");
    text.parse().map(Typed::Whole).or_else(|_| text.parse().map(Typed::Negative)).ok()
}

impl From<Typed<'_>> for serde_json::Value {
    fn from(typed: Typed<'_>) -> Self {
        match typed {
            Typed::Null => Self::Null,
            Typed::Bool(value) => value.into(),
            Typed::Whole(number) => number.into(),
            Typed::Negative(number) => number.into(),
            Typed::Fraction(number) => number.into(),
            Typed::Text(text) => text.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Typed::{Bool, Fraction, Negative, Null, Text, Whole};
    use super::typed;

    #[test]
    fn the_core_schema() {
        let table = [
            ("", Null),
            ("~", Null),
            ("null", Null),
            ("nULL", Text("nULL")),
            ("true", Bool(true)),
            ("False", Bool(false)),
            ("yes", Text("yes")),
            ("off", Text("off")),
            ("0", Whole(0)),
            ("+7", Whole(7)),
            ("-7", Negative(-7)),
            ("007", Whole(7)),
            ("0o17", Whole(15)),
            ("0x1F", Whole(31)),
            ("0x+1", Text("0x+1")),
            ("0x", Text("0x")),
            ("0b1", Text("0b1")),
            ("18446744073709551615", Whole(u64::MAX)),
            ("18446744073709551616", Fraction(18_446_744_073_709_551_616.0)),
            ("9007199254740991.0", Whole(9_007_199_254_740_991)),
            ("9007199254740993.0", Fraction(9_007_199_254_740_992.0)),
            ("9007199254740993", Whole(9_007_199_254_740_993)),
            ("1.0", Whole(1)),
            ("-2.0", Negative(-2)),
            ("1.10", Fraction(1.1)),
            ("1.", Whole(1)),
            (".5", Fraction(0.5)),
            ("1e3", Whole(1000)),
            ("1e400", Text("1e400")),
            (".inf", Text(".inf")),
            ("1_000", Text("1_000")),
            ("12:30", Text("12:30")),
            ("1.2.3", Text("1.2.3")),
            ("-", Text("-")),
            (".", Text(".")),
            ("e5", Text("e5")),
            ("10s", Text("10s")),
        ];
        for (text, expected) in table {
            assert_eq!(typed(text), expected, "{text}");
        }
    }
}
