use proptest::prelude::*;

use super::*;

fn block(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&v2::SIGNATURE[..], &[command, family], &length, body].concat()
}

fn said(source: &str, destination: &str) -> Header {
    Header::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

const INET: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 7, 0xdb, 0x6c, 1, 187];

/// 2001:db8::1 port 1 → 2001:db8::2 port 443
fn inet6() -> Vec<u8> {
    let mut body = Vec::new();
    for last in [1, 2] {
        body.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    body.extend([0, 1, 1, 187]);
    body
}

/// A block with a checksum of its own, and another extension behind it.
fn summed(wrong: u8) -> Vec<u8> {
    let mut whole = block(0x21, 0x11, &[&INET[..], &[3, 0, 4, 0, 0, 0, 0], &[4, 0, 2, 9, 9]].concat());
    let sum = v2::checksum(&whole).to_be_bytes();
    for (to, from) in whole[31..35].iter_mut().zip(sum) {
        *to = from;
    }
    whole[34] ^= wrong;
    whole
}

#[test]
fn crc32c_is_that_of_the_standard() {
    // RFC 3720 §B.4.
    assert_eq!(v2::checksum(&[0; 32]), 0x8a91_36aa);
    assert_eq!(v2::checksum(b"123456789"), 0xe306_9283);
}

#[test]
fn headers_that_are() {
    let rows: Vec<(Vec<u8>, Header)> = vec![
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.7 56172 443\r\n".to_vec(),
            said("192.0.2.1:56172", "198.51.100.7:443"),
        ),
        (
            b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n".to_vec(),
            said("0.0.0.0:0", "255.255.255.255:65535"),
        ),
        (
            b"PROXY TCP6 2001:db8::1 2001:DB8::2 1 443\r\n".to_vec(),
            said("[2001:db8::1]:1", "[2001:db8::2]:443"),
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.7 1 2\r\n".to_vec(),
            said("192.0.2.1:1", "198.51.100.7:2"),
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), Header::Own),
        (b"PROXY UNKNOWN what ever\tit says\r\n".to_vec(), Header::Own),
        (format!("PROXY UNKNOWN {}\r\n", "f".repeat(91)).into_bytes(), Header::Own),
        (block(0x21, 0x11, &INET), said("192.0.2.1:56172", "198.51.100.7:443")),
        (block(0x21, 0x21, &inet6()), said("[2001:db8::1]:1", "[2001:db8::2]:443")),
        (block(0x21, 0x31, &[b'/'; 216]), Header::Own),
        (block(0x21, 0x00, b""), Header::Own),
        (block(0x21, 0x00, b"what ever"), Header::Own),
        (block(0x20, 0x00, b""), Header::Own),
        (block(0x20, 0x11, &INET), Header::Own),
        // The family and the length of a local connection's block are to be passed over (§2.2).
        (block(0x20, 0x7f, &[1, 2, 3]), Header::Own),
        (
            block(0x21, 0x11, &[&INET[..], &[0x20, 0, 1, 7]].concat()),
            said("192.0.2.1:56172", "198.51.100.7:443"),
        ),
        (block(0x21, 0x11, &[&INET[..], &[4, 0, 0]].concat()), said("192.0.2.1:56172", "198.51.100.7:443")),
        (summed(0), said("192.0.2.1:56172", "198.51.100.7:443")),
        (
            block(0x21, 0x11, &[&INET[..], &[4, 0x0f, 0xe1], &[0; 4065]].concat()),
            said("192.0.2.1:56172", "198.51.100.7:443"),
        ),
    ];
    for (bytes, header) in rows {
        let length = bytes.len();
        let shown = bytes.escape_ascii().to_string();
        assert_eq!(parse(&bytes), Ok(Progress::Complete { header, length }), "{shown}");
        let more = [&bytes[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(parse(&more), Ok(Progress::Complete { header, length }), "{shown}");
        for cut in 0..length {
            assert_eq!(parse(&bytes[..cut]), Ok(Progress::Partial), "{shown} cut at {cut}");
        }
    }
}

#[test]
fn headers_that_are_none() {
    let line = |rest: &str| format!("PROXY {rest}\r\n").into_bytes();
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "does not begin"),
        (b"\x16\x03\x01\x02\x00".to_vec(), "does not begin"),
        (b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), "does not begin"),
        (b"PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), "does not begin"),
        (b"PROXYTCP4".to_vec(), "does not begin"),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), "does not begin"),
        (b"\r\nGET / HTTP/1.1\r\n\r\n".to_vec(), "does not begin"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n".to_vec(), "carriage return"),
        (b"PROXY \n".to_vec(), "carriage return"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n".to_vec(), "port"),
        (line(""), "five fields"),
        (line("TCP4"), "five fields"),
        (line("TCP4 192.0.2.1 192.0.2.2 1"), "five fields"),
        (line("TCP4 192.0.2.1 192.0.2.2 1 2 3"), "five fields"),
        (line("TCP4 192.0.2.1 192.0.2.2 1 2 "), "five fields"),
        (line("TCP4  192.0.2.1 192.0.2.2 1 2"), "five fields"),
        (line(" TCP4 192.0.2.1 192.0.2.2 1 2"), "five fields"),
        (line("TCP5 192.0.2.1 192.0.2.2 1 2"), "another family"),
        (line("tcp4 192.0.2.1 192.0.2.2 1 2"), "another family"),
        (line("UNKNOWNX"), "five fields"),
        (line("UDP4 192.0.2.1 192.0.2.2 1 2"), "another family"),
        (line("TCP4 192.0.2.01 192.0.2.2 1 2"), "address"),
        (line("TCP4 192.0.2 192.0.2.2 1 2"), "address"),
        (line("TCP4 192.0.2.256 192.0.2.2 1 2"), "address"),
        (line("TCP4 0x7f.0.0.1 192.0.2.2 1 2"), "address"),
        (line("TCP4 ::1 192.0.2.2 1 2"), "address"),
        (line("TCP6 192.0.2.1 ::1 1 2"), "address"),
        (line("TCP6 [::1] ::1 1 2"), "address"),
        (line("TCP6 fe80::1%eth0 ::1 1 2"), "address"),
        (line("TCP6 1::2::3 ::1 1 2"), "address"),
        (line("TCP4 localhost 192.0.2.2 1 2"), "address"),
        (line("TCP4 192.0.2.1 192.0.2.2 01 2"), "port"),
        (line("TCP4 192.0.2.1 192.0.2.2 00 2"), "port"),
        (line("TCP4 192.0.2.1 192.0.2.2 +1 2"), "port"),
        (line("TCP4 192.0.2.1 192.0.2.2 -1 2"), "port"),
        (line("TCP4 192.0.2.1 192.0.2.2 65536 2"), "port"),
        (line("TCP4 192.0.2.1 192.0.2.2 1 2\t"), "port"),
        (line("TCP4 192.0.2.1\0 192.0.2.2 1 2"), "address"),
        (b"PROXY TCP4 \xff 192.0.2.2 1 2\r\n".to_vec(), "ASCII"),
        (format!("PROXY UNKNOWN {}\r\n", "f".repeat(92)).into_bytes(), "107"),
        (vec![b'P'; 3], "does not begin"),
        (block(0x11, 0x11, &INET), "another version"),
        (block(0x31, 0x11, &INET), "another version"),
        (block(0x01, 0x11, &INET), "another version"),
        (block(0x22, 0x11, &INET), "command"),
        (block(0x2f, 0x00, b""), "command"),
        (block(0x21, 0x12, &INET), "datagrams"),
        (block(0x21, 0x10, &INET), "unknown family"),
        (block(0x21, 0x01, &INET), "unknown family"),
        (block(0x21, 0x41, &INET), "unknown family"),
        (block(0x21, 0x13, &INET), "unknown family"),
        (block(0x21, 0x11, &INET[..11]), "shorter"),
        (block(0x21, 0x21, &INET), "shorter"),
        (block(0x21, 0x31, &INET), "shorter"),
        (block(0x21, 0x11, &[&INET[..], &[4]].concat()), "cut short"),
        (block(0x21, 0x11, &[&INET[..], &[4, 0, 2, 1]].concat()), "cut short"),
        (block(0x21, 0x11, &[&INET[..], &[3, 0, 3, 1, 2, 3]].concat()), "checksum"),
        (summed(1), "checksum"),
        (block(0x21, 0x11, &[&INET[..], &[4, 0x0f, 0xe2], &[0; 4066]].concat()), "4 KiB"),
        (block(0x20, 0x00, &[0; 4081]), "4 KiB"),
    ];
    for (bytes, part) in rows {
        let shown = bytes.escape_ascii().to_string();
        let fault = parse(&bytes).expect_err(&shown);
        assert!(fault.to_string().contains(part), "{shown}: {fault}");
        assert_one_fault(&bytes, fault);
    }
}

/// However the bytes are cut, the same is wrong with them.
fn assert_one_fault(bytes: &[u8], fault: Fault) {
    let mut before = true;
    for cut in 0..=bytes.len() {
        let now = parse(&bytes[..cut]);
        before &= now == Ok(Progress::Partial);
        assert!(before || now == Err(fault), "{} cut at {cut}: {now:?}", bytes.escape_ascii());
    }
}

#[test]
fn what_was_refused_as_a_request_is_told_from_a_header() {
    assert!(is_header(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"));
    assert!(is_header(&block(0x21, 0x11, &INET)));
    assert!(is_header(&block(0x21, 0x11, &INET)[4..]));
    assert!(!is_header(b"GET / HTTP/1.1\r\n") && !is_header(b"") && !is_header(b"\r\n\r\n"));
}

#[test]
fn addresses_of_two_families_are_written_as_ipv6() {
    let mixed = said("192.0.2.1:1", "[2001:db8::2]:443");
    assert_eq!(write(Version::V1, mixed), b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 443\r\n");
    assert_eq!(write(Version::V2, mixed).len(), 52);
    assert_eq!(write(Version::V1, Header::Own), b"PROXY UNKNOWN\r\n");
    assert_eq!(write(Version::V2, Header::Own), block(0x20, 0, b""));
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let noise = || proptest::collection::vec(any::<u8>(), 0..64);
    let text = proptest::string::string_regex("[PROXYTCUNKW46 :.0-9a-f\r\n]{0,120}").unwrap();
    prop_oneof![
        noise(),
        text.prop_map(|text| format!("PROXY {text}\r\n").into_bytes()),
        (0_u8..=2, "[0-9.:a-f]{1,12}", "[0-9.:a-f]{1,12}", any::<u32>()).prop_map(|(f, a, b, port)| format!(
            "PROXY TCP{} {a} {b} {port} 1\r\n",
            f + 4
        )
        .into_bytes()),
        (any::<u8>(), any::<u8>(), noise()).prop_map(|(c, f, body)| block(c % 3 + 0x1f, f, &body)),
        (0_u8..4, noise()).prop_map(|(f, rest)| block(0x21, f << 4 | 1, &[&INET[..], &rest].concat())),
    ]
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
        .prop_flat_map(|ip| any::<u16>().prop_map(move |port| SocketAddr::new(ip.to_canonical(), port)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_same_however_it_is_cut(bytes in bytes(), behind in proptest::collection::vec(any::<u8>(), 0..16)) {
        let whole = [&bytes[..], &behind[..]].concat();
        match parse(&whole) {
            Err(fault) => assert_one_fault(&whole, fault),
            Ok(Progress::Partial) => {
                for cut in 0..whole.len() {
                    prop_assert_eq!(parse(&whole[..cut]), Ok(Progress::Partial));
                }
            }
            Ok(complete @ Progress::Complete { length, .. }) => {
                prop_assert!(length <= HEADER_BYTES_MAX);
                for cut in 0..whole.len() {
                    let expected = if cut < length { Progress::Partial } else { complete };
                    prop_assert_eq!(parse(&whole[..cut]), Ok(expected));
                }
            }
        }
    }

    #[test]
    fn what_is_written_is_read(source in address(), destination in address(), second in any::<bool>()) {
        let version = if second { Version::V2 } else { Version::V1 };
        let header = Header::Client { source, destination };
        let bytes = write(version, header);
        prop_assert!(second || bytes.len() <= 107);
        prop_assert_eq!(parse(&bytes), Ok(Progress::Complete { header, length: bytes.len() }));
    }
}
