//! One canonical form at the door: host, path, framing and header rules.

/// What a request asks for, in the one form that routing, policies, the log and the upstream see.
///
/// One buffer: `host`, `path` and `query` are slices of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: String,
    host_length: usize,
    path_length: usize,
    port: Option<u16>,
    query: bool,
    oddities: Oddities,
}

impl Target {
    /// Lower case, without port and trailing dot; an IPv6 literal in brackets. Empty only on HTTP/1.0 without Host.
    pub fn host(&self) -> &str {
        self.text.get(..self.host_length).unwrap_or_default()
    }

    /// The port that Host named.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Starts with `/` (or is `*` for OPTIONS); what is unreserved is decoded, other escapes are in upper-case hex.
    pub fn path(&self) -> &str {
        self.text.get(self.host_length..self.host_length + self.path_length).unwrap_or_default()
    }

    /// As sent, without the `?`; none where there was no `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.then(|| self.text.get(self.host_length + self.path_length..).unwrap_or_default())
    }

    /// What was seen that has two readings; refused after routing unless the route tolerates it.
    pub fn oddities(&self) -> Oddities {
        self.oddities
    }
}

/// What has two readings, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Oddities(u16);

impl Target {
    /// A target out of parts that are canonical already: for tests and benches, which have no request to canonicalise.
    #[doc(hidden)]
    pub fn of_canonical_parts(host: &str, path: &str, query: Option<&str>) -> Self {
        Self {
            text: format!("{host}{path}{}", query.unwrap_or_default()),
            host_length: host.len(),
            path_length: path.len(),
            port: None,
            query: query.is_some(),
            oddities: Oddities::default(),
        }
    }
}
