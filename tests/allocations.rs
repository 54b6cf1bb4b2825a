//! What a remembered verdict takes of memory: nothing. The allocator of this program counts, thread by thread.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic; clippy knows only functions marked as tests"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis::canonical::Target;
use portcullis::client::Client;
use portcullis::config::{Build, Site, Spanned, load_text};
use portcullis::egress;
use portcullis::policy::Effects;
use portcullis::policy::auth::api_key::{self, Description, Foreign};
use portcullis::policy::auth::{Asked, Auth, Config, Context, Kept, Quantity, Requirement, Rules};
use portcullis::record::RouteFacts;
use portcullis::request::{Connection, Protocol, Request};
use portcullis::state::{Access, Live, Store};
use serde_json::json;
use tokens::{SigningKey, claims};

#[path = "integration/harness/tokens.rs"]
#[expect(dead_code, reason = "integration tests use the rest")]
mod tokens;

/// Nothing is waited for where everything is there.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

fn policy(name: &str, text: &str, live: &Live) -> Arc<Auth> {
    let mut build = Build::default();
    let config: Config = load_text("policy.yaml", text, &|_| None, &mut build).unwrap();
    let egress = Arc::new(egress::Policy::default());
    let mut context = Context { live, egress: &egress, build: &mut build };
    Arc::new(Auth::compile(name, &Spanned::unwritten(config), &mut context).unwrap())
}

fn requirement(policies: Vec<Arc<Auth>>, rules: &str) -> Requirement {
    let mut build = Build::default();
    let rules: Rules = load_text("rules.yaml", rules, &|_| None, &mut build).unwrap();
    Requirement::compile(policies, Quantity::One, &Spanned::unwritten(rules), &mut build).unwrap()
}

fn connection() -> Connection {
    Connection::to("test")
}

/// How often memory is asked for while a request with this field is decided that has been decided before: all of it, from the query
/// to the identity.
fn allocations(requirement: &Requirement, field: (&str, &str)) -> u64 {
    let name: HeaderName = field.0.parse().unwrap();
    let headers = HeaderMap::from_iter([(name, HeaderValue::from_str(field.1).unwrap())]);
    let target = Target::of_canonical_parts("api.example.com", "/orders/acme", Some("a=1&b=2"));
    let client = Client { address: [192, 0, 2, 7].into(), peer_trusted: false, https: true };
    let connection = connection();
    let request = Request {
        method: &Method::GET,
        target: &target,
        headers: &headers,
        client: &client,
        protocol: Protocol::Http11,
        connection: &connection,
    };
    let route = RouteFacts {
        index: 0,
        name: "orders".into(),
        resource_path: "/orders/{tenant}".into(),
        labels: BTreeMap::new(),
        site: Site::default_value(),
    };
    let parameters = [(Arc::from("tenant"), "acme".into())];
    let mut effects = Effects::default();
    let mut decide = || {
        let query = request.target.query().map(|query| requirement.scrub_query(query));
        let asked = Asked {
            request: &request,
            route: &route,
            parameters: &parameters,
            query: query.as_deref(),
            kept: Kept::default(),
            now: SystemTime::now(),
        };
        let decision = now(requirement.decide(&asked, &mut effects)).unwrap();
        decision.identity().is_some()
    };
    assert!(decide(), "verified");
    assert!(decide(), "remembered");
    let counted = allocation_counter::measure(|| (0..100).for_each(|_| assert!(decide())));
    counted.count_total
}

/// Tokens of this issuer, with more of the policy's keys.
fn jwt(issuer: &str, key: &SigningKey, more: &str) -> Arc<Auth> {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let keys = file("jwks.json", &tokens::jwks(&[key]));
    let revoked = file("revoked.txt", "somebody-else\nanother-token\n");
    let text = format!(
        "jwt: {{issuer: '{issuer}', audiences: [orders], keys: {{file: '{keys}'}}, revoked: {{file: '{revoked}'}}{more}}}"
    );
    policy("staff", &text, &Live::default())
}

#[test]
fn a_remembered_token_allocates_nothing() {
    let key = SigningKey::new("ES256", "k");
    let token = key.token(&claims(&json!({"tenant": "acme", "groups": ["staff"], "roles": ["a", "b"]})));
    let (bearer, cookie) = (format!("Bearer {token}"), format!("a=1; session={token}; b=2"));
    let conditions = "{scopes: [orders:read, orders:write], groups: [ops, staff], addresses: [192.0.2.0/24], \
                      times: ['00:00-24:00'], claims: {tenant: {matches: 'ac.e'}, roles: {contains: b}, sub: {equals: alice}}}";
    let own = |more: &str| jwt(tokens::ISSUER, &key, more);
    let one = requirement(vec![own("")], "{}");
    assert_eq!(allocations(&one, ("authorization", &bearer)), 0, "of one issuer");
    let all = requirement(vec![own("")], conditions);
    assert_eq!(allocations(&all, ("authorization", &bearer)), 0, "with every condition but an expression");
    let header = requirement(vec![own(", from: {header: x-token}")], "{}");
    assert_eq!(allocations(&header, ("x-token", &token)), 0, "in a field");
    let session = requirement(vec![own(", from: {cookie: session}")], "{}");
    assert_eq!(allocations(&session, ("cookie", &cookie)), 0, "in a cookie");
    let others = |number: u8| jwt(&format!("https://{number}.example"), &key, "");
    let several = requirement(vec![others(1), others(2), own("")], conditions);
    assert_eq!(allocations(&several, ("authorization", &bearer)), 0, "of the last of three issuers");
}

#[test]
fn a_key_that_was_used_before_allocates_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mut store = Store::open(state.path(), Access::Change).unwrap().unwrap();
    let made = "pk_000000000007_0123456789012345678901234567890123456789012";
    let keys = (0..1000).map(|number| {
        let key = format!("pk_{number:012}_0123456789012345678901234567890123456789012");
        let description = Description {
            name: "orders".into(),
            owner: format!("owner {number}"),
            scopes: vec!["orders:read".into()],
            addresses: vec!["192.0.2.0/24".into()],
            ..Description::default()
        };
        Ok::<_, ()>(Foreign::by_key(&key, description).unwrap())
    });
    assert_eq!(api_key::import(&mut store, keys, 0).unwrap(), 1000);
    drop(store);
    let live = Live::new(state.path());
    for (place, field, value) in [
        ("{header: x-api-key}", "x-api-key", made.to_owned()),
        ("{cookie: key}", "cookie", format!("a=1; key={made}")),
    ] {
        let policy = policy("partners", &format!("api_key: {place}"), &live);
        let requirement = requirement(vec![policy], "{scopes: [orders:read], addresses: [192.0.2.7]}");
        assert_eq!(allocations(&requirement, (field, &value)), 0, "{place}");
    }
}

/// The count counts: what has to be made is seen.
#[test]
fn what_allocates_is_seen() {
    let key = SigningKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.token(&claims(&json!({}))));
    let forgetful = requirement(vec![jwt(tokens::ISSUER, &key, ", cache: 0B")], "{}");
    assert!(allocations(&forgetful, ("authorization", &bearer)) > 100);
}
