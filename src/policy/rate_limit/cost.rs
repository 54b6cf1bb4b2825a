//! What a request costs.

use http::{HeaderName, Method};

use super::Gcra;
use super::config::CostConfig;
use super::key::{Facts, field};
use crate::config::{Build, Spanned};

/// Tokens by method, at least; more where a field says so.
#[derive(Debug, Default)]
pub(super) struct Cost {
    methods: Box<[(Method, u32)]>,
    header: Option<(HeaderName, u32)>,
}

impl Cost {
    /// `gcras` are the limits that each cost must fit.
    pub(super) fn compile(written: &Spanned<CostConfig>, gcras: &[Gcra], build: &mut Build) -> Self {
        let least = gcras.iter().map(Gcra::burst).min().unwrap_or(u64::MAX);
        let fits = |cost: &Spanned<u32>, build: &mut Build| {
            if u64::from(cost.value) > least {
                let cause =
                    format!("a request that costs {} never passes where the burst is {least}", cost.value);
                build.errors.push(
                    &cost.site,
                    &*cost.path,
                    cause,
                    "make the cost smaller, or the burst larger",
                );
            }
        };
        let mut methods = Vec::new();
        for (name, cost) in &written.methods {
            fits(cost, build);
            match Method::from_bytes(name.as_bytes()) {
                Ok(method) if name.bytes().all(|b| b.is_ascii_uppercase() || b"-_".contains(&b)) => {
                    methods.push((method, cost.value));
                }
                Ok(_) | Err(_) => {
                    let cause = format!("`{name}` is no method");
                    build.errors.push(&cost.site, &*cost.path, cause, "write such as `POST`, in capitals");
                }
            }
        }
        let header = written.header.as_ref().and_then(|header| {
            fits(&header.most, build);
            field(&header.name, build).map(|name| (name, header.most.value))
        });
        Self { methods: methods.into(), header }
    }

    /// Whether every request costs one token.
    pub(super) fn is_one(&self) -> bool {
        self.methods.is_empty() && self.header.is_none()
    }

    /// Allocates nothing.
    pub(super) fn of(&self, facts: &Facts<'_>) -> u32 {
        let own = self.methods.iter().find(|(method, _)| method == facts.method).map_or(1, |(_, cost)| *cost);
        let Some((name, most)) = &self.header else { return own };
        let said = facts.headers.get_all(name).iter().filter_map(|value| number(value.as_bytes())).max();
        said.map_or(own, |said| own.max(said.min(*most)))
    }
}

/// A whole number; what is too large for its type is as large as that can be.
fn number(text: &[u8]) -> Option<u32> {
    let text = text.trim_ascii();
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| {
        text.iter()
            .fold(0_u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    })
}
