//! A penalty as written.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Rules;
use crate::config::units::Time;
use crate::config::{Build, Spanned};

/// Durations of a penalty.
const TIMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));

/// What becomes of keys that keep coming although they are refused, and told when to come again.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PenaltyConfig {
    /// So many breaches bring a cool-off. A breach is a request that is refused two seconds or more after the key was told to wait, and
    /// before the time that it was told (`Retry-After`, three seconds at the least).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub after: Spanned<u32>,
    /// Breaches within this time count together.
    pub within: Spanned<Time>,
    /// The first cool-off. Each further one is twice as long; a key that has been quiet for `within`, or for as long as its last
    /// cool-off was, begins anew.
    pub first: Spanned<Time>,
    /// The longest cool-off.
    pub max: Spanned<Time>,
}

impl Default for PenaltyConfig {
    fn default() -> Self {
        let seconds = |seconds| Spanned::unwritten(Time(Duration::from_secs(seconds)));
        Self { after: Spanned::unwritten(10), within: seconds(60), first: seconds(10), max: seconds(900) }
    }
}

impl Rules {
    /// Compiles `penalty`. What is wrong is left in `build.errors`.
    pub(in super::super) fn compile(written: &Spanned<PenaltyConfig>, build: &mut Build) -> Self {
        let PenaltyConfig { after, within, first, max } = &written.value;
        let (least, most) = TIMES;
        let mut sound = true;
        for time in [within, first, max] {
            if !(least..=most).contains(&time.value.0) {
                sound = false;
                let cause = format!("`{}` is no duration of a penalty", time.value);
                let cure = format!("write a duration from `{}` to `{}`", Time(least), Time(most));
                build.errors.push(&time.site, &*time.path, cause, cure);
            }
        }
        if sound && first.value > max.value {
            // What is not written cannot be pointed at.
            let at = if max.path.is_empty() { first } else { max };
            let cause =
                format!("the first cool-off, `{}`, is longer than `max`, `{}`", first.value, max.value);
            build.errors.push(&at.site, &*at.path, cause, "make `first` shorter, or `max` longer");
        }
        let nanos = |time: &Spanned<Time>| u64::try_from(time.value.0.as_nanos()).unwrap_or(u64::MAX);
        Self { after: after.value, within: nanos(within), first: nanos(first), max: nanos(max) }
    }
}
