//! Where an issuer's own document stands, and what of it is believed (OpenID Connect Discovery 1.0 §4, RFC 8414 §3).

use serde_json::Value;

use super::json;

/// Where the document may stand: as OpenID Connect has it (behind the issuer's path), and as RFC 8414 does (before it).
pub(super) fn addresses(issuer: &str) -> [String; 2] {
    let bare = issuer.strip_suffix('/').unwrap_or(issuer);
    let host_at = bare.find("://").map_or(0, |at| at + 3);
    let (before, after) = bare.split_at(host_at);
    let (host, path) = after.split_at(after.find('/').unwrap_or(after.len()));
    [
        format!("{bare}/.well-known/openid-configuration"),
        format!("{before}{host}/.well-known/oauth-authorization-server{path}"),
    ]
}

/// The address of the keys, out of the document.
///
/// # Errors
/// It is no such document, or another issuer's: its `issuer` must be the one that was asked for, byte for byte (Discovery §4.3,
/// RFC 8414 §3.3). Otherwise whoever can have a document stand anywhere could vouch for tokens of others.
pub(super) fn jwks_uri(document: &[u8], issuer: &str) -> Result<String, &'static str> {
    let document = json::object(document)?;
    match document.get("issuer") {
        Some(Value::String(own)) if own == issuer => {}
        Some(Value::String(_)) => return Err("its `issuer` is another than the policy's"),
        _ => return Err("it has no `issuer`"),
    }
    match document.get("jwks_uri") {
        Some(Value::String(address)) if !address.is_empty() => Ok(address.clone()),
        _ => Err("it has no `jwks_uri`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_stands_behind_the_path_or_before_it() {
        for (issuer, openid, oauth) in [
            (
                "https://id.example.com",
                "https://id.example.com/.well-known/openid-configuration",
                "https://id.example.com/.well-known/oauth-authorization-server",
            ),
            (
                "https://id.example.com/",
                "https://id.example.com/.well-known/openid-configuration",
                "https://id.example.com/.well-known/oauth-authorization-server",
            ),
            (
                "http://127.0.0.1:8080/realms/a/b",
                "http://127.0.0.1:8080/realms/a/b/.well-known/openid-configuration",
                "http://127.0.0.1:8080/.well-known/oauth-authorization-server/realms/a/b",
            ),
        ] {
            assert_eq!(addresses(issuer), [openid, oauth], "{issuer}");
        }
    }

    #[test]
    fn another_issuers_document_is_not_believed() {
        let read = |document: &str| jwks_uri(document.as_bytes(), "https://a.example");
        let good = r#"{"issuer": "https://a.example", "jwks_uri": "https://keys.example/a"}"#;
        assert_eq!(read(good).unwrap(), "https://keys.example/a");
        for bad in [
            r#"{"issuer": "https://a.example/", "jwks_uri": "https://keys.example/a"}"#,
            r#"{"issuer": "https://A.example", "jwks_uri": "https://keys.example/a"}"#,
            r#"{"issuer": "https://b.example", "issuer": "https://a.example", "jwks_uri": "https://keys.example/a"}"#,
            r#"{"issuer": ["https://a.example"], "jwks_uri": "https://keys.example/a"}"#,
            r#"{"jwks_uri": "https://keys.example/a"}"#,
            r#"{"issuer": "https://a.example"}"#,
            r#"{"issuer": "https://a.example", "jwks_uri": ""}"#,
            r#"{"issuer": "https://a.example", "jwks_uri": null}"#,
            "<html>",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
