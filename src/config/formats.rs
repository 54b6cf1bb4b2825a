//! Formats of our own in the schema: texts with a unit and the like.

use super::units::{Percent, Rate, Size, Speed, Time};

/// A format, its check, and how it is spoken of.
pub(super) struct Format {
    pub(super) name: &'static str,
    pub(super) check: fn(&str) -> bool,
    /// What an editor can check, which does not know our formats; empty where no pattern tells it.
    pub(super) pattern: &'static str,
    /// With its article and an example.
    pub(super) noun: &'static str,
}

pub(super) const FORMATS: &[Format] = &[
    Format {
        name: "x-duration",
        check: |text| Time::parse(text).is_some(),
        pattern: "[0-9]+(ms|s|m|h|d)",
        noun: "a duration such as `500ms`, `10s`, `5m`, `1h` or `7d`",
    },
    Format {
        name: "x-size",
        check: |text| Size::parse(text).is_some(),
        pattern: "[0-9]+(B|KiB|MiB|GiB)",
        noun: "a size such as `512B`, `8KiB`, `1MiB` or `2GiB`",
    },
    Format {
        name: "x-speed",
        check: |text| Speed::parse(text).is_some(),
        pattern: "[0-9]+(B|KiB|MiB|GiB)/s",
        noun: "a speed such as `512B/s`, `1KiB/s` or `1MiB/s`",
    },
    Format {
        name: "x-percent",
        check: |text| Percent::parse(text).is_some(),
        pattern: r"[0-9]{1,3}(\.[0-9]{1,2})?%",
        noun: "a share such as `10%` or `0.5%`, at most `100%`",
    },
    Format {
        name: "x-rate",
        check: |text| Rate::parse(text).is_some(),
        pattern: "[0-9]+/[0-9]+(ms|s|m|h|d)",
        noun: "a rate such as `200/10s`: a count above 0, a slash, and a duration above 0",
    },
    Format {
        name: "x-regex",
        check: |text| regex::Regex::new(text).is_ok(),
        pattern: "",
        noun: "a regular expression such as `^v[12]$`",
    },
    Format {
        name: "x-host-port",
        check: host_port,
        pattern: r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]\s/]+):[0-9]{1,5}",
        noun: "an address with its port such as `10.0.0.7:8080`, `api.internal:443` or `\"[::1]:8080\"`",
    },
];

impl Format {
    /// The pattern of the whole value. What `${…}` will stand for an editor cannot know.
    pub(super) fn editor_pattern(&self) -> Option<String> {
        (!self.pattern.is_empty()).then(|| format!(r"^({}|.*\$\{{(env|file):.*)$", self.pattern))
    }
}

fn host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_fits = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            !host.is_empty() && host.len() <= 253 && host.bytes().all(fits)
        }
    };
    let port_fits =
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    host_fits && port_fits
}

/// Why a regular expression cannot be compiled, in one line.
pub(super) fn regex_problem(text: &str) -> Option<String> {
    let error = regex::Regex::new(text).err()?.to_string();
    let last = error.lines().last().unwrap_or_default();
    Some(last.trim_start_matches("error: ").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_ports() {
        for good in ["10.0.0.7:80", "api.internal:443", "[::1]:8080", "a_b:1", "localhost:65535"] {
            assert!(host_port(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "::1:80",
            "[::1]",
            "[x]:1",
            "a b:1",
            "http://a:80",
        ] {
            assert!(!host_port(bad), "{bad}");
        }
    }

    #[test]
    fn an_editor_and_the_loader_agree() {
        let samples = [
            "500ms",
            "10s",
            "7d",
            "10",
            "s",
            "1.5s",
            "-1s",
            "10 s",
            "8KiB",
            "8kb",
            "1GiB",
            "1KiB/s",
            "1KiB/m",
            "10%",
            "0.5%",
            "100%",
            "%",
            "1.234%",
            "10.0.0.7:80",
            "[::1]:80",
            "a",
            "a:b",
        ];
        for format in FORMATS {
            let Some(pattern) = format.editor_pattern() else { continue };
            let pattern = regex::Regex::new(&pattern).unwrap();
            for sample in samples {
                assert_eq!((format.check)(sample), pattern.is_match(sample), "{} {sample}", format.name);
            }
            assert!(pattern.is_match("${env:X}"), "{}", format.name);
        }
    }

    #[test]
    fn a_regex_problem_is_one_line() {
        assert_eq!(regex_problem("^(a"), Some("unclosed group".to_owned()));
        assert_eq!(regex_problem("a"), None);
    }
}
