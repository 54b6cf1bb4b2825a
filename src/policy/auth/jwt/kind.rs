//! Which kind of token it is, by what its claims say: issuers sign ID tokens, refresh tokens and logout tokens with the keys that they sign
//! access tokens with, often for the same audience (RFC 8725 §2.8, §3.12).

use serde_json::{Map, Value};

/// Claims that are hashes of what an ID token was issued beside: no other token has them (OpenID Connect Core 1.0 §3.3.2.11, FAPI).
const HASHES: [&str; 3] = ["at_hash", "c_hash", "s_hash"];
/// Where issuers say what a token is: Cognito, Keycloak, PingAM, and libraries that sign tokens for one application.
const SAID_IN: [&str; 5] = ["token_use", "typ", "tokenName", "token_type", "type"];
/// How they say that it is an access token.
const ACCESS: [&str; 5] = ["access", "accesstoken", "bearer", "dpop", "atjwt"];
/// How they say that it is there to get another one by. It is for the issuer alone.
const REFRESH: [&str; 4] = ["refresh", "refreshtoken", "refreshjwt", "offline"];
/// How they say that it is yet another kind.
const OTHERS: [&str; 10] = [
    "id",
    "idtoken",
    "idjwt",
    "serializedid",
    "logout",
    "logouttoken",
    "logoutjwt",
    "registration",
    "registrationaccesstoken",
    "initialaccesstoken",
];

/// Whether claims say that the token is none for an API: an ID token, one to refresh by, a logout token (OpenID Connect Back-Channel Logout
/// 1.0 §2.4) or another security event (RFC 8417). `is_access`: whether its header says that it is an access token (RFC 9068).
///
/// A `nonce` alone tells an ID token only where nothing says that it is an access token: Keycloak, before its version 25, has it in all of
/// its tokens.
pub(super) fn is_of_another(is_access: bool, claims: &Map<String, Value>) -> bool {
    says_another(claims)
        || HASHES.iter().any(|name| claims.contains_key(*name))
        || claims.contains_key("nonce")
            && !is_access
            && !said(claims).any(|(_, word)| ACCESS.contains(&&*word))
}

/// The same by words alone: for what a server says of a token.
pub(in crate::policy::auth) fn says_another(claims: &Map<String, Value>) -> bool {
    let another = |(name, word): (&str, String)| {
        // `type` is many an application's own word: there only what is said nowhere else counts.
        REFRESH.contains(&&*word) || name != "type" && OTHERS.contains(&&*word)
    };
    is_event(claims) || said(claims).any(another)
}

/// What it is called, without case and punctuation: `ID`, `id_token`.
fn said(claims: &Map<String, Value>) -> impl Iterator<Item = (&'static str, String)> {
    SAID_IN.iter().filter_map(|name| {
        let word = claims.get(*name)?.as_str()?;
        // The longest of the words has 23 letters.
        let letters = word.chars().filter(char::is_ascii_alphanumeric).take(32);
        Some((*name, letters.map(|c| c.to_ascii_lowercase()).collect()))
    })
}

/// Whether it tells of something that has happened: `events` has members whose names are URIs (RFC 8417 §2.2).
fn is_event(claims: &Map<String, Value>) -> bool {
    let is_uri = |name: &String| name.split_once(':').is_some_and(|(scheme, _)| !scheme.is_empty());
    claims.get("events").and_then(Value::as_object).is_some_and(|events| events.keys().any(is_uri))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn is_another(is_access: bool, claims: &Value) -> bool {
        is_of_another(is_access, claims.as_object().unwrap())
    }

    #[test]
    fn access_tokens_of_issuers_as_they_are_pass() {
        for (issuer, header, claims) in [
            (
                "Keycloak 24 (`nonce` in every token)",
                "JWT",
                json!({"exp": 2, "iat": 1, "auth_time": 1, "jti": "a", "iss": "https://id.example.com/realms/r", "aud": "account", "sub": "u",
                    "typ": "Bearer", "azp": "shop", "nonce": "n", "session_state": "s", "acr": "1", "allowed-origins": ["https://a"],
                    "realm_access": {"roles": ["offline_access"]}, "resource_access": {"account": {"roles": ["view-profile"]}},
                    "scope": "openid profile email", "sid": "s", "email_verified": true, "preferred_username": "ann"}),
            ),
            (
                "Keycloak 26, bound by DPoP",
                "JWT",
                json!({"exp": 2, "iat": 1, "jti": "onrtac:a", "iss": "i", "aud": "orders", "sub": "u", "typ": "DPoP", "azp": "shop",
                    "sid": "s", "acr": "1", "cnf": {"jkt": "k"}, "scope": "openid email"}),
            ),
            (
                "Cognito",
                "",
                json!({"sub": "u", "cognito:groups": ["g"], "iss": "i", "client_id": "c", "origin_jti": "o", "event_id": "e",
                    "token_use": "access", "scope": "openid", "auth_time": 1, "exp": 2, "iat": 1, "jti": "j", "version": 2,
                    "username": "ann"}),
            ),
            (
                "Auth0",
                "JWT",
                json!({"iss": "https://t.eu.auth0.com/", "sub": "auth0|1", "aud": ["https://api", "https://t.eu.auth0.com/userinfo"],
                    "iat": 1, "exp": 2, "azp": "c", "scope": "openid profile offline_access", "gty": "password", "permissions": ["a:b"]}),
            ),
            (
                "Entra, version 1",
                "JWT",
                json!({"aud": "api://1", "iss": "https://sts.windows.net/t/", "iat": 1, "nbf": 1, "exp": 2, "acr": "1", "aio": "a",
                    "amr": ["pwd"], "appid": "b", "appidacr": "0", "ipaddr": "192.0.2.1", "name": "Ann", "oid": "o", "rh": "0.A",
                    "scp": "access_as_user", "sub": "s", "tid": "t", "unique_name": "ann", "upn": "ann", "uti": "u", "ver": "1.0",
                    "xms_ftd": "f", "idtyp": "user"}),
            ),
            (
                "Entra, version 2, of an application",
                "JWT",
                json!({"aud": "1", "iss": "https://login.microsoftonline.com/t/v2.0", "iat": 1, "nbf": 1, "exp": 2, "aio": "a", "azp": "b",
                    "azpacr": "1", "idtyp": "app", "oid": "o", "roles": ["Reader"], "sub": "o", "tid": "t", "uti": "u", "ver": "2.0"}),
            ),
            (
                "Okta",
                "",
                json!({"ver": 1, "jti": "AT.1", "iss": "https://x.okta.com/oauth2/default", "aud": "api://default", "iat": 1, "exp": 2,
                    "cid": "c", "uid": "u", "scp": ["openid", "offline_access"], "auth_time": 1, "sub": "ann@example.com"}),
            ),
            (
                "oidc-provider, Duende: RFC 9068, with a `nonce` for once",
                "at+jwt",
                json!({"jti": "j", "sub": "u", "iat": 1, "exp": 2, "scope": "a", "client_id": "c", "iss": "i", "aud": "a", "nonce": "n"}),
            ),
            (
                "PingAM",
                "JWT",
                json!({"sub": "u", "cts": "OAUTH2_STATELESS_GRANT", "auditTrackingId": "a", "iss": "i", "tokenName": "access_token",
                    "token_type": "Bearer", "authGrantId": "g", "nonce": "n", "aud": "c", "nbf": 1, "grant_type": "authorization_code",
                    "scope": ["openid"], "auth_time": 1, "realm": "/", "exp": 2, "iat": 1, "expires_in": 3600, "jti": "j"}),
            ),
            (
                "Ory Hydra",
                "JWT",
                json!({"aud": [], "client_id": "c", "exp": 2, "ext": {}, "iat": 1, "iss": "i", "jti": "j", "nbf": 1, "scp": ["offline"],
                    "sub": "u"}),
            ),
            (
                "simplejwt",
                "JWT",
                json!({"token_type": "access", "exp": 2, "iat": 1, "jti": "j", "user_id": 1}),
            ),
            (
                "flask-jwt-extended",
                "JWT",
                json!({"fresh": false, "iat": 1, "jti": "j", "type": "access", "sub": "u", "exp": 2}),
            ),
            (
                "GitHub Actions",
                "JWT",
                json!({"jti": "j", "sub": "repo:a/b:ref:refs/heads/main", "aud": "orders", "ref": "r", "event_name": "push",
                    "ref_type": "branch", "workflow": "w", "iss": "https://token.actions.githubusercontent.com", "nbf": 1, "exp": 2}),
            ),
            (
                "an application's own words",
                "JWT",
                json!({"type": "id", "events": ["urn:a"], "event": "logout", "use": "id"}),
            ),
            ("events that are no URIs", "JWT", json!({"events": {"login": {}}})),
            (
                "words of another type",
                "JWT",
                json!({"typ": ["ID"], "token_use": 1, "type": {"refresh": true}, "events": "a:b"}),
            ),
        ] {
            assert!(!is_another(header == "at+jwt", &claims), "{issuer}");
        }
    }

    #[test]
    fn other_tokens_of_the_same_issuers_do_not() {
        let logout = "http://schemas.openid.net/event/backchannel-logout";
        for (what, claims) in [
            ("Keycloak: ID", json!({"typ": "ID", "azp": "shop", "nonce": "n", "at_hash": "h"})),
            ("Keycloak: ID, without what else tells it", json!({"typ": "ID"})),
            (
                "Keycloak: refresh",
                json!({"typ": "Refresh", "aud": "https://id", "nonce": "n", "scope": "openid"}),
            ),
            ("Keycloak: offline", json!({"typ": "Offline"})),
            ("Keycloak: logout", json!({"typ": "Logout", "events": {logout: {}}})),
            ("Keycloak: registration", json!({"typ": "RegistrationAccessToken"})),
            ("Keycloak: first registration", json!({"typ": "InitialAccessToken"})),
            ("Keycloak: session", json!({"typ": "Serialized-ID"})),
            ("Cognito: ID", json!({"token_use": "id", "aud": "c"})),
            ("refresh", json!({"token_use": "refresh"})),
            ("refresh, loudly", json!({"token_use": "REFRESH_TOKEN"})),
            ("Entra, Okta, Google: ID", json!({"nonce": "n", "ver": "2.0", "aud": "c"})),
            ("of a code flow: ID", json!({"at_hash": "h"})),
            ("of a hybrid flow: ID", json!({"c_hash": "h"})),
            ("FAPI: ID", json!({"s_hash": "h"})),
            ("a hash beside a word", json!({"typ": "Bearer", "at_hash": "h"})),
            ("PingAM: ID", json!({"tokenName": "id_token", "tokenType": "JWTToken"})),
            ("simplejwt: refresh", json!({"token_type": "refresh"})),
            ("flask-jwt-extended: refresh", json!({"type": "refresh"})),
            (
                "logout, whatever its header says",
                json!({"sub": "u", "aud": "orders", "jti": "j", "sid": "s", "events": {logout: {}}}),
            ),
            ("a security event", json!({"events": {"urn:ietf:params:event:SCIM:create": {"id": "1"}}})),
            ("one word of two", json!({"token_use": "access", "typ": "Refresh"})),
        ] {
            assert!(is_another(false, &claims), "{what}");
        }
        assert!(is_another(true, &json!({"typ": "ID"})) && is_another(true, &json!({"at_hash": "h"})));
    }
}
