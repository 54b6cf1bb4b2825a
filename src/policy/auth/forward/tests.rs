use std::time::Duration;

use futures_util::FutureExt as _;
use http::StatusCode;
use serde_json::json;

use super::service::key;
use super::*;
use crate::config::{Build, Site, load_text};
use crate::policy::Effects;
use crate::policy::auth::jwt::tokens::{ISSUER, SigningKey, claims};
use crate::policy::auth::testing::asked;
use crate::policy::auth::{self, Auth, Quantity, Requirement, Rules};
use crate::state::Live;

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned { value, site: Site::new("portcullis.yaml", 3, 1), path: "policies.auth.sso.forward".into() }
}

fn compile(config: Config) -> Forward {
    let (live, egress, mut build) = (Live::default(), Arc::default(), Build::default());
    let mut context = Context { live: &live, egress: &egress, build: &mut build };
    Forward::compile(&"auth.sso".into(), &spanned(config), &mut context)
        .unwrap_or_else(|| panic!("{:?}", build.errors.errors()[0].cause))
}

fn config(pass: &[&str], identity: Option<&str>) -> Config {
    Config {
        url: spanned("https://auth.example.com/check".to_owned()),
        pass: pass.iter().map(|name| spanned((*name).to_owned())).collect(),
        identity_header: identity.map(|name| spanned(name.to_owned())),
        ..Config::default()
    }
}

fn answer(status: u16, fields: &[(&'static str, &'static str)]) -> Fetched {
    let headers = fields
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    Fetched {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body: bytes::Bytes::new(),
        address: ([127, 0, 0, 1], 1).into(),
        redirects: 0,
    }
}

#[test]
fn statuses_are_yes_no_or_failure() {
    let forward = compile(config(&["x-user", "x-team"], None));
    let location = &[("location", "/login"), ("set-cookie", "a=1"), ("x-user", "root")][..];
    for (status, fields, expected) in [
        (200, &[("x-user", "ann")][..], Ok("ann")),
        (204, &[], Ok("")),
        (401, &[("www-authenticate", "Basic")], Err((Kind::Unauthorized, "forward_refused", 1, None))),
        (403, &[], Err((Kind::AccessDenied, "forward_refused", 0, None))),
        (302, location, Err((Kind::Unauthorized, "forward_refused", 2, Some(302)))),
        (307, location, Err((Kind::Unauthorized, "forward_refused", 2, Some(307)))),
        // A redirect that leads nowhere.
        (302, &[], Err((Kind::AuthorizerFailure, "forward_unavailable", 0, None))),
        (304, location, Err((Kind::AuthorizerFailure, "forward_unavailable", 0, None))),
        (400, &[], Err((Kind::AuthorizerFailure, "forward_unavailable", 0, None))),
        (404, &[], Err((Kind::AuthorizerFailure, "forward_unavailable", 0, None))),
        (429, &[], Err((Kind::AuthorizerFailure, "forward_unavailable", 0, None))),
        (500, &[("x-user", "ann")], Err((Kind::AuthorizerFailure, "forward_unavailable", 0, None))),
        (200, &[("x-user", "a"), ("x-user", "b")], Err((Kind::AuthorizerFailure, "forward_answer", 0, None))),
    ] {
        let read = forward.read(&answer(status, fields));
        let read = read.as_ref().map(|identity| &*identity.id).map_err(|denial| {
            (denial.kind, denial.reason, denial.headers.len(), denial.status.map(|status| status.as_u16()))
        });
        assert_eq!(read, expected, "{status} {fields:?}");
    }
}

#[test]
fn a_yes_to_nobody_is_none_where_a_name_is_asked_for() {
    let forward = compile(config(&["x-team"], Some("x-user")));
    for fields in [&[][..], &[("x-user", "")], &[("x-user", " ")], &[("x-team", "a")]] {
        assert_eq!(forward.read(&answer(200, fields)).unwrap_err().reason, "forward_answer", "{fields:?}");
    }
    let known = forward.read(&answer(200, &[("x-user", "ann"), ("x-team", "a"), ("x-other", "b")])).unwrap();
    assert_eq!((&*known.id, known.method), ("ann", Method::Forward));
    assert_eq!(known.claim("x-team").unwrap(), "a");
    let passed: Vec<_> = known.upstream_headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(passed, ["x-team"], "only what is listed passes");
}

#[test]
fn requests_are_equal_only_in_all_parts() {
    let forward = compile(Config {
        cache: crate::config::OrNone::Some(spanned(CacheConfig {
            lasts: crate::config::units::Time(Duration::from_secs(5)),
            by: None,
        })),
        ..config(&[], None)
    });
    let (_, by) = forward.cache.as_ref().unwrap();
    let of = |method: &str, target: &str, fields: &[(&str, &str)]| {
        asked(method, target, fields, |asked| key(by, asked))
    };
    let own = of("GET", "/a?b", &[("cookie", "a=1")]);
    assert_eq!(own, of("GET", "/a?b", &[("cookie", "a=1"), ("accept", "x")]));
    for other in [
        of("POST", "/a?b", &[("cookie", "a=1")]),
        of("GET", "/a", &[("cookie", "a=1")]),
        of("GET", "/a?", &[("cookie", "a=1")]),
        of("GET", "/a?b", &[("cookie", "a=2")]),
        of("GET", "/a?b", &[("cookie", "a=1"), ("cookie", "")]),
        of("GET", "/a?b", &[("cookie", "a=1"), ("authorization", "x")]),
        of("GET", "/a?b", &[("authorization", "a=1")]),
    ] {
        assert_ne!(own, other);
    }
}

#[test]
fn what_is_remembered_ends() {
    let service = Service::new("auth.sso".into(), Arc::new(Err("nothing".to_owned())), 1);
    let identity = Arc::new(Identity::new("ann", Method::Forward, "auth.sso".into()));
    service.remember(b"long", Duration::from_secs(600), &identity);
    service.remember(b"over", Duration::ZERO, &identity);
    service.remember(&[0; 20_000], Duration::from_secs(600), &identity);
    assert_eq!(service.recall(b"long").unwrap().id, identity.id);
    assert!(service.recall(b"over").is_none() && service.recall(b"long ").is_none());
    assert!(service.recall(&[0; 20_000]).is_none(), "a long key is kept");
}

#[test]
fn nobody_is_asked_without_a_running_gateway() {
    let forward = compile(config(&[], None));
    let judged = asked("GET", "/", &[("cookie", "a=1")], |asked| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(forward.judge(asked))
    });
    assert!(matches!(judged, Judgement::Refused(denial) if denial.reason == "forward_unavailable"));
}

/// What becomes of a request at a route of these policies: who it is, or the reason of the refusal. `forward_unavailable`: the service
/// would have been asked.
fn became(policies: &[Arc<Auth>], rules: Rules, fields: &[(&str, &str)]) -> Result<String, &'static str> {
    let mut build = Build::default();
    let made = Requirement::compile(policies.to_vec(), Quantity::One, &Spanned::unwritten(rules), &mut build);
    let requirement = made.unwrap();
    asked("GET", "/", fields, |asked| {
        let asked = Asked { now: std::time::SystemTime::now(), ..*asked };
        let decided = requirement.decide(&asked, &mut Effects::default()).now_or_never().unwrap();
        match decided {
            Ok(decision) => Ok(decision.identity().map_or_else(String::new, |known| known.id.to_string())),
            Err(refused) => Err(refused.refusal.reason),
        }
    })
}

#[test]
fn beside_a_token_the_service_is_asked_only_where_nobody_is_known() {
    let (live, egress) = (Live::default(), Arc::default());
    let policy = |name: &str, text: &str| {
        let mut build = Build::default();
        let config: auth::Config = load_text("a.yaml", text, &|_| None, &mut build).unwrap();
        let mut context = Context { live: &live, egress: &egress, build: &mut build };
        Arc::new(Auth::compile(name, &Spanned::unwritten(config), &mut context).unwrap())
    };
    const SECRET: &str = "a secret of the issuer that has at least 32 bytes";
    let jwt = format!(
        "jwt: {{issuer: '{ISSUER}', audiences: [orders], algorithms: [HS256], keys: {{secret: '{SECRET}'}}}}"
    );
    let token = policy("staff", &jwt);
    let shadowed = policy("trial", &format!("{jwt}\nmode: shadow\nauth_shadow_is_public: true"));
    let service = policy("sso", "forward: {url: 'https://auth.example.com/check', pass: [x-user]}");
    let good =
        format!("Bearer {}", SigningKey::secret("HS256", SECRET.as_bytes()).token(&claims(&json!({}))));
    let bad = format!("{good}x");
    let (known, refused, unasked) = (Ok("alice".to_owned()), Err("signature"), Err("forward_unavailable"));
    let anonymous = || Rules { anonymous: true, ..Rules::default() };
    let cookie = ("cookie", "_ga=GA1.2.3");
    for (fields, beside, open) in [
        (vec![("authorization", &*good)], &known, &known),
        (vec![("authorization", &*good), cookie], &known, &known),
        (vec![("authorization", &*bad)], &refused, &refused),
        (vec![("authorization", &*bad), cookie], &refused, &refused),
        (vec![("authorization", "Digest x")], &unasked, &unasked),
        (vec![cookie], &unasked, &unasked),
        (vec![], &unasked, &Ok(String::new())),
    ] {
        for policies in [[&token, &service], [&service, &token]] {
            let policies = policies.map(Arc::clone);
            assert_eq!(became(&policies, Rules::default(), &fields), *beside, "{fields:?}");
            assert_eq!(became(&policies, anonymous(), &fields), *open, "{fields:?}");
        }
        // A shadowed policy's word keeps nobody from being asked about.
        let policies = [Arc::clone(&shadowed), Arc::clone(&service)];
        assert_eq!(became(&policies, Rules::default(), &fields), unasked, "{fields:?}");
    }
}
