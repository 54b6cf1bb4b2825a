//! `Max-Forwards` (RFC 9110 §7.6.2): through how many servers an OPTIONS may go yet. TRACE, the other method that it is for, ends at the door.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, MAX_FORWARDS};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::reply::Reply;
use crate::request::Fields;

/// The number, where it counts; none where it is no number, or not the only one: nobody can say then what is meant.
fn left(method: &Method, headers: &HeaderMap) -> Option<u64> {
    if method != Method::OPTIONS {
        return None;
    }
    let mut fields = headers.get_all(MAX_FORWARDS).iter();
    let (Some(only), None) = (fields.next(), fields.next()) else { return None };
    let digits = only.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Whether the request may go no further, so that it is ours to answer.
pub(super) fn ends_here(method: &Method, headers: &HeaderMap) -> bool {
    left(method, headers) == Some(0)
}

/// Tells the next server that it is one less.
pub(super) fn count_down(method: &Method, fields: &mut impl Fields) {
    if let Some(left) = left(method, fields.fields()) {
        fields.set(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// What OPTIONS gets from its last server (RFC 9110 §9.3.7): the methods that the path's routes take.
pub(super) fn options(methods: &[Method]) -> Reply {
    let mut headers = HeaderMap::with_capacity(4);
    let allow = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    if let Ok(allow) = HeaderValue::try_from(allow) {
        headers.insert(ALLOW, allow);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    Reply { status: StatusCode::OK, headers, body: Bytes::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_plain_number_of_options_counts() {
        let rows: [(&str, &[&str], Option<u64>); 10] = [
            ("OPTIONS", &["0"], Some(0)),
            ("OPTIONS", &["007"], Some(7)),
            ("OPTIONS", &["18446744073709551615"], Some(u64::MAX)),
            ("OPTIONS", &["18446744073709551616"], None),
            ("OPTIONS", &[""], None),
            ("OPTIONS", &["+1"], None),
            ("OPTIONS", &["1, 1"], None),
            ("OPTIONS", &["0", "0"], None),
            ("OPTIONS", &[], None),
            ("GET", &["0"], None),
        ];
        for (method, values, expected) in rows {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(MAX_FORWARDS, HeaderValue::from_static(value));
            }
            let method: Method = method.parse().unwrap();
            assert_eq!(left(&method, &headers), expected, "{method} {values:?}");
            assert_eq!(ends_here(&method, &headers), expected == Some(0));
            let before = headers.clone();
            count_down(&method, &mut headers);
            match expected {
                Some(n) => assert_eq!(headers[MAX_FORWARDS], n.saturating_sub(1).to_string()),
                None => assert_eq!(headers, before),
            }
        }
    }
}
