//! What limits have made of one request so far.

use std::cmp::Reverse;
use std::time::Duration;

use super::concurrency::Slot;
use super::config::Headers;
use super::headers::Telling;
use super::limit::{Asked, RateLimit};
use super::plan_standing::PlanStanding;
use super::{LIMITS_MAX, Taken};
use crate::request::Fields;

/// The limits of a request: those of the edge and those of its route.
const ALL_MAX: usize = 2 * LIMITS_MAX;

/// Where a request stands with its limits, and what is left to do when it has ended. Slots are given back once it is answered, or when
/// it is dropped.
#[derive(Debug, Default)]
pub struct Standing {
    ietf: Option<Told>,
    /// Beside it, what is under way is no matter of time.
    ietf_slots: Option<SlotsTold>,
    legacy: Option<Told>,
    /// Under which of its limits each policy has judged the request.
    tiers: [u8; ALL_MAX],
    /// How long the request has waited for the store of the fleet.
    pub(super) waited: Duration,
    pub(super) tickets: Vec<Ticket>,
    pub(super) slots: Vec<Slot>,
    /// Where it stands with its API key's plan.
    pub(super) plan: Option<Box<PlanStanding>>,
}

/// What binds most, first.
pub(super) type Order = (Rank, u64, Reverse<Duration>);

/// A limit that counts the request, if it ends as such requests do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    /// Its place among the request's limits.
    pub(super) index: u8,
    pub(super) asked: Asked,
}

/// Where a request stands with one limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// The limit's place among the request's.
    pub(super) index: u8,
    pub(super) tier: u8,
    pub(super) rank: Rank,
    pub(super) of: Of,
    /// Whole tokens, or slots.
    pub(super) remaining: u64,
    /// Until there is one more token.
    pub(super) next: Duration,
    /// Until there are all.
    pub(super) full: Duration,
}

/// Of which part of a limit something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Tokens,
    Slots,
}

/// Where a request stands with one limit on how many are under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotsTold {
    index: u8,
    refused: bool,
    left: u32,
}

/// Who comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// It has refused.
    Refused,
    /// Tokens are left.
    Tokens,
    /// It counts what is under way, which is no matter of time.
    Slots,
}

impl Standing {
    /// Notes how it stands with a limit; the most binding one is told, of tokens and of slots.
    pub(super) fn note(&mut self, limit: &RateLimit, told: Told) {
        if let (Of::Tokens, Some(tier)) = (told.of, self.tiers.get_mut(usize::from(told.index))) {
            *tier = told.tier;
        }
        let binding = match limit.headers {
            _ if !limit.is_visible() => return,
            Headers::Hidden => return,
            Headers::Ietf if told.of == Of::Slots => {
                let slots = SlotsTold::from(told);
                if self.ietf_slots.is_none_or(|before| slots.order() < before.order()) {
                    self.ietf_slots = Some(slots);
                }
                return;
            }
            Headers::Ietf => &mut self.ietf,
            Headers::Legacy => &mut self.legacy,
        };
        if binding.is_none_or(|before| told.order() < before.order()) {
            *binding = Some(told);
        }
    }

    /// Gives its slots back: the last piece of the answer is about to be written, so that whoever has read it finds them free. A
    /// second time does nothing.
    pub fn give_back(&mut self) {
        self.slots = Vec::new();
    }

    /// Tells the client, on a response of a route without limits, where it stands with its plan. Whether there was something to say.
    pub fn tell(&self, fields: &mut impl Fields) -> bool {
        Telling::default().apply(std::iter::empty(), self, fields)
    }

    pub(super) fn ietf(&self) -> Option<&Told> {
        self.ietf.as_ref()
    }

    pub(super) fn ietf_slots(&self) -> Option<Told> {
        self.ietf_slots.map(Told::from)
    }

    pub(super) fn legacy(&self) -> Option<&Told> {
        self.legacy.as_ref()
    }

    /// Whether some limit is another than that of most keys.
    pub(super) fn is_overridden(&self) -> bool {
        self.tiers.iter().any(|tier| *tier != 0)
    }

    pub(super) fn tiers(&self) -> impl Iterator<Item = u8> {
        self.tiers.iter().copied()
    }
}

impl SlotsTold {
    /// What has refused first, then what has fewest left.
    fn order(self) -> (bool, u32) {
        (!self.refused, self.left)
    }
}

impl From<Told> for SlotsTold {
    fn from(told: Told) -> Self {
        let left = u32::try_from(told.remaining).unwrap_or(u32::MAX);
        Self { index: told.index, refused: told.rank == Rank::Refused, left }
    }
}

impl From<SlotsTold> for Told {
    fn from(SlotsTold { index, refused, left }: SlotsTold) -> Self {
        Self::slots(index, refused, left)
    }
}

impl Told {
    /// As a limit's bucket has said it.
    pub(super) fn tokens(index: u8, tier: u8, rank: Rank, seen: &Taken) -> Self {
        let (remaining, next, full) = (seen.remaining(), seen.next_token(), seen.full());
        Self { index, tier, rank, of: Of::Tokens, remaining, next, full }
    }

    /// So many slots are left.
    pub(super) fn slots(index: u8, refused: bool, left: u32) -> Self {
        Self {
            index,
            tier: 0,
            rank: if refused { Rank::Refused } else { Rank::Slots },
            of: Of::Slots,
            remaining: left.into(),
            next: Duration::ZERO,
            full: Duration::ZERO,
        }
    }

    /// What is refused first and what takes longest to come back binds most.
    pub(super) fn order(&self) -> Order {
        (self.rank, self.remaining, Reverse(self.next))
    }
}
