use http::{HeaderMap, HeaderValue, Method, header};
use proptest::prelude::*;

use super::{Denial, Fault, Oddities, Oddity, Target};
use crate::request::Protocol::{self, Http2, Http10, Http11};

fn headers(hosts: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for host in hosts {
        headers.append(header::HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
    }
    headers
}

fn get(raw: impl AsRef<[u8]>) -> Result<Target, Denial> {
    super::target(&Method::GET, raw.as_ref(), None, &headers(&["a.example"]), Http11, 8192)
}

/// Path and query, or the reason; oddities behind it.
fn told(result: Result<Target, Denial>) -> String {
    match result {
        Ok(target) => {
            let mut text = target.path_and_query().to_owned();
            for name in target.oddities().names() {
                text.push_str(" +");
                text.push_str(name);
            }
            text
        }
        Err(denial) => format!("!{}", denial.reason),
    }
}

#[test]
fn paths_have_one_form() {
    let rows: &[(&[u8], &str)] = &[
        // Nothing to do.
        (b"/", "/"),
        (b"/a", "/a"),
        (b"/a/", "/a/"),
        (b"/a/b.c/d-e_f~g", "/a/b.c/d-e_f~g"),
        (b"/a.b/..c/...", "/a.b/..c/..."),
        (b"/.well-known/x", "/.well-known/x"),
        (b"/!$&'()*+,;=:@", "/!$&'()*+,;=:@"),
        (b"/a;v=1/b", "/a;v=1/b"),
        // Unreserved is decoded, once.
        (b"/%61", "/a"),
        (b"/%41%5A%30%39", "/AZ09"),
        (b"/%2D%2e%5f%7E", "/-._~"),
        (b"/%2561", "/%2561"),
        (b"/%252e%252e/a", "/%252e%252e/a"),
        (b"/%25", "/%25"),
        // Other escapes are kept, in upper case.
        (b"/%3a%3B%40", "/%3A%3B%40"),
        (b"/a%20b", "/a%20b"),
        (b"/%c3%a9", "/%C3%A9"),
        (b"/%e2%82%ac", "/%E2%82%AC"),
        (b"/%f0%9f%98%80", "/%F0%9F%98%80"),
        (b"/%3f%23", "/%3F%23"),
        (b"/%7b%7d", "/%7B%7D"),
        // Of no path: encoded.
        (b"/a|b", "/a%7Cb"),
        (b"/\"<>[]^`{}", "/%22%3C%3E%5B%5D%5E%60%7B%7D"),
        (b"/%22%3c%3e%5b%5d%5e%60%7b%7d", "/%22%3C%3E%5B%5D%5E%60%7B%7D"),
        // Dot segments.
        (b"/a/./b", "/a/b"),
        (b"/a/../b", "/b"),
        (b"/a/b/../../c", "/c"),
        (b"/a/.", "/a/"),
        (b"/a/..", "/"),
        (b"/a/../", "/"),
        (b"/.", "/"),
        (b"/a/b/..", "/a/"),
        (b"/a/%2e/b", "/a/b"),
        (b"/a/%2E%2e/b", "/b"),
        (b"/a/.%2e/b", "/b"),
        (b"/a/%2e./b", "/b"),
        (b"/a/...", "/a/..."),
        (b"/a/..b", "/a/..b"),
        // Above the root.
        (b"/..", "!above_root"),
        (b"/../a", "!above_root"),
        (b"/a/../../b", "!above_root"),
        (b"/%2e%2e/etc", "!above_root"),
        (b"/./..", "!above_root"),
        (b"//..", "!above_root"),
        // Slashes are merged, then dots are looked at.
        (b"//", "/"),
        (b"//a", "/a"),
        (b"/a//b", "/a/b"),
        (b"/a///b//", "/a/b/"),
        (b"/a//../b", "/b"),
        (b"//evil.example/x", "/evil.example/x"),
        (b"/a/.//b", "/a/b"),
        // Refused always.
        (b"/a%", "!bad_escape"),
        (b"/a%2", "!bad_escape"),
        (b"/a%zz", "!bad_escape"),
        (b"/a%2/b", "!bad_escape"),
        (b"/%+1", "!bad_escape"),
        (b"/a%00", "!bad_escape"),
        (b"/a%0d%0aX:y", "!bad_escape"),
        (b"/a%1F", "!bad_escape"),
        (b"/a%7f", "!bad_escape"),
        (b"/a\0", "!bad_path"),
        (b"/a\x01", "!bad_path"),
        (b"/a\x7f", "!bad_path"),
        (b"/a b", "!bad_path"),
        (b"/a\tb", "!bad_path"),
        (b"/a#b", "!bad_path"),
        (b"/%c0%af", "!bad_utf8"),
        (b"/%c1%81", "!bad_utf8"),
        (b"/%e0%80%af", "!bad_utf8"),
        (b"/%f0%80%80%af", "!bad_utf8"),
        (b"/%ed%a0%80", "!bad_utf8"),
        (b"/%f4%90%80%80", "!bad_utf8"),
        (b"/%ff", "!bad_utf8"),
        (b"/%80", "!bad_utf8"),
        (b"/%c3", "!bad_utf8"),
        (b"/%c3/%a9", "!bad_utf8"),
        (b"/%c3\xa9", "!bad_utf8"),
        (b"/\xc3%a9", "!bad_utf8"),
        (b"/\xff", "!bad_utf8"),
        (b"/\xc0\xaf", "!bad_utf8"),
        // Two readings.
        (b"/a%2fb", "/a%2Fb +encoded_slash"),
        (b"/a/..%2fb", "/a/..%2Fb +encoded_slash +hidden_dots"),
        (b"/a/b%2f..", "/a/b%2F.. +encoded_slash +hidden_dots"),
        (b"/a/b%2f%2e%2e%2Fc", "/a/b%2F..%2Fc +encoded_slash +hidden_dots"),
        (b"/a/.%5cb", "/a/.%5Cb +encoded_backslash +hidden_dots"),
        (b"/a/b%2f..;x", "/a/b%2F..;x +encoded_slash +semicolon_dots"),
        (b"/a/b.%2f.c%2f...", "/a/b.%2F.c%2F... +encoded_slash"),
        (b"/a%5Cb", "/a%5Cb +encoded_backslash"),
        (b"/a\\b", "/a%5Cb +backslash"),
        (b"/a/..\\b", "/a/..%5Cb +backslash +hidden_dots"),
        (b"/a/..;/b", "/a/..;/b +semicolon_dots"),
        (b"/a/..;x=y/b", "/a/..;x=y/b +semicolon_dots"),
        (b"/a/%2e%2e;/b", "/a/..;/b +semicolon_dots"),
        (b"/a/.;/b", "/a/.;/b +semicolon_dots"),
        (b"/a/..%3b/b", "/a/..%3B/b +semicolon_dots"),
        (b"/a/b;../c", "/a/b;../c"),
        (b"/\xc3\xa9", "/%C3%A9 +raw_non_ascii"),
        (b"/\xe2\x82\xac\\%2f", "/%E2%82%AC%5C%2F +encoded_slash +backslash +raw_non_ascii"),
        // Queries.
        (b"/a?", "/a?"),
        (b"/a?b=c&d", "/a?b=c&d"),
        (b"/a?b=%2f%zz%00../..//|", "/a?b=%2f%zz%00../..//|"),
        (b"/a?b?c", "/a?b?c"),
        (b"/a/..?b", "/?b"),
        (b"/a?`{}|^[]\\'", "/a?`{}|^[]\\'"),
        (b"/a?b<c", "!bad_query"),
        (b"/a?b>c", "!bad_query"),
        (b"/a?b=\"c\"", "!bad_query"),
        (b"/a?b c", "!bad_query"),
        (b"/a?b\0", "!bad_query"),
        (b"/a?b\r\n", "!bad_query"),
        (b"/a?b\x7f", "!bad_query"),
        (b"/a?\xc3\xa9", "!bad_query"),
        (b"/a?b#c", "!bad_query"),
        (b"/a?b\"c", "!bad_query"),
        (b"/a?b<c", "!bad_query"),
        (b"/a?b>c", "!bad_query"),
        (b"/#?b", "!bad_path"),
        // Forms.
        (b"", "!bad_target"),
        (b"a", "!bad_target"),
        (b"?a", "!bad_target"),
        (b"*", "!bad_target"),
        (b"*a", "!bad_target"),
        (b"ftp://a.example/", "!bad_target"),
        (b"http:/a.example/", "!bad_target"),
        (b"http:a.example", "!bad_target"),
        (b"a.example:80", "!bad_target"),
        (b"http://a.example", "/"),
        (b"http://a.example?x", "/?x"),
        (b"HTTP://A.example/a/../b?x", "/b?x"),
        (b"https://a.example:443/", "/"),
        (b"http://a.example:443/", "!hosts_differ"),
        (b"http://a.example#x", "!bad_target"),
        (b"http://a.example\\x", "!bad_target"),
        (b"http://b.example/", "!hosts_differ"),
        (b"http://user@a.example/", "!bad_host"),
        (b"http://user:a@a.example/", "!bad_host"),
        (b"http:///a", "!bad_host"),
        (b"http://a.example:/", "!bad_host"),
    ];
    for (raw, expected) in rows {
        assert_eq!(told(get(raw)), *expected, "{}", String::from_utf8_lossy(raw));
    }
}

#[test]
fn hosts_have_one_form() {
    let label_63 = "a".repeat(63);
    let label_64 = "a".repeat(64);
    let name_253 = format!("{label_63}.{label_63}.{label_63}.{}", "a".repeat(61));
    let name_254 = format!("{label_63}.{label_63}.{label_63}.{}", "a".repeat(62));
    let rows: &[(&str, &str)] = &[
        ("a.example", "a.example"),
        ("A.EXAMPLE", "a.example"),
        ("a.example.", "a.example"),
        ("a.example.:8080", "a.example:8080"),
        ("a.example..", "!bad_host"),
        (".", "!bad_host"),
        ("", "!bad_host"),
        (".a", "!bad_host"),
        ("a..b", "!bad_host"),
        ("a_b-c.example", "a_b-c.example"),
        ("localhost:1", "localhost:1"),
        ("a:65535", "a:65535"),
        ("a:65536", "!bad_host"),
        ("a:0", "!bad_host"),
        ("a:080", "!bad_host"),
        ("a:", "!bad_host"),
        ("a:+80", "!bad_host"),
        ("a:80:80", "!bad_host"),
        (":80", "!bad_host"),
        ("a b", "!bad_host"),
        ("a,b", "!bad_host"),
        ("a/b", "!bad_host"),
        ("a?b", "!bad_host"),
        ("a#b", "!bad_host"),
        ("a@b", "!bad_host"),
        ("a%2eb", "!bad_host"),
        ("a\\b", "!bad_host"),
        ("*.example", "!bad_host"),
        ("bücher.example", "!bad_host"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("http://a", "!bad_host"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("127.0.0.1.", "127.0.0.1"),
        ("127.1", "!bad_host"),
        ("127.0.0.256", "!bad_host"),
        ("0127.0.0.1", "!bad_host"),
        ("0x7f.0.0.1", "!bad_host"),
        ("2130706433", "!bad_host"),
        ("0x7f000001", "!bad_host"),
        ("a.0x7f", "!bad_host"),
        ("1.a", "1.a"),
        ("[::1]", "[::1]"),
        ("[::1]:8443", "[::1]:8443"),
        ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ("[2001:DB8::0:1]", "[2001:db8::1]"),
        ("[::ffff:7f00:1]", "[::ffff:127.0.0.1]"),
        ("[::1", "!bad_host"),
        ("[::1]x", "!bad_host"),
        ("[::1]:", "!bad_host"),
        ("[fe80::1%25eth0]", "!bad_host"),
        ("[v1.x]", "!bad_host"),
        ("[127.0.0.1]", "!bad_host"),
        ("::1", "!bad_host"),
        (&label_63, &label_63),
        (&label_64, "!bad_host"),
        (&name_253, &name_253),
        (&name_254, "!bad_host"),
    ];
    for (host, expected) in rows {
        let told = match super::target(&Method::GET, b"/", None, &headers(&[host]), Http11, 8192) {
            Ok(target) => {
                let port = target.port().map(|port| format!(":{port}")).unwrap_or_default();
                assert_eq!(target.authority(), format!("{}{port}", target.host()));
                target.authority().to_owned()
            }
            Err(denial) => format!("!{}", denial.reason),
        };
        assert_eq!(told, *expected, "{host}");
    }
}

#[test]
fn everything_that_names_a_host_agrees() {
    type Row = (&'static str, Option<&'static str>, &'static [&'static str], Protocol, &'static str);
    let rows: &[Row] = &[
        ("/", None, &[], Http11, "!no_host"),
        ("http://a/", None, &[], Http11, "!no_host"),
        ("/", None, &["a", "a"], Http11, "!several_hosts"),
        ("/", None, &["a", "b"], Http10, "!several_hosts"),
        ("/", None, &[], Http10, "!no_host"),
        // What the listener has for those who say none.
        ("/", Some("a"), &[], Http10, "a"),
        ("http://b/", Some("a"), &[], Http10, "b"),
        ("/", None, &["a"], Http10, "a"),
        ("http://a:81/", None, &[], Http10, "a:81"),
        ("http://a/", None, &["A."], Http11, "a"),
        ("http://a:80/", None, &["a"], Http11, "a"),
        ("http://a/", None, &["a:80"], Http11, "a:80"),
        ("http://a:81/", None, &["a"], Http11, "!hosts_differ"),
        ("http://[::1]/", None, &["[0::1]"], Http11, "[::1]"),
        ("/", Some("a"), &[], Http2, "a"),
        ("/", Some("a"), &["A"], Http2, "a"),
        ("/", Some("a"), &["b"], Http2, "!hosts_differ"),
        ("/", Some("a:443"), &["a"], Http2, "!hosts_differ"),
        ("/", Some("u@a"), &[], Http2, "!bad_host"),
        ("/", Some(""), &[], Http2, "!bad_host"),
        ("/", None, &["a"], Http2, "a"),
        ("/", None, &[], Http2, "!no_host"),
        ("/", Some("a"), &["a", "a"], Http2, "!several_hosts"),
        ("http://a/", Some("a"), &[], Http2, "!bad_target"),
    ];
    for (raw, authority, hosts, protocol, expected) in rows {
        let got = super::target(&Method::GET, raw.as_bytes(), *authority, &headers(hosts), *protocol, 8192);
        let told = got.map_or_else(|denial| format!("!{}", denial.reason), |t| t.authority().to_owned());
        assert_eq!(told, *expected, "{raw} {authority:?} {hosts:?} {protocol:?}");
    }
}

#[test]
fn an_asterisk_is_for_options() {
    let options = |raw: &[u8]| super::target(&Method::OPTIONS, raw, None, &headers(&["a"]), Http11, 8192);
    assert_eq!(told(options(b"*")), "*");
    assert_eq!(told(options(b"http://a")), "*");
    assert_eq!(told(options(b"http://a?x")), "/?x");
    assert_eq!(told(options(b"http://a/")), "/");
    assert_eq!(told(options(b"/*")), "/*");
    assert_eq!(options(b"*").unwrap().query(), None);
}

#[test]
fn long_targets_are_414() {
    let denial = super::target(&Method::GET, b"/12345678", None, &headers(&["a"]), Http11, 8).unwrap_err();
    assert_eq!((denial.fault, denial.reason), (Fault::UriTooLong, "uri_bytes"));
    assert!(super::target(&Method::GET, b"/1234567", None, &headers(&["a"]), Http11, 8).is_ok());
}

#[test]
fn oddities_are_tolerated_one_by_one() {
    let odd = get(b"/a%2fb\\c").unwrap().oddities();
    assert_eq!(odd.names().collect::<Vec<_>>(), ["encoded_slash", "backslash"]);
    let denial = odd.denial(Oddity::EncodedSlash.into(), Some("files")).unwrap();
    assert_eq!((denial.fault, denial.reason), (Fault::Ambiguous, "backslash"));
    assert_eq!(
        denial.message,
        "the path has two readings (backslash), which the route `files` takes only with \
         `path_oddities: [encoded_slash, backslash]`"
    );
    let both: Oddities = [Oddity::EncodedSlash, Oddity::Backslash].into_iter().collect();
    assert_eq!(odd.denial(both, Some("files")), None);
    let nowhere = odd.denial(Oddities::default(), None).unwrap();
    assert_eq!(nowhere.message, "the path has two readings (encoded_slash, backslash), and no route has it");
    for oddity in Oddity::ALL {
        let read: Oddity = serde_json::from_str(&format!("\"{}\"", oddity.name())).unwrap();
        assert_eq!(read, oddity, "the name in the configuration and the reason in the log are one");
    }
    assert!(get(b"/a").unwrap().oddities().is_empty());
}

#[test]
fn parameters_are_cut_off_as_some_servers_do() {
    let cut = |raw: &str| match get(raw).unwrap().without_parameters() {
        None => "-".to_owned(),
        Some(result) => told(result),
    };
    let rows = [
        ("/a/b", "-"),
        ("/a%20b/%2561", "-"),
        ("/a?b;c", "-"),
        ("/a;x=1/b", "/a/b"),
        ("/a;x=1;y/b;z?q;r", "/a/b?q;r"),
        ("/a%3bx/b", "/a/b"),
        ("/a%3Bx;y/b", "/a/b"),
        ("/a;x", "/a"),
        ("/a;/", "/a/"),
        ("/;x/a", "/a"),
        ("/a/;x", "/a/"),
        ("/;", "/"),
        // What is a dot segment then is removed then.
        ("/a/..;x/b", "/b"),
        ("/a/.;/b", "/a/b"),
        ("/..;/b", "!above_root"),
        ("/a;%2fb/c", "/a/c"),
        ("/a%2fb;c", "/a%2Fb +encoded_slash"),
    ];
    for (raw, expected) in rows {
        assert_eq!(cut(raw), expected, "{raw}");
    }
    let target = get("/a;x/b?q").unwrap();
    let cut = target.without_parameters().unwrap().unwrap();
    assert_eq!(
        (cut.authority(), cut.host(), cut.path(), cut.query()),
        ("a.example", "a.example", "/a/b", Some("q"))
    );
}

#[test]
fn parts_are_slices_of_one_buffer() {
    let target =
        super::target(&Method::GET, b"/a/./b?c=d", None, &headers(&["A.b:81"]), Http11, 8192).unwrap();
    assert_eq!(target.host(), "a.b");
    assert_eq!(target.port(), Some(81));
    assert_eq!(target.authority(), "a.b:81");
    assert_eq!(target.path(), "/a/b");
    assert_eq!(target.query(), Some("c=d"));
    assert_eq!(target.path_and_query(), "/a/b?c=d");
    assert_eq!(get(b"/a?").unwrap().query(), Some(""));
    assert_eq!(get(b"/a").unwrap().query(), None);
}

/// Pieces that provoke the rules, beside random bytes.
fn odd_target() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "/", "//", "/.", "/..", "%2e", "%2E", "%2f", "%5c", "\\", ";", "..;", "%3b", "%61", "%25", "%2525", "é",
            "%c3%a9", "%c0%af", "|", "{", "%", "%7e", "a", "B", "?", "#", "%00", " ", "~", ":", "@", "*", "€", "%E2%82%AC",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..3),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| {
        let mut target = b"/".to_vec();
        target.extend(pieces.concat());
        target
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn canonical_is_canonical(raw in odd_target()) {
        if let Ok(first) = get(&raw) {
            let second = get(first.path_and_query()).unwrap();
            prop_assert_eq!(first.path_and_query(), second.path_and_query());
            prop_assert_eq!(first.host(), second.host());
            // Nothing becomes odd on the way; a backslash is an escape afterwards, and what `..` took away is gone.
            let mut seen = first.oddities();
            if seen.contains(Oddity::Backslash) {
                seen.insert(Oddity::EncodedBackslash);
            }
            prop_assert!(second.oddities().without(seen).is_empty());
        }
    }

    #[test]
    fn a_canonical_path_is_safe(raw in odd_target()) {
        if let Ok(target) = get(&raw) {
            let path = target.path();
            prop_assert!(path.starts_with('/'));
            prop_assert!(path.bytes().all(|b| b.is_ascii_graphic() && !b"\\#?\"<>^`{|}[]".contains(&b)), "{}", path);
            prop_assert!(!path.contains("//"));
            prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
        }
    }

    /// What a server sees that cuts parameters off is as canonical as the rest.
    #[test]
    fn cut_off_is_canonical(raw in odd_target()) {
        if let Ok(target) = get(&raw)
            && let Some(Ok(cut)) = target.without_parameters()
        {
            prop_assert!(cut.without_parameters().is_none());
            let again = get(cut.path_and_query()).unwrap();
            prop_assert_eq!(again.path_and_query(), cut.path_and_query());
        }
    }

    #[test]
    fn decoding_twice_is_never_needed(segment in "[a-zA-Z0-9._~-]{1,12}") {
        let escaped: String = segment.bytes().map(|b| format!("%{b:02x}")).collect();
        prop_assert_eq!(told(get(format!("/x/{escaped}"))), told(get(format!("/x/{segment}"))));
    }

    #[test]
    fn one_buffer_holds_it_all(raw in odd_target()) {
        if let Ok(target) = get(&raw) {
            // One allocation: the capacity foreseen was never outgrown (a grown String has twice its capacity).
            prop_assert!(target.text.capacity() <= "a.example".len() + 6 + 3 * raw.len() + 1);
        }
    }
}
