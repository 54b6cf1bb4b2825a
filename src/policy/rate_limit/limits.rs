//! The limits of a route, and those of the edge: asked together, in one order.
//!
//! All that are asked at one place are looked at first, and tokens are taken only if none refuses: a request that is refused
//! there has spent nothing of the others. What it has spent at an earlier place (the edge, before authentication) stays spent; limits of a
//! route that all share (by route or host alone) are therefore asked behind authentication, with those by identity, and not where
//! the plan of the key is known to refuse.
//! Between looking and taking another request may take the last token: then this one is refused, and what it had taken
//! from the others is gone.

mod door;
mod failures;

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use door::Door;
use http::{HeaderMap, Method};

use super::Nanos;
use super::headers::Telling;
use super::key::{Ahead, Facts};
use super::limit::RateLimit;
use super::standing::{Rank, Standing, Ticket, Told};
use crate::policy::Effects;
use crate::reply::Refusal;
use crate::request::Fields;

/// Limits in the order in which they are asked.
#[derive(Debug)]
pub struct Limits {
    all: Box<[Arc<RateLimit>]>,
    /// The first so many are the edge's.
    edge: usize,
    /// Those behind these know who asks, or belong to all.
    identity: usize,
    telling: Telling,
}

/// Where limits are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before any route is known.
    Edge,
    /// On the route, before authentication.
    Route,
    /// Behind authentication.
    Identity,
}

impl Limits {
    /// The edge's and the route's, [`LIMITS_MAX`](super::LIMITS_MAX) of each at the most, and whether the route asks who it is. None where there
    /// are none.
    pub fn new(edge: &[Arc<RateLimit>], route: Vec<Arc<RateLimit>>, asks: bool) -> Option<Self> {
        if edge.is_empty() && route.is_empty() {
            return None;
        }
        let (late, early): (Vec<_>, Vec<_>) = route.into_iter().partition(|limit| limit.is_late(asks));
        let identity = edge.len() + early.len();
        let all: Box<[_]> = edge.iter().cloned().chain(early).chain(late).collect();
        let telling = Telling::of(all.iter().map(|limit| &**limit));
        Some(Self { edge: edge.len(), identity, all, telling })
    }

    /// Makes the keys of the edge's first limits, as far as the client is all that they take, and has fetched from memory what will be asked
    /// about them: a table may be larger than any cache, and a look at memory takes as long as all that is done about a request's head
    /// before the edge is asked.
    pub fn ahead(&self, client: IpAddr) -> Ahead {
        let mut ahead = Ahead::default();
        let (method, headers) = (&Method::GET, &HeaderMap::new());
        let facts = Facts {
            client,
            method,
            host: "",
            headers,
            route: None,
            identity: None,
            api_key: None,
            ahead: None,
        };
        let edge = self.all.iter().take(self.edge);
        ahead.0.iter_mut().zip(edge).for_each(|(made, limit)| *made = limit.ahead(&facts));
        ahead
    }

    /// Asks the limits of a place. What they note is left in `effects`.
    ///
    /// # Errors
    /// The refusal of the one that takes longest to let the request in.
    pub async fn check(&self, place: Place, facts: &Facts<'_>, effects: &mut Effects) -> Result<(), Refusal> {
        let range = self.range(place);
        let Some(limits) = self.all.get(range.clone()).filter(|limits| !limits.is_empty()) else {
            return Ok(());
        };
        let mut door = Door::new(limits, range.start, facts);
        let checked = if limits.iter().any(|limit| limit.waits() || limit.is_of_fleet()) {
            Box::pin(door.check_waiting(effects)).await
        } else {
            door.look(effects).and_then(|()| door.hold(effects)).and_then(|()| door.take(effects))
        };
        door.wait_for_status(effects);
        checked
    }

    /// Asks the limits of a place about a request that was refused before it came to them: by the door, or by authentication although it
    /// is known who it is. Then only those that count by status are asked. It holds no slot.
    ///
    /// # Errors
    /// That of a limit which would have refused it: to be told in the other's place.
    pub async fn check_refused(
        &self,
        place: Place,
        facts: &Facts<'_>,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let range = self.range(place);
        let limits = self.all.get(range.clone()).unwrap_or_default();
        let is_asked = |limit: &RateLimit| place != Place::Identity || limit.counts_ends();
        if !limits.iter().any(|limit| is_asked(limit)) {
            return Ok(());
        }
        let mut door = Door::new(limits, range.start, facts);
        for (index, _) in limits.iter().enumerate().filter(|(_, limit)| !is_asked(limit)) {
            door.forget(index);
        }
        let checked = Box::pin(door.check_refused(effects)).await;
        door.wait_for_status(effects);
        checked
    }

    /// The statuses of a request are known, its response's and that of its refusal's kind: it is counted where one of them is, once
    /// by each limit. Called when the response's head is, before it is told where it stands, and again when the request has ended:
    /// then for those without one.
    pub fn settle(&self, statuses: &[u16], standing: &mut Standing) {
        let mut tickets = std::mem::take(&mut standing.tickets);
        tickets.retain(|Ticket { index, asked }| {
            let Some(limit) = self.all.get(usize::from(*index)) else { return false };
            let counts = statuses.iter().any(|status| limit.counts(*status));
            if let Some(left) = counts.then(|| limit.charge(asked, Nanos::now())).flatten() {
                standing.note(limit, Told::tokens(*index, asked.tier, Rank::Tokens, &left));
            }
            !counts
        });
        standing.tickets = tickets;
    }

    /// Tells the client, on its response, where it stands. Whether there was something to say.
    pub fn tell(&self, standing: &Standing, fields: &mut impl Fields) -> bool {
        self.telling.apply(self.all.iter().map(|limit| &**limit), standing, fields)
    }

    fn range(&self, place: Place) -> Range<usize> {
        match place {
            Place::Edge => 0..self.edge,
            Place::Route => self.edge..self.identity,
            Place::Identity => self.identity..self.all.len(),
        }
    }
}
