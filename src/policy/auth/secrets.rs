//! Secrets as they are written.

use crate::config::{Build, Secret, Spanned};

/// Whether a secret is one at all; else an error says so. One that stands in the file itself is warned about: whoever may read the
/// configuration, its history and its copies has it.
pub(super) fn is_one(secret: &Spanned<Secret>, build: &mut Build) -> bool {
    if secret.trim().is_empty() {
        let cure = "write `\"${env:NAME}\"` or `\"${file:PATH}\"`, and see that it has the secret";
        build.errors.push(&secret.site, &*secret.path, "the secret is nothing but white space", cure);
        return false;
    }
    if !build.sources.is_put_in(&secret.path) {
        build.sources.withhold(secret);
        build.errors.warn(
            &secret.site,
            &*secret.path,
            "the secret stands in the file itself, and in every copy of it",
            "write `\"${env:NAME}\"` or `\"${file:PATH}\"`",
        );
    }
    true
}
