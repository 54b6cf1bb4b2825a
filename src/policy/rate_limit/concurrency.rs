//! How many requests of one key are under way, and who waits for his turn.
//!
//! A key has an entry only while a request of its is under way, so the number of requests in flight bounds the table. A slot is
//! a value that is given back when it is dropped, however the request ends.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::KeyHash;

const SHARDS: usize = 64;

/// The slots of one limit, by key.
#[derive(Debug)]
pub(super) struct Slots {
    shards: Box<[Mutex<HashMap<KeyHash, Entry, foldhash::fast::FixedState>>]>,
}

/// What is under way of one key.
#[derive(Debug, Default)]
struct Entry {
    taken: u32,
    waiting: VecDeque<Waiting>,
}

/// Who waits, and how many there may be with it.
#[derive(Debug)]
struct Waiting {
    most: u32,
    give: oneshot::Sender<Slot>,
}

/// One of a key's slots. Dropping it gives it to who has waited longest, or back.
#[derive(Debug)]
pub(super) struct Slot {
    /// None once it is given on.
    slots: Option<Arc<Slots>>,
    key: KeyHash,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// All are taken, and nobody else may wait.
    Full,
    /// None came free in time.
    Late,
}

impl Default for Slots {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Slots {
    /// Takes a slot, if there is one: how many are left then.
    ///
    /// # Errors
    /// All are taken, or others wait for one already.
    pub(super) fn take(self: &Arc<Self>, key: KeyHash, most: u32) -> Result<(Slot, u32), NoSlot> {
        let mut shard = self.shard(key);
        let entry = shard.entry(key).or_default();
        if entry.taken >= most {
            return Err(NoSlot::Full);
        }
        entry.taken += 1;
        let left = most - entry.taken;
        drop(shard);
        Ok((Slot { slots: Some(Arc::clone(self)), key }, left))
    }

    /// Waits for a slot, behind those that wait already.
    ///
    /// # Errors
    /// As many as may wait do so, or none came free in time.
    pub(super) async fn wait(
        self: &Arc<Self>,
        key: KeyHash,
        most: u32,
        length: u32,
        patience: Duration,
    ) -> Result<Slot, NoSlot> {
        let mut turn = {
            let mut shard = self.shard(key);
            let entry = shard.entry(key).or_default();
            if entry.taken < most {
                entry.taken += 1;
                return Ok(Slot { slots: Some(Arc::clone(self)), key });
            }
            if entry.waiting.len() >= usize::try_from(length).unwrap_or(usize::MAX) {
                return Err(NoSlot::Full);
            }
            let (give, turn) = oneshot::channel();
            entry.waiting.push_back(Waiting { most, give });
            Turn { slots: self, key, turn: Some(turn) }
        };
        let Some(receiver) = &mut turn.turn else { return Err(NoSlot::Late) };
        match tokio::time::timeout(patience, receiver).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) | Err(_) => Err(NoSlot::Late),
        }
    }

    /// So many may be under way from now on: whose turn it is by that has it.
    pub(super) fn put_in_force(self: &Arc<Self>, most: u32) {
        for shard in &self.shards {
            let mut turns = Vec::new();
            for (key, entry) in lock(shard).iter_mut() {
                entry.waiting.iter_mut().for_each(|waiting| waiting.most = most);
                while entry.taken < most
                    && let Some(next) = entry.waiting.pop_front()
                {
                    entry.taken += 1;
                    turns.push((next.give, Slot { slots: Some(Arc::clone(self)), key: *key }));
                }
            }
            // Who has gone meanwhile lets the slot go, back to the shard, which must not be held by then.
            for (give, slot) in turns {
                let _ = give.send(slot);
            }
        }
    }

    /// Slots that are taken, of all keys.
    pub(super) fn taken(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| lock(shard).values().map(|entry| u64::from(entry.taken)).sum::<u64>())
            .sum()
    }

    fn give_back(self: Arc<Self>, key: KeyHash) {
        loop {
            let next = {
                let mut shard = self.shard(key);
                let Some(entry) = shard.get_mut(&key) else { return };
                // After a reload there may be more under way than there should be: then it is nobody's turn yet.
                match entry.waiting.pop_front_if(|next| entry.taken <= next.most) {
                    Some(next) => next.give,
                    None => {
                        entry.taken = entry.taken.saturating_sub(1);
                        if entry.taken == 0 && entry.waiting.is_empty() {
                            shard.remove(&key);
                        }
                        return;
                    }
                }
            };
            // Who has gone in the meantime gives it back unused: the next one gets it.
            let slot = Slot { slots: Some(Arc::clone(&self)), key };
            match next.send(slot) {
                Ok(()) => return,
                Err(mut slot) => slot.slots = None,
            }
        }
    }

    fn shard(&self, key: KeyHash) -> MutexGuard<'_, HashMap<KeyHash, Entry, foldhash::fast::FixedState>> {
        let index = usize::try_from(key.place % SHARDS as u64).unwrap_or_default();
        #[expect(
            clippy::indexing_slicing,
            reason = "there are SHARDS of them, and the index is taken modulo"
        )]
        lock(&self.shards[index])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            slots.give_back(self.key);
        }
    }
}

/// A place in the queue. Who leaves it, for whatever reason, takes no place in it any more, and no slot along.
struct Turn<'a> {
    slots: &'a Slots,
    key: KeyHash,
    turn: Option<oneshot::Receiver<Slot>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // First the receiver: a slot that has come too late goes with it, back to where it came from.
        self.turn = None;
        if let Some(entry) = self.slots.shard(self.key).get_mut(&self.key) {
            entry.waiting.retain(|waiting| !waiting.give.is_closed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> KeyHash {
        KeyHash::from_bits(number << 8, number)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn so_many_are_let_in_and_what_is_given_back_is_there_again() {
        let slots = Arc::new(Slots::default());
        let (first, left) = slots.take(key(1), 2).unwrap();
        assert_eq!(left, 1);
        let (second, left) = slots.take(key(1), 2).unwrap();
        assert_eq!(left, 0);
        assert_eq!(slots.take(key(1), 2).unwrap_err(), NoSlot::Full);
        assert!(slots.take(key(2), 2).is_ok(), "another key");
        assert_eq!(slots.taken(), 2);
        drop(first);
        drop(slots.take(key(1), 2).unwrap());
        drop(second);
        assert_eq!(slots.taken(), 0);
        assert!(slots.shards.iter().all(|shard| lock(shard).is_empty()), "an entry without a request");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_slot_in_turn() {
        let slots = Arc::new(Slots::default());
        let (held, _) = slots.take(key(1), 1).unwrap();
        let wait = |slots: &Arc<Slots>| {
            let slots = Arc::clone(slots);
            tokio::spawn(async move { slots.wait(key(1), 1, 2, LONG).await })
        };
        let (one, two) = (wait(&slots), wait(&slots));
        tokio::task::yield_now().await;
        assert_eq!(slots.wait(key(1), 1, 2, LONG).await.unwrap_err(), NoSlot::Full);
        drop(held);
        let first = one.await.unwrap().unwrap();
        assert!(!two.is_finished());
        assert_eq!(slots.take(key(1), 1).unwrap_err(), NoSlot::Full);
        drop(first);
        drop(two.await.unwrap().unwrap());
        assert_eq!(slots.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn fewer_slots_after_a_reload_are_fewer_though_somebody_always_waits() {
        let slots = Arc::new(Slots::default());
        let mut held: Vec<_> = (0..3).map(|_| slots.take(key(1), 3).unwrap().0).collect();
        let waiter = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.wait(key(1), 1, 1, LONG).await }
        });
        tokio::task::yield_now().await;
        for left in [2, 1] {
            held.pop();
            tokio::task::yield_now().await;
            assert!(slots.taken() == left && !waiter.is_finished());
        }
        held.pop();
        drop(waiter.await.unwrap().unwrap());
        assert_eq!(slots.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn more_slots_after_a_reload_are_for_those_who_wait() {
        let slots = Arc::new(Slots::default());
        let (held, _) = slots.take(key(1), 1).unwrap();
        let wait = |slots: &Arc<Slots>| {
            let slots = Arc::clone(slots);
            tokio::spawn(async move { slots.wait(key(1), 1, 3, LONG).await })
        };
        let (one, gone, two) = (wait(&slots), wait(&slots), wait(&slots));
        tokio::task::yield_now().await;
        gone.abort();
        let _ = gone.await;
        slots.put_in_force(2);
        let first = one.await.unwrap().unwrap();
        tokio::task::yield_now().await;
        assert!(slots.taken() == 2 && !two.is_finished());
        drop(held);
        drop((first, two.await.unwrap().unwrap()));
        assert_eq!(slots.taken(), 0);
        assert!(slots.shards.iter().all(|shard| lock(shard).is_empty()), "an entry without a request");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_or_goes_leaves_nothing_behind() {
        let slots = Arc::new(Slots::default());
        let (held, _) = slots.take(key(1), 1).unwrap();
        assert_eq!(slots.wait(key(1), 1, 1, Duration::from_secs(1)).await.unwrap_err(), NoSlot::Late);
        let waiter = || {
            let slots = Arc::clone(&slots);
            tokio::spawn(async move { slots.wait(key(1), 1, 1, LONG).await.map(drop) })
        };
        let gone = waiter();
        tokio::task::yield_now().await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        // One that goes when the slot is on its way to it.
        let late = waiter();
        tokio::task::yield_now().await;
        drop(held);
        late.abort();
        let _ = late.await;
        assert_eq!(slots.taken(), 0);
        assert!(slots.take(key(1), 1).is_ok());
    }
}
