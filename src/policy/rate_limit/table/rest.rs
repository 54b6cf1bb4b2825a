//! How long a table is needed that nobody asks any more.

use std::sync::Arc;
use std::time::Duration;

use super::{Current, Table};
use crate::policy::rate_limit::penalty::{Penalties, SavedPenalty};
use crate::policy::rate_limit::{Buckets, Nanos};

/// When it is looked again where a request is under way: a look reads the whole table.
const UNDER_WAY: Duration = Duration::from_secs(60);
/// Records of refused keys, where a table has them of another process and no penalty is in force: 3,584 keys.
const PENALTY_BYTES: usize = 256 << 10;

impl Table {
    /// How long until nobody owes anything in it, is cooled off, or is known to have been. None where that is so and nothing is under way.
    pub(in super::super) fn rest(&self, now: Nanos) -> Option<Duration> {
        let current = self.current.load_full();
        let debt = |buckets: &Buckets| buckets.saved(now).map(|saved| saved.debt()).max();
        let former = current.former.iter().map(|former| debt(&former.buckets));
        let owed = former.fold(debt(&current.buckets), Ord::max).map(Duration::from_nanos);
        let under_way = (self.slots.taken() > 0).then_some(UNDER_WAY);
        owed.max(current.remembered(now)).max(under_way)
    }

    /// Sets of the present table and of the former ones.
    pub(in super::super) fn sets(&self) -> usize {
        let current = self.current.load();
        current.former.iter().map(|former| former.buckets.sets()).sum::<usize>() + current.buckets.sets()
    }

    /// The records of refused keys, small ones where there are none.
    pub(super) fn penalties_or_some(&self) -> Arc<Penalties> {
        let _changing = self.changing();
        let current = self.current.load_full();
        if let Some(known) = &current.penalties {
            return Arc::clone(known);
        }
        let made = Arc::new(Penalties::new(PENALTY_BYTES));
        let penalties = Some(Arc::clone(&made));
        self.current.store(Arc::new(Current { penalties, ..Current::clone(&current) }));
        made
    }

    /// A class that is not in force matters until then, or longer.
    pub(super) fn outlast(&self, class: u8, until: Nanos) {
        let _changing = self.changing();
        let mut current = Current::clone(&self.current.load_full());
        if let Some(known) = current.gone.get_mut(&class)
            && *known < until
        {
            *known = until;
            self.current.store(Arc::new(current));
        }
    }
}

impl Current {
    /// How long anybody is cooled off, or is known to have been; none where nobody is.
    pub(super) fn remembered(&self, now: Nanos) -> Option<Duration> {
        self.penalties.as_ref()?.saved(now).map(SavedPenalty::lasts).max()
    }
}
