//! What a route asks of who comes: which policies, all of them or one, and then its conditions.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;

use super::authorise::Conditions;
use super::challenge::Challenge;
use super::judges::{self, Judges};
use super::{Asked, Auth, Denial, Judgement, Place, Rules};
use crate::config::{Build, Site, Spanned};
use crate::identity::Identity;
use crate::policy::{Effects, Mode, Outcome, Step, Verdict};
use crate::reply::{Kind, Refusal};
use crate::request::{Fields, Request};

/// Before the path of a resource: the address of its metadata (RFC 9728 §3).
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Two tokens where a request bears one.
const SEVERAL_TOKENS: &str = "several_tokens";

/// The words that any policy may refuse with; each kind of credential adds its own.
pub(super) const REASONS: &[&str] = &[
    "missing",
    "malformed",
    "unknown_issuer",
    SEVERAL_TOKENS,
    "insufficient_scope",
    "group",
    "claim",
    "address",
    "time",
    "expression",
];

/// What a route asks, compiled.
#[derive(Debug)]
pub struct Requirement {
    site: Site,
    /// Kinds of credentials, in the order written.
    kinds: Box<[Judges]>,
    /// Whether each kind must be there; else one.
    all: bool,
    /// Whether a request with none passes.
    anonymous: bool,
    conditions: Conditions,
    /// Enforced unless every policy is shadowed: a shadowed policy opens what it alone guards.
    mode: Mode,
}

/// The tokens that a route takes (RFC 9728 §2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tokens<'a> {
    /// Of whom, where that is known.
    pub issuers: Vec<&'a str>,
    /// Scopes that the route wants.
    pub scopes: &'a [Box<str>],
    /// Whether tokens bound to a proof (RFC 9449) are taken.
    pub proofs: bool,
    /// Whether no others are.
    pub proofs_required: bool,
    /// How one may be sent: `header`, `query` (RFC 6750 §2).
    pub methods: Vec<&'static str>,
}

/// Who a request is from, where it may pass.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Somebody who proved it.
    Known(Arc<Identity>),
    /// Nobody in particular, and that is allowed.
    Anonymous,
}

impl Decision {
    /// The identity, where there is one.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Known(identity) => Some(identity),
            Self::Anonymous => None,
        }
    }
}

fn missing() -> Denial {
    Denial::new(
        Kind::MissingAuthenticationToken,
        "missing",
        "the request bears no credential of a kind that the route takes",
    )
}

/// `a` or `b`
fn names(policies: &[&Auth]) -> String {
    policies.iter().map(|policy| format!("`{}`", policy.name())).collect::<Vec<_>>().join(" or ")
}

/// RFC 6750 §2: one request, one way to send a token. One of two would be taken, and the other go on to the upstream unread.
fn several_tokens(other: &Auth) -> Denial {
    let message =
        format!("there is a token for `{}` too, in another place: a request bears one", other.name());
    Denial::invalid(SEVERAL_TOKENS, message)
}

/// A refusal, and who was refused where that is known: somebody who may not.
#[derive(Debug)]
pub struct Refused {
    /// What is answered.
    pub refusal: Refusal,
    /// For the log.
    pub identity: Option<Arc<Identity>>,
    /// Whether a credential was presented that is wrong ([`Denial::is_failure`]), to a policy that is enforced.
    pub has_failed: bool,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, identity: None, has_failed: false }
    }
}

/// Whether one of several kinds, or all of them, must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// `any_of`
    One,
    /// `all_of`
    All,
}

impl Requirement {
    /// From the policies that were found and the rules beside them. None when `build.errors` says why.
    pub fn compile(
        policies: Vec<Arc<Auth>>,
        quantity: Quantity,
        rules: &Spanned<Rules>,
        build: &mut Build,
    ) -> Option<Self> {
        let errors_before = build.errors.errors().len();
        let mut refuse =
            |cause: String, cure: &'static str| build.errors.push(&rules.site, &*rules.path, cause, cure);
        for (at, policy) in policies.iter().enumerate() {
            if policies.iter().take(at).any(|other| Arc::ptr_eq(other, policy)) {
                refuse(format!("`{}` is named twice", policy.name()), "name each policy once");
            }
        }
        if rules.anonymous && quantity == Quantity::All {
            refuse(
                "`anonymous` lets pass who presents nothing, `all_of` nobody who lacks one".to_owned(),
                "use `any_of`",
            );
        }
        let proven = !(rules.scopes.is_empty() && rules.groups.is_empty() && rules.claims.is_empty());
        if rules.anonymous && proven {
            refuse(
                "nobody anonymous has scopes, groups or claims".to_owned(),
                "remove `anonymous`, or make a route of its own for it",
            );
        }
        let whose: Vec<&Auth> = match quantity {
            Quantity::One => policies.iter().map(|policy| &**policy).collect(),
            // Whose identity it is: the first one's that is enforced.
            Quantity::All => {
                let first = policies
                    .iter()
                    .find(|policy| policy.mode() == Mode::Enforce)
                    .or_else(|| policies.first());
                first.map(|policy| &**policy).into_iter().collect()
            }
        };
        for (key, wanted, gives) in [
            ("scopes", !rules.scopes.is_empty(), Auth::gives_scopes as fn(&Auth) -> bool),
            ("groups", !rules.groups.is_empty(), Auth::gives_groups),
        ] {
            if wanted && !whose.is_empty() && !whose.iter().any(|policy| gives(policy)) {
                build.errors.push(
                    &rules.site,
                    format!("{}.{key}", rules.path),
                    format!("whom {} knows has no {key}: nobody could pass", names(&whose)),
                    match quantity {
                        Quantity::One => "remove the condition, or name a policy whose credentials say so",
                        Quantity::All => "name first in `all_of` whose credential says so",
                    },
                );
            }
        }
        match quantity {
            Quantity::One => {
                judges::each_is_asked(&policies, rules, build);
                judges::each_service_is_asked(&policies, rules, build);
            }
            Quantity::All => judges::each_has_its_place(&policies, rules, build),
        }
        let conditions = Conditions::compile(rules, build);
        let is_name = |name: &str| name.split('.').all(|part| !part.is_empty());
        let lacks = |name: &str| {
            !whose.is_empty() && is_name(name) && !whose.iter().any(|policy| policy.gives_claim(name))
        };
        let lacked = |name: &str| format!("whom {} knows has no claim `{name}`", names(&whose));
        let cure = match quantity {
            Quantity::One => "remove the condition, or name a policy whose credentials have it",
            Quantity::All => "name first in `all_of` whose credential has it",
        };
        for (name, written) in rules.claims.iter().filter(|(name, _)| lacks(name)) {
            build.errors.push(&written.site, &*written.path, lacked(name) + ": nobody could pass", cure);
        }
        if let Some(when) = &rules.when {
            for name in conditions.named_claims().into_iter().filter(|name| lacks(name)) {
                build.errors.warn(&when.site, &*when.path, lacked(name) + ", of which `when` speaks", cure);
            }
        }
        if build.errors.errors().len() > errors_before {
            return None;
        }
        let shadowed = policies.iter().all(|policy| policy.mode() == Mode::Shadow);
        let mut kinds = judges::group(policies);
        if quantity == Quantity::One {
            // Who is known by what the request bears is not asked about.
            kinds.sort_by_key(Judges::is_forward);
        }
        Some(Self {
            site: rules.site.clone(),
            all: quantity == Quantity::All,
            anonymous: rules.anonymous,
            conditions,
            mode: if shadowed { Mode::Shadow } else { Mode::Enforce },
            kinds,
        })
    }

    /// The parameters of its path and the labels that a route needs for its condition: `("route", "tenant")`.
    pub fn names(&self) -> Vec<(&'static str, &str)> {
        self.conditions.names()
    }

    /// The fields of the request that its condition speaks of.
    pub fn fields(&self) -> Vec<&str> {
        self.conditions.fields()
    }

    /// Decides: every credential that is presented must be valid, the first one's identity is the request's, and every condition
    /// must hold for it.
    ///
    /// Of one that a service alone can read nobody knows whether it is one: a cookie may be anybody's. So where one of several kinds is
    /// wanted, a service is asked only while nobody is known by another (a shadowed policy's word does not count); and last about a
    /// request that has nothing for it, so that its login can be the answer.
    ///
    /// # Errors
    /// The refusal, with its challenges; none where shadowed policies alone refuse, which are noted in `effects`.
    pub async fn decide(&self, asked: &Asked<'_>, effects: &mut Effects) -> Result<Decision, Refused> {
        let mut known: Option<(Arc<Identity>, &Arc<Auth>)> = None;
        let mut absent = None;
        let mut lacking = Vec::new();
        let mut noted = false;
        let mut token: Option<&Arc<Auth>> = None;
        let turns = self.kinds.iter().map(|kind| (kind, false));
        let last = self.kinds.iter().filter(|kind| kind.is_forward() && !self.all).map(|kind| (kind, true));
        for (kind, is_last) in turns.chain(last) {
            if let (Some((by, presented)), false) = (kind.asks(asked), self.all) {
                if presented == is_last {
                    continue; // It has its turn before, or after.
                }
                let unknown = known.as_ref().is_none_or(|(_, of)| of.mode() == Mode::Shadow);
                if !unknown || is_last && (known.is_some() || self.anonymous) {
                    absent = absent.or(Some(by));
                    continue;
                }
            }
            // What a service says of a request that bears nothing for it is said of no credential.
            let presented = kind.asks(asked).is_none_or(|(_, presented)| presented);
            let (by, judgement) = kind.judge(asked).await;
            match judgement {
                Judgement::Absent => {
                    absent = absent.or(Some(by));
                    if self.all {
                        lacking.push(by);
                    }
                }
                Judgement::Known(identity, told) => {
                    if let (Some(other), true) = (token, by.reads_tokens() && !self.all) {
                        let shadowed = [other, by].iter().any(|policy| policy.mode() == Mode::Shadow);
                        let mode = if shadowed { Mode::Shadow } else { Mode::Enforce };
                        self.refuse(asked, effects, by, mode, by.site(), several_tokens(other))?;
                        continue;
                    }
                    token = token.or_else(|| Some(by).filter(|by| by.reads_tokens()));
                    effects.answers.extend(told);
                    effects.note(|| Step {
                        name: Arc::clone(by.name()),
                        outcome: "pass".into(),
                        detail: format!("{} ({})", identity.id, identity.method.as_str()).into(),
                        site: Some(by.site().clone()),
                    });
                    if identity.key_id.is_some() && effects.key.is_none() {
                        effects.key = Some(Arc::clone(&identity));
                    }
                    if self.all {
                        effects.passes.extend(identity.upstream_headers.iter().cloned());
                    }
                    // The first one's, but for one that only a shadowed policy knows.
                    if known
                        .as_ref()
                        .is_none_or(|(_, of)| of.mode() == Mode::Shadow && by.mode() == Mode::Enforce)
                    {
                        known = Some((identity, by));
                    }
                }
                Judgement::Refused(denial) => {
                    let has_failed = presented && denial.is_failure();
                    self.refuse(asked, effects, by, by.mode(), by.site(), denial)
                        .map_err(|refusal| Refused { has_failed, ..refusal.into() })?;
                    noted = true;
                    absent = absent.or(Some(by));
                }
            }
        }
        if let (Some((identity, _)), false) = (&known, self.all) {
            // One request, one identity: the upstream hears of the one whose conditions were asked.
            effects.passes.extend(identity.upstream_headers.iter().cloned());
        }
        let said = noted && self.mode == Mode::Shadow;
        match absent {
            // One of them would do. Where all are shadowed and one has refused, that has been said.
            Some(by) if !self.all && known.is_none() && !self.anonymous && !said => {
                self.refuse(asked, effects, self.spokesman(by), self.mode, by.site(), missing())?;
            }
            // Each is wanted, by its own word.
            Some(_) if self.all => {
                for by in lacking {
                    self.refuse(asked, effects, by, by.mode(), by.site(), missing())?;
                }
            }
            _ => {}
        }
        let nobody;
        let (identity, by) = match &known {
            Some((identity, by)) => (&**identity, Some(*by)),
            None => {
                nobody = Identity::anonymous();
                (&nobody, absent)
            }
        };
        // Conditions are the route's: a shadowed policy beside an enforced one does not open them.
        if let (Err(denial), Some(by)) = (self.conditions.check(identity, asked), by) {
            self.refuse(asked, effects, by, self.mode, &self.site, denial).map_err(|refusal| Refused {
                refusal,
                identity: known.as_ref().map(|(identity, _)| Arc::clone(identity)),
                has_failed: false,
            })?;
        }
        if let (None, true, Some(by)) = (&known, self.anonymous, by) {
            effects.note(|| Step {
                name: Arc::clone(by.name()),
                outcome: "pass".into(),
                detail: "nothing is presented, and the route takes who is `anonymous`".into(),
                site: Some(self.site.clone()),
            });
        }
        Ok(known.map_or(Decision::Anonymous, |(identity, _)| Decision::Known(identity)))
    }

    /// Who speaks for what none of the policies said: an enforced one where there is any.
    fn spokesman<'a>(&'a self, by: &'a Arc<Auth>) -> &'a Arc<Auth> {
        self.policies().find(|policy| policy.mode() == self.mode).unwrap_or(by)
    }

    fn refuse(
        &self,
        asked: &Asked<'_>,
        effects: &mut Effects,
        by: &Arc<Auth>,
        mode: Mode,
        site: &Site,
        denial: Denial,
    ) -> Result<(), Refusal> {
        let outcome =
            Outcome::Refuse { kind: denial.kind, reason: denial.reason, message: denial.message.clone() };
        effects.judge(by.name(), mode, Verdict { outcome, site }).map_err(|mut refusal| {
            // A redirect is its own way to authenticate.
            if denial.status.is_none() {
                refusal.headers.extend(self.challenges(asked, by, &denial));
            }
            refusal.headers.extend(denial.headers);
            refusal.status = denial.status;
            refusal
        })
    }

    /// A challenge for each scheme that the route takes, once; for a 403 of a token's scope, the token's alone (RFC 6750 §3.1).
    fn challenges(
        &self,
        asked: &Asked<'_>,
        by: &Arc<Auth>,
        denial: &Denial,
    ) -> Vec<(http::HeaderName, HeaderValue)> {
        let insufficient = denial.error == Some("insufficient_scope");
        if denial.kind.status() != http::StatusCode::UNAUTHORIZED && !insufficient {
            return Vec::new();
        }
        let metadata = metadata_address(asked.request);
        let scopes = self.conditions.scopes();
        let mut schemes: Vec<Challenge> = Vec::new();
        for policy in self.policies().filter(|policy| !insufficient || Arc::ptr_eq(policy, by)) {
            for challenge in policy.challenges() {
                if !schemes.contains(&challenge) {
                    schemes.push(challenge);
                }
            }
        }
        // The error is that of the credential that was presented: the other schemes are only offered. Of two tokens it is that of both.
        let offered = Denial { error: None, ..denial.clone() };
        let own = match denial.reason {
            SEVERAL_TOKENS => {
                self.policies().filter(|own| own.reads_tokens()).flat_map(|own| own.challenges()).collect()
            }
            _ => by.challenges(),
        };
        schemes
            .iter()
            .filter_map(|challenge| {
                let denial = if own.contains(challenge) { denial } else { &offered };
                challenge.render(denial, scopes, metadata.as_deref())
            })
            .map(|value| (WWW_AUTHENTICATE, value))
            .collect()
    }

    /// Whether some of its policies know API keys.
    pub fn knows_api_keys(&self) -> bool {
        self.policies().any(|policy| policy.is_of_api_keys())
    }

    fn policies(&self) -> impl Iterator<Item = &Arc<Auth>> {
        self.kinds.iter().flat_map(Judges::policies)
    }

    /// What a client needs to know to get a token for this route; none where it takes none.
    pub fn tokens(&self) -> Option<Tokens<'_>> {
        let of_tokens = || self.policies().filter(|policy| policy.reads_tokens());
        of_tokens().next()?;
        let places = of_tokens().filter_map(|policy| policy.place());
        let mut methods: Vec<_> = places.filter_map(Place::bearer_method).collect();
        methods.sort_unstable();
        methods.dedup();
        Some(Tokens {
            issuers: of_tokens().filter_map(|policy| policy.token_issuer()).collect(),
            scopes: self.conditions.scope_list(),
            proofs: of_tokens().any(|policy| policy.takes_proofs()),
            proofs_required: of_tokens().all(|policy| policy.needs_proofs()),
            methods,
        })
    }

    /// Takes credentials out of what the upstream sees: those that are for the gateway alone. So go fields that only an external service
    /// may set.
    pub fn scrub(&self, fields: &mut impl Fields) {
        self.scrub_credentials(fields);
        // What CGI and its kin would take for a credential that was judged (`x.token` for `x-token`) was not.
        crate::client::remove_twins(fields, |name| {
            self.policies().filter_map(|policy| policy.place()).any(|place| place.is_header(name))
        });
        for forward in self.policies().filter_map(|policy| policy.as_forward()) {
            for name in forward.passes() {
                fields.remove(name);
            }
            crate::client::remove_twins(fields, |name| forward.passes().iter().any(|own| own == name));
        }
    }

    /// Takes out those that are for the gateway alone: what the service of `forward` sees neither.
    pub(super) fn scrub_credentials(&self, fields: &mut impl Fields) {
        for place in self.scrubbed() {
            place.scrub(fields);
        }
    }

    /// The same for the query.
    pub fn scrub_query<'q>(&self, query: &'q str) -> Cow<'q, str> {
        self.scrubbed().fold(Cow::Borrowed(query), |query, place| match place.scrub_query(&query) {
            Cow::Borrowed(_) => query,
            Cow::Owned(rest) => Cow::Owned(rest),
        })
    }

    /// The query without any credential that is read from it, those for the upstream too: for what people pass around, and for the service
    /// of `forward`.
    pub fn hide_in_query<'q>(&self, query: &'q str) -> Cow<'q, str> {
        let places = self.policies().filter_map(|policy| policy.place());
        places.fold(Cow::Borrowed(query), |query, place| match place.scrub_query(&query) {
            Cow::Borrowed(_) => query,
            Cow::Owned(rest) => Cow::Owned(rest),
        })
    }

    fn scrubbed(&self) -> impl Iterator<Item = &Place> {
        self.policies().filter(|policy| policy.scrubs()).filter_map(|policy| policy.place())
    }
}

/// The address of the resource's metadata (RFC 9728 §3.1): the well-known path stands between host and path.
fn metadata_address(request: &Request<'_>) -> Option<String> {
    let authority = request.target.authority();
    if authority.is_empty() {
        return None;
    }
    let scheme = if request.client.https { "https" } else { "http" };
    let path = request.target.path();
    let path = if matches!(path, "/" | "*") { "" } else { path };
    Some(format!("{scheme}://{authority}{WELL_KNOWN}{path}"))
}
