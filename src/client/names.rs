//! Names of fields in which no client has a word, since applications learn from them whose request it is. In lower case, as `http` has them.

/// Fields by which proxies tell of a client, of its connection or certificate, or which host and path were meant, but for those that
/// begin with `x-`. (`proxy` would become CGI's `HTTP_PROXY`, where some programs look for one: httpoxy.) What only says where a client
/// is (`cf-ipcountry`, `cloudfront-viewer-country`) or by which edge it came (`x-azure-fdid`) passes: nobody is known by it.
const FORWARDING: [&str; 14] = [
    "cf-pseudo-ipv4",
    "cf-visitor",
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "client-verify",
    "cloudfront-forwarded-proto",
    "cloudfront-viewer-address",
    "forwarded",
    "forwarded-for",
    "front-end-https",
    "path-info",
    "proxy",
    "script-name",
];

/// What they begin with, and those that tell of client certificates (RFC 9440 is `client-cert`, above).
const FORWARDING_STARTS: [&str; 7] = [
    "cf-client-cert-",
    "cf-connecting-",
    "cloudfront-viewer-cert-",
    "fly-forwarded-",
    "ssl-client-",
    "tls-client-",
    "wl-proxy-",
];

/// The same behind `x-`. Rack takes from `x-sendfile-type` and `x-accel-mapping` which of its files a proxy serves (CVE-2025-61780).
const X_FORWARDING: [&str; 47] = [
    "accel-mapping",
    "arr-clientcert",
    "arr-ssl",
    "azure-socketip",
    "backend-host",
    "client-addr",
    "client-address",
    "client-dn",
    "client-port",
    "client-proto",
    "client-s-dn",
    "client-scheme",
    "client-verify",
    "clientcert",
    "custom-ip-authorization",
    "forward-for",
    "forward-host",
    "forward-proto",
    "forwarded",
    "forwarder-for",
    "frontend-proto",
    "host",
    "http-host-override",
    "nf-client-connection-ip",
    "original-for",
    "original-host",
    "original-method",
    "original-prefix",
    "original-proto",
    "original-remote-addr",
    "original-uri",
    "original-url",
    "originating-ip",
    "peer-cert",
    "peer-ip",
    "proxyuser-ip",
    "remote-addr",
    "remote-ip",
    "req-scheme",
    "request-id",
    "rewrite-uri",
    "rewrite-url",
    "scheme",
    "script-name",
    "sendfile-type",
    "url-scheme",
    "verified-client",
];

/// What these begin with. Envoy at an edge takes all of `x-envoy-` from clients too.
const X_FORWARDING_STARTS: [&str; 11] = [
    "amzn-mtls-",
    "amzn-tls-",
    "client-cert",
    "client-ssl-",
    "client-subject",
    "envoy-",
    "forwarded-",
    "mtls-",
    "real-",
    "ssl-",
    "tls-client-",
];

/// What the fields end with by which one proxy or another tells a client's address: `fly-client-ip`, `do-connecting-ip`, `ali-cdn-real-ip`,
/// `x-sucuri-clientip`, `x-vercel-forwarded-for`, `appengine-user-ip` …
const FORWARDING_ENDS: [&str; 7] = [
    "-client-ip",
    "-clientip",
    "-connecting-ip",
    "-forwarded-for",
    "-real-ip",
    "-src-ip",
    "appengine-user-ip",
];

/// The beginnings of fields by which proxies and gateways tell upstreams who somebody is: Apache and Authelia (`remote-`), Kubernetes
/// (`x-remote-`, `impersonate-`), oauth2-proxy (`x-auth-request-`; its `x-forwarded-user` goes with the rest of these), Kong (`x-consumer-`,
/// `x-credential-`, `x-anonymous-consumer`, `x-authenticated-`), APISIX (`x-userinfo`), WSO2, Istio and Pomerium, Google's, Amazon's, Azure's
/// and Cloudflare's proxies, authentik, Vouch, Grafana, Tailscale, Shibboleth and mod_auth_openidc. No client has a word in them, and no
/// trusted proxy either: who it is this gateway finds out. `x-user`, `x-user-id` and the like are an application's as often as a
/// gateway's: they go where the configuration tells in them who it is (`Gateway::told_fields`).
const IDENTITY: [&str; 46] = [
    "cf-access-",
    "impersonate-",
    "iv-",
    "oam-remote-user",
    "oidc-access-token",
    "oidc-claim-",
    "oidc-id-token",
    "openid-connect-",
    "pomerium-jwt-assertion",
    "remote-",
    "shib-",
    "sm-user",
    "tailscale-user-",
    "teleport-jwt-assertion",
    "x-amzn-oidc-",
    "x-anonymous-consumer",
    "x-apisix-consumer",
    "x-apigateway-api-userinfo",
    "x-appengine-",
    "x-auth-request-",
    "x-authelia-",
    "x-authenticated-",
    "x-authentik-",
    "x-consumer-",
    "x-credential-",
    "x-endpoint-api-userinfo",
    "x-goog-authenticated-user-",
    "x-goog-iap-jwt-assertion",
    "x-impersonate-",
    "x-jwt-assertion",
    "x-jwt-claim",
    "x-jwt-payload",
    "x-kong-jwt-claim-",
    "x-ms-client-principal",
    "x-ms-token-aad-",
    "x-oidc-",
    "x-pomerium-claim-",
    "x-pomerium-jwt-assertion",
    "x-proxiedentitieschain",
    "x-remote-",
    "x-rh-identity",
    "x-spiffe-id",
    "x-token-subject",
    "x-userinfo",
    "x-vouch-",
    "x-webauth-",
];

/// Whether a field that a client sent ends here: one of forwarding or identity however it is spelt, or any whose name has a `_`.
pub(super) fn is_no_clients(name: &str) -> bool {
    is_spelt(name, |name| is_of_forwarding(name) || is_of_identity(name))
}

/// Whether applications may learn from a field whose request it is, so that no client's word passes in it; every name with a `_` too.
pub(crate) fn is_forwarding(name: &str) -> bool {
    is_spelt(name, is_of_forwarding)
}

/// Whether a field tells who somebody is by the word of a proxy or gateway, so that no client's word passes in it.
pub(crate) fn is_identity(name: &str) -> bool {
    is_spelt(name, is_of_identity)
}

/// Whether a name is such a one however it is spelt, or has a `_`.
fn is_spelt(name: &str, is_one: impl Fn(&str) -> bool) -> bool {
    // CGI, WSGI and their kin read `_` and `-` as one: `x_client` would speak for the `x-client` that a header rule sets.
    if name.bytes().any(|b| b == b'_') {
        return true;
    }
    if has_odd_punctuation(name) { is_one(&dashed(name)) } else { is_one(name) }
}

/// Whether a name has characters that CGI and its kin have no place for.
pub(super) fn has_odd_punctuation(name: &str) -> bool {
    name.bytes().any(|b| !b.is_ascii_alphanumeric() && b != b'-')
}

/// As they read it.
pub(super) fn dashed(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn is_of_forwarding(name: &str) -> bool {
    // Most fields are told by their first byte and their last.
    let begins = match name.strip_prefix("x-") {
        Some(rest) => {
            X_FORWARDING.contains(&rest) || X_FORWARDING_STARTS.iter().any(|start| rest.starts_with(start))
        }
        None => {
            matches!(name.as_bytes().first(), Some(b'c' | b'f' | b'p' | b's' | b't' | b'w'))
                && (FORWARDING.contains(&name)
                    || FORWARDING_STARTS.iter().any(|start| name.starts_with(start)))
        }
    };
    begins
        || matches!(name.as_bytes().last(), Some(b'p' | b'r'))
            && FORWARDING_ENDS.iter().any(|end| name.ends_with(end))
}

fn is_of_identity(name: &str) -> bool {
    // A few bytes tell all others.
    let may_be = match name.as_bytes() {
        [b'x', b'-', third, ..] => {
            matches!(
                third,
                b'a' | b'c'
                    | b'e'
                    | b'g'
                    | b'i'
                    | b'j'
                    | b'k'
                    | b'm'
                    | b'o'
                    | b'p'
                    | b'r'
                    | b's'
                    | b't'
                    | b'u'
                    | b'v'
                    | b'w'
            )
        }
        [b'c', b'f', ..]
        | [b'i', b'm' | b'v', ..]
        | [b'o', b'a' | b'i' | b'p', ..]
        | [b'p', b'o', b'm', ..]
        | [b'r', b'e', b'm', ..]
        | [b's', b'h' | b'm', ..]
        | [b't', b'a' | b'e', ..] => true,
        _ => false,
    };
    may_be && IDENTITY.iter().any(|start| name.starts_with(start))
}
