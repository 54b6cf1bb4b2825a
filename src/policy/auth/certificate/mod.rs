//! SKELETON

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Asked, Context, Judgement, Place};
use crate::config::Spanned;

pub(super) const REASONS: &[&str] = &[];

/// As written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {}

/// Compiled.
#[derive(Debug)]
pub(super) struct Certificate {
    place: Place,
}

impl Certificate {
    pub(super) fn compile(
        _name: &Arc<str>,
        _config: &Spanned<Config>,
        _context: &mut Context<'_>,
    ) -> Option<Self> {
        None
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn judge(&self, _asked: &Asked<'_>) -> Judgement {
        Judgement::Absent
    }
}
