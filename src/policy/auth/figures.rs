//! What a policy counts by itself, for metrics; others know the names of the families.

/// A figure of a policy's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Fetches of an issuer's keys that ended so.
    IssuerFetches {
        /// `fetched`, `unchanged`, `forbidden`, `failed`, `invalid`
        result: &'static str,
        /// How many, since the process began.
        count: u64,
    },
    /// Keys that verify.
    IssuerKeys(usize),
    /// Keys of the issuer's that were left out.
    IssuerKeysLeftOut(usize),
    /// Seconds since the keys were last known to be the issuer's.
    IssuerKeysAge(u64),
    /// Seconds since the list of revoked tokens was fetched.
    RevokedListAge(u64),
    /// Questions to an introspection server that ended so.
    Introspections {
        /// `active`, `inactive`, `failed`, `refused`
        result: &'static str,
        /// How many, since the process began.
        count: u64,
    },
}
