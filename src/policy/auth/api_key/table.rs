//! Every key in memory, by its SHA-256: read by workers without a lock, changed by one writer piece by piece.
//!
//! A million keys cost about 100 bytes each (`a_key_costs_about_a_hundred_bytes`): 64 for an entry, which is one line of the cache,
//! 6 for its place in the index, the rest is its texts. What keys have in common (plan, scopes, addresses, routes) is kept once.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use ipnet::IpNet;

/// SHA-256 of a key.
pub(super) type Hash = [u8; 32];

/// A change copies one shard: of a million keys, four thousand.
const SHARDS: usize = 256;
/// No end.
const NEVER: u32 = u32::MAX;
/// No entry.
const EMPTY: u32 = u32::MAX;

/// A key as the database has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) hash: Hash,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) owner: String,
    pub(super) plan: Option<String>,
    /// Words with a space between them, as the next two.
    pub(super) scopes: String,
    pub(super) addresses: String,
    pub(super) routes: String,
    /// Seconds since 1970, as the next two.
    pub(super) expires: Option<i64>,
    pub(super) revoked: Option<i64>,
    /// The end of the overlap, where this is an old key of its id.
    pub(super) until: Option<i64>,
    pub(super) change: i64,
}

/// What a key may do, shared by the keys that may do the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grants {
    pub(super) plan: Option<Arc<str>>,
    pub(super) scopes: Arc<[Box<str>]>,
    addresses: Option<Box<[IpNet]>>,
    routes: Option<Box<[Box<str>]>>,
}

/// Whether a key is good at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Good,
    Revoked,
    Expired,
    /// Rotated away, and the overlap is over.
    Replaced,
}

/// Keys by their hashes.
#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[ArcSwap<Shard>]>,
    /// Grants by their texts; only the writer asks.
    known: Mutex<HashMap<GrantTexts, Weak<Grants>>>,
}

type GrantTexts = (Option<String>, String, String, String);

/// Immutable, but for the moments of last use.
#[derive(Debug)]
struct Shard {
    entries: Box<[Entry]>,
    /// Open addressing, at most two thirds full: numbers of entries.
    index: Box<[u32]>,
    texts: Box<[u8]>,
    /// Whether a key was used since somebody asked.
    used: AtomicBool,
}

/// A line of the cache, so that a key that nobody has asked for lately costs two misses: this and the index.
#[derive(Debug)]
#[repr(align(64))]
struct Entry {
    hash: Hash,
    grants: Arc<Grants>,
    /// Good before this second.
    until: u32,
    /// The minute of its last use, since 1970; 0: none since the load.
    used: AtomicU32,
    /// Where its texts begin.
    texts: u32,
    /// The change that wrote it, cut to 32 bits: tells one state of a key from the next.
    change: u32,
    end: End,
}

/// Why an entry ends when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Expiry,
    Revoked,
    Overlap,
}

/// A key that was found; holds its shard, not a lock.
pub(super) struct Found {
    shard: Guard<Arc<Shard>>,
    at: usize,
}

impl Default for Table {
    fn default() -> Self {
        let empty = || ArcSwap::from_pointee(Building::default().finish());
        Self { shards: (0..SHARDS).map(|_| empty()).collect(), known: Mutex::default() }
    }
}

impl Table {
    /// The key with this hash. Half a microsecond among a million that are asked for in no order: three misses of the cache.
    pub(super) fn find(&self, hash: &Hash) -> Option<Found> {
        let shard = self.shards.get(usize::from(hash[0]))?.load();
        let at = shard.find(hash)?;
        Some(Found { shard, at })
    }

    /// Takes over rows that have changed, or `all` rows there are. Readers see each shard before or after, never between.
    pub(super) fn apply(&self, rows: impl Iterator<Item = Row>, all: bool) {
        let mut changed: Vec<Building> = Vec::new();
        changed.resize_with(SHARDS, Building::default);
        for row in rows {
            let grants = self.grants(&row);
            if let Some(shard) = changed.get_mut(usize::from(row.hash[0])) {
                shard.push(&row, grants);
            }
        }
        for (place, mut building) in self.shards.iter().zip(changed) {
            if building.entries.is_empty() && !all {
                continue;
            }
            let before = place.load();
            building.keep(&before, all);
            place.store(Arc::new(building.finish()));
        }
        self.forget();
    }

    /// The ids of keys used since the last call and their minutes: at least those used in or after `since`.
    pub(super) fn take_used(&self, since: u32) -> Vec<(String, u32)> {
        let mut used = Vec::new();
        for place in &self.shards {
            let shard = place.load();
            if !shard.used.swap(false, Ordering::AcqRel) {
                continue;
            }
            for entry in &shard.entries {
                let minute = entry.used.load(Ordering::Relaxed);
                if minute != 0 && minute >= since {
                    used.push((shard.texts(entry)[0].to_owned(), minute));
                }
            }
        }
        used
    }

    /// The plans of keys that are good at this second, with how many these are. A key that was rotated may count twice while both its
    /// texts are good.
    pub(super) fn plans(&self, now: u64) -> BTreeMap<Arc<str>, usize> {
        let mut plans = BTreeMap::<Arc<str>, usize>::new();
        for place in &self.shards {
            let shard = place.load();
            let good = |entry: &&Entry| {
                entry.end != End::Revoked && (entry.until == NEVER || now < u64::from(entry.until))
            };
            for plan in shard.entries.iter().filter(good).filter_map(|entry| entry.grants.plan.as_ref()) {
                if let Some(number) = plans.get_mut(plan) {
                    *number += 1;
                } else {
                    plans.insert(Arc::clone(plan), 1);
                }
            }
        }
        plans
    }

    /// How many keys there are, old ones counted too.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|place| place.load().entries.len()).sum()
    }

    /// Bytes that the keys take.
    pub(super) fn bytes(&self) -> usize {
        let of = |shard: &Shard| {
            size_of_val(&*shard.entries) + size_of_val(&*shard.index) + shard.texts.len() + size_of::<Shard>()
        };
        self.shards.iter().map(|place| of(&place.load())).sum()
    }

    fn grants(&self, row: &Row) -> Arc<Grants> {
        let texts = (row.plan.clone(), row.scopes.clone(), row.addresses.clone(), row.routes.clone());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&texts).and_then(Weak::upgrade) {
            return found;
        }
        let words = |text: &str| {
            text.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect::<Box<[_]>>()
        };
        let listed = |text: &str| !text.is_empty();
        let grants = Arc::new(Grants {
            plan: row.plan.as_deref().map(Into::into),
            scopes: words(&row.scopes).into(),
            // An address that is none, written by another hand than ours, lets nobody in.
            addresses: listed(&row.addresses).then(|| {
                row.addresses.split(' ').filter_map(|text| crate::client::network(text).ok()).collect()
            }),
            routes: listed(&row.routes).then(|| words(&row.routes)),
        });
        known.insert(texts, Arc::downgrade(&grants));
        grants
    }

    /// Forgets grants that no key has any more.
    fn forget(&self) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, grants| grants.strong_count() > 0);
    }
}

impl Grants {
    /// Whether a request may come from here with the key.
    pub(super) fn allows_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.addresses.as_ref().is_none_or(|list| list.iter().any(|network| network.contains(&address)))
    }

    /// Whether the key opens this route.
    pub(super) fn allows_route(&self, route: &str) -> bool {
        self.routes.as_ref().is_none_or(|list| list.iter().any(|own| **own == *route))
    }
}

impl Found {
    fn entry(&self) -> Option<&Entry> {
        self.shard.entries.get(self.at)
    }

    /// Whether it is good at this second.
    pub(super) fn standing(&self, now: u64) -> Standing {
        let Some(entry) = self.entry() else { return Standing::Revoked };
        match entry.end {
            End::Revoked => Standing::Revoked,
            _ if entry.until == NEVER || now < u64::from(entry.until) => Standing::Good,
            End::Overlap => Standing::Replaced,
            End::Expiry => Standing::Expired,
        }
    }

    /// When it expires, or its overlap ends, in seconds since 1970; none where it does not.
    pub(super) fn ends(&self) -> Option<u64> {
        self.entry().filter(|entry| entry.until != NEVER).map(|entry| u64::from(entry.until))
    }

    /// What it may do.
    pub(super) fn grants(&self) -> Option<&Grants> {
        self.entry().map(|entry| &*entry.grants)
    }

    /// Its id, its name and its owner: one behind the other, and where each ends.
    pub(super) fn record(&self) -> (&str, [usize; 3]) {
        self.entry().map_or(("", [0; 3]), |entry| self.shard.record(entry))
    }

    /// Its id.
    pub(super) fn id(&self) -> &str {
        self.entry().map_or("", |entry| self.shard.texts(entry)[0])
    }

    /// Tells one state of the key from the next.
    pub(super) fn change(&self) -> u32 {
        self.entry().map_or(0, |entry| entry.change)
    }

    /// Notes its use in this minute. The first one of a minute writes, the others read.
    pub(super) fn note_use(&self, minute: u32) {
        let Some(entry) = self.entry() else { return };
        if entry.used.load(Ordering::Relaxed) < minute {
            entry.used.store(minute, Ordering::Relaxed);
            self.shard.used.store(true, Ordering::Release);
        }
    }
}

impl Shard {
    fn find(&self, hash: &Hash) -> Option<usize> {
        let mut slot = slot(hash, self.index.len())?;
        loop {
            let at = *self.index.get(slot)?;
            if at == EMPTY {
                return None;
            }
            let at = at as usize;
            // Whoever times this learns of SHA-256 values that begin alike; a key that hashes to them he does not have. The
            // comparison takes its time all the same.
            if verify_slices_are_equal(&self.entries.get(at)?.hash, hash).is_ok() {
                return Some(at);
            }
            slot = if slot + 1 == self.index.len() { 0 } else { slot + 1 };
        }
    }

    /// Id, name and owner in one text, and where each ends in it.
    fn record(&self, entry: &Entry) -> (&str, [usize; 3]) {
        let record = || {
            let (lengths, rest) = self.texts.get(entry.texts as usize..)?.split_first_chunk::<3>()?;
            let [id, name, owner] = lengths.map(usize::from);
            let ends = [id, id + name, id + name + owner];
            Some((std::str::from_utf8(rest.get(..ends[2])?).ok()?, ends))
        };
        record().unwrap_or(("", [0; 3]))
    }

    /// The three of them.
    fn texts(&self, entry: &Entry) -> [&str; 3] {
        let (whole, [id, name, owner]) = self.record(entry);
        [0..id, id..name, name..owner].map(|range| whole.get(range).unwrap_or_default())
    }
}

/// Where a hash's search begins. Its first byte has chosen the shard.
fn slot(hash: &Hash, slots: usize) -> Option<usize> {
    let bits = u64::from_le_bytes(hash.get(1..9)?.try_into().ok()?);
    usize::try_from((u128::from(bits) * slots as u128) >> 64).ok()
}

/// A shard to be.
#[derive(Debug, Default)]
struct Building {
    entries: Vec<Entry>,
    texts: Vec<u8>,
}

impl Building {
    fn push(&mut self, row: &Row, grants: Arc<Grants>) {
        let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(NEVER);
        let expires = row.expires.map_or(NEVER, seconds);
        let overlap = row.until.map_or(NEVER, seconds);
        let end = match row.revoked {
            Some(_) => End::Revoked,
            None if overlap < expires => End::Overlap,
            None => End::Expiry,
        };
        let texts = [&*row.id, &row.name, &row.owner];
        self.add(row.hash, grants, expires.min(overlap), 0, low_bits(row.change), end, texts);
    }

    #[expect(clippy::too_many_arguments, reason = "an entry's parts, of which some are written elsewhere")]
    fn add(
        &mut self,
        hash: Hash,
        grants: Arc<Grants>,
        until: u32,
        used: u32,
        change: u32,
        end: End,
        texts: [&str; 3],
    ) {
        // 4 GiB of texts in one shard would be 100,000 keys of the longest in each: 25 million in all.
        let Ok(begin) = u32::try_from(self.texts.len()) else { return };
        let texts =
            texts.map(|text| text.get(..text.floor_char_boundary(usize::from(u8::MAX))).unwrap_or_default());
        self.texts.extend(texts.map(|text| u8::try_from(text.len()).unwrap_or(u8::MAX)));
        self.texts.extend(texts.iter().flat_map(|text| text.bytes()));
        let used = AtomicU32::new(used);
        self.entries.push(Entry { hash, grants, until, used, texts: begin, change, end });
    }

    /// Takes over what was there before: all of it that is not written anew, or, where `all` is new, only when it was used.
    fn keep(&mut self, before: &Shard, all: bool) {
        let mut written: HashMap<Hash, usize> =
            self.entries.iter().enumerate().map(|(at, entry)| (entry.hash, at)).collect();
        for entry in &before.entries {
            let used = entry.used.load(Ordering::Relaxed);
            match written.remove(&entry.hash).and_then(|at| self.entries.get(at)) {
                Some(own) => own.used.store(used, Ordering::Relaxed),
                None if all => {}
                None => {
                    let Entry { hash, until, change, end, .. } = *entry;
                    let grants = Arc::clone(&entry.grants);
                    self.add(hash, grants, until, used, change, end, before.texts(entry));
                }
            }
        }
    }

    fn finish(self) -> Shard {
        let entries = self.entries.into_boxed_slice();
        let mut index = vec![EMPTY; entries.len() + entries.len() / 2 + 1].into_boxed_slice();
        for (at, entry) in (0..).zip(&entries) {
            let Some(mut place) = slot(&entry.hash, index.len()) else { continue };
            while index.get(place).is_some_and(|taken| *taken != EMPTY) {
                place = if place + 1 == index.len() { 0 } else { place + 1 };
            }
            if let Some(free) = index.get_mut(place) {
                *free = at;
            }
        }
        // Whether one was used is asked anew: an entry's minute came along.
        Shard { entries, index, texts: self.texts.into_boxed_slice(), used: AtomicBool::new(true) }
    }
}

fn low_bits(change: i64) -> u32 {
    u32::try_from(change & i64::from(u32::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> Hash {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &number.to_le_bytes());
        digest.as_ref().try_into().unwrap()
    }

    fn row(number: u64) -> Row {
        Row {
            hash: hash(number),
            id: format!("{number:012}"),
            name: format!("key {number}"),
            owner: format!("owner {}", number % 100),
            scopes: "orders:read orders:write".into(),
            ..Row::default()
        }
    }

    #[test]
    fn keys_are_found_and_change_alone() {
        let table = Table::default();
        assert!(table.find(&hash(1)).is_none());
        table.apply((0..10_000).map(row), true);
        assert_eq!(table.len(), 10_000);
        for number in 0..10_000 {
            let found = table.find(&hash(number)).unwrap();
            assert_eq!(found.id(), format!("{number:012}"));
            assert_eq!(found.standing(1), Standing::Good);
        }
        assert!(table.find(&hash(10_000)).is_none());
        let before = table.find(&hash(7)).unwrap();
        let changed = Row { revoked: Some(5), change: 9, ..row(7) };
        table.apply([changed, Row { name: "new".into(), ..row(10_000) }].into_iter(), false);
        assert_eq!(table.len(), 10_001);
        assert_eq!(table.find(&hash(7)).unwrap().standing(1), Standing::Revoked);
        assert_eq!(table.find(&hash(7)).unwrap().change(), 9);
        assert_eq!(before.standing(1), Standing::Good, "what was found stays as it was");
        assert_eq!(table.find(&hash(10_000)).unwrap().record(), ("000000010000newowner 0", [12, 15, 22]));
        assert_eq!(table.find(&hash(8)).unwrap().record(), ("000000000008key 8owner 8", [12, 17, 24]));
        table.apply((5..6).map(row), true);
        assert_eq!(table.len(), 1);
        assert!(table.find(&hash(7)).is_none());
    }

    #[test]
    fn a_key_ends_for_one_reason() {
        type Case = (Option<i64>, Option<i64>, Option<i64>, u64, Standing);
        let cases: &[Case] = &[
            (None, None, None, u64::MAX, Standing::Good),
            (Some(100), None, None, 99, Standing::Good),
            (Some(100), None, None, 100, Standing::Expired),
            (None, Some(50), None, 49, Standing::Good),
            (None, Some(50), None, 50, Standing::Replaced),
            (Some(100), Some(50), None, 60, Standing::Replaced),
            (Some(50), Some(100), None, 60, Standing::Expired),
            (Some(50), Some(100), Some(1), 0, Standing::Revoked),
            (Some(-1), None, None, 0, Standing::Expired),
            // Beyond 2106 is for ever.
            (Some(1 << 40), None, None, 1 << 41, Standing::Good),
        ];
        for (expires, until, revoked, now, expected) in cases {
            let table = Table::default();
            let row = Row { expires: *expires, until: *until, revoked: *revoked, ..row(1) };
            table.apply([row].into_iter(), false);
            let case = format!("{expires:?} {until:?} {revoked:?} {now}");
            assert_eq!(table.find(&hash(1)).unwrap().standing(*now), *expected, "{case}");
        }
    }

    #[test]
    fn lists_allow_what_they_name() {
        let table = Table::default();
        let grants = |addresses: &str, routes: &str| {
            table.grants(&Row { addresses: addresses.into(), routes: routes.into(), ..row(1) })
        };
        let ip = |text: &str| text.parse().unwrap();
        let free = grants("", "");
        assert!(free.allows_address(ip("192.0.2.1")) && free.allows_route("any"));
        let bound = grants("10.0.0.0/8 2001:db8::/32", "orders items");
        for (address, allowed) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("2001:db8::1", true), ("11.0.0.1", false)]
        {
            assert_eq!(bound.allows_address(ip(address)), allowed, "{address}");
        }
        assert!(bound.allows_route("items") && !bound.allows_route("item"));
        assert!(!grants("nonsense", "").allows_address(ip("10.1.2.3")), "fails closed");
        assert!(Arc::ptr_eq(&grants("", ""), &free), "the same is kept once");
    }

    #[test]
    fn uses_are_told_once_and_survive_a_change() {
        let table = Table::default();
        table.apply((0..100).map(row), true);
        assert!(table.take_used(0).is_empty());
        table.find(&hash(3)).unwrap().note_use(70);
        table.find(&hash(3)).unwrap().note_use(70);
        assert_eq!(table.take_used(0), [("000000000003".to_owned(), 70)]);
        assert!(table.take_used(0).is_empty(), "nobody came since");
        table.find(&hash(4)).unwrap().note_use(71);
        table.apply((0..100).map(|number| Row { change: 2, ..row(number) }), true);
        assert_eq!(table.take_used(71), [("000000000004".to_owned(), 71)]);
    }

    #[test]
    fn plans_are_those_of_keys_that_are_good() {
        let table = Table::default();
        let of = |number: u64, plan: &str| Row { plan: Some(plan.into()), ..row(number) };
        let ended = Row { expires: Some(100), ..of(3, "ended") };
        let revoked = Row { revoked: Some(1), ..of(4, "revoked") };
        table.apply([of(1, "free"), of(2, "free"), ended, revoked, row(5)].into_iter(), true);
        let plans =
            |now| table.plans(now).iter().map(|(plan, keys)| (plan.to_string(), *keys)).collect::<Vec<_>>();
        assert_eq!(plans(99), [("ended".to_owned(), 1), ("free".to_owned(), 2)]);
        assert_eq!(plans(100), [("free".to_owned(), 2)]);
    }

    #[test]
    fn a_key_costs_about_a_hundred_bytes() {
        let table = Table::default();
        const COUNT: usize = 100_000;
        table.apply((0..COUNT as u64).map(row), true);
        let each = table.bytes() as f64 / COUNT as f64;
        println!("{each:.1} bytes a key, with texts of 33 bytes");
        assert!(size_of::<Entry>() == 64 && each < 115.0, "{each}");
    }
}
