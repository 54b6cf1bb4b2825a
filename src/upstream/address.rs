//! A server's address as written: a host and a port.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `host:port` or `[v6]:port`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    /// A name in lower case, or an address without brackets.
    pub(super) host: Box<str>,
    /// Never 0.
    pub(super) port: u16,
    /// Where the host is an address already.
    pub(super) literal: Option<IpAddr>,
}

/// What is wrong with an address, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Lower case, no full stop.
    pub(super) cause: String,
    /// Lower case, no full stop.
    pub(super) cure: &'static str,
}

impl Address {
    /// Takes an address apart.
    pub(super) fn parse(text: &str) -> Result<Self, Malformed> {
        let wrong = |cause: String, cure| Err(Malformed { cause, cure });
        if text.contains("://") {
            return wrong(
                format!("`{text}` is a URL, not an address"),
                "write `host:port`; TLS is the upstream's `tls`",
            );
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, rest)) => (host, rest.strip_prefix(':')),
                None => return wrong(format!("`{text}` lacks its `]`"), "write `\"[::1]:8080\"`"),
            },
            None => match text.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    return wrong(
                        format!("`{text}` is an IPv6 address without brackets"),
                        "write `\"[::1]:8080\"`",
                    );
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let Some(port) = port else {
            return wrong(format!("`{text}` names no port"), "write `host:port`");
        };
        let port = match port.parse::<u16>() {
            Ok(0) => return wrong(format!("`{text}` names port 0"), "write a port from 1 to 65535"),
            Ok(number) if port.bytes().all(|b| b.is_ascii_digit()) => number,
            _ => return wrong(format!("`{port}` is not a port"), "write a port from 1 to 65535"),
        };
        if text.starts_with('[') {
            return match host.parse::<Ipv6Addr>() {
                Ok(ip) => Ok(Self { host: ip.to_string().into(), port, literal: Some(IpAddr::V6(ip)) }),
                Err(_) => wrong(format!("`{host}` is not an IPv6 address"), "write `\"[::1]:8080\"`"),
            };
        }
        let literal = host.parse::<IpAddr>().ok();
        if literal.is_none() && !is_name(host) {
            return wrong(format!("`{host}` is neither a host name nor an address"), "write `host:port`");
        }
        Ok(Self { host: host.to_ascii_lowercase().into(), port, literal })
    }

    /// The socket address, where no name has to be resolved.
    pub(super) fn socket(&self) -> Option<SocketAddr> {
        self.literal.map(|ip| SocketAddr::new(ip, self.port))
    }
}

/// Whether a text is a host name (RFC 1123 §2.1, with `_` as it is found in the field). A name of digits and dots only is a
/// mistyped address.
pub(super) fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(label) && !text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_addresses_apart() {
        let address = |text: &str| Address::parse(text).unwrap();
        let named = address("Api.internal:80");
        assert_eq!((&*named.host, named.port, named.literal), ("api.internal", 80, None));
        assert_eq!(address("127.0.0.1:9001").socket(), Some("127.0.0.1:9001".parse().unwrap()));
        assert_eq!(address("[::1]:9001").socket(), Some("[::1]:9001".parse().unwrap()));
        assert_eq!(&*address("[0:0::1]:1").host, "::1");
        assert_eq!(address("localhost:1").socket(), None);
        assert_eq!(address("my_service.default.svc.cluster.local.:65535").port, 65535);
    }

    #[test]
    fn refuses_the_rest() {
        for (text, part) in [
            ("localhost", "names no port"),
            ("[::1]", "names no port"),
            ("::1:80", "without brackets"),
            ("[::1:80", "lacks its `]`"),
            ("[localhost]:80", "not an IPv6 address"),
            ("a:0", "port 0"),
            ("a:65536", "not a port"),
            ("a:+1", "not a port"),
            ("a:", "not a port"),
            (":80", "neither"),
            ("300.1.1.1:80", "neither"),
            ("-a.b:80", "neither"),
            ("a..b:80", "neither"),
            ("a b:80", "neither"),
            ("http://a:80", "is a URL"),
        ] {
            let cause = Address::parse(text).unwrap_err().cause;
            assert!(cause.contains(part), "{text}: {cause}");
        }
    }
}
