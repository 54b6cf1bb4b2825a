//! What a policy answers, and the one mechanism for shadow mode.

use std::borrow::Cow;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Turn;
use super::rate_limit::Standing;
use crate::config::Site;
use crate::identity::Identity;
use crate::record::ErrorFacts;
use crate::reply::{Kind, Refusal};

/// Whether a policy's refusals are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A refusal is a refusal.
    #[default]
    Enforce,
    /// The policy is evaluated in full, its refusals are noted as `would`, and the request goes on.
    Shadow,
}

/// A policy's answer and the line that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// Yes or no.
    pub outcome: Outcome,
    /// The line that decided.
    pub site: &'a Site,
}

/// Yes or no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request may go on.
    Pass,
    /// It may not.
    Refuse {
        /// What the client is told.
        kind: Kind,
        /// A word for metrics, written in the code: `not_allowed`.
        reason: &'static str,
        /// What happened, for the log.
        message: Cow<'static, str>,
    },
}

/// A step on a request's way, told by `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `canonical`, `edge`, `route`, a policy's `KIND.NAME`, `upstream`, …
    pub name: Arc<str>,
    /// What was decided: `pass`, `refuse`, `would refuse`, or what the step settled.
    pub outcome: Cow<'static, str>,
    /// Why, or what exactly.
    pub detail: Cow<'static, str>,
    /// The line that decided.
    pub site: Option<Site>,
}

/// What a request's way leaves behind, beside its answer.
#[derive(Debug, Default)]
pub struct Effects {
    /// What shadowed policies would have refused.
    pub would: Vec<ErrorFacts>,
    /// Fields for the upstream, of external services that know who it is.
    pub passes: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Fields for the answer, whatever it is.
    pub answers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Whose API key it bears: that key's plan holds, whoever the request is from beside.
    pub key: Option<Arc<Identity>>,
    /// What limits have made of it.
    pub limits: Standing,
    /// Where a policy says that the request waits for its turn; none where nobody watches its client.
    pub turn: Option<Turn>,
    /// The way so far; none in traffic, so that nothing is built there.
    pub steps: Option<Vec<Step>>,
}

impl Effects {
    /// With a recorder, for `explain`.
    pub fn recording() -> Self {
        Self { steps: Some(Vec::new()), ..Self::default() }
    }

    /// Notes a step where somebody listens; `step` is not called in traffic.
    pub fn note(&mut self, step: impl FnOnce() -> Step) {
        if let Some(steps) = &mut self.steps {
            steps.push(step());
        }
    }

    /// Carries a verdict out: the one place that knows shadow mode.
    ///
    /// # Errors
    /// The refusal, if the policy refused and is enforced.
    pub fn judge(&mut self, policy: &Arc<str>, mode: Mode, verdict: Verdict<'_>) -> Result<(), Refusal> {
        let Verdict { outcome, site } = verdict;
        let Outcome::Refuse { kind, reason, message } = outcome else {
            self.note(|| Step {
                name: Arc::clone(policy),
                outcome: "pass".into(),
                detail: "".into(),
                site: Some(site.clone()),
            });
            return Ok(());
        };
        let refusal = Refusal {
            kind,
            reason,
            message,
            policy: Some(Arc::clone(policy)),
            site: Some(site.clone()),
            headers: Vec::new(),
            status: None,
            violated: None,
        };
        let outcome = match mode {
            Mode::Enforce => "refuse",
            Mode::Shadow => "would refuse",
        };
        self.note(|| Step {
            name: Arc::clone(policy),
            outcome: outcome.into(),
            detail: format!("{} ({})", refusal.message, refusal.kind.name()).into(),
            site: Some(site.clone()),
        });
        match mode {
            Mode::Enforce => Err(refusal),
            Mode::Shadow => {
                self.would.push(refusal.facts());
                Ok(())
            }
        }
    }
}
