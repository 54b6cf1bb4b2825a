//! One binary of integration tests: the real `portcullis` as a process, real origins, real clients. Nothing here has a
//! fixed port, so all of it runs in parallel. Where a tool of the machine is missing, a test prints what it skipped.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "helpers stand beside the tests, where clippy does not see that they are tests"
)]

mod harness;

mod access_lists;
mod access_log;
mod api_keys;
mod auth_failures;
mod authorisation;
mod basic;
mod canonical;
mod conformance;
mod conformance_connection;
mod conformance_http1;
mod conformance_http2;
mod cors;
mod counts;
mod deadlines;
mod desync;
mod dpop;
mod draining;
mod egress;
mod explain;
mod faults;
mod fleet;
mod fleet_clusters;
mod fleet_faults;
mod fleet_quotas;
mod forward_auth;
mod forward_beside;
mod forwarding;
mod header_rules;
mod heads;
mod hostile_origin;
mod http2;
mod identity_tokens;
mod introspection;
mod issuers;
mod jws_vectors;
mod jwt;
mod leaks;
mod limit_answers;
mod limit_ends;
mod limit_queues;
mod limits;
mod limits_restart;
mod mutual_tls;
mod oddities;
mod openid;
mod penalties;
mod plans;
mod privileges;
mod process;
mod proxy_protocol;
mod rate_limits;
mod refusals_http2;
mod reload;
mod reloaded_bounds;
mod replies;
mod routing;
mod selftest;
mod sockets;
mod streaming;
mod telemetry;
mod tls;
mod unread_answers;
mod untaken_bodies;
mod upgrade;
mod upstream;
