//! Signed tokens. The bytes are a token; or its header, its payload and its signature, a line each; or claims, which are then signed with
//! the policy's own secret, so that a fuzzer comes as far as to them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use portcullis::canonical::Target;
use portcullis::client::Client;
use portcullis::config::{Build, Site, Spanned, load_text};
use portcullis::policy::auth::jwt::{Algorithm, KeySet, verify};
use portcullis::policy::auth::{Asked, Auth, Config, Context, Judgement, Kept};
use portcullis::record::RouteFacts;
use portcullis::request::{Connection, Protocol, Request};
use portcullis::state::Live;
use serde_json::Value;

const SECRET: &str = "a secret that only this target has, of many bytes";
const ISSUER: &str = "https://id.example.com";

/// Public keys whose private ones nobody has any more.
const KEYS: &str = include_str!("token.json");

/// All that these keys, and the secret, have ever signed.
const GENUINE: [&str; 7] = [
    include_str!("../seeds/token/es256"),
    include_str!("../seeds/token/es384"),
    include_str!("../seeds/token/es512"),
    include_str!("../seeds/token/rs256"),
    include_str!("../seeds/token/ps256"),
    include_str!("../seeds/token/eddsa"),
    include_str!("../seeds/token/hs256"),
];

static SETS: LazyLock<[KeySet; 2]> = LazyLock::new(|| {
    let sets = [KeySet::parse(KEYS.as_bytes()).expect("a JWKS"), KeySet::of_secret(SECRET.as_bytes())];
    for token in GENUINE {
        assert!(sets.iter().any(|set| verify(token, set, &Algorithm::ALL).is_ok()), "{token}");
    }
    sets
});

static POLICY: LazyLock<Auth> = LazyLock::new(|| {
    let text = format!(
        "jwt: {{issuer: '{ISSUER}', audiences: [orders], algorithms: [HS256], keys: {{secret: '${{env:SECRET}}'}}, max_bytes: 64KiB}}"
    );
    let mut build = Build::default();
    let config: Config =
        load_text("fuzz.yaml", &text, &|_| Some(SECRET.to_owned()), &mut build).expect("a policy");
    let (live, egress) = (Live::default(), Arc::default());
    let mut context = Context { live: &live, egress: &egress, build: &mut build };
    let policy = Auth::compile("fuzz", &Spanned::unwritten(config), &mut context).expect("a policy");
    assert!(passes(&policy, GENUINE[6]), "a policy that knows nobody tells nothing");
    policy
});

/// Nothing is verified but what the keys have signed; what is signed lets somebody pass only who may; and nothing panics.
pub fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        is_genuine(text);
    }
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    if let (Some(header), Some(payload), Some(signature)) = (lines.next(), lines.next(), lines.next()) {
        is_genuine(&format!("{}.{}.{}", part(header), part(payload), part(signature)));
    }
    may_pass(data);
}

/// Whatever is verified was signed.
fn is_genuine(text: &str) {
    for set in &*SETS {
        if verify(text, set, &Algorithm::ALL).is_ok() {
            let signed = |token: &str| token.rsplit_once('.').map(|(signed, _)| signed.to_owned());
            assert!(GENUINE.iter().any(|own| signed(own) == signed(text)), "forged: {text}");
        }
    }
    if judge(text) {
        // Spaces around it are the field's.
        let signed = verify(text.trim_matches(' '), &SETS[1], &[Algorithm::HS256]).is_ok();
        assert!(signed, "passes, and is not signed: {text}");
    }
}

/// Claims that let somebody pass say, read naively, what they must.
fn may_pass(claims: &[u8]) {
    let message = format!("{}.{}", part(br#"{"alg":"HS256","typ":"at+jwt"}"#), part(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message.as_bytes());
    if !judge(&format!("{message}.{}", part(tag.as_ref()))) {
        return;
    }
    let claims: Value = serde_json::from_slice(claims).expect("claims are JSON");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert_eq!(claims["iss"], ISSUER);
    let audience = &claims["aud"];
    assert!(
        audience == "orders" || audience.as_array().is_some_and(|all| all.iter().any(|one| one == "orders"))
    );
    assert!(claims["exp"].as_f64().is_some_and(|end| end > now - 31.0));
    assert!(claims["nbf"].is_null() || claims["nbf"].as_f64().is_some_and(|begin| begin < now + 31.0));
    assert!(claims["sub"].as_str().is_some_and(|subject| !subject.is_empty()));
    assert!(claims["cnf"].is_null(), "bound");
    // The header says that it is an access token, which may have a `nonce`; hashes only an ID token has.
    assert!(["at_hash", "c_hash", "s_hash"].iter().all(|name| claims[*name].is_null()), "an ID token");
}

fn judge(token: &str) -> bool {
    passes(&POLICY, token)
}

/// Whether the policy knows somebody by this token.
fn passes(policy: &Auth, token: &str) -> bool {
    let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) else { return false };
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    let target = Target::of_canonical_parts("a.example", "/", None);
    let client = Client { address: [192, 0, 2, 7].into(), peer_trusted: false, https: true };
    let connection = Connection::to("fuzz");
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
        name: "fuzz".into(),
        resource_path: "/".into(),
        labels: BTreeMap::new(),
        site: Site::default_value(),
    };
    let asked = Asked {
        request: &request,
        route: &route,
        parameters: &[],
        query: None,
        kept: Kept::default(),
        now: SystemTime::now(),
    };
    match pin!(policy.judge(&asked)).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(judgement) => matches!(judgement, Judgement::Known(..)),
        Poll::Pending => panic!("it waits"),
    }
}

/// Base64url without padding (RFC 4648 §5).
fn part(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}
