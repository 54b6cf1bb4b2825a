//! What is said of a key, checked: by the command line and by a line of an import alike.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use crate::client::network;
use crate::config::units::Time;
use crate::policy::auth::api_key::Description;
use crate::record::Timestamp;

/// Cause and cure.
pub(super) type Told = (String, String);

/// Names, owners, plans and scopes, each: they stand in memory a million times, and in header fields for the upstream.
const TEXT_BYTES_MAX: usize = 128;
/// Scopes, addresses or routes of a key.
const LIST_MAX: usize = 64;

/// As it was said.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) name: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) plan: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) addresses: Vec<String>,
    pub(super) routes: Vec<String>,
    pub(super) expires: Option<String>,
}

/// What of the configuration a key may be for.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) routes: BTreeSet<String>,
    /// None where no configuration is at hand.
    pub(super) plans: Option<BTreeSet<String>>,
}

impl Known {
    fn nearest(names: &BTreeSet<String>, unknown: &str) -> String {
        let nearest = names.iter().min_by_key(|known| strsim::damerau_levenshtein(known, unknown));
        nearest.map_or_else(String::new, |nearest| format!("did you mean `{nearest}`?"))
    }
}

impl Words {
    /// The description of a key, if all of it can be one, in this configuration.
    pub(super) fn check(self, known: &Known, now: i64) -> Result<Description, Told> {
        for (what, list) in
            [("scopes", &self.scopes), ("addresses", &self.addresses), ("routes", &self.routes)]
        {
            if list.len() > LIST_MAX {
                let cause = format!("a key has at most {LIST_MAX} {what}");
                return Err((cause, "make several keys".to_owned()));
            }
        }
        let name = text("name", self.name)?;
        let owner = text("owner", self.owner)?;
        let plan = self.plan.filter(|plan| !plan.is_empty()).map(|plan| plan_in(plan, known)).transpose()?;
        for scope in &self.scopes {
            // RFC 6749 §3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
            let token = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            if scope.is_empty() || scope.len() > TEXT_BYTES_MAX || !scope.bytes().all(token) {
                return Err((format!("`{scope}` is not a scope"), "write such as `orders:read`".to_owned()));
            }
        }
        let addresses = self.addresses.iter().map(|text| network(text).map(|network| network.to_string()));
        let addresses = addresses.collect::<Result<_, _>>()?;
        if let Some(unknown) = self.routes.iter().find(|route| !known.routes.contains(*route)) {
            let cause = format!("the configuration has no route `{unknown}`");
            return Err((cause, Known::nearest(&known.routes, unknown)));
        }
        let expires =
            self.expires.filter(|text| !text.is_empty()).map(|text| moment(&text, now)).transpose()?;
        Ok(Description { name, owner, plan, scopes: self.scopes, addresses, routes: self.routes, expires })
    }
}

/// Whether a character does something to the line in which it is shown: controls, and what turns the direction of text (UAX #9 §2).
fn disturbs(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control()
}

fn text(what: &str, text: Option<String>) -> Result<String, Told> {
    match text.as_deref().map(str::trim) {
        None | Some("") => Err((format!("the key has no {what}"), format!("say its {what}"))),
        Some(text) if text.len() > TEXT_BYTES_MAX || text.chars().any(disturbs) => {
            let cause =
                format!("the {what} is longer than {TEXT_BYTES_MAX} bytes, or has control characters");
            Err((cause, format!("choose another {what}")))
        }
        Some(text) => Ok(text.to_owned()),
    }
}

/// A plan that a key may be in: one of the configuration's, where one is at hand.
pub(super) fn plan_in(plan: String, known: &Known) -> Result<String, Told> {
    let plan = plan_name(plan)?;
    if let Some(plans) = &known.plans
        && !plans.contains(&plan)
    {
        let cause = format!("the configuration has no plan `{plan}`");
        let cure = match plans.is_empty() {
            true => {
                format!("write it first: `policies.plans: {{{plan}: {{throttle: none}}}}`, or what it allows")
            }
            false => Known::nearest(plans, &plan),
        };
        return Err((cause, cure));
    }
    Ok(plan)
}

fn plan_name(plan: String) -> Result<String, Told> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if plan.is_empty() || plan.len() > 64 || !plan.chars().all(sound) {
        let cure = "use 1 to 64 letters, digits, `_` and `-`";
        return Err((format!("`{plan}` cannot be a plan's name"), cure.to_owned()));
    }
    Ok(plan)
}

/// A moment in seconds since 1970: after a duration from now, or as RFC 3339 says it in UTC, or the beginning of a day.
fn moment(text: &str, now: i64) -> Result<i64, Told> {
    let after = Time::parse(text).and_then(|time| i64::try_from(time.0.as_secs()).ok());
    let at = after.and_then(|after| now.checked_add(after)).or_else(|| date(text));
    // Beyond, the table in memory would take it for never.
    at.filter(|at| *at < i64::from(u32::MAX)).ok_or_else(|| {
        let cause = format!("`{text}` is no time that a key can end at");
        (
            cause,
            "write such as `90d`, `2027-01-31` or `2027-01-31T12:00:00Z`; the last year is 2105".to_owned(),
        )
    })
}

/// `2027-01-31` in UTC, or a time of RFC 3339.
fn date(text: &str) -> Option<i64> {
    // Other forms of ISO 8601 are no forms of ours.
    let plain =
        text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b':' | b'.' | b'T' | b'Z'));
    let text = match text.len() {
        _ if !plain => return None,
        10 => format!("{text}T00:00:00Z"),
        11.. => text.to_owned(),
        _ => return None,
    };
    let at = text.parse::<jiff::Timestamp>().ok()?.as_second();
    (at >= 0).then_some(at)
}

/// RFC 3339, whole seconds.
pub(in crate::cli) fn time(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let moment = UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH);
    Timestamp::of(moment).as_str().replace(".000Z", "Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn words() -> Words {
        Words { name: Some("n".into()), owner: Some("o".into()), ..Words::default() }
    }

    fn checked(words: Words) -> Result<Description, String> {
        let routes = BTreeSet::from(["orders".to_owned(), "items".to_owned()]);
        let plans = Some(BTreeSet::from(["gold".to_owned(), "free".to_owned()]));
        words.check(&Known { routes, plans }, NOW).map_err(|(cause, cure)| format!("{cause}; {cure}"))
    }

    #[test]
    fn moments_are_durations_days_and_times() {
        for (text, expected) in [
            ("90d", NOW + 90 * 86_400),
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400),
            ("2024-12-31T23:59:59Z", 1_735_689_599),
            ("2027-03-01", 1_803_859_200),
            ("2027-03-01T02:00:00+02:00", 1_803_859_200),
            ("2027-02-28T18:30:00-05:30", 1_803_859_200),
        ] {
            assert_eq!(moment(text, NOW), Ok(expected), "{text}");
            if text.contains('-') && (text.len() == 10 || text.ends_with('Z')) {
                let day = text.split('T').next().unwrap();
                assert!(time(expected).starts_with(day), "{text}: {}", time(expected));
            }
        }
        let wrong = [
            "",
            "soon",
            "2027-02-29",
            "2027-13-01",
            "2027-1-01",
            "2027-01-01T24:00:00Z",
            "2027-01-01T00:00:00",
        ];
        let beyond = ["2200-01-01", "1969-12-31", "1970-01-01T00:00:00+01:00", "9999999999d"];
        for text in wrong.into_iter().chain(beyond).chain(["2027-01-01 ", "20270101", "2027-01-01t00:00:00z"])
        {
            assert!(moment(text, NOW).is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_said_of_a_key_is_told() {
        let good = Words {
            plan: Some("gold".into()),
            scopes: vec!["orders:read".into()],
            addresses: vec!["192.0.2.7".into(), "10.0.0.0/8".into()],
            routes: vec!["items".into()],
            expires: Some("1d".into()),
            ..words()
        };
        let description = checked(good).unwrap();
        assert_eq!(description.addresses, ["192.0.2.7/32", "10.0.0.0/8"]);
        assert_eq!(description.expires, Some(NOW + 86_400));
        let list = |text: &str| vec![text.to_owned()];
        for (wrong, expected) in [
            (Words { name: None, ..words() }, "the key has no name; say its name"),
            (Words { owner: Some(" ".into()), ..words() }, "the key has no owner"),
            (
                Words { owner: Some("a\nb".into()), ..words() },
                "the owner is longer than 128 bytes, or has control",
            ),
            (
                Words { name: Some("nimda\u{202e}".into()), ..words() },
                "the name is longer than 128 bytes, or has control",
            ),
            (Words { name: Some("x".repeat(129)), ..words() }, "the name is longer"),
            (Words { plan: Some("a b".into()), ..words() }, "`a b` cannot be a plan's name; use 1 to 64"),
            (
                Words { plan: Some("glod".into()), ..words() },
                "the configuration has no plan `glod`; did you mean `gold`?",
            ),
            (Words { scopes: list("a b"), ..words() }, "`a b` is not a scope; write"),
            (Words { scopes: list(""), ..words() }, "`` is not a scope"),
            (Words { scopes: vec!["a".into(); 65], ..words() }, "a key has at most 64 scopes"),
            (
                Words { addresses: list("10.0.0.1/8"), ..words() },
                "`10.0.0.1/8` has bits set behind its prefix",
            ),
            (
                Words { routes: list("order"), ..words() },
                "the configuration has no route `order`; did you mean `orders`?",
            ),
            (
                Words { expires: Some("x".into()), ..words() },
                "`x` is no time that a key can end at; write such as `90d`",
            ),
        ] {
            let told = checked(wrong).unwrap_err();
            assert!(told.starts_with(expected), "{told}");
        }
        let free = || Words { plan: Some("free".into()), ..words() };
        assert!(free().check(&Known::default(), NOW).is_ok(), "without a configuration any word will do");
        let bare = Known { plans: Some(BTreeSet::new()), ..Known::default() };
        let (cause, cure) = free().check(&bare, NOW).unwrap_err();
        assert_eq!(cause, "the configuration has no plan `free`");
        assert!(cure.contains("`policies.plans: {free: {throttle: none}}`"), "{cure}");
    }
}
