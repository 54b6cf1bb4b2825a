//! Spans of time that quotas are for: days, weeks and months by the clocks of a time zone.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a quota is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Per {
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday (ISO 8601).
    Week,
    /// From the first of a month to the first of the next.
    Month,
}

impl Per {
    /// The word of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "DAY",
            Self::Week => "WEEK",
            Self::Month => "MONTH",
        }
    }
}

/// One day, week or month, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Period {
    /// Its first second.
    pub begins: i64,
    /// The first second of the next one.
    pub ends: i64,
}

impl Period {
    /// Whether this second is in it.
    pub const fn holds(&self, second: i64) -> bool {
        self.begins <= second && second < self.ends
    }

    /// How long it is. A day has 23 or 25 hours where the clocks change.
    pub fn seconds(&self) -> u64 {
        u64::try_from(self.ends.saturating_sub(self.begins)).unwrap_or_default()
    }

    /// Seconds from this one until the next period, at least one.
    pub fn left(&self, second: i64) -> u64 {
        u64::try_from(self.ends.saturating_sub(second)).unwrap_or_default().max(1)
    }
}

/// Periods of one length by the clocks of one zone.
#[derive(Clone, Debug)]
pub struct Calendar {
    per: Per,
    zone: TimeZone,
}

impl Calendar {
    /// By the clocks of this zone, an IANA name. None where there is no such zone.
    pub fn new(per: Per, zone: &str) -> Option<Self> {
        let zone = match zone {
            "UTC" => TimeZone::UTC,
            name => TimeZone::get(name).ok()?,
        };
        Some(Self { per, zone })
    }

    /// What its periods are.
    pub const fn per(&self) -> Per {
        self.per
    }

    /// The name of its zone.
    pub fn zone(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// The period that this second is in. Where the clocks skip midnight a day begins with its first second that there is; where they
    /// show it twice, with the first of them.
    ///
    /// Costs about a microsecond: ask it when the last one is over.
    pub fn period(&self, second: i64) -> Period {
        self.try_period(second).filter(|period| period.holds(second)).unwrap_or_else(|| {
            // Beyond the years that the calendar knows: a length of time all the same.
            let length = match self.per {
                Per::Day => 86_400,
                Per::Week => 7 * 86_400,
                Per::Month => 30 * 86_400,
            };
            let begins = second.saturating_sub(second.rem_euclid(length));
            Period { begins, ends: begins.saturating_add(length) }
        })
    }

    fn try_period(&self, second: i64) -> Option<Period> {
        let today = self.zone.to_datetime(Timestamp::from_second(second).ok()?).date();
        let (first, next) = match self.per {
            Per::Day => (today, today.tomorrow().ok()?),
            Per::Week => {
                let since = i64::from(today.weekday().to_monday_zero_offset());
                let monday = today.checked_sub(since.days()).ok()?;
                (monday, monday.checked_add(1.week()).ok()?)
            }
            Per::Month => {
                let first = today.first_of_month();
                (first, first.checked_add(1.month()).ok()?)
            }
        };
        Some(Period { begins: self.midnight(first)?, ends: self.midnight(next)? })
    }

    fn midnight(&self, date: Date) -> Option<i64> {
        let midnight = self.zone.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
        Some(midnight.as_second())
    }
}

/// Seconds since 1970.
pub fn second(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[test]
    fn periods_are_those_of_the_calendar_in_their_zone() {
        use Per::{Day, Month, Week};
        // 2026-11-23 is a Monday.
        for (per, zone, now, begins, ends) in [
            (Day, "UTC", "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"),
            (Day, "UTC", "2026-11-23T23:59:59Z", "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"),
            (Day, "UTC", "2026-12-31T12:00:00Z", "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Week, "UTC", "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Week, "UTC", "2026-11-29T23:59:59Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            // 2027-01-01 is a Friday, of the week that began in the old year.
            (Week, "UTC", "2027-01-01T00:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"),
            (Month, "UTC", "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Month, "UTC", "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Month, "UTC", "2026-01-31T12:00:00Z", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
            // By the clocks of Berlin a day begins an hour earlier, in summer two.
            (Day, "Europe/Berlin", "2026-11-22T23:00:00Z", "2026-11-22T23:00:00Z", "2026-11-23T23:00:00Z"),
            (Day, "Europe/Berlin", "2026-11-22T22:59:59Z", "2026-11-21T23:00:00Z", "2026-11-22T23:00:00Z"),
            (Month, "Europe/Berlin", "2026-07-01T00:00:00Z", "2026-06-30T22:00:00Z", "2026-07-31T22:00:00Z"),
            // The days on which the clocks change there have 23 and 25 hours.
            (Day, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            (Day, "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            (Week, "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-18T22:00:00Z", "2026-10-25T23:00:00Z"),
            (Month, "Europe/Berlin", "2026-03-15T12:00:00Z", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"),
            // Here midnight is skipped: the day begins at 01:00.
            (
                Day,
                "America/Sao_Paulo",
                "2018-11-04T12:00:00Z",
                "2018-11-04T03:00:00Z",
                "2018-11-05T02:00:00Z",
            ),
            // Here it is shown twice: the day begins with the first of them.
            (Day, "America/Havana", "2026-11-01T04:30:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
            (Day, "America/Havana", "2026-11-01T05:30:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
            // A day that there was not (RFC 5545 calls it a zone's change of date).
            (Day, "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"),
            (Day, "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"),
            (Day, "Asia/Kolkata", "2026-11-23T18:29:59Z", "2026-11-22T18:30:00Z", "2026-11-23T18:30:00Z"),
        ] {
            let period = Calendar::new(per, zone).unwrap().period(at(now));
            let expected = Period { begins: at(begins), ends: at(ends) };
            assert_eq!(period, expected, "{per:?} {zone} {now}");
        }
    }

    #[test]
    fn a_zone_is_a_name_that_is_known() {
        for zone in ["UTC", "Europe/Berlin", "America/New_York", "Etc/GMT+5"] {
            assert_eq!(Calendar::new(Per::Day, zone).map(|own| own.zone().to_owned()).as_deref(), Some(zone));
        }
        for zone in ["", "Mars/Olympus", "Europe/Berlin ", "../UTC", "+02:00"] {
            assert!(Calendar::new(Per::Day, zone).is_none(), "{zone}");
        }
    }

    #[test]
    fn what_is_left_is_never_nothing() {
        let period = Period { begins: 100, ends: 200 };
        assert_eq!((period.left(150), period.left(199), period.left(200), period.left(999)), (50, 1, 1, 1));
        assert_eq!((period.holds(100), period.holds(199), period.holds(200)), (true, true, false));
        assert_eq!(period.seconds(), 100);
    }

    proptest! {
        #[test]
        fn every_second_is_in_its_period_and_periods_follow_on_each_other(
            second in -10_000_000_000_i64..100_000_000_000,
            per in prop_oneof![Just(Per::Day), Just(Per::Week), Just(Per::Month)],
            zone in prop_oneof![
                Just("UTC"), Just("Europe/Berlin"), Just("America/Havana"), Just("America/Sao_Paulo"), Just("Pacific/Apia"),
                Just("Australia/Lord_Howe"), Just("Asia/Beirut"), Just("Africa/Cairo"),
            ],
        ) {
            let calendar = Calendar::new(per, zone).unwrap();
            let period = calendar.period(second);
            prop_assert!(period.holds(second), "{period:?}");
            prop_assert_eq!(calendar.period(period.begins), period);
            prop_assert_eq!(calendar.period(period.ends - 1), period);
            prop_assert_eq!(calendar.period(period.ends).begins, period.ends);
        }

        #[test]
        fn no_second_is_too_far(second in any::<i64>()) {
            let period = Calendar::new(Per::Month, "Europe/Berlin").unwrap().period(second);
            prop_assert!(period.seconds() <= 31 * 86_400 + 3_600);
        }
    }
}
