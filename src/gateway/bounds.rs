//! Bounds that stand beside each other: one that another makes void was meant otherwise.

use super::document::{Document, Limits, Server, Timeouts};
use crate::config::{Build, Spanned};

/// `max_bytes` of a token, where nothing is written.
const TOKEN_BYTES: u64 = 8 << 10;

/// Warns about bounds of `server` that another is met before. Defaults are no opinion of anybody's: who makes the other bound
/// smaller need not write them anew.
pub(super) fn check(server: &Spanned<Server>, build: &mut Build) {
    let (limits, timeouts) = (&server.limits, &server.timeouts);
    let (usual, usually) = (Limits::default(), Timeouts::default());
    let streams = |limits: &Limits| usize::try_from(limits.http2_streams).unwrap_or(usize::MAX);
    let rows = [
        (
            ("limits.connections_per_client", limits.connections_per_client.to_string()),
            ("connections", limits.connections.to_string()),
            above(limits.connections_per_client, usual.connections_per_client, limits.connections),
        ),
        (
            ("limits.http2_streams", limits.http2_streams.to_string()),
            ("requests_in_flight", limits.requests_in_flight.to_string()),
            above(streams(limits), streams(&usual), limits.requests_in_flight),
        ),
        (
            ("limits.field_bytes", limits.field_bytes.to_string()),
            ("header_bytes", limits.header_bytes.to_string()),
            above(limits.field_bytes.0, usual.field_bytes.0, limits.header_bytes.0),
        ),
        (
            ("limits.uri_bytes", limits.uri_bytes.to_string()),
            ("header_bytes", limits.header_bytes.to_string()),
            above(limits.uri_bytes.0, usual.uri_bytes.0, limits.header_bytes.0),
        ),
        (
            ("timeouts.body_grace", timeouts.body_grace.to_string()),
            ("body_total", timeouts.body_total.to_string()),
            above(timeouts.body_grace.0, usually.body_grace.0, timeouts.body_total.0),
        ),
    ];
    for ((path, value), (other, bound), _) in rows.into_iter().filter(|(.., idle)| *idle) {
        let name = path.rsplit('.').next().unwrap_or(path);
        build.errors.warn(
            &server.site,
            format!("server.{path}"),
            format!("`{name}` ({value}) is above `{other}` ({bound}), which is met first"),
            format!("make it less than `{other}`, or leave it out"),
        );
    }
}

/// Warns about policies whose tokens may be longer than the field that they come in.
pub(super) fn check_tokens(document: &Document, build: &mut Build) {
    let field = document.server.limits.field_bytes;
    for (name, auth) in &document.policies.auth {
        let Some(jwt) = &auth.jwt else { continue };
        if above(jwt.max_bytes.0, TOKEN_BYTES, field.0) {
            build.errors.warn(
                &jwt.site,
                format!("policies.auth.{name}.jwt.max_bytes"),
                format!(
                    "`max_bytes` ({}) is above `server.limits.field_bytes` ({field}), which is met first",
                    jwt.max_bytes
                ),
                "make `field_bytes` 1 KiB more than `max_bytes`, or leave `max_bytes` out",
            );
        }
    }
}

/// Whether a bound that somebody wrote is never met.
fn above<T: PartialOrd>(value: T, default: T, most: T) -> bool {
    value != default && value > most
}

#[cfg(test)]
mod tests {
    use crate::config::{Build, load_text};
    use crate::gateway::Gateway;
    use crate::gateway::testing::PLAIN;
    use crate::state::Live;

    #[test]
    fn a_bound_that_another_makes_void_is_warned_about() {
        for (server, warned) in [
            ("", None),
            (
                "limits: {connections: 100, connections_per_client: 101}",
                Some(
                    "server.limits.connections_per_client: `connections_per_client` (101) is above `connections` (100), which is \
                     met first",
                ),
            ),
            ("limits: {connections: 100, connections_per_client: 100}", None),
            ("limits: {connections: 100}", None),
            (
                "limits: {http2_streams: 200, requests_in_flight: 150}",
                Some(
                    "server.limits.http2_streams: `http2_streams` (200) is above `requests_in_flight` (150), which is met first",
                ),
            ),
            ("limits: {requests_in_flight: 2}", None),
            (
                "limits: {field_bytes: 64KiB}",
                Some(
                    "server.limits.field_bytes: `field_bytes` (64KiB) is above `header_bytes` (32KiB), which is met first",
                ),
            ),
            ("limits: {header_bytes: 2KiB}", None),
            (
                "limits: {header_bytes: 2KiB, uri_bytes: 3KiB}",
                Some(
                    "server.limits.uri_bytes: `uri_bytes` (3KiB) is above `header_bytes` (2KiB), which is met first",
                ),
            ),
            (
                "timeouts: {body_grace: 2m, body_total: 1m}",
                Some(
                    "server.timeouts.body_grace: `body_grace` (2m) is above `body_total` (1m), which is met first",
                ),
            ),
            ("timeouts: {body_total: 2s}", None),
        ] {
            let mut build = Build::default();
            let text = format!("server: {{{server}}}{PLAIN}");
            let document = load_text("test.yaml", &text, &|_| None, &mut build).unwrap();
            assert!(Gateway::compile(&document, &Live::default(), 1, &mut build).is_some(), "{server}");
            let said: Vec<_> =
                build.errors.warnings().iter().map(|w| format!("{}: {}", w.path, w.cause)).collect();
            assert_eq!(said, Vec::from_iter(warned), "{server}");
        }
    }

    #[test]
    fn a_token_that_is_longer_than_its_field_is_warned_about() {
        for (field, token, warned) in [
            ("8KiB", "8KiB", false),
            ("8KiB", "9KiB", true),
            ("16KiB", "16KiB", false),
            ("4KiB", "8KiB", false),
        ] {
            let text = format!(
                "server: {{limits: {{field_bytes: {field}}}}}\npolicies: {{auth: {{staff: {{jwt: {{issuer: 'https://a.example', \
                 audiences: [a], max_bytes: {token}}}}}}}}}\n{PLAIN}"
            );
            let mut build = Build::default();
            let document = load_text("test.yaml", &text, &|_| None, &mut build).unwrap();
            super::check_tokens(&document, &mut build);
            let said: Vec<_> = build.errors.warnings().iter().map(|warning| &*warning.path).collect();
            let expected: &[&str] = if warned { &["policies.auth.staff.jwt.max_bytes"] } else { &[] };
            assert_eq!(said, expected, "{field} {token}");
        }
    }
}
