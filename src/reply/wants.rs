//! Which form of an answer a client understands.

use http::{HeaderMap, HeaderValue, header};

/// The form in which a client reads a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// `application/problem+json` (RFC 9457).
    Problem,
    /// Plain text: people at a browser.
    Text,
    /// gRPC: HTTP 200 and `grpc-status`.
    Grpc,
}

/// What decides the form, kept until it is needed: hardly any request is refused, and a browser's `Accept` takes longer to judge
/// than its route does to find.
#[derive(Clone, Debug)]
pub enum Preference {
    /// Nothing is left to judge.
    Settled(Wants),
    /// The only `Accept`.
    Accept(HeaderValue),
}

impl Preference {
    /// Takes what decides out of the request.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut lines = headers.get_all(header::ACCEPT).iter();
        match (lines.next(), lines.next()) {
            _ if asks_for_grpc(headers) => Self::Settled(Wants::Grpc),
            (None, _) => Self::Settled(Wants::Problem),
            (Some(accept), None) => Self::Accept(accept.clone()),
            _ => Self::Settled(Wants::from_headers(headers)),
        }
    }

    /// The form.
    pub fn settle(&self) -> Wants {
        match self {
            Self::Settled(wants) => *wants,
            Self::Accept(accept) => Wants::from_accept(|| std::iter::once(accept)),
        }
    }
}

impl Wants {
    /// gRPC by the request's content type; text where `Accept` prefers it to JSON; else a problem document. Two that are liked
    /// equally are a problem document.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        if asks_for_grpc(headers) {
            return Self::Grpc;
        }
        Self::from_accept(|| headers.get_all(header::ACCEPT).into_iter())
    }

    fn from_accept<'a, I: Iterator<Item = &'a HeaderValue>>(accept: impl Fn() -> I) -> Self {
        let quality = |kind, subtype| quality(accept(), kind, subtype);
        let text = quality("text", "plain").max(quality("text", "html"));
        let json = quality("application", "problem+json").max(quality("application", "json"));
        if text > json { Self::Text } else { Self::Problem }
    }
}

fn asks_for_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes()))
}

/// `application/grpc`, alone or with a suffix such as `+proto` or `-web`.
fn is_grpc(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    let Some((name, rest)) = content_type.split_at_checked(NAME.len()) else {
        return false;
    };
    name.eq_ignore_ascii_case(NAME) && matches!(rest.first(), None | Some(b'+' | b'-' | b';' | b' '))
}

/// How much a type is liked, in thousandths: the most specific range that covers it decides (RFC 9110 §12.5.1). Without `Accept`
/// everything is liked.
fn quality<'a>(accept: impl Iterator<Item = &'a HeaderValue>, kind: &str, subtype: &str) -> u16 {
    let mut best: Option<(u8, u16)> = None;
    let mut present = false;
    for value in accept {
        present = true;
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let Some((range_kind, range_subtype)) = parts.next().and_then(|name| name.split_once('/')) else {
                continue;
            };
            let specific = match (range_kind, range_subtype) {
                ("*", "*") => 0,
                (k, "*") if k.eq_ignore_ascii_case(kind) => 1,
                (k, s) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(subtype) => 2,
                _ => continue,
            };
            let weight = parts.find_map(|p| p.strip_prefix(['q', 'Q'])?.strip_prefix('='));
            let weight = weight.map_or(1_000, thousandths);
            if best.is_none_or(|(known, _)| specific > known) {
                best = Some((specific, weight));
            }
        }
    }
    match best {
        Some((_, weight)) => weight,
        None if present => 0,
        None => 1_000,
    }
}

/// `0.8` → 800; what is no weight counts as nothing.
fn thousandths(weight: &str) -> u16 {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    let number = format!("{whole}{fraction:0<3}");
    match number.parse::<u16>() {
        Ok(weight) if fraction.len() <= 3 && weight <= 1_000 => weight,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_form_is_what_the_client_prefers() {
        for (accept, wants) in [
            ("", Wants::Problem),
            ("*/*", Wants::Problem),
            ("application/json, text/plain, */*", Wants::Problem),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Wants::Text),
            ("text/plain", Wants::Text),
            ("TEXT/HTML", Wants::Text),
            ("text/*", Wants::Text),
            ("text/*;q=0.3, application/json;q=0.4", Wants::Problem),
            ("text/plain;q=0, */*", Wants::Problem),
            ("application/problem+json", Wants::Problem),
            ("text/plain;q=0.9, application/problem+json;q=0.85", Wants::Text),
            ("image/png", Wants::Problem),
            ("text/plain;q=nonsense", Wants::Problem),
            (",;/,text", Wants::Problem),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(Wants::from_headers(&headers), wants, "{accept}");
            assert_eq!(Preference::of(&headers).settle(), wants, "{accept}");
        }
        assert_eq!(Wants::from_headers(&HeaderMap::new()), Wants::Problem);
    }

    #[test]
    fn accept_may_be_said_in_several_fields() {
        let accept =
            [HeaderValue::from_static("application/json;q=0.1"), HeaderValue::from_static("text/html")];
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(header::ACCEPT, value);
        }
        assert_eq!(Wants::from_headers(&headers), Wants::Text);
        assert_eq!(Preference::of(&headers).settle(), Wants::Text);
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (content_type, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC; charset=x", true),
            ("application/grpc-web+proto", true),
            ("application/grpcish", false),
            ("application/json", false),
        ] {
            let headers =
                HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            assert_eq!(Wants::from_headers(&headers) == Wants::Grpc, grpc, "{content_type}");
            assert_eq!(Preference::of(&headers).settle() == Wants::Grpc, grpc, "{content_type}");
        }
    }
}
