//! Windows of time: `Mon-Fri 08:00-18:00 Europe/Berlin`.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// A window that comes again each week.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    /// From Monday.
    days: [bool; 7],
    /// Minutes since midnight; a window that ends before it begins ends on the next day.
    from: u16,
    /// Not in the window any more.
    to: u16,
    zone: TimeZone,
}

impl Window {
    /// From `[DAYS ]HH:MM-HH:MM[ ZONE]`, where DAYS are such as `Mon-Fri` or `Sat,Sun`, and ZONE is an IANA name; without, UTC.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace().peekable();
        let is_clock = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
        let days = match words.next_if(|word| !is_clock(word)) {
            Some(word) => days(word)?,
            None => [true; 7],
        };
        let clock = words.next().ok_or_else(|| format!("`{text}` says no time of day"))?;
        let (from, to) = clock.split_once('-').ok_or_else(|| format!("`{clock}` is no span of time"))?;
        let (from, to) = (minutes(from)?, minutes(to)?);
        if from == to || from == DAY {
            return Err(format!("`{clock}` is no span of time"));
        }
        let zone = match words.next() {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| format!("`{name}` is no time zone"))?,
        };
        match words.next() {
            None => Ok(Self { days, from, to, zone }),
            Some(word) => Err(format!("`{word}` is too much")),
        }
    }

    /// Whether this moment is in it, by the clocks of its zone.
    pub(super) fn holds(&self, now: SystemTime) -> bool {
        let Ok(now) = Timestamp::try_from(now) else { return false };
        let local = self.zone.to_datetime(now);
        let minute = minute_of(local.hour(), local.minute());
        let today = local.weekday();
        let on = |day: Weekday| {
            let index = usize::try_from(day.to_monday_zero_offset()).unwrap_or_default();
            self.days.get(index).copied().unwrap_or_default()
        };
        if self.from < self.to {
            return on(today) && (self.from..self.to).contains(&minute);
        }
        (on(today) && minute >= self.from) || (on(today.previous()) && minute < self.to)
    }
}

fn minute_of(hour: i8, minute: i8) -> u16 {
    u16::try_from(i16::from(hour) * 60 + i16::from(minute)).unwrap_or_default()
}

fn days(word: &str) -> Result<[bool; 7], String> {
    let index = |name: &str| {
        let lower = name.to_ascii_lowercase();
        let found = DAYS.iter().position(|(known, _)| *known == lower);
        found.ok_or_else(|| format!("`{name}` is no day; days are Mon, Tue, Wed, Thu, Fri, Sat, Sun"))
    };
    let mut days = [false; 7];
    for part in word.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (index(first)?, index(last)?);
        // `Fri-Mon` goes over the week's end.
        let length = (last + 7 - first) % 7;
        for step in 0..=length {
            if let Some(day) = days.get_mut((first + step) % 7) {
                *day = true;
            }
        }
    }
    Ok(days)
}

fn minutes(clock: &str) -> Result<u16, String> {
    let fault = || format!("`{clock}` is no time of day such as `08:30`");
    let (hour, minute) = clock.split_once(':').ok_or_else(fault)?;
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten().ok_or_else(fault)
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    match (hour, minute) {
        (0..24, 0..60) => Ok(hour * 60 + minute),
        (24, 0) => Ok(DAY),
        _ => Err(fault()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        let since = text.parse::<Timestamp>().unwrap().as_second();
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(since.try_into().unwrap())
    }

    #[test]
    fn windows_hold_by_the_clocks_of_their_zone() {
        // 2026-11-23 is a Monday.
        for (window, time, holds) in [
            ("Mon-Fri 08:00-18:00 UTC", "2026-11-23T08:00:00Z", true),
            ("Mon-Fri 08:00-18:00 UTC", "2026-11-23T07:59:59Z", false),
            ("Mon-Fri 08:00-18:00 UTC", "2026-11-23T18:00:00Z", false),
            ("Mon-Fri 08:00-18:00 UTC", "2026-11-22T12:00:00Z", false),
            ("Sat,Sun 00:00-24:00", "2026-11-22T23:59:59Z", true),
            ("Fri-Mon 09:00-10:00", "2026-11-23T09:30:00Z", true),
            ("Fri-Mon 09:00-10:00", "2026-11-24T09:30:00Z", false),
            ("08:00-09:00 Europe/Berlin", "2026-11-23T07:30:00Z", true),
            ("08:00-09:00 Europe/Berlin", "2026-07-23T07:30:00Z", false),
            ("08:00-09:00 Europe/Berlin", "2026-07-23T06:30:00Z", true),
            // Over midnight: it belongs to the day it began on.
            ("Mon 22:00-06:00", "2026-11-23T23:00:00Z", true),
            ("Mon 22:00-06:00", "2026-11-24T05:59:00Z", true),
            ("Mon 22:00-06:00", "2026-11-23T05:59:00Z", false),
        ] {
            assert_eq!(Window::parse(window).unwrap().holds(at(time)), holds, "{window} at {time}");
        }
    }

    #[test]
    fn what_is_no_window_says_why() {
        for (text, part) in [
            ("", "no time of day"),
            ("Mon-Fri", "no time of day"),
            ("Mo-Fr 08:00-18:00", "`Mo` is no day"),
            ("8-18", "no time of day such as"),
            ("08:00", "no span"),
            ("08:00-08:00", "no span"),
            ("25:00-26:00", "no time of day"),
            ("08:00-18:00 Mars/Olympus", "no time zone"),
            ("08:00-18:00 UTC extra", "too much"),
        ] {
            let error = Window::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
