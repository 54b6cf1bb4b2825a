use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::request::RequestId;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

fn trusted(entries: &[&str]) -> Trusted {
    let written: Vec<_> = entries.iter().map(|e| Spanned::unwritten((*e).to_owned())).collect();
    Trusted::compile(&written, &mut Build::default()).unwrap()
}

fn peer(text: &str) -> Option<SocketAddr> {
    (text != "unix").then(|| SocketAddr::new(text.parse().unwrap(), 4711))
}

#[test]
fn the_client_is_the_first_untrusted_hop_from_the_right() {
    let proxies = trusted(&["10.0.0.0/8", "2001:db8::/32", "::ffff:192.0.2.0/120"]);
    type Row = (&'static str, &'static [(&'static str, &'static str)], &'static str);
    let many = "10.0.0.1, ".repeat(40) + "10.0.0.1";
    let rows: &[Row] = &[
        // An untrusted peer is believed nothing.
        ("203.0.113.9", &[("x-forwarded-for", "1.1.1.1")], "203.0.113.9"),
        ("203.0.113.9", &[("forwarded", "for=1.1.1.1;proto=https")], "203.0.113.9"),
        ("::ffff:203.0.113.9", &[("x-forwarded-for", "1.1.1.1")], "203.0.113.9"),
        ("unix", &[("x-forwarded-for", "1.1.1.1")], "127.0.0.1"),
        // A trusted one is.
        ("10.0.0.1", &[], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "1.1.1.1")], "1.1.1.1 trusted"),
        ("::ffff:10.0.0.1", &[("x-forwarded-for", "1.1.1.1")], "1.1.1.1 trusted"),
        ("192.0.2.7", &[("x-forwarded-for", "1.1.1.1")], "1.1.1.1 trusted"),
        ("2001:db8::9", &[("x-forwarded-for", "1.1.1.1")], "1.1.1.1 trusted"),
        // From the right: what a client put in front does not count.
        ("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 1.1.1.1")], "1.1.1.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 1.1.1.1, 10.0.0.2")], "1.1.1.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "10.0.0.2")], "1.1.1.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "10.0.0.3,10.0.0.2")], "10.0.0.3 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", " , 1.1.1.1 ,, ")], "1.1.1.1 trusted"),
        // Malformed: the last good hop.
        ("10.0.0.1", &[("x-forwarded-for", "1.1.1.1, garbage")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "garbage, 1.1.1.1")], "1.1.1.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "1.1.1.1, x, 10.0.0.2")], "10.0.0.2 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "1.1.1.256")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "1.1.1")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "1.1.1.1:99999")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "1.1.1.1 10.0.0.2")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "\u{e9}")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "unknown")], "10.0.0.1 trusted"),
        // Forms.
        ("10.0.0.1", &[("x-forwarded-for", "1.1.1.1:4711")], "1.1.1.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "2001:DB9::1")], "2001:db9::1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "[2001:db9::1]")], "2001:db9::1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "[2001:db9::1]:80")], "2001:db9::1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "[2001:db9::1]x")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "::ffff:1.1.1.1")], "1.1.1.1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "fe80::1%eth0")], "fe80::1 trusted"),
        ("10.0.0.1", &[("x-forwarded-for", "fe80::1%")], "10.0.0.1 trusted"),
        // Forwarded, where there is no X-Forwarded-For.
        ("10.0.0.1", &[("forwarded", "for=1.1.1.1")], "1.1.1.1 trusted"),
        (
            "10.0.0.1",
            &[("forwarded", "for=6.6.6.6, For=\"1.1.1.1:80\";by=x, for=10.2.3.4")],
            "1.1.1.1 trusted",
        ),
        ("10.0.0.1", &[("forwarded", "for=\"[2001:db9::1]:80\";proto=https")], "2001:db9::1 trusted https"),
        ("10.0.0.1", &[("forwarded", "for=\"[2001:db8::1]\"")], "2001:db8::1 trusted"),
        ("10.0.0.1", &[("forwarded", "for=1.1.1.1;host=\"x,y\"")], "1.1.1.1 trusted"),
        ("10.0.0.1", &[("forwarded", "for=1.1.1.1;host=\"x;for=6.6.6.6\"")], "1.1.1.1 trusted"),
        (
            "10.0.0.1",
            &[("forwarded", "for=6.6.6.6, for=1.1.1.1;secret=\"a\\\",\\\\\";proto=https;")],
            "1.1.1.1 trusted https",
        ),
        ("10.0.0.1", &[("forwarded", ";for=\"1.1.1.1:_p-1\";;by=x")], "1.1.1.1 trusted"),
        // Whatever a client has begun on the left: it ends with the proxy's own.
        ("10.0.0.1", &[("forwarded", "for=6.6.6.6;host=\"a, for=1.1.1.1")], "1.1.1.1 trusted"),
        ("10.0.0.1", &[("forwarded", "for=6.6.6.6, \", for=10.0.0.7")], "10.0.0.7 trusted"),
        ("10.0.0.1", &[("forwarded", "for=1.1.1.1;host=\"a\"\"")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("forwarded", "for=_hidden")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("forwarded", "for=1.1.1.1;for=2.2.2.2")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("forwarded", "proto=https")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("forwarded", "for=1.1.1.1;proto=ftp")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("forwarded", "for=\"1.1.1.1")], "10.0.0.1 trusted"),
        ("10.0.0.1", &[("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "1.1.1.1")], "1.1.1.1 trusted"),
        // The scheme.
        ("10.0.0.1", &[("x-forwarded-proto", "https")], "10.0.0.1 trusted https"),
        ("10.0.0.1", &[("x-forwarded-proto", "HTTPS")], "10.0.0.1 trusted https"),
        ("10.0.0.1", &[("x-forwarded-proto", "https, http")], "10.0.0.1 trusted"),
        (
            "10.0.0.1",
            &[("x-forwarded-proto", "http"), ("x-forwarded-proto", "https")],
            "10.0.0.1 trusted https",
        ),
        ("10.0.0.1", &[("x-forwarded-proto", "wss")], "10.0.0.1 trusted"),
        ("203.0.113.9", &[("x-forwarded-proto", "https")], "203.0.113.9"),
    ];
    let check = |(from, fields, expected): &(&str, &[(&str, &str)], &str)| {
        let client = determine(peer(from), false, &map(fields), &proxies);
        let told = format!(
            "{}{}{}",
            client.address,
            if client.peer_trusted { " trusted" } else { "" },
            if client.https { " https" } else { "" }
        );
        assert_eq!(told, *expected, "{from} {fields:?}");
    };
    rows.iter().for_each(check);
    // A chain without end is looked at in part; the client is the last hop that was.
    check(&("10.0.0.1", &[("x-forwarded-for", &format!("1.1.1.1, {many}"))], "10.0.0.1 trusted"));
}

#[test]
fn a_unix_peer_is_trusted_by_name() {
    let by_unix = trusted(&["unix:"]);
    let headers = map(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "https")]);
    let client = determine(None, false, &headers, &by_unix);
    assert_eq!(client, Client { address: IpAddr::from([1, 1, 1, 1]), peer_trusted: true, https: true });
    assert!(!determine(peer("127.0.0.1"), false, &headers, &by_unix).peer_trusted);
    assert!(determine(peer("127.0.0.1"), true, &headers, &Trusted::default()).https);
}

#[test]
fn wrong_proxies_are_named_with_their_cure() {
    let rows = [
        ("10.0.0.1/8", "`10.0.0.1/8` has bits set behind its prefix", "write `10.0.0.0/8`"),
        ("10.0.0.0/33", "`10.0.0.0/33` is neither an address nor a CIDR", "write `10.0.0.0/8`"),
        ("proxy", "`proxy` is neither an address nor a CIDR", "write `10.0.0.0/8`"),
        ("", "`` is neither an address nor a CIDR", "write `10.0.0.0/8`"),
    ];
    for (entry, cause, cure) in rows {
        let mut build = Build::default();
        assert_eq!(Trusted::compile(&[Spanned::unwritten(entry.to_owned())], &mut build), None);
        let [error] = build.errors.errors() else { panic!("{entry}: one error") };
        assert_eq!(error.cause, cause);
        assert!(error.cure.starts_with(cure), "{}", error.cure);
    }
}

#[test]
fn the_words_of_proxies_are_known_from_those_of_applications() {
    let proxies = "forwarded forwarded-for x-forwarded-for x-forwarded-anything x-forward-for x-forwarder-for z-forwarded-for \
        x-vercel-forwarded-for x-original-for x-original-proto x-original-prefix x-original-forwarded-for front-end-https \
        x-url-scheme x-scheme x-arr-ssl wl-proxy-client-ip wl-proxy-client-cert wl-proxy-ssl client-ip fly-client-ip \
        akamai-client-ip incap-client-ip x-ms-forwarded-client-ip x-cluster-client-ip x-sucuri-clientip x-azure-clientip \
        x-azure-socketip do-connecting-ip cf-connecting-ip cf-connecting-ipv6 cf-pseudo-ipv4 cf-visitor ali-cdn-real-ip \
        x-real-ip x-real-port x-real-host appengine-user-ip x-appengine-user-ip x-appengine-remote-addr cloudfront-viewer-address \
        cloudfront-forwarded-proto cloudfront-viewer-cert-subject x-nf-client-connection-ip x-http-host-override x-backend-host \
        x-envoy-original-path x-envoy-internal x-envoy-external-address x-verified-client x-custom-ip-authorization \
        x-sendfile-type x-accel-mapping x-amzn-tls-version client-cert ssl-client-verify x-ssl-client-verify x-remote-user \
        x.real.ip x_anything";
    let applications = "accept authorization cookie content-type content-length if-match origin range referer user-agent x-api-key \
        x-csrf-token x-requested-with x-http-method-override x-original-filename x-user x-user-ip x-auth-user x-auth-token x-amz-date \
        x-goog-api-key x-real x-envoy x-forwarder x-hostname cf-ipcountry cf-ray cloudfront-viewer-country x-azure-fdid \
        x-client-version client-version psu-ip-address x-fapi-customer-ip-address sec-ch-ua sec-fetch-site traceparent soapaction \
        prefer priority want-digest wl-token x-ip x-zip x-amzn-trace-id";
    let ends = |name: &str| names::is_no_clients(name);
    for name in proxies.split_whitespace() {
        assert!(ends(name), "{name} passes");
    }
    for name in applications.split_whitespace() {
        assert!(!ends(name), "{name} is an application's");
    }
}

fn told(headers: &HeaderMap) -> Vec<String> {
    let mut told: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    told.sort();
    told
}

#[test]
fn upstreams_are_told_what_is_known_and_nothing_else() {
    let forged = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/x"),
        ("x-forwarded-client-cert", "x"),
        ("x-clientcert", "x"),
        ("x-client-subject-dn", "CN=admin"),
        ("tls-client-cert", "x"),
        ("cf-client-cert-der-base64", "x"),
        ("x_forwarded_for", "6.6.6.6"),
        ("x-forwarded_for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("x_real_ip", "6.6.6.6"),
        ("true-client-ip", "6.6.6.6"),
        ("cf-connecting-ip", "6.6.6.6"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("x_request_id", "x"),
        ("x_client", "6.6.6.6"),
        ("a_b", "c"),
        ("proxy", "http://6.6.6.6"),
        ("proxy-client-ip", "6.6.6.6"),
        ("wl-proxy-client-ip", "6.6.6.6"),
        ("forwarded-for", "6.6.6.6"),
        ("x-original-uri", "/admin"),
        ("accept", "*/*"),
        ("x-forwarder", "kept"),
    ];
    let proxies = trusted(&["10.0.0.0/8"]);
    let mut fields = map(&forged);
    let client = determine(peer("203.0.113.9"), true, &fields, &proxies);
    forward(&mut fields, peer("203.0.113.9"), &client, &proxies, "a.example:8443");
    assert_eq!(
        told(&fields),
        [
            "accept: */*",
            "forwarded: for=203.0.113.9;host=\"a.example:8443\";proto=https",
            "x-forwarded-for: 203.0.113.9",
            "x-forwarded-host: a.example:8443",
            "x-forwarded-port: 8443",
            "x-forwarded-proto: https",
            "x-forwarder: kept",
        ]
    );

    let mut fields = map(&[("x-forwarded-for", "6.6.6.6, 2001:db8::1, 10.0.0.3")]);
    let client = determine(peer("10.0.0.2"), false, &fields, &proxies);
    forward(&mut fields, peer("10.0.0.2"), &client, &proxies, "[::1]");
    assert_eq!(
        told(&fields),
        [
            "forwarded: for=\"[2001:db8::1]\";host=\"[::1]\";proto=http",
            "x-forwarded-for: 2001:db8::1, 10.0.0.3, 10.0.0.2",
            "x-forwarded-host: [::1]",
            "x-forwarded-port: 80",
            "x-forwarded-proto: http",
        ]
    );

    let mut fields = map(&[("x-forwarded-for", "6.6.6.6")]);
    let client = determine(None, false, &fields, &proxies);
    forward(&mut fields, None, &client, &proxies, "");
    assert_eq!(
        told(&fields),
        [
            "forwarded: for=127.0.0.1;proto=http",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-port: 80",
            "x-forwarded-proto: http",
        ]
    );
}

#[test]
fn what_is_stripped_is_found_by_name() {
    for (at, name) in fields::GONE.iter().enumerate() {
        assert_eq!(fields::place_in_gone(name.as_str()), Some(at), "{name}");
    }
    for name in ["", "to", "traileR", "location", "connectiom", "host"] {
        assert_eq!(fields::place_in_gone(name), None, "{name}");
    }
}

#[test]
fn hop_by_hop_fields_end_here() {
    let sent = map(&[
        (
            "connection",
            "close, X-Hop , authorization, cookie, content-type, x-forwarded-for, host, via, bad name",
        ),
        ("connection", "TE, upgrade, x-request-id"),
        ("x-hop", "gone"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("upgrade", "websocket"),
        ("http2-settings", "AAMAAABk"),
        ("transfer-encoding", "chunked"),
        ("authorization", "a"),
        ("cookie", "b=c"),
        ("content-type", "x/y"),
        ("x-forwarded-for", "1.1.1.1"),
        ("host", "a"),
        ("via", "1.1 x"),
        ("x-request-id", "i"),
    ]);
    let stay = [
        "authorization: a",
        "content-type: x/y",
        "cookie: b=c",
        "host: a",
        "transfer-encoding: chunked",
        "via: 1.1 x",
        "x-forwarded-for: 1.1.1.1",
        "x-request-id: i",
    ];
    let mut fields = sent.clone();
    strip_hop_by_hop(&mut fields, Upgrade::Drop, |_| false);
    assert_eq!(told(&fields), stay);

    let mut fields = sent;
    strip_hop_by_hop(&mut fields, Upgrade::Keep, |_| false);
    let mut with_upgrade: Vec<_> = stay.iter().map(|s| (*s).to_owned()).collect();
    with_upgrade.extend(["connection: upgrade".to_owned(), "upgrade: websocket".to_owned()]);
    with_upgrade.sort();
    assert_eq!(told(&fields), with_upgrade);

    let mut fields = map(&[("connection", "upgrade"), ("accept", "x")]);
    strip_hop_by_hop(&mut fields, Upgrade::Keep, |_| false);
    assert_eq!(told(&fields), ["accept: x"], "nothing to upgrade to");
}

#[test]
fn what_is_relied_on_stays_though_it_is_nominated() {
    let mut fields = map(&[("connection", "x-version, x-other"), ("x-version", "2"), ("x-other", "1")]);
    strip_hop_by_hop(&mut fields, Upgrade::Drop, |name| name == "x-version");
    assert_eq!(told(&fields), ["x-version: 2"]);
}

#[test]
fn twins_of_our_names_go() {
    let mut fields =
        map(&[("x-client", "6"), ("x.client", "6"), ("x~client", "6"), ("x!y", "1"), ("a.b", "1")]);
    remove_twins(&mut fields, |name| name == "x-client");
    assert_eq!(told(&fields), ["a.b: 1", "x!y: 1", "x-client: 6"]);
}

#[test]
fn fields_of_identity_are_taken_and_those_of_applications_stay() {
    let peer = peer("203.0.113.9");
    let client = determine(peer, false, &HeaderMap::new(), &Trusted::default());
    let left = |name: &str| {
        let mut fields = map(&[(name, "root")]);
        forward(&mut fields, peer, &client, &Trusted::default(), "a");
        fields.values().any(|value| value == "root")
    };
    for name in [
        "remote-user",
        "Remote-Groups",
        "x-remote-user",
        "x-remote-extra-scopes",
        "x.remote.user",
        "x-forwarded-user",
        "x-forwarded-email",
        "x-forwarded-preferred-username",
        "x-auth-request-user",
        "x-auth-request-access-token",
        "x-authenticated-userid",
        "x-consumer-id",
        "x-consumer-username",
        "x-anonymous-consumer",
        "x-credential-identifier",
        "x-jwt-assertion",
        "x-jwt-claim-sub",
        "x-userinfo",
        "x-goog-iap-jwt-assertion",
        "x-goog-authenticated-user-email",
        "x-amzn-oidc-data",
        "x-ms-client-principal-name",
        "cf-access-authenticated-user-email",
        "x-pomerium-jwt-assertion",
        "x-authentik-username",
        "x-vouch-user",
        "x-webauth-user",
        "tailscale-user-login",
        "shib-session-id",
        "oidc-claim-sub",
        "oidc-id-token",
        "iv-user",
        "x-ms-token-aad-id-token",
        "x-endpoint-api-userinfo",
        "x-appengine-user-email",
        "fly-forwarded-proto",
        "x-client-address",
        "x-peer-cert",
        "x-rewrite-uri",
        "client-verify",
        "iv-groups",
        "oam-remote-user",
        "openid-connect-sub",
        "pomerium-jwt-assertion",
        "sm-user",
        "teleport-jwt-assertion",
        "x-apisix-consumer",
        "x-authelia-user",
        "x-kong-jwt-claim-sub",
        "x-proxiedentitieschain",
        "x-rh-identity",
        "x-spiffe-id",
        "impersonate-user",
        "Impersonate-Extra-scopes",
        "x-oidc-sub",
        "x-token-subject",
        "path-info",
        "script-name",
        "x-script-name",
        "x-cdn-src-ip",
    ] {
        assert!(!left(name), "{name}");
    }
    for name in [
        "x-user-agent",
        "x-user",
        "x-user-id",
        "x-auth-token",
        "x-auth-key",
        "x-api-key",
        "x-amz-date",
        "x-amzn-trace-id",
        "x-goog-api-key",
        "x-ms-version",
        "x-csrf-token",
        "x-requested-with",
        "x-access-token",
        "x-id-token",
        "x-token",
        "x-operation-id",
        "if-match",
        "import-id",
        "x-correlation-id",
        "cf-ray",
        "traceparent",
        "referer",
        "origin",
        "range",
        "content-type",
    ] {
        assert!(left(name), "{name}");
    }
}

#[test]
fn forwarding_fields_are_known_by_any_spelling() {
    let peer = peer("203.0.113.9");
    let client = determine(peer, false, &HeaderMap::new(), &Trusted::default());
    for name in [
        "x-forwarded-for",
        "x_forwarded_for",
        "x.forwarded.for",
        "X|Forwarded~For",
        "x-forwarded_for",
        "x-forwarded-user",
        "x-forwarded!prefix",
        "x-real-ip",
        "x.real.ip",
        "x+real-ip",
        "true*client*ip",
        "x-original-url",
        "x'rewrite'url",
        "client-ip",
        "cf.connecting.ip",
        "x.request.id",
        "any_thing",
        "proxy",
    ] {
        let mut fields = map(&[(name, "6.6.6.6"), ("x-kept.too", "1")]);
        forward(&mut fields, peer, &client, &Trusted::default(), "a.example");
        let told = told(&fields);
        assert!(!told.iter().any(|line| line.contains("6.6.6.6")), "{name}: {told:?}");
        assert!(told.contains(&"x-kept.too: 1".to_owned()), "{told:?}");
    }
}

#[test]
fn request_ids_are_a_trusted_peers_or_our_own() {
    let given = |fields: &[(&str, &str)], trusted| {
        let id = request_id(&map(fields), trusted);
        let own = id.as_str().len() == 36 && RequestId::parse(id.as_str().as_bytes()).is_some();
        (id.as_str().to_owned(), own)
    };
    assert_eq!(given(&[("x-request-id", "a.B_c-1")], true).0, "a.B_c-1");
    for (fields, trusted) in [
        (&[("x-request-id", "a")][..], false),
        (&[("x-request-id", "a b")], true),
        (&[("x-request-id", "")], true),
        (&[("x-request-id", "a"), ("x-request-id", "b")], true),
        (&[], true),
    ] {
        assert!(given(fields, trusted).1, "{fields:?}");
    }
}

proptest! {
    #[test]
    fn nothing_a_client_sends_moves_it(value in ".{0,60}", name in "x-forwarded-for|forwarded|x-forwarded-proto") {
        let Ok(text) = HeaderValue::from_str(&value) else { return Ok(()) };
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), text);
        let client = determine(peer("203.0.113.9"), false, &headers, &trusted(&["10.0.0.0/8"]));
        prop_assert_eq!(client.address, IpAddr::from([203, 0, 113, 9]));
        prop_assert!(!client.https);
    }

    #[test]
    fn what_a_client_puts_in_front_does_not_count(front in "[ -~]{0,60}") {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(&format!("{front}, 203.0.113.9, 10.0.0.2")).unwrap();
        headers.insert("x-forwarded-for", value);
        let client = determine(peer("10.0.0.1"), false, &headers, &trusted(&["10.0.0.0/8"]));
        prop_assert_eq!(client.address, IpAddr::from([203, 0, 113, 9]));
    }
}
