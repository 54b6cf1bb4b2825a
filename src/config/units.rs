//! Values with a unit, as an operator writes them: `10s`, `8KiB`, `1KiB/s`, `10%`.

use std::time::Duration;

/// A duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// A size in bytes: a whole number and one of `B`, `KiB`, `MiB`, `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A speed in bytes a second: a size and `/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Speed(pub u64);

/// A share, written `10%`; kept in parts of 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u32);

/// How often something may happen: `200/10s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many times, at least one.
    pub count: u32,
    /// Within this time, which is not zero.
    pub per: Duration,
}

impl Rate {
    /// From `200/10s` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        let (count, per) = text.split_once('/')?;
        let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
        let count = digits.then(|| count.parse().ok())??;
        let Time(per) = Time::parse(per)?;
        (count > 0 && !per.is_zero()).then_some(Self { count, per })
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.count, Time(self.per))
    }
}

impl serde::Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Time {
    /// From `10s` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split(text)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.checked_mul(millis).map(|ms| Self(Duration::from_millis(ms)))
    }
}

impl Size {
    /// From `8KiB` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split(text)?;
        let bytes = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.checked_mul(bytes).map(Self)
    }
}

impl Speed {
    /// From `1KiB/s` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        Size::parse(text.strip_suffix("/s")?).map(|size| Self(size.0))
    }
}

impl Percent {
    /// From `10%` or `0.5%`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_suffix('%')?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 2 || whole.len() > 3 {
            return None;
        }
        let hundredths = whole.parse::<u32>().ok()? * 100 + format!("{fraction:0<2}").parse::<u32>().ok()?;
        (hundredths <= 10_000).then_some(Self(hundredths))
    }

    /// As a fraction of one.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(at)?;
    Some((number.parse().ok()?, unit))
}

macro_rules! from_text {
    ($type:ty, $what:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::parse(&text)
                    .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not {}", $what)))
            }
        }
    };
}

from_text!(Time, "a duration such as `500ms`, `10s`, `5m`, `1h` or `7d`");
from_text!(Size, "a size such as `512B`, `8KiB` or `1MiB`");
from_text!(Speed, "a speed such as `512B/s` or `1KiB/s`");
from_text!(Percent, "a share such as `10%`");
from_text!(Rate, "a rate such as `200/10s`");

macro_rules! to_text {
    ($type:ty, $units:expr, $plain:expr) => {
        impl std::fmt::Display for $type {
            /// In the largest unit that leaves a whole number.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let number: u128 = $plain(*self);
                let fits = |(size, _): &&(u128, &str)| number != 0 && number.is_multiple_of(*size);
                match $units.iter().find(fits) {
                    Some((size, unit)) => write!(f, "{}{unit}", number / size),
                    None => write!(f, "{number}{}", $units.last().map_or("", |(_, unit)| *unit)),
                }
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

const TIME_UNITS: [(u128, &str); 5] =
    [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
const SIZE_UNITS: [(u128, &str); 4] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")];

to_text!(Time, TIME_UNITS, |time: Time| time.0.as_millis());
to_text!(Size, SIZE_UNITS, |size: Size| u128::from(size.0));

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/s", Size(self.0))
    }
}

impl serde::Serialize for Speed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, hundredths) => write!(f, "{whole}.{hundredths:02}%"),
        }
    }
}

impl serde::Serialize for Percent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_as_they_were() {
        for text in ["0ms", "500ms", "10s", "90s", "5m", "1h", "7d"] {
            assert_eq!(Time::parse(text).map(|time| time.to_string()).as_deref(), Some(text));
        }
        for text in ["0B", "512B", "8KiB", "1MiB", "3GiB"] {
            assert_eq!(Size::parse(text).map(|size| size.to_string()).as_deref(), Some(text));
        }
        for text in ["0B/s", "512B/s", "1KiB/s"] {
            assert_eq!(Speed::parse(text).map(|speed| speed.to_string()).as_deref(), Some(text));
        }
        for text in ["1/1s", "200/10s", "4294967295/500ms"] {
            assert_eq!(Rate::parse(text).map(|rate| rate.to_string()).as_deref(), Some(text));
        }
        for text in ["0%", "10%", "0.50%", "100%"] {
            assert_eq!(Percent::parse(text).map(|share| share.to_string()).as_deref(), Some(text));
        }
    }

    #[test]
    fn what_is_no_text_with_a_unit() {
        for text in ["", "s", "10", "-1s", "1.5s", "10 s", "10S", "99999999999999999999s", "９s"] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
        for text in ["", "B", "10", "8KB", "8kib", "-1B", "18446744073709551615GiB"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
        for text in ["", "/s", "1KiB", "1KiB/m", "1/s", "1KiB/ s", "-1B/s"] {
            assert_eq!(Speed::parse(text), None, "{text}");
        }
        for text in
            ["", "/", "1/", "/1s", "0/1s", "1/0s", "-1/1s", "+1/1s", "1/1", "4294967296/1s", "1/1s/1s"]
        {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
        for text in ["", "%", "10", "101%", "-1%", "1.234%", "1.%", ".5%", "9999%"] {
            assert_eq!(Percent::parse(text), None, "{text}");
        }
    }
}
