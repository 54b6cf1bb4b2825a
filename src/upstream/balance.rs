//! Whose turn it is: weighted round robin, evenly spread.
//!
//! nginx's smooth algorithm walks all servers for every request. The sequence of turns depends on the weights alone, so it is laid
//! down once, at load: choosing is one addition and one look-up. Every worker has its own place in the sequence (a shared
//! counter would travel between cores with each request) and starts at another part of it, so few workers with few requests
//! do not all begin with the first server.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many workers have a place of their own; more share.
const PLACES: usize = 64;
/// The longest sequence. Weights that need more are rounded, never to 0: with 1000 servers of weights up to 1000, a share
/// may be off by one part in 65.
const LONGEST: u64 = 65_536;
/// How many turns are drawn by chance before all servers are walked.
const DRAWS: usize = 16;

/// A worker's place, alone on its cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Place(AtomicUsize);

/// The sequence, and every worker's place in it.
#[derive(Debug)]
pub(super) struct Turns {
    sequence: Box<[u32]>,
    places: Box<[Place]>,
}

impl Turns {
    /// Lays the sequence down. None when every weight is 0.
    pub(super) fn new(weights: &[u32]) -> Option<Self> {
        let sequence = spread(&reduce(weights)?);
        let places = (0..PLACES).map(|n| Place(AtomicUsize::new(n * sequence.len() / PLACES))).collect();
        Some(Self { sequence, places })
    }

    /// The next server that `fits`. A server that does not fit leaves its turns to the others by chance in proportion to their
    /// weights, so that no neighbour bears them all. None when none fits.
    pub(super) fn next(&self, worker: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let turn = self.places.get(worker % PLACES)?.0.fetch_add(1, Ordering::Relaxed);
        self.at(turn).filter(|first| fits(*first)).or_else(|| self.draw(turn, fits))
    }

    /// Another server that `fits`, by chance, for a request that has had its turn: a retry that took one would send the next request
    /// where the last one failed.
    pub(super) fn other(&self, worker: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let turn = self.places.get(worker % PLACES)?.0.load(Ordering::Relaxed);
        self.draw(turn, fits)
    }

    fn draw(&self, turn: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let drawn = (1..=DRAWS).filter_map(|draw| self.at(scatter(turn, draw))).find(|index| fits(*index));
        drawn.or_else(|| self.sequence.iter().map(|index| *index as usize).find(|index| fits(*index)))
    }

    fn at(&self, turn: usize) -> Option<usize> {
        self.sequence.get(turn % self.sequence.len()).map(|index| *index as usize)
    }
}

/// Spreads turns evenly (the finaliser of SplitMix64).
fn scatter(turn: usize, draw: usize) -> usize {
    let mut x = (turn as u64).wrapping_add((draw as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    usize::try_from((x ^ (x >> 31)) >> 1).unwrap_or_default()
}

/// The smallest weights of the same shares, at most [`LONGEST`] together.
fn reduce(weights: &[u32]) -> Option<Vec<u32>> {
    let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let divisor = weights.iter().fold(0, |a, b| greatest_common_divisor(a, *b));
    if divisor == 0 {
        return None;
    }
    let reduced = |weight: u32| match sum / u64::from(divisor) <= LONGEST {
        true => weight / divisor,
        false if weight == 0 => 0,
        false => u32::try_from(u64::from(weight) * LONGEST / sum).unwrap_or(1).max(1),
    };
    Some(weights.iter().map(|weight| reduced(*weight)).collect())
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// A server of weight w has w turns at equal distances on a circle; its first stands where its place among the servers says, so that
/// servers of equal weight alternate. The sequence is the order of all turns.
fn spread(weights: &[u32]) -> Box<[u32]> {
    let servers = weights.len() as f64;
    let mut turns: Vec<(f64, u32)> = Vec::new();
    for (index, weight) in (0_u32..).zip(weights) {
        let first = (f64::from(index) + 0.5) / servers;
        turns.extend((0..*weight).map(|turn| ((f64::from(turn) + first) / f64::from(*weight), index)));
    }
    turns.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    turns.into_iter().map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(turns: &Turns, count: usize, fits: impl Fn(usize) -> bool) -> Vec<usize> {
        (0..count).map(|_| turns.next(0, &fits).unwrap()).collect()
    }

    fn shares(drawn: &[usize], servers: usize) -> Vec<usize> {
        (0..servers).map(|server| drawn.iter().filter(|index| **index == server).count()).collect()
    }

    #[test]
    fn spreads_evenly() {
        let turns = Turns::new(&[5, 1, 1]).unwrap();
        assert_eq!(draw(&turns, 7, |_| true), [0, 0, 0, 1, 0, 0, 2]);
    }

    #[test]
    fn keeps_to_the_weights() {
        let turns = Turns::new(&[1, 2, 0, 3]).unwrap();
        assert_eq!(shares(&draw(&turns, 600, |_| true), 4), [100, 200, 0, 300]);
        assert_eq!(Turns::new(&[1000, 1000]).unwrap().sequence.len(), 2);
    }

    #[test]
    fn leaves_the_turns_of_the_lost_to_all() {
        let turns = Turns::new(&[1, 1, 1, 1]).unwrap();
        let shares = shares(&draw(&turns, 4000, |index| index != 1), 4);
        assert_eq!(shares[1], 0);
        for server in [0, 2, 3] {
            assert!((1200..1470).contains(&shares[server]), "{shares:?}");
        }
        assert_eq!(turns.next(0, |_| false), None);
    }

    #[test]
    fn finds_the_last_one() {
        let mut weights = vec![1000; 50];
        weights.push(1);
        let turns = Turns::new(&weights).unwrap();
        assert_eq!(turns.next(0, |index| index == 50), Some(50));
        assert_eq!(turns.next(0, |index| index == 50), Some(50));
    }

    #[test]
    fn workers_start_apart() {
        let turns = Turns::new(&[1, 1]).unwrap();
        let first: Vec<_> = [0, 63].map(|worker| turns.next(worker, |_| true)).into();
        assert_eq!(first, [Some(0), Some(1)]);
    }

    #[test]
    fn bounds_the_sequence() {
        let weights: Vec<u32> = (0..1000).map(|n| 1000 - n % 7).collect();
        let turns = Turns::new(&weights).unwrap();
        assert!(turns.sequence.len() as u64 <= LONGEST + 1000);
        assert!(Turns::new(&[0, 0]).is_none());
        assert!(Turns::new(&[]).is_none());
    }
}
