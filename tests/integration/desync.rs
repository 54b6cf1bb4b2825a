//! The desynchronisation vectors beside the project (`../shared/vectors/desync`), each through a real gateway to an origin that
//! records what comes. Without the folder the test says so and passes.

use std::path::PathBuf;

use granit_parser::{Event, Parser};
use serde_json::{Map, Value};

use crate::harness::{Connection, Origin, Running};

/// Vectors that are called compliant and are refused all the same, with the reason.
const REFUSED: &[(&str, &str)] = &[
    // Transfer codings. RFC 9112 §6.1 wants 501 for one that a server does not know; chunked is the only one we do.
    ("Correct TE OK", "`gzip, chunked`: 501"),
    (
        "Transfer-Encoding: identity and chunked OK",
        "`deflate, identity, chunked`: 501; `identity` is none since RFC 7230",
    ),
    ("Different Transfer-Encoding headers combined", "`gzip, deflate, identity, compress, chunked`: 501"),
    ("Multiple transfer encoding headers in a single request OK", "five Transfer-Encoding fields"),
    ("Different Transfer-Encoding headers", "five Transfer-Encoding fields"),
    (
        "Transfer-Encoding with a param: chunked;custom_param",
        "three Transfer-Encoding fields, with parameters",
    ),
    ("TE with custom parameters OK", "chunked has no parameters; any is an error (RFC 9112 §7.1)"),
    // Targets.
    ("Empty URI", "no target at all (RFC 9112 §3)"),
    (
        "Compliant URL",
        "a fragment, a stray `%` and quotes, which no target may have (RFC 9112 §3.2, RFC 3986 §3.3)",
    ),
    (
        "International in URI",
        "raw bytes beyond ASCII: no target may have them, and servers decode them in several ways",
    ),
    ("%09 in URI is OK", "a control character in a path, which some servers cut at or put into a header"),
    ("%0D in URI is OK", "as %09"),
    ("%0A in URI is OK", "as %09"),
];

/// How many vectors there are of each tier.
const TIERS: [(&str, usize); 4] = [("Acceptable", 15), ("Ambiguous", 57), ("Compliant", 28), ("Severe", 58)];

/// What the bodies are made of: a server that sees their end too early takes it for a request.
const HIDDEN: &[u8] = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Bodies longer than this are not sent; none that may be accepted is.
const BODY: usize = 4 << 20;

#[test]
fn what_could_be_read_in_two_ways_is_refused_or_the_last_of_its_connection() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/desync");
    let Ok(files) = std::fs::read_dir(&folder) else {
        println!("skipped: no {}", folder.display());
        return;
    };
    let origin = Origin::echo();
    let gateway = Running::with(&format!(
        "upstreams: {{origin: {{servers: ['{}']}}}}\nroutes:\n  - {{name: all, upstream: origin}}\n",
        origin.address()
    ));
    let mut seen = std::collections::BTreeMap::new();
    let mut wrong = Vec::new();
    let mut known = 0;
    for file in
        files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "yaml"))
    {
        for vector in read(&std::fs::read_to_string(&file).unwrap()).as_array().into_iter().flatten() {
            let tier = text(&vector["expected"]["tier"]);
            let name = text(&vector["name"]);
            known += usize::from(REFUSED.iter().any(|(known, _)| *known == name));
            let before = origin.heads().len();
            let (status, closes, answers) = verdict(&gateway, vector);
            let heads = origin.heads();
            let hidden = heads[before..]
                .iter()
                .any(|head| !head.starts_with("GET /probe ") && head.contains("/hidden"));
            let forwarded = heads[before..].iter().filter(|head| !head.starts_with("GET /probe ")).count();
            let refused = (400..=501).contains(&status) && closes && forwarded == 0;
            let right = match tier.as_str() {
                "Severe" => refused,
                "Ambiguous" => refused || closes,
                "Compliant" => (status == 200) != REFUSED.iter().any(|(known, _)| *known == name),
                _ => status != 0,
            };
            // One request is never two.
            if !right || answers > 1 || forwarded > 1 || hidden {
                wrong.push(format!(
                    "{tier} {name}: {status}, closes {closes}, {answers} answers, {forwarded} forwarded"
                ));
            }
            *seen.entry(tier).or_insert(0) += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, TIERS.map(|(tier, count)| (tier.to_owned(), count)).into());
    assert_eq!(known, REFUSED.len(), "an exception that no vector needs, or that several have");
}

/// The status (0 for none), whether the connection ends, and how many answers came.
fn verdict(gateway: &Running, vector: &Value) -> (u16, bool, usize) {
    let mut head = Vec::new();
    for (part, end) in [("method", b" "), ("uri", b" ")] {
        head.extend(bytes(&vector[part]));
        head.extend_from_slice(end);
    }
    head.extend(bytes(&vector["version"]));
    head.extend_from_slice(b"\r\n");
    let fields = vector["headers"].as_array().cloned().unwrap_or_default();
    let mut length = 0;
    let mut chunked = false;
    if !fields.iter().any(|field| text(&field["name"]).eq_ignore_ascii_case("host")) {
        head.extend_from_slice(b"Host: localhost\r\n");
    }
    for field in &fields {
        let (name, value) = (text(&field["name"]), text(&field["value"]));
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0_usize);
        }
        chunked |= name.eq_ignore_ascii_case("transfer-encoding");
        head.extend(bytes(&field["name"]));
        head.extend_from_slice(b": ");
        head.extend(bytes(&field["value"]));
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    match (chunked, length) {
        (true, _) => {
            head.extend(format!("{:x}\r\n", HIDDEN.len()).bytes());
            head.extend_from_slice(HIDDEN);
            head.extend_from_slice(b"\r\n0\r\n\r\n");
        }
        (false, length) => head.extend(HIDDEN.iter().cycle().take(length.min(BODY))),
    }
    let to_head = text(&vector["method"]) == "HEAD";
    let mut client = Connection::open(gateway.address());
    // A gateway that refuses early may close before all is written.
    client.try_write(&head).ok();
    let Ok(response) = client.try_response(to_head) else { return (0, true, 0) };
    if response.closes() {
        return (response.status, client.is_closed(), 1);
    }
    client.write("GET /probe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    // The answer to the probe, and nothing else, follows.
    let probe = client.try_response(false);
    let more = probe.map_or(true, |probe| !probe.text().starts_with("GET /probe ")) || !client.is_closed();
    (response.status, false, if more { 2 } else { 1 })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A text of the vectors stands for bytes where it can.
fn bytes(value: &Value) -> Vec<u8> {
    let text = text(value);
    match text.chars().map(|c| u8::try_from(u32::from(c))).collect() {
        Ok(bytes) => bytes,
        Err(_) => text.into_bytes(),
    }
}

/// Reads YAML; every scalar is a text.
fn read(yaml: &str) -> Value {
    enum Open {
        List(Vec<Value>),
        Map(Map<String, Value>, Option<String>),
    }
    let mut open = vec![Open::List(Vec::new())];
    for event in Parser::new_from_str(yaml) {
        let done = match event.unwrap().0 {
            Event::Scalar(text, ..) => Value::String(text.into_owned()),
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop().unwrap() {
                Open::List(items) => Value::Array(items),
                Open::Map(entries, _) => Value::Object(entries),
            },
            _ => continue,
        };
        match open.last_mut().unwrap() {
            Open::List(items) => items.push(done),
            Open::Map(entries, key) => match key.take() {
                None => *key = Some(text(&done)),
                Some(key) => drop(entries.insert(key, done)),
            },
        }
    }
    match open.pop() {
        Some(Open::List(mut items)) => items.pop().unwrap_or_default(),
        _ => Value::Null,
    }
}
