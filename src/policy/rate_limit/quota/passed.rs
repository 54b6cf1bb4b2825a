//! What this node has let pass, for a fleet that counts all nodes' requests together.

use std::sync::Arc;

use super::{Period, Quotas, Tally, Terms, records};
use crate::state::{Access, Store, Unusable};

/// So many keys of a plan are told of at the most.
const KEYS_MAX: u32 = 1_000_000;

impl Quotas {
    /// Makes what is counted this node's, by which the fleet's store knows it: what stands in the copy of another node's file was let pass
    /// there.
    ///
    /// # Errors
    /// The store cannot be made or written.
    pub(in super::super) fn belong(&self, node: &str) -> Result<(), Unusable> {
        let Some(mut store) = Store::open(&self.directory, Access::Change)? else { return Ok(()) };
        match records::belong(store.connection(), node) {
            Ok(0) => Ok(()),
            Ok(copied) => {
                log::info!("quotas: {copied} counts are of the node whose store was copied here");
                Ok(())
            }
            Err(error) => Err(store.explain(&error)),
        }
    }

    /// How many requests of a period this node has let pass; none where the store does not say so in time.
    pub(in super::super) async fn passed(
        &self,
        tally: &Arc<Tally>,
        key: &str,
        period: Period,
        terms: &Terms,
    ) -> Option<u64> {
        let counter = tally.counter(key);
        if let Some(passed) = counter.passed(period) {
            return Some(passed);
        }
        self.read(tally, &counter, period, terms.wait).await.ok()?;
        counter.passed(period)
    }

    /// The same of all keys that have used any of the period, as the store has it.
    ///
    /// # Errors
    /// The store is there and cannot be read.
    pub(in super::super) fn all_passed(
        &self,
        plan: &str,
        period: Period,
    ) -> Result<Vec<(Box<str>, u64)>, Unusable> {
        let Some(mut store) = Store::open(&self.directory, Access::Look)? else { return Ok(Vec::new()) };
        records::passed(store.connection(), plan, period, KEYS_MAX).map_err(|error| store.explain(&error))
    }
}
