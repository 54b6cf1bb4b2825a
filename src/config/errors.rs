//! Every error before giving up: a load collects all that is wrong, each with its place and its cure.

use std::borrow::Cow;

use super::Site;

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where.
    pub site: Site,
    /// The key's path, such as `routes[3].cors`; empty where a whole file is meant.
    pub path: String,
    /// What is wrong; lower case, no full stop.
    pub cause: String,
    /// What to write instead.
    pub cure: String,
    /// Whether cause and cure are sentences of our own, with nothing of the configuration in them.
    pub(super) own: (bool, bool),
    /// The path of the key whose absence is what is wrong, where that is it: one that could not be read is absent as well.
    lacks: Option<String>,
}

/// All that is wrong with a configuration so far, and what is only worth a warning.
#[derive(Debug, Default)]
pub struct Errors {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Errors {
    /// Notes an error: the load will fail when it has seen everything.
    pub fn push(
        &mut self,
        site: &Site,
        path: impl Into<String>,
        cause: impl Into<Cow<'static, str>>,
        cure: impl Into<Cow<'static, str>>,
    ) {
        add(&mut self.errors, site, path.into(), cause.into(), cure.into());
    }

    /// Notes an error that is one because the key `lacks` is not there: where that is there and cannot be read, nothing is said.
    pub fn push_lacking(
        &mut self,
        lacks: String,
        site: &Site,
        path: impl Into<String>,
        cause: impl Into<Cow<'static, str>>,
        cure: impl Into<Cow<'static, str>>,
    ) {
        let before = self.errors.len();
        self.push(site, path, cause, cure);
        if let Some(new) = self.errors.get_mut(before) {
            new.lacks = Some(lacks);
        }
    }

    /// Notes something that loads but is worth saying.
    pub fn warn(
        &mut self,
        site: &Site,
        path: impl Into<String>,
        cause: impl Into<Cow<'static, str>>,
        cure: impl Into<Cow<'static, str>>,
    ) {
        add(&mut self.warnings, site, path.into(), cause.into(), cure.into());
    }

    /// True when nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// What is wrong, in the order in which it was found.
    pub fn errors(&self) -> &[Diagnostic] {
        &self.errors
    }

    /// What is worth saying.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// Takes over what another collection found of places that nothing is known of yet: not of a key above or below one that
    /// has an error already.
    pub(super) fn append_apart(&mut self, other: Self) {
        let known: Vec<String> = self.errors.iter().map(|error| error.path.clone()).collect();
        let below = |a: &str, b: &str| {
            a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        // What is only absent may be so because it could not be understood.
        let apart = |error: &Diagnostic| {
            error.site.line > 0
                && error.lacks.as_ref().is_none_or(|lacked| !known.iter().any(|path| below(path, lacked)))
                && !known.iter().any(|path| below(path, &error.path) || below(&error.path, path))
        };
        self.errors.extend(other.errors.into_iter().filter(apart));
        self.warnings.extend(other.warnings.into_iter().filter(apart));
    }

    /// All of them, to be told at a better place.
    pub(super) fn diagnostics_mut(&mut self) -> impl Iterator<Item = &mut Diagnostic> {
        self.errors.iter_mut().chain(&mut self.warnings)
    }

    /// Takes over what another collection found.
    pub fn append(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.warnings.extend(other.warnings);
    }
}

/// Once: what stands in `defaults` is met by every route.
fn add(
    to: &mut Vec<Diagnostic>,
    site: &Site,
    path: String,
    cause: Cow<'static, str>,
    cure: Cow<'static, str>,
) {
    let told = |known: &Diagnostic| known.site == *site && known.path == path && known.cause == cause;
    if !to.iter().any(told) {
        let is_own = |text: &Cow<'static, str>| matches!(text, Cow::Borrowed(_));
        let own = (is_own(&cause), is_own(&cure));
        let (cause, cure) = (cause.into_owned(), cure.into_owned());
        to.push(Diagnostic { site: site.clone(), path, cause, cure, own, lacks: None });
    }
}
