//! Limits that no configuration names any more, for as long as keys owe them something.
//!
//! Whoever takes a limit out of the configuration and puts it back, by reloads or restarts, finds what keys had left and what time has
//! brought since. Their tables take the memory that they took before, a GiB of buckets together at the most: of more, those go that left first.
//! One goes as soon as nobody owes anything in it, nobody is cooled off or was lately, and nothing is under way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::{Head, Kept};
use crate::policy::rate_limit::limit::MEMORY_MAX;
use crate::policy::rate_limit::table::Table;
use crate::policy::rate_limit::{Buckets, Nanos};
use crate::state::Live;

/// How many there are at the most.
const MOST: usize = 256;
/// How often it is looked whether anybody owes anything, at the least and at the most.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

#[derive(Debug)]
pub(super) struct Retired {
    live: Arc<Live>,
    /// Those that left first come first.
    tables: Mutex<Vec<Kept>>,
    is_looked_at: AtomicBool,
}

impl Retired {
    pub(super) fn new(live: Arc<Live>) -> Self {
        Self { live, tables: Mutex::default(), is_looked_at: AtomicBool::new(false) }
    }

    /// A table for what another process has saved of a limit that is not in force here: the one that a configuration finds which has it
    /// again. None where there is no room, and where it is no table of a limit.
    pub(super) fn adopt(&self, head: &Head) -> Option<Kept> {
        let (kind, key) = place(&head.definition)?;
        let mut tables = self.tables();
        let known = tables.iter().find(|Kept(table)| *table.definition() == *head.definition).cloned();
        let number = tables.len() + usize::from(known.is_none());
        let sets = sets(&tables).saturating_add(usize::try_from(head.sets).ok()?);
        if number > MOST || sets > Buckets::sets_in(MEMORY_MAX) {
            log::warn!(
                "{}: this configuration does not name it, and limits like it take more than 1GiB or are more than {MOST}; \
                 what keys owe in it is forgotten",
                head.definition
            );
            return None;
        }
        if known.is_some() {
            return known;
        }
        let make = || Table::new(&head.definition, head.hash.clone(), self.live.runtime().cloned());
        let kept = Kept(self.live.find_or(kind, key, make));
        tables.push(kept.clone());
        Some(kept)
    }

    /// These tables were in force, and those are now.
    pub(super) fn change(&self, before: Vec<Kept>, after: &[Kept]) {
        let mut tables = self.tables();
        for kept in before {
            if !tables.iter().any(|known| known.is(&kept)) {
                tables.push(kept);
            }
        }
        tables.retain(|kept| !after.iter().any(|present| present.is(kept)));
        while tables.len() > MOST || sets(&tables) > Buckets::sets_in(MEMORY_MAX) {
            let Kept(table) = tables.remove(0);
            log::warn!(
                "{}: no configuration names it any more, and limits like it take more than 1GiB or are more than {MOST}; \
                 what keys owe in it is forgotten",
                table.definition()
            );
            self.release(table);
        }
    }

    /// Those in which anybody owes anything.
    pub(super) fn owing(&self) -> Vec<Kept> {
        let now = Nanos::now();
        self.tables().iter().filter(|Kept(table)| table.rest(now).is_some()).cloned().collect()
    }

    /// Lets those go in which nobody owes anything. How long it takes the others to come to that, at the most; none where there
    /// is no other.
    pub(super) fn forget_settled(&self, now: Nanos) -> Option<Duration> {
        let all = self.tables().clone();
        let mut longest = None;
        let mut settled = Vec::new();
        for kept in all {
            match kept.0.rest(now) {
                Some(rest) => longest = longest.max(Some(rest)),
                None => settled.push(kept),
            }
        }
        let mut tables = self.tables();
        tables.retain(|kept| !settled.iter().any(|gone| gone.is(kept)));
        if tables.is_empty() {
            self.is_looked_at.store(false, Ordering::Release);
            longest = None;
        } else {
            // What has come meanwhile is looked at the next time.
            longest = longest.max(Some(Duration::ZERO));
        }
        drop(tables);
        settled.into_iter().for_each(|Kept(table)| self.release(table));
        longest
    }

    /// From now on it is looked whether they are needed, while there are any.
    pub(super) fn look_after(self: &Arc<Self>) {
        let Some(runtime) = self.live.runtime() else { return };
        let tables = self.tables();
        if !tables.is_empty() && !self.is_looked_at.swap(true, Ordering::AcqRel) {
            runtime.spawn(look_after(Arc::downgrade(self)));
        }
    }

    fn release(&self, table: Arc<Table>) {
        let definition: Box<str> = table.definition().into();
        drop(table);
        if let Some((kind, key)) = place(&definition) {
            self.live.release(kind, key);
        }
    }

    fn tables(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look_after(retired: Weak<Retired>) {
    let (mut next, longest) = LOOKS;
    loop {
        tokio::time::sleep(next).await;
        let Some(retired) = retired.upgrade() else { return };
        let looked = tokio::task::spawn_blocking(move || retired.forget_settled(Nanos::now()));
        let Ok(Some(rest)) = looked.await else { return };
        next = rest.clamp(LOOKS.0, longest);
    }
}

fn sets(tables: &[Kept]) -> usize {
    tables.iter().map(|Kept(table)| table.sets()).sum()
}

/// By which [`Live`] finds a table of this definition.
fn place(definition: &str) -> Option<(&'static str, &str)> {
    let (kind, key) = definition.split_once(' ')?;
    let kind = ["rate_limit", "plan_throttle"].into_iter().find(|known| *known == kind)?;
    Some((kind, key))
}

#[cfg(test)]
mod tests;
