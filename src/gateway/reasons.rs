//! Why requests and connections are refused, in words: the labels of `portcullis_refusals_total`, and `error.reason` in the log.

use std::sync::Arc;

use super::document::Document;
use crate::observe::GATEWAY;
use crate::policy::auth::Auth;
use crate::policy::cors;
use crate::policy::rate_limit::{Plan, RateLimit};

/// The words of `framing`, `canonical`, the rim, `passage` and `proxy`, in the order a request meets them.
pub(crate) const GATEWAY_REASONS: &[&str] = &[
    "connections",
    "connections_per_client",
    "requests_per_connection",
    "requests_in_flight",
    "http2_heads",
    "http2_streams",
    "http2_resets",
    "http2_refused_streams",
    "http2_pings",
    "http2_settings",
    "http2_window_updates",
    "http2_priorities",
    "http2_empty_frames",
    "http2_unknown_frames",
    "http2_flood",
    "proxy_protocol_missing",
    "proxy_protocol_malformed",
    "proxy_protocol_timeout",
    "proxy_protocol_unexpected",
    "handshake",
    "handshake_timeout",
    "client_certificate_missing",
    "client_certificate_invalid",
    "client_certificate_changed",
    "host_is_not_sni",
    "head_timeout",
    "head_unfinished",
    "http2_preface",
    "http2_malformed",
    "http2_frame_size",
    "http2_flow_control",
    "request_line",
    "bare_line_feed",
    "bare_carriage_return",
    "uri_bytes",
    "header_bytes",
    "header_fields",
    "field_bytes",
    "target_bytes",
    "target_fragment",
    "host",
    "http_version",
    "method",
    "method_bytes",
    "method_never_allowed",
    "folded_field",
    "field_name",
    "field_look_alike",
    "field_value",
    "underscore",
    "expectation",
    "content_length",
    "transfer_encoding",
    "transfer_coding",
    "no_host",
    "several_hosts",
    "hosts_differ",
    "bad_host",
    "bad_target",
    "bad_scheme",
    "bad_path",
    "bad_escape",
    "bad_utf8",
    "bad_query",
    "above_root",
    "encoded_slash",
    "encoded_backslash",
    "backslash",
    "semicolon_dots",
    "hidden_dots",
    "path_parameters",
    "raw_non_ascii",
    "path_template",
    "host_missing",
    "no_route",
    "plan_unknown",
    "method_not_allowed",
    "redirect_invalid",
    "identity_token_size",
    "identity_token_unsigned",
    "target_invalid",
    "no_healthy_server",
    "connect_refused",
    "connect_timeout",
    "tls_failed",
    "unresolved",
    "read_timeout",
    "write_timeout",
    "total_timeout",
    "reset",
    "closed_early",
    "bad_response",
    "response_header_bytes",
    "response_header_fields",
    "response_interim",
    "response_trailers",
    "response_chunk_extensions",
    "tunnel_idle",
    "body_timeout",
    "write_stall",
    "bad_body",
    "no_action",
    "internal",
];

/// Every policy that can refuse, with its reasons, so that the series are there from the load on.
pub(super) fn policies(document: &Document) -> Vec<(Arc<str>, Vec<&'static str>)> {
    let of = &document.policies;
    let auth = of.auth.iter().map(|(name, config)| (format!("auth.{name}"), Auth::reasons(config)));
    let access = of.access.keys().map(|name| (format!("access.{name}"), vec!["denied", "not_allowed"]));
    let cors = of.cors.keys().map(|name| (format!("cors.{name}"), cors::REASONS.to_vec()));
    let limits = of.rate_limits.iter();
    let limits = limits.map(|(name, config)| (format!("rate_limits.{name}"), RateLimit::reasons(config)));
    let own = std::iter::once((GATEWAY.to_owned(), GATEWAY_REASONS.to_vec()));
    let plans = of.plans.iter().map(|(name, config)| (format!("plans.{name}"), Plan::reasons(config)));
    let all = own.chain(auth).chain(access).chain(cors).chain(limits).chain(plans);
    all.map(|(name, reasons)| (Arc::from(name), reasons)).collect()
}
