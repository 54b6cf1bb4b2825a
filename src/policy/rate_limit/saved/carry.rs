//! What tables give away and take over.
//!
//! A table is found again by its kind, its limit's name and its key, as by a reload. What keys owe is brought under
//! the rates that hold now, and is less by the time between. Where a value has no limit of its own any more, it is
//! kept in case that it gets one again. Where the limit is gone or has another key, it is kept
//! aside likewise (`retired.rs`). Where it has another memory now, what was saved is a former table (`table.rs`), and former
//! tables are saved behind the present one. Keys that a penalty has cooled off stay so until their time. Slots of `concurrent` are not carried: when a process has ended nothing of
//! its is under way.
//!
//! The secret that keys are hashed with goes with the buckets: without it nobody would find them. A table takes it over before
//! it has hashed its first key.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Saved;
use super::form::{FRAME_BYTES_MAX, Frame, Head, Reader, Unusable, Writer};
use crate::policy::rate_limit::Nanos;
use crate::policy::rate_limit::fleet::{Claims, Leases, SavedClaim};
use crate::policy::rate_limit::penalty::SavedPenalty;
use crate::policy::rate_limit::table::{Heir, Table};

/// A table of buckets that outlives the process.
#[derive(Clone, Debug)]
pub struct Kept(pub(in crate::policy::rate_limit) Arc<Table>);

impl Kept {
    /// Whether both are one table.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What is written: tables of limits that are in force, of others, and what is known of the fleet's buckets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writing<'a> {
    pub(super) tables: &'a [Kept],
    pub(super) retired: &'a [Kept],
    pub(super) claims: &'a [Claims],
}

/// What takes over what was written: tables, whatever is found for one that is none of these, and leases.
pub(super) struct Heirs<'a> {
    pub(super) tables: &'a [Kept],
    pub(super) adopt: &'a dyn Fn(&Head) -> Option<Kept>,
    pub(super) leases: &'a [Arc<Leases>],
}

/// How much may be written, until when, and since when the process is there that writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) began: SystemTime,
    pub(super) bytes: u64,
    pub(super) until: Instant,
}

/// What was given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) buckets: u64,
    /// Whether that is all.
    pub(super) all: bool,
}

/// What was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Tables that were found again.
    pub(super) tables: u64,
    /// Those of them whose limits are not in force.
    pub(super) retired: u64,
    /// Buckets of theirs, those that are full again by now among them.
    pub(super) buckets: u64,
    /// Whether it was written later than now, as this machine's clock says.
    pub(super) early: bool,
    /// When the process began that wrote it, in nanoseconds since 1970.
    pub(super) began: u64,
}

/// Writes what all these tables owe at this moment, the smallest first, and those of limits that are not in force last: where there are
/// too many buckets, the others get most.
///
/// # Errors
/// It cannot be written.
pub(super) fn give(
    Writing { tables, retired, claims }: Writing<'_>,
    to: &mut dyn Write,
    moment: SystemTime,
    bounds: Bounds,
) -> io::Result<Given> {
    let now = Nanos::now();
    let mut writer = Writer::begin(to, since_1970(moment), since_1970(bounds.began))?;
    let all = tables.iter().map(|kept| (false, kept)).chain(retired.iter().map(|kept| (true, kept)));
    let mut tables: Vec<_> =
        all.map(|(is_retired, Kept(table))| (is_retired, table.figures().entries, table)).collect();
    tables.sort_by_key(|(is_retired, entries, _)| (*is_retired, *entries));
    let has_room = |writer: &Writer<'_>| {
        writer.bytes() + FRAME_BYTES_MAX as u64 <= bounds.bytes && Instant::now() < bounds.until
    };
    let mut all = true;
    for (.., table) in tables {
        // Once, behind the present one.
        let mut penalties = table.penalties();
        for (head, buckets) in table.kept() {
            if !has_room(&writer) || !writer.table(&head)? {
                all = false;
                break;
            }
            let mut saved = buckets.saved(now);
            let mut more = true;
            while more && has_room(&writer) {
                more = writer.some_buckets(&mut saved)?;
            }
            all &= !more;
            if let Some(penalties) = penalties.take() {
                let mut saved = penalties.saved(now);
                let mut more = true;
                while more && has_room(&writer) {
                    more = writer.some_penalties(&mut saved)?;
                }
                all &= !more;
            }
        }
    }
    for Claims { definition, saved } in claims.iter().filter(|claims| !claims.saved.is_empty()) {
        if !has_room(&writer) || !writer.leases(definition)? {
            all = false;
            continue;
        }
        let mut saved = saved.iter().copied();
        let mut more = true;
        while more && has_room(&writer) {
            more = writer.some_claims(&mut saved)?;
        }
        all &= !more;
    }
    Ok(Given { buckets: writer.end()?, all })
}

/// Whether what was written is of a process that began later than this one, and since this one has been draining.
pub(super) fn is_successors(from: &mut dyn Read, began: SystemTime, draining: SystemTime) -> bool {
    let is_later =
        |reader: &Reader<'_>| reader.began() > since_1970(began) && reader.taken() >= since_1970(draining);
    Reader::begin(from).is_ok_and(|reader| is_later(&reader))
}

/// Gives these heirs what was written, aged by what the clock says. Keeps what was good where the stream is not, and says why.
pub(super) fn take(
    heirs: &Heirs<'_>,
    from: &mut dyn Read,
    moment: SystemTime,
    until: Instant,
) -> (Found, Option<Unusable>) {
    let mut found = Found::default();
    let ended = read(heirs, from, moment, until, &mut found);
    (found, ended.err())
}

fn read(
    Heirs { tables, adopt, leases }: &Heirs<'_>,
    from: &mut dyn Read,
    moment: SystemTime,
    until: Instant,
    found: &mut Found,
) -> Result<(), Unusable> {
    let now = Nanos::now();
    let mut reader = Reader::begin(from)?;
    let age = since_1970(moment).checked_sub(reader.taken());
    found.early = age.is_none();
    found.began = reader.began();
    // A clock that was set back: no time has passed, as far as one can know.
    let age = Duration::from_nanos(age.unwrap_or_default());
    let mut heir: Option<Heir> = None;
    let mut claimant: Option<&Arc<Leases>> = None;
    // Former tables stand behind the present one, and are no more tables.
    let mut last: Box<str> = Box::default();
    loop {
        if Instant::now() >= until {
            return Err(Unusable::Late);
        }
        match reader.next()? {
            Frame::Penalties(penalties) => {
                if let Some(heir) = &heir {
                    heir.restore_penalties(penalties.iter().map(SavedPenalty::from_bytes), age, now);
                }
            }
            Frame::Leases(definition) => {
                claimant = leases.iter().find(|leases| *leases.definition == *definition);
            }
            Frame::Claims(claims) => {
                if let Some(leases) = claimant {
                    leases.restore(claims.iter().filter_map(SavedClaim::from_bytes), age, now);
                }
            }
            Frame::End => return Ok(()),
            Frame::Table(head) => {
                let own = tables.iter().find(|Kept(table)| *table.definition() == *head.definition).cloned();
                let is_retired = own.is_none();
                heir = own.or_else(|| adopt(&head)).and_then(|Kept(table)| table.inherit(&head));
                let is_new = heir.is_some() && head.definition != last;
                found.tables += u64::from(is_new);
                found.retired += u64::from(is_new && is_retired);
                last = head.definition;
            }
            Frame::Buckets(buckets) => {
                if let Some(heir) = &heir {
                    heir.restore(buckets.iter().map(Saved::from_bytes), age, now);
                    found.buckets += buckets.len() as u64;
                }
            }
        }
    }
}

fn since_1970(moment: SystemTime) -> u64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
