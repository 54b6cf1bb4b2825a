//! A limit that few keys would have met.
//!
//! Its rate is what the keys in question have asked in their busiest window. A window is a grid, and two bursts may fall on either side of a line
//! of it: so a bucket may need to hold more than one window's requests, and never needs more than two's. Of several sizes the
//! smallest is taken whose replay refuses few enough.

use std::io;
use std::time::Duration;

use super::Told;
use super::replay::Replay;
use crate::policy::rate_limit::Gcra;

/// Buckets that are tried, in per cent of a window's requests.
const BURSTS: [u64; 5] = [100, 125, 150, 175, 200];
/// The fastest that a limit can be.
const PER_SECOND_MAX: u128 = 1_000_000;

/// A limit, and what it makes of the log.
pub(super) struct Proposal {
    pub(super) count: u32,
    pub(super) burst: u32,
    pub(super) replay: Replay,
}

/// None where the log has no requests to go by, or keys ask faster than a limit can say.
///
/// # Errors
/// The spooled requests cannot be read.
pub(super) fn propose(told: &mut Told, per: Duration, percentile: f64) -> io::Result<Option<Proposal>> {
    let mut busiest: Vec<u32> = told.keys.iter().map(|(_, known)| known.busiest).collect();
    busiest.sort_unstable();
    let Some(most) = nearest_rank(&busiest, percentile) else { return Ok(None) };
    let count = rounded_up(u64::from(most.max(1)));
    if u128::from(count) * 1000 > PER_SECOND_MAX * per.as_millis() {
        return Ok(None);
    }
    let mut best = None;
    for share in BURSTS {
        let burst = (count * share).div_ceil(100);
        let (Ok(count), Ok(burst)) = (u32::try_from(count), u32::try_from(burst)) else { return Ok(best) };
        let replay = told.spool.replay(&Gcra::new(u64::from(count), per, u64::from(burst)))?;
        let is_enough = share_of(replay.keys.number(), told.keys.number()) <= 100.0 - percentile + 1e-9;
        best = Some(Proposal { count, burst, replay });
        if is_enough {
            break;
        }
    }
    Ok(best)
}

/// The smallest value that so many per cent of them do not exceed; none of none. They are in order.
pub(super) fn nearest_rank(sorted: &[u32], percentile: f64) -> Option<u32> {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among half a million"
    )]
    let rank = (sorted.len() as f64 * percentile / 100.0).ceil() as usize;
    sorted.get(rank.max(1) - 1).or_else(|| sorted.last()).copied()
}

/// In per cent.
#[expect(clippy::cast_precision_loss, reason = "a share is told with three digits")]
pub(super) fn share_of(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// To two digits, which is as exact as such a limit can be meant.
fn rounded_up(number: u64) -> u64 {
    let mut unit = 1;
    while number.div_ceil(unit) >= 100 {
        unit *= 10;
    }
    number.div_ceil(unit) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_those_that_are_there() {
        let sorted: Vec<u32> = (1..=1000).collect();
        for (percentile, value) in
            [(50.0, 500), (95.0, 950), (99.9, 999), (99.95, 1000), (0.01, 1), (99.99, 1000)]
        {
            assert_eq!(nearest_rank(&sorted, percentile), Some(value), "{percentile}");
        }
        assert_eq!((nearest_rank(&[], 50.0), nearest_rank(&[7], 99.9)), (None, Some(7)));
    }

    #[test]
    fn numbers_are_rounded_up_to_two_digits() {
        for (number, rounded) in
            [(1, 1), (99, 99), (100, 100), (101, 110), (990, 990), (991, 1000), (12_345, 13_000)]
        {
            assert_eq!(rounded_up(number), rounded);
        }
        assert_eq!(rounded_up(u64::from(u32::MAX)), 4_300_000_000);
    }

    #[test]
    fn a_share_of_nothing_is_nothing() {
        assert_eq!(
            [share_of(0, 0), share_of(1, 0), share_of(1, 4)].map(f64::to_bits),
            [0.0, 0.0, 25.0].map(f64::to_bits)
        );
    }
}
