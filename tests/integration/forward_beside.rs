//! A service that is asked beside other kinds of credentials (`any_of`): what is judged by whom, and what the service sees of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::tokens::{SigningKey, claims};
use crate::harness::{
    Authority, Connection, Origin, Pair, Place, Response, Running, eventually, try_handshake,
};

const SECRET: &str = "a secret of the issuer that has at least 32 bytes";
/// `U*U` at the least cost: crypt_blowfish's first vector.
const ALICE: &str = "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";
const NEVER: &str = "pk_aaaaaaaaaaaa_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";

/// Knows `session=sso` and `Authorization: Digest sso`, and sends whoever else comes to the login: a cookie of anybody's too, as
/// such services do.
fn service() -> Origin {
    Origin::each(|head, peer| {
        let cookies = field(head, "cookie").unwrap_or_default();
        let knows = cookies.split("; ").any(|cookie| cookie == "session=sso")
            || field(head, "authorization") == Some("Digest sso");
        if knows {
            peer.answer_with(200, "X-User: sso\r\n", "")
        } else {
            peer.answer_with(302, "Location: https://login.example.com/\r\n", "")
        }
    })
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Each of the others beside the service, in both orders of names; and both wanted.
fn routes() -> String {
    let mut text = String::new();
    for other in ["token", "key", "small", "pages"] {
        for (name, names) in [
            (format!("{other}-first"), format!("{other}, sso")),
            (format!("{other}-last"), format!("sso, {other}")),
        ] {
            text += &format!(
                "  - {{name: {name}, match: {{path: /{name}}}, auth: {{any_of: [{names}]}}, upstream: origin}}\n"
            );
        }
        text += &format!(
            "  - {{name: {other}-all, match: {{path: /{other}-all}}, auth: {{all_of: [{other}, sso]}}, upstream: origin}}\n"
        );
    }
    text
}

fn start(service: &Origin, origin: &Origin) -> (Running, String) {
    let place = Place::new();
    place.write("users", ALICE);
    let rest = format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}
policies:
  auth:
    token: {{jwt: {{issuer: 'https://id.example.com', audiences: [orders], algorithms: [HS256], keys: {{secret: '{SECRET}'}}}}}}
    pages:
      jwt:
        issuer: 'https://id.example.com'
        audiences: [orders]
        algorithms: [HS256]
        keys: {{secret: '{SECRET}'}}
        from: {{cookie: page}}
    asked: {{jwt: {{issuer: 'https://id.example.com', audiences: [orders], algorithms: [HS256], keys: {{secret: '{SECRET}'}}, from: {{query: token}}}}}}
    trial:
      mode: shadow
      auth_shadow_is_public: true
      jwt: {{issuer: 'https://id.example.com', audiences: [orders], algorithms: [HS256], keys: {{secret: '{SECRET}'}}}}
    key: {{api_key: {{header: x-api-key}}}}
    of_cookies: {{api_key: {{cookie: key}}}}
    small: {{basic: {{file: users}}}}
    sso: {{forward: {{url: 'http://{}/', pass: [x-user]}}}}
    by_digest: {{forward: {{url: 'http://{}/', headers: [authorization], pass: [x-user]}}}}
    by_cookie: {{forward: {{url: 'http://{}/', headers: [cookie], pass: [x-user]}}}}
routes:
  - {{name: trial, match: {{path: /trial}}, auth: {{any_of: [trial, sso]}}, upstream: origin}}
  - {{name: asked, match: {{path: /asked}}, auth: {{all_of: [asked, sso]}}, upstream: origin}}
  - {{name: two, match: {{path: /two}}, auth: {{any_of: [by_digest, by_cookie]}}, upstream: origin}}
  - {{name: open, match: {{path: /open}}, auth: {{any_of: [token, sso], anonymous: true}}, upstream: origin}}
  - {{name: mixed, match: {{path: /mixed}}, auth: {{any_of: [token, small]}}, upstream: origin}}
  - {{name: one, match: {{path: /one}}, auth: token, upstream: origin}}
{}",
        origin.address(),
        service.address(),
        service.address(),
        service.address(),
        routes(),
    );
    let text = Place::with_base(&rest).replacen("server: {", "server: {egress: {allow: [127.0.0.1]}, ", 1);
    let gateway = place.start_whole(&text);
    let arguments =
        ["keys", "create", "--name", "n", "--owner", "of-a-key", "--json", "--config", "portcullis.yaml"];
    let made: Value = serde_json::from_slice(&gateway.place.portcullis(&arguments).stdout).unwrap();
    let key = made["key"].as_str().unwrap().to_owned();
    eventually("the key to be known", || {
        (ask(&gateway, "key-first", &format!("X-Api-Key: {key}\r\n")).status == 200).then_some(())
    });
    (gateway, key)
}

fn ask(gateway: &Running, route: &str, fields: &str) -> Response {
    gateway.send(format!("GET /{route} HTTP/1.1\r\nHost: www.example.com\r\n{fields}\r\n"))
}

fn token() -> String {
    SigningKey::secret("HS256", SECRET.as_bytes()).token(&claims(&json!({"sub": "ann"})))
}

fn basic(password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("alice:{password}")))
}

/// Status, and how often the service was asked for it.
fn became(gateway: &Running, service: &Origin, route: &str, fields: &str) -> (u16, usize) {
    let before = service.heads().len();
    let status = ask(gateway, route, fields).status;
    (status, service.heads().len() - before)
}

#[test]
fn who_is_known_by_another_kind_is_not_asked_about_and_who_is_not_is() {
    let (service, origin) = (service(), Origin::echo());
    let (gateway, key) = start(&service, &origin);
    let (token, forged) = (token(), format!("{}x", token()));
    for (other, good, bad) in [
        (
            "token",
            format!("Authorization: Bearer {token}\r\n"),
            format!("Authorization: Bearer {forged}\r\n"),
        ),
        ("key", format!("X-Api-Key: {key}\r\n"), format!("X-Api-Key: {NEVER}\r\n")),
        ("small", basic("U*U"), basic("hunter2")),
        ("pages", format!("Cookie: page={token}\r\n"), format!("Cookie: page={forged}\r\n")),
    ] {
        for order in ["first", "last"] {
            let route = format!("{other}-{order}");
            let became = |fields: &str| became(&gateway, &service, &route, fields);
            // Valid: nobody is asked, whatever cookies there are.
            assert_eq!(became(&good), (200, 0), "{route}");
            for cookie in ["_ga=GA1.2.3", "session=expired", "session=sso"] {
                // One field of cookies, where the credential is one.
                let fields = match good.strip_prefix("Cookie: ") {
                    Some(own) => format!("Cookie: {cookie}; {own}"),
                    None => format!("Cookie: {cookie}\r\n{good}"),
                };
                assert_eq!(became(&fields), (200, 0), "{route}: {cookie}");
            }
            // Invalid: it refuses, and is nothing that the service could be asked about, not even beside a session that it knows.
            assert_eq!(became(&bad), (401, 0), "{route}");
            let beside = match bad.strip_prefix("Cookie: ") {
                Some(own) => format!("Cookie: session=sso; {own}"),
                None => format!("Cookie: session=sso\r\n{bad}"),
            };
            assert_eq!(became(&beside), (401, 0), "{route}");
            // Absent: the service knows, or sends to its login, also where there is nothing for it.
            assert_eq!(became("Cookie: session=sso\r\n"), (200, 1), "{route}");
            assert_eq!(became("Cookie: _ga=GA1.2.3\r\n"), (302, 1), "{route}");
            assert_eq!(became(""), (302, 1), "{route}");
            if other != "small" && other != "token" {
                assert_eq!(became("Authorization: Digest sso\r\n"), (200, 1), "{route}");
            }
        }
        // Where both are wanted each has its say.
        let all = format!("{other}-all");
        let both = match good.strip_prefix("Cookie: ") {
            Some(own) => format!("Cookie: session=sso; {own}"),
            None => format!("Cookie: session=sso\r\n{good}"),
        };
        assert_eq!(became(&gateway, &service, &all, &both), (200, 1), "{all}");
        assert_eq!(became(&gateway, &service, &all, &good), (302, 1), "{all}");
    }
    // The upstream hears of who was known, never of what a client says.
    let seen =
        ask(&gateway, "token-first", &format!("X-User: root\r\nAuthorization: Bearer {token}\r\n")).text();
    assert!(!seen.to_ascii_lowercase().contains("x-user"), "{seen}");
    // What another scheme says is no token: the service may know it.
    assert_eq!(became(&gateway, &service, "token-first", "Authorization: Digest sso\r\n"), (200, 1));
}

#[test]
fn a_shadowed_kind_changes_nothing_and_of_two_services_each_is_asked_about_its_own() {
    let (service, origin) = (service(), Origin::echo());
    let (gateway, _) = start(&service, &origin);
    let became = |route: &str, fields: &str| became(&gateway, &service, route, fields);
    let good = format!("Authorization: Bearer {}\r\n", token());
    // The service decides as though the shadowed policy were not there.
    assert_eq!(became("trial", &format!("{good}Cookie: session=sso\r\n")), (200, 1));
    assert_eq!(became("trial", &format!("{good}Cookie: session=expired\r\n")), (302, 1));
    assert_eq!(became("trial", "Cookie: session=sso\r\n"), (200, 1));
    // Of two services, the one whose field is there; the first one's login where none is.
    assert_eq!(became("two", "Cookie: session=sso\r\n"), (200, 1));
    assert_eq!(became("two", "Authorization: Digest sso\r\n"), (200, 1));
    assert_eq!(became("two", "Cookie: a=b\r\n"), (302, 1));
    assert_eq!(became("two", ""), (302, 1));
    // The second is not asked about whom the first knows.
    assert_eq!(became("two", "Authorization: Digest sso\r\nCookie: a=b\r\n"), (200, 1));
    // Nobody in particular is not asked about.
    assert_eq!(became("open", ""), (200, 0));
    assert_eq!(became("open", &format!("{good}Cookie: a=b\r\n")), (200, 0));
}

#[test]
fn the_service_sees_no_key_and_no_password() {
    let (service, origin) = (service(), Origin::echo());
    let (gateway, key) = start(&service, &origin);
    let secret = key.rsplit('_').next().unwrap();
    let password = STANDARD.encode("alice:U*U");
    for (route, fields) in [
        ("small-all", format!("Cookie: session=sso; key={key}\r\n{}", basic("U*U"))),
        (
            "key-all",
            format!("Cookie: session=sso; key={key}\r\nX-Api-Key: {key}\r\nAuthorization: Bearer {key}\r\n"),
        ),
        ("token-first", format!("Cookie: session=sso; key=\"{key}\"\r\n")),
    ] {
        let seen = ask(&gateway, route, &fields).expect(200).text();
        let asked = service.heads().pop().unwrap();
        assert!(asked.to_ascii_lowercase().contains("cookie: session=sso"), "{asked}");
        for text in [&asked, &seen] {
            assert!(!text.contains(secret) && !text.contains(&password), "{route}: {text}");
        }
    }
}

#[test]
fn tokens_go_on_to_the_upstream_and_passwords_do_not_whatever_stands_beside_them() {
    let (service, origin) = (service(), Origin::echo());
    let (gateway, _) = start(&service, &origin);
    let token = token();
    let bearer = format!("Authorization: Bearer {token}\r\n");
    for route in ["one", "mixed", "token-first", "token-last"] {
        assert!(ask(&gateway, route, &bearer).expect(200).text().contains(&token), "{route}");
    }
    let seen = ask(&gateway, "mixed", &basic("U*U")).expect(200).text().to_ascii_lowercase();
    assert!(!seen.contains("authorization"), "{seen}");
    let seen = ask(&gateway, "small-first", &basic("U*U")).expect(200).text().to_ascii_lowercase();
    assert!(!seen.contains("authorization"), "{seen}");
}

#[test]
fn a_token_of_the_query_goes_to_the_upstream_and_not_to_the_service() {
    let (service, origin) = (service(), Origin::echo());
    let (gateway, _) = start(&service, &origin);
    let token = token();
    let seen =
        ask(&gateway, &format!("asked?a=1&token={token}"), "Cookie: session=sso\r\n").expect(200).text();
    assert!(seen.contains(&format!("?a=1&token={token} ")), "{seen}");
    let asked = service.heads().pop().unwrap();
    assert!(asked.to_ascii_lowercase().contains("x-forwarded-uri: /asked?a=1\r\n"), "{asked}");
    assert!(!asked.contains(&token), "{asked}");
}

#[test]
fn a_certificate_is_known_before_the_service_is_asked() {
    let (server, clients, place) = (Authority::new(), Authority::named("clients"), Place::new());
    server.issue(&["a.example", "127.0.0.1"]).write(&place, "server");
    clients.write(&place, "clients.pem");
    let service = service();
    let rest = format!(
        "policies:
  auth:
    devices: {{client_certificate: {{subjects: ['CN=press']}}}}
    sso: {{forward: {{url: 'http://{}/', pass: [x-user]}}}}
routes:
  - {{name: first, match: {{path: /first}}, auth: {{any_of: [devices, sso]}}, respond: {{}}}}
  - {{name: last, match: {{path: /last}}, auth: {{any_of: [sso, devices]}}, respond: {{}}}}
",
        service.address()
    );
    let tls = "    tls: {certificates: [{cert: server.crt, key: server.key}], client_ca: clients.pem, client_certificate: optional}\n";
    let text = Place::with_base(&rest)
        .replace("  - address: 127.0.0.1:0\n", &format!("  - address: 127.0.0.1:0\n{tls}"))
        .replacen("server: {", "server: {egress: {allow: [127.0.0.1]}, ", 1);
    let gateway = place.start_whole(&text);
    let (press, other) = (clients.issue_client("press", |_| {}), clients.issue_client("other", |_| {}));
    let ask = |pair: Option<&Pair>, path: &str, fields: &str| {
        let before = service.heads().len();
        let connector = server.connector(|builder| {
            if let Some(pair) = pair {
                builder.set_certificate(&pair.certificate).unwrap();
                builder.set_private_key(&pair.key).unwrap();
            }
        });
        let stream = try_handshake(&connector, gateway.address(), "a.example").unwrap();
        let mut connection = Connection::over_tls(stream);
        connection.write(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"));
        (connection.response().status, service.heads().len() - before)
    };
    for path in ["/first", "/last"] {
        assert_eq!(ask(Some(&press), path, ""), (200, 0), "{path}");
        assert_eq!(ask(Some(&press), path, "Cookie: a=b\r\nAuthorization: Bearer x\r\n"), (200, 0), "{path}");
        assert_eq!(ask(Some(&other), path, "Cookie: session=sso\r\n"), (401, 0), "{path}");
        assert_eq!(ask(None, path, "Cookie: session=sso\r\n"), (200, 1), "{path}");
        assert_eq!(ask(None, path, "Cookie: a=b\r\n"), (302, 1), "{path}");
        assert_eq!(ask(None, path, ""), (302, 1), "{path}");
    }
}
