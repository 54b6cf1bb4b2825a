//! API keys: made by `portcullis keys`, kept as their SHA-256, looked up in memory.
//!
//! To a client a key that was never made, one that is revoked or has expired, and one used from a wrong address are the same: what
//! it holds opens nothing. The log has the reason. A good key on a route that it is not for is told apart (403): its holder has
//! proved who he is.

mod identities;
mod keeper;
mod records;
mod table;
mod text;

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

pub use super::config::PlaceConfig as Config;
pub use keeper::{Figures, Keys};
pub use records::{
    Description, Foreign, Listed, Made, Unchanged, create, import, list, revoke, rotate, set_plan,
};
pub use text::is_id;

use super::{Asked, Context, Denial, Judgement, Place, Presented};
use crate::config::Spanned;
use crate::reply::Kind;
use crate::state::Store;
use identities::Identities;
use table::Standing;

pub(super) const REASONS: &[&str] =
    &["unknown_key", "revoked_key", "expired_key", "replaced_key", "key_address", "key_route"];

/// Compiled.
pub(super) struct ApiKey {
    name: Arc<str>,
    place: Place,
    keys: Arc<Keys>,
    identities: Identities,
}

impl ApiKey {
    pub(super) fn compile(
        name: &Arc<str>,
        config: &Spanned<Config>,
        context: &mut Context<'_>,
    ) -> Option<Self> {
        let place = Place::of(&config.value, &config.path, &config.site, context.build)?;
        let keys = Keys::of(context.live);
        let directory = context.live.directory().to_path_buf();
        if context.live.runtime().is_some() {
            let (keys, site) = (Arc::clone(&keys), config.site.clone());
            let path = config.path.clone();
            let opened = context.live.open_settled(move || {
                keys.open(&directory).map_err(|unusable| format!("{site}: {path}: API keys: {unusable}"))
            });
            if let Err(cause) = opened {
                context.build.errors.push(&config.site, &*config.path, cause, "nothing has changed so far");
                return None;
            }
        } else if !directory.as_os_str().is_empty()
            && let Err(unusable) = keys.look(&directory)
        {
            // `check` and `explain` may be run by somebody whom keys are no business of.
            let opened = std::fs::File::open(Store::path_in(&directory));
            if opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
                let cause = "the API keys cannot be read by this user: none is known here";
                let cure = "run this as the gateway's user, if keys matter";
                context.build.errors.warn(&config.site, &*config.path, cause, cure);
            } else {
                let cause = format!("the API keys cannot be read: {}", unusable.cause);
                context.build.errors.push(&config.site, &*config.path, cause, unusable.cure);
                return None;
            }
        }
        let identities = Identities::new(name);
        Some(Self { name: Arc::clone(name), place, keys, identities })
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    pub(super) fn judge(&self, asked: &Asked<'_>) -> Judgement {
        let key = match self.place.find(asked.request, false) {
            Presented::Absent => return Judgement::Absent,
            Presented::Malformed(why) => return invalid("malformed", why),
            Presented::One(key) => key,
        };
        if !text::LENGTHS.contains(&key.len()) {
            return invalid("unknown_key", "no key has the length of this one");
        }
        let hash = text::hash(key.as_bytes());
        let Some(found) = self.keys.find(&hash) else {
            return invalid("unknown_key", "there is no such key");
        };
        let now = asked.now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // Only who is refused needs it.
        let id = || found.id();
        match found.standing(now) {
            Standing::Good => {}
            Standing::Revoked => return invalid("revoked_key", format!("the key `{}` is revoked", id())),
            Standing::Expired => return invalid("expired_key", format!("the key `{}` has expired", id())),
            Standing::Replaced => {
                return invalid(
                    "replaced_key",
                    format!("the key is an old one of `{}`, and its overlap is over", id()),
                );
            }
        }
        let Some(grants) = found.grants() else { return invalid("unknown_key", "there is no such key") };
        if !grants.allows_address(asked.request.client_ip()) {
            return invalid("key_address", format!("the key `{}` is not for the client's address", id()));
        }
        if !grants.allows_route(&asked.route.name) {
            let message = format!("the key `{}` is not for the route `{}`", id(), asked.route.name);
            return Judgement::Refused(Denial::new(Kind::AccessDenied, "key_route", message));
        }
        found.note_use(keeper::minute(asked.now));
        Judgement::Known(self.identities.of(&hash, &found, self.keys.epoch()), None)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).field("place", &self.place).finish_non_exhaustive()
    }
}

/// One answer for whatever opens nothing.
fn invalid(reason: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> Judgement {
    Judgement::Refused(Denial::new(Kind::InvalidApiKey, reason, message))
}
