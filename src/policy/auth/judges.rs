//! Kinds of credentials: who judges what a request presents.
//!
//! Policies that read tokens from the same place are one kind, and the token's issuer says which of them judges.

use std::sync::Arc;

use super::credential::Presented;
use super::{Asked, Auth, Denial, Judgement, Place, Rules, jwt};
use crate::config::{Build, Spanned};

/// A kind of credential.
#[derive(Debug)]
pub(super) enum Judges {
    Tokens {
        place: Place,
        /// Speaks for what no judge said.
        first: Arc<Auth>,
        judges: Box<[Arc<Auth>]>,
        /// Who is asked about what is no token of these issuers.
        opaque: Option<Arc<Auth>>,
    },
    One(Arc<Auth>),
}

impl Judges {
    /// Its policies, in the order written; who is asked about opaque tokens last.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Arc<Auth>> {
        match self {
            Self::One(policy) => std::slice::from_ref(policy).iter().chain(None),
            Self::Tokens { judges, opaque, .. } => judges.iter().chain(opaque.as_ref()),
        }
    }

    pub(super) fn is_forward(&self) -> bool {
        matches!(self, Self::One(policy) if policy.as_forward().is_some())
    }

    /// Where a service is asked: by which policy, and whether the request bears something that the service could know somebody by.
    pub(super) fn asks(&self, asked: &Asked<'_>) -> Option<(&Arc<Auth>, bool)> {
        match self {
            Self::One(policy) => {
                let forward = policy.as_forward()?;
                Some((policy, !forward.is_absent(asked.request.headers)))
            }
            Self::Tokens { .. } => None,
        }
    }

    pub(super) async fn judge<'s>(&'s self, asked: &Asked<'_>) -> (&'s Arc<Auth>, Judgement) {
        match self {
            Self::One(policy) => (policy, policy.judge(asked).await),
            Self::Tokens { place, first, judges, opaque } => {
                tokens(place, first, judges, opaque.as_ref(), asked).await
            }
        }
    }
}

/// The token's issuer says who judges; what says none is for the introspection, where there is one.
async fn tokens<'s>(
    place: &Place,
    first: &'s Arc<Auth>,
    judges: &'s [Arc<Auth>],
    opaque: Option<&'s Arc<Auth>>,
    asked: &Asked<'_>,
) -> (&'s Arc<Auth>, Judgement) {
    let dpop = judges.iter().chain(opaque).any(|judge| judge.takes_proofs());
    let token = match place.find(asked.request, dpop) {
        Presented::Absent => return (first, Judgement::Absent),
        Presented::Malformed(why) => {
            let denial = Denial::invalid("malformed", why);
            return (first, Judgement::Refused(denial));
        }
        Presented::One(token) => token,
    };
    // A token that a judge has seen before need not be taken apart to find its issuer. The issuer says who judges in either case: what is
    // remembered changes no verdict.
    let tokens_of =
        |issuer: &str| judges.iter().find(|judge| judge.as_jwt().is_some_and(|jwt| jwt.issuer() == issuer));
    let mut all = judges.iter().filter_map(|judge| judge.as_jwt());
    let meant = match all.find(|jwt| jwt.remembers(&token)) {
        Some(jwt) => tokens_of(jwt.issuer()),
        None => jwt::issuer_of(&token).and_then(|issuer| tokens_of(&issuer)),
    };
    match (meant, opaque) {
        (Some(judge), _) | (None, Some(judge)) => match judge.judge(asked).await {
            // It is there, and of a scheme that this judge does not take: that is not the same as none.
            Judgement::Absent => {
                let why = "the token's issuer is known, and its scheme is not taken for it";
                let denial = Denial::invalid("malformed", why);
                (judge, Judgement::Refused(denial))
            }
            judgement => (judge, judgement),
        },
        (None, None) => {
            let denial = Denial::invalid("unknown_issuer", "the token is of no issuer that the route knows");
            (first, Judgement::Refused(denial))
        }
    }
}

/// Policies by kind, each kind at the place of its first policy.
pub(super) fn group(policies: Vec<Arc<Auth>>) -> Box<[Judges]> {
    let mut kinds: Vec<Judges> = Vec::new();
    for policy in policies {
        let place = policy.place().filter(|_| policy.reads_tokens()).cloned();
        let Some(place) = place else {
            kinds.push(Judges::One(policy));
            continue;
        };
        let same = kinds.iter_mut().find_map(|kind| match kind {
            Judges::Tokens { place: other, judges, opaque, .. } if *other == place => Some((judges, opaque)),
            _ => None,
        });
        let first = Arc::clone(&policy);
        let (judge, asked) =
            if policy.as_jwt().is_some() { (Some(policy), None) } else { (None, Some(policy)) };
        match same {
            Some((judges, opaque)) => {
                *judges = judges.iter().cloned().chain(judge).collect();
                *opaque = opaque.take().or(asked);
            }
            None => {
                kinds.push(Judges::Tokens {
                    place,
                    first,
                    judges: judge.into_iter().collect(),
                    opaque: asked,
                });
            }
        }
    }
    // A kind with one policy needs no look at the issuer.
    kinds
        .into_iter()
        .map(|kind| match kind {
            Judges::Tokens { place, first, judges, opaque } => match (&*judges, opaque) {
                ([only], None) => Judges::One(Arc::clone(only)),
                ([], Some(only)) => Judges::One(only),
                (_, opaque) => Judges::Tokens { place, first, judges, opaque },
            },
            one @ Judges::One(_) => one,
        })
        .collect()
}

/// One of several that read tokens from the same place is chosen by the token's issuer: two of one issuer, or two that are to be
/// asked, could not be told apart, and the second would never judge.
pub(super) fn each_is_asked(policies: &[Arc<Auth>], rules: &Spanned<Rules>, build: &mut Build) {
    for (at, policy) in policies.iter().enumerate().filter(|(_, policy)| policy.reads_tokens()) {
        let issuer = |policy: &Auth| policy.as_jwt().map(|jwt| jwt.issuer().to_owned());
        let twin = policies.iter().take(at).find(|other| {
            other.reads_tokens() && other.place() == policy.place() && issuer(other) == issuer(policy)
        });
        if let Some(twin) = twin {
            build.errors.push(
                &rules.site,
                &*rules.path,
                format!("nothing in a token says whether `{}` or `{}` judges it", twin.name(), policy.name()),
                "keep one of them, or let one read elsewhere (`from`)",
            );
        }
    }
}

/// A service is asked where the request has one of its fields, and its no refuses: of two that look at the same field the second would
/// never be asked.
pub(super) fn each_service_is_asked(policies: &[Arc<Auth>], rules: &Spanned<Rules>, build: &mut Build) {
    for (at, policy) in policies.iter().enumerate() {
        let Some(forward) = policy.as_forward() else { continue };
        for (other, name) in policies.iter().take(at).filter_map(|other| {
            let name = other.as_forward()?.asks_by().iter().find(|name| forward.asks_by().contains(name))?;
            Some((other, name))
        }) {
            build.errors.push(
                &rules.site,
                &*rules.path,
                format!(
                    "nothing in `{name}` says whether `{}` or `{}` is asked about it",
                    other.name(),
                    policy.name()
                ),
                "keep one of them, list different `headers`, or write `all_of` if both must say yes",
            );
        }
    }
}

/// A request has one credential in a place; `Authorization` is one, whatever the scheme.
pub(super) fn each_has_its_place(policies: &[Arc<Auth>], rules: &Spanned<Rules>, build: &mut Build) {
    let field = |place: &Place| match place {
        Place::Bearer | Place::Basic => Place::Header(http::header::AUTHORIZATION),
        other => other.clone(),
    };
    for (at, policy) in policies.iter().enumerate() {
        let Some(place) = policy.place().map(field) else { continue };
        let twin = policies.iter().take(at).find(|other| other.place().map(field).as_ref() == Some(&place));
        if let Some(twin) = twin {
            build.errors.push(
                &rules.site,
                &*rules.path,
                format!(
                    "a request has one credential where `{}` reads it, so it cannot have that of `{}` too",
                    twin.name(),
                    policy.name()
                ),
                "use `any_of`, or let one of them read elsewhere (`from`)",
            );
        }
    }
}
