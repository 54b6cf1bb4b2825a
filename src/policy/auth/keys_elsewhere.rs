//! API keys where their route does not ask for one: a key of ours goes no further than here, whichever route it is sent to.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::AUTHORIZATION;

use super::api_key::Keys;
use super::{Auth, Place, Requirement};
use crate::client;
use crate::request::Fields;

/// The longest key, with a scheme and more.
const SHORT: usize = 256;

/// What is for the gateway alone of a request: the keys and passwords that its route asks for, and API keys wherever they stand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kept<'a> {
    /// What the route asks.
    pub requirement: Option<&'a Requirement>,
    /// Where keys stand.
    pub places: Option<&'a KeyPlaces>,
}

impl Kept<'_> {
    /// Takes it out of fields that somebody else is to see before it is decided who it is.
    pub(super) fn scrub(&self, fields: &mut impl Fields) {
        if let Some(requirement) = self.requirement {
            requirement.scrub_credentials(fields);
        }
        if let Some(places) = self.places {
            places.scrub(fields);
        }
    }
}

/// The places in which some policy of the configuration reads API keys, and the keys. What stands there and neither is nor holds a key of ours
/// may be the upstream's own, and stays.
#[derive(Clone, Debug, Default)]
pub struct KeyPlaces {
    places: Arc<[Place]>,
    keys: Option<Arc<Keys>>,
}

impl KeyPlaces {
    /// Those of these policies.
    pub fn of<'p>(policies: impl Iterator<Item = &'p Arc<Auth>>) -> Self {
        let mut found = Self::default();
        let mut places = Vec::new();
        for key in policies.filter_map(|policy| policy.as_api_key()) {
            if !places.contains(key.place()) {
                places.push(key.place().clone());
            }
            // One store is for all policies.
            found.keys.get_or_insert_with(|| Arc::clone(key.keys()));
        }
        found.places = places.into();
        found
    }

    /// Takes keys out of the fields that go on. Costs a look-up a place, and a hash where something stands there. `Authorization` is a
    /// place too: many a client sends there what it knows for a key.
    pub fn scrub(&self, fields: &mut impl Fields) {
        let Some(keys) = &self.keys else { return };
        for place in self.places.iter() {
            place.scrub_where(fields, |value| keys.are_in(value));
        }
        let authorization = Place::Header(AUTHORIZATION);
        authorization.scrub_where(fields, |value| may_hold_keys(value) && keys.are_in(value));
        // CGI and its kin would take `x.api-key` for it.
        client::remove_twins(fields, |name| self.places.iter().any(|place| place.is_header(name)));
    }

    /// The same for the query.
    pub fn scrub_query<'q>(&self, query: Cow<'q, str>) -> Cow<'q, str> {
        let Some(keys) = &self.keys else { return query };
        self.places.iter().fold(query, |query, place| {
            match place.scrub_query_where(&query, |value| keys.are_in(value)) {
                Cow::Borrowed(_) => query,
                Cow::Owned(rest) => Cow::Owned(rest),
            }
        })
    }
}

/// Whether a value of `Authorization` is worth the search: most are tokens, long and of one piece.
fn may_hold_keys(value: &str) -> bool {
    value.len() <= SHORT || value.contains('%') || value.contains("pk_")
}
