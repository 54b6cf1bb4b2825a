//! API keys where their route does not ask for one: a key of ours goes no further than here, whichever route it is sent to.

use std::borrow::Cow;
use std::sync::Arc;

use super::api_key::Keys;
use super::{Auth, Place};
use crate::client;
use crate::request::Fields;

/// The places in which some policy of the configuration reads API keys, and the keys. What stands there and is no key of ours may be the
/// upstream's own, and stays.
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

    /// Takes keys out of the fields that go on. Costs a look-up a place, and a hash where something stands there.
    pub fn scrub(&self, fields: &mut impl Fields) {
        let Some(keys) = &self.keys else { return };
        for place in self.places.iter() {
            place.scrub_where(fields, |value| keys.may_be_one(value));
        }
        // CGI and its kin would take `x.api-key` for it.
        client::remove_twins(fields, |name| self.places.iter().any(|place| place.is_header(name)));
    }

    /// The same for the query.
    pub fn scrub_query<'q>(&self, query: Cow<'q, str>) -> Cow<'q, str> {
        let Some(keys) = &self.keys else { return query };
        self.places.iter().fold(query, |query, place| {
            match place.scrub_query_where(&query, |value| keys.may_be_one(value)) {
                Cow::Borrowed(_) => query,
                Cow::Owned(rest) => Cow::Owned(rest),
            }
        })
    }
}
