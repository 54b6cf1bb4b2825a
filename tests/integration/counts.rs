//! How many at once, and how many in a time: connections, clients, requests, streams, frames, descriptors.

use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;

use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE,
};
use crate::harness::{
    Authority, Connection, Http2, Origin, Place, Running, connect_from, eventually, unanswering,
};

const HELLO: &str = "routes:\n  - {name: hello, match: {path: /hello}, respond: {body: hello}}\n";
const CALM: u32 = 11;

/// A gateway with these limits.
fn with_limits(limits: &str, rest: &str) -> Running {
    Place::new().start_whole(&limited(&Place::with_base(rest), limits))
}

fn limited(text: &str, limits: &str) -> String {
    text.replace("workers: 2,", &format!("workers: 2, limits: {{{limits}}},"))
}

/// The same, over TLS.
fn secure(limits: &str, rest: &str) -> (Authority, Running) {
    let (place, authority) = (Place::new(), Authority::new());
    authority.issue(&["gate.example"]).write(&place, "gate");
    let text = limited(&Place::with_base(rest), limits).replace(
        "  - address: 127.0.0.1:0\n",
        "  - address: 127.0.0.1:0\n    tls: {certificates: [{cert: gate.crt, key: gate.key}]}\n",
    );
    (authority, place.start_whole(&text))
}

fn client(authority: &Authority, gateway: &Running) -> Http2 {
    let connector = authority.connector(|builder| builder.set_alpn_protos(b"\x02h2").unwrap());
    Http2::connect(gateway.address(), &connector, "gate.example")
}

fn refused(gateway: &Running, reason: &str) -> f64 {
    gateway.metrics().of("portcullis_connections_refused_total", &[("reason", reason)])
}

/// The record of something refused for this reason.
fn record(gateway: &Running, reason: &str) -> Value {
    record_of(gateway, &[reason])
}

/// The same, for one of these reasons.
fn record_of(gateway: &Running, reasons: &[&str]) -> Value {
    eventually(&format!("a line with one of {reasons:?} in the access log"), || {
        let text = gateway.place.read("access.log");
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["error"]["reason"].as_str().is_some_and(|reason| reasons.contains(&reason)))
    })
}

/// A connection that has been served, and so is known to be counted.
fn held(gateway: &Running) -> Connection {
    let mut connection = Connection::open(gateway.address());
    connection.get("/hello").expect(200);
    connection
}

fn behind(origin: &Origin) -> String {
    format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: hello, match: {{path: /hello}}, respond: {{body: hello}}}}\n  \
         - {{name: o, match: {{path: /slow}}, upstream: o}}\n",
        origin.address()
    )
}

#[test]
fn a_connection_above_the_bound_is_answered_503_and_told() {
    let gateway = with_limits("connections: 3", HELLO);
    let mut kept: Vec<_> = (0..3).map(|_| held(&gateway)).collect();
    let mut fourth = Connection::open(gateway.address());
    let answer = fourth.response();
    answer.expect(503);
    assert_eq!(answer.json()["type"], "urn:portcullis:problem:overloaded");
    assert!(answer.closes() && answer.header("retry-after").is_some(), "{answer:?}");
    assert!(fourth.is_closed());
    assert!((refused(&gateway, "connections") - 1.0).abs() < 0.1);
    let line = record(&gateway, "connections");
    assert_eq!(line["status"], 503);
    assert_eq!(line["error"]["responseType"], "OVERLOADED");
    assert_eq!(line["identity"]["sourceIp"], "127.0.0.1");
    // Those inside notice nothing, and a place that is left is taken again.
    kept[0].get("/hello").expect(200);
    drop(kept.pop());
    eventually("a place", || {
        Connection::try_open(gateway.address())?.try_get("/hello").filter(|r| r.status == 200)
    });
}

#[test]
fn many_refused_connections_are_all_counted_and_some_told() {
    let gateway = with_limits("connections: 1", HELLO);
    let _kept = held(&gateway);
    let crowd: Vec<_> = (0..400).map(|_| TcpStream::connect(gateway.address()).unwrap()).collect();
    gateway.await_metric("portcullis_connections_refused_total", &[("reason", "connections")], 400.0);
    let labels = [("policy", "gateway"), ("reason", "connections")];
    gateway.await_metric("portcullis_refusals_total", &labels, 400.0);
    drop(crowd);
    let lines = gateway.access(2).iter().filter(|line| line["error"]["reason"] == "connections").count();
    // The first hundred within a second; a slow machine may take more than one.
    assert!((1..400).contains(&lines), "{lines} lines");
}

#[test]
fn the_bound_on_connections_changes_with_a_reload() {
    let gateway = with_limits("connections: 1", HELLO);
    let _first = held(&gateway);
    Connection::open(gateway.address()).response().expect(503);
    let text = limited(&Place::with_base(HELLO), "connections: 2");
    gateway.place.write("portcullis.yaml", text);
    gateway.signal(Signal::HUP);
    gateway.await_metric("portcullis_config_generation", &[], 2.0);
    let _second = held(&gateway);
    Connection::open(gateway.address()).response().expect(503);
}

#[test]
fn over_tls_a_connection_above_the_bound_is_closed_before_its_handshake() {
    let (authority, gateway) = secure("connections: 1", HELLO);
    let mut first = client(&authority, &gateway);
    first.get("/hello").expect(200);
    let connector = authority.connector(|_| {});
    assert!(crate::harness::try_handshake(&connector, gateway.address(), "gate.example").is_err());
    assert!((refused(&gateway, "connections") - 1.0).abs() < 0.1);
    let line = record(&gateway, "connections");
    assert_eq!(line["status"], Value::Null, "nothing was answered");
    first.get("/hello").expect(200);
}

#[test]
fn one_client_cannot_take_all_connections() {
    let gateway = with_limits("connections_per_client: 2", HELLO);
    let kept = [held(&gateway), held(&gateway)];
    let mut third = Connection::open(gateway.address());
    third.response().expect(503);
    assert!((refused(&gateway, "connections_per_client") - 1.0).abs() < 0.1);
    assert_eq!(record(&gateway, "connections_per_client")["error"]["responseType"], "OVERLOADED");
    // Another one is not in its way.
    connect_from("127.0.0.2", gateway.address()).get("/hello").expect(200);
    drop(kept);
    eventually("a place", || {
        Connection::try_open(gateway.address())?.try_get("/hello").filter(|r| r.status == 200)
    });
}

#[test]
fn clients_of_ipv6_are_bounded_too_and_those_of_a_unix_socket_are_not() {
    let place = Place::new();
    let path = place.path("own.sock");
    let text = limited(&Place::with_base(HELLO), "connections_per_client: 1").replace(
        "  - address: 127.0.0.1:0\n",
        &format!("  - address: '[::1]:0'\n  - address: unix:{}\n", path.display()),
    );
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return;
    }
    let gateway = place.start_whole(&text);
    let _kept = held(&gateway);
    Connection::open(gateway.address()).response().expect(503);
    let mut local: Vec<_> = (0..3).map(|_| Connection::over_unix(&path)).collect();
    for connection in &mut local {
        connection.get("/hello").expect(200);
    }
}

#[test]
fn a_request_above_the_bound_is_answered_503_before_any_route_is_looked_for() {
    let (origin, go) = Origin::waiting();
    let gateway = with_limits("requests_in_flight: 2", &behind(&origin));
    let mut slow: Vec<_> = (0..2).map(|_| Connection::open(gateway.address())).collect();
    for connection in &mut slow {
        connection.write("GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n");
    }
    gateway.await_metric("portcullis_requests_in_flight", &[], 2.0);
    let mut third = Connection::open(gateway.address());
    let answer = third.get("/nowhere");
    answer.expect(503);
    assert_eq!(answer.json()["type"], "urn:portcullis:problem:overloaded");
    assert!(answer.header("retry-after").is_some() && answer.header("x-request-id").is_some(), "{answer:?}");
    let line = record(&gateway, "requests_in_flight");
    assert_eq!((&line["status"], &line["httpMethod"]), (&503.into(), &"GET".into()));
    let labels = &[("policy", "gateway"), ("reason", "requests_in_flight")];
    assert!((gateway.metrics().of("portcullis_refusals_total", labels) - 1.0).abs() < 0.1);
    // Which of them is answered first is the origin's choice.
    for _ in 0..2 {
        go.send(()).unwrap();
    }
    for connection in &mut slow {
        connection.response().expect(200);
    }
    eventually("room", || (gateway.get("/hello").status == 200).then_some(()));
}

#[test]
fn streams_count_as_requests_in_flight() {
    let (origin, go) = Origin::waiting();
    let (authority, gateway) = secure("requests_in_flight: 2", &behind(&origin));
    let mut peer = Frames::connect(gateway.address(), &authority, &[]);
    peer.send_all(&[Frame::get(1, "/slow"), Frame::get(3, "/slow"), Frame::get(5, "/hello")]).unwrap();
    let answer = peer.await_frame(HEADERS);
    // 503, and the stream ends with its head: no window can hold it up.
    assert_eq!((answer.stream, answer.flags & END_STREAM), (5, END_STREAM));
    let line = record(&gateway, "requests_in_flight");
    assert_eq!((&line["status"], &line["protocol"]), (&503.into(), &"HTTP/2.0".into()));
    for _ in 0..2 {
        go.send(()).unwrap();
        peer.await_frame(HEADERS);
    }
    eventually("room", || (client(&authority, &gateway).get("/hello").status == 200).then_some(()));
}

#[test]
fn streams_above_the_bound_are_refused_and_the_others_served() {
    let (origin, go) = Origin::waiting();
    let (authority, gateway) = secure("http2_streams: 3", &behind(&origin));
    let mut peer = Frames::connect(gateway.address(), &authority, &[]);
    let settings = peer.await_frame(SETTINGS);
    let told = settings.payload.chunks(6).find(|pair| pair[..2] == [0, 3]).unwrap();
    assert_eq!(told[2..], [0, 0, 0, 3]);
    let streams: Vec<_> = [1, 3, 5, 7].map(|stream| Frame::get(stream, "/slow")).into();
    peer.send_all(&streams).unwrap();
    let reset = peer.await_frame(RST_STREAM);
    assert_eq!((reset.stream, reset.number(0)), (7, 7), "REFUSED_STREAM");
    for _ in 0..3 {
        go.send(()).unwrap();
        peer.await_frame(HEADERS);
    }
}

#[test]
fn streams_with_large_heads_count_for_more() {
    let (origin, go) = Origin::waiting();
    let (authority, gateway) = secure("http2_streams: 4", &behind(&origin));
    let mut peer = Frames::connect(gateway.address(), &authority, &[]);
    let field = [&[0x00, 0x01, b'x', 0x7f, 0x89, 0x26][..], &[b'y'; 5_000]].concat();
    let large = |stream| {
        let mut frame = Frame::get(stream, "/slow");
        frame.payload.extend(field.repeat(2));
        frame
    };
    peer.send_all(&[large(1), large(3), Frame::get(5, "/slow")]).unwrap();
    let reset = peer.await_frame(RST_STREAM);
    assert_eq!((reset.stream, reset.number(0)), (3, 7), "REFUSED_STREAM");
    assert_eq!(record(&gateway, "http2_heads")["error"]["responseType"], "OVERLOADED");
    let mut served = Vec::new();
    for _ in 0..2 {
        go.send(()).unwrap();
        served.push(peer.await_frame(HEADERS).stream);
    }
    served.sort_unstable();
    assert_eq!(served, [1, 5]);
    // Room again.
    peer.send(&large(7)).unwrap();
    go.send(()).unwrap();
    assert_eq!(peer.await_frame(HEADERS).stream, 7);
}

#[test]
fn a_refusal_waits_for_no_window() {
    let (authority, gateway) = secure("field_bytes: 1KiB", HELLO);
    let mut peer = Frames::connect(gateway.address(), &authority, &[(4, 0)]);
    let mut large = Frame::get(1, "/hello");
    large.payload.extend([&[0x00, 0x01, b'x', 0x7f, 0x89, 0x26][..], &[b'y'; 5_000]].concat());
    peer.send(&large).unwrap();
    assert_eq!(peer.await_frame(HEADERS).stream, 1);
    // Its body cannot be sent, and nothing is kept for it.
    assert_eq!(peer.await_frame(RST_STREAM).stream, 1);
    assert_eq!(record(&gateway, "field_bytes")["status"], 431);
}

/// Sends `prelude` and then rounds of what `round` makes of the round's number, until the gateway ends the connection. Gives
/// GOAWAY's code.
fn flood(
    gateway: &Running,
    authority: &Authority,
    prelude: &[Frame],
    round: impl Fn(u32) -> Vec<Frame>,
) -> Option<u32> {
    let mut peer = Frames::connect(gateway.address(), authority, &[]);
    peer.send_all(prelude).unwrap();
    for n in 0..1_000 {
        if peer.send_all(&round(n)).is_err() {
            break;
        }
    }
    peer.end(Duration::from_secs(10))
}

/// The flood ends the connection by GOAWAY, with a record and a metric, and nobody else notices.
fn ends(reason: &str, prelude: &[Frame], round: impl Fn(u32) -> Vec<Frame>) {
    ends_by(&[reason], prelude, round);
}

/// The same, where it is a race which of the bounds is met first: one of ours (streams that pile up faster than they are broken are
/// refused) or h2's.
fn ends_by(reasons: &[&str], prelude: &[Frame], round: impl Fn(u32) -> Vec<Frame>) {
    let (authority, gateway) = secure("http2_resets: 50/10s", HELLO);
    let mut other = client(&authority, &gateway);
    other.get("/hello").expect(200);
    let code = flood(&gateway, &authority, prelude, round);
    // A gateway that closes while we are still sending may reset the connection, and GOAWAY with it.
    assert!(code.is_none_or(|code| code == CALM), "{code:?}");
    let line = record_of(&gateway, reasons);
    assert_eq!((&line["status"], &line["error"]["responseType"]), (&Value::Null, &"THROTTLED".into()));
    let reason = line["error"]["reason"].as_str().unwrap();
    let labels = &[("policy", "gateway"), ("reason", reason)];
    assert!((gateway.metrics().of("portcullis_refusals_total", labels) - 1.0).abs() < 0.1);
    other.get("/hello").expect(200);
}

#[test]
fn rapid_resets_end_the_connection() {
    // As fast as can be: as a rule h2 ends it, since the streams are reset before they are begun.
    ends_by(&["http2_flood", "http2_resets", "http2_refused_streams"], &[], |n| {
        let stream = 2 * n + 1;
        vec![Frame::get(stream, "/hello"), Frame::new(RST_STREAM, 0, stream, [0, 0, 0, 8])]
    });
}

/// Whether the PING with this payload is answered, and not the connection ended.
fn is_answered(peer: &mut Frames, payload: [u8; 8]) -> bool {
    while let Some(frame) = peer.next() {
        match frame.kind {
            PING if frame.payload == payload => return true,
            GOAWAY => return false,
            _ => {}
        }
    }
    false
}

#[test]
fn resets_of_streams_that_were_begun_end_the_connection_too() {
    let (origin, _go) = Origin::waiting();
    let (authority, gateway) = secure("http2_resets: 50/1h", &behind(&origin));
    let mut peer = Frames::connect(gateway.address(), &authority, &[]);
    let mut sent = 0;
    for tens in 0..6_u8 {
        let streams: Vec<u32> = (0..10).map(|n| 2 * (10 * u32::from(tens) + n) + 1).collect();
        let mut round: Vec<_> = streams.iter().map(|stream| Frame::get(*stream, "/slow")).collect();
        round.push(Frame::new(PING, 0, 0, [tens; 8]));
        // The answer to the PING: the streams are there.
        if peer.send_all(&round).is_err() || !is_answered(&mut peer, [tens; 8]) {
            break;
        }
        for stream in streams {
            sent += usize::from(peer.send(&Frame::new(RST_STREAM, 0, stream, [0, 0, 0, 8])).is_ok());
        }
    }
    assert!(sent > 50, "{sent} resets");
    assert_eq!(record(&gateway, "http2_resets")["status"], Value::Null);
}

#[test]
fn resets_that_the_gateway_is_made_to_send_end_the_connection() {
    // MadeYouReset: each stream is broken by a window that overflows.
    ends_by(&["http2_resets", "http2_flood", "http2_refused_streams"], &[], |n| {
        let stream = 2 * n + 1;
        vec![Frame::post(stream, "/hello"), Frame::new(WINDOW_UPDATE, 0, stream, [0x7f, 0xff, 0xff, 0xff])]
    });
}

#[test]
fn floods_of_continuation_end_the_connection() {
    let begun = Frame::new(HEADERS, END_STREAM, 1, [0x82, 0x87]);
    ends("http2_flood", std::slice::from_ref(&begun), |_| vec![Frame::new(CONTINUATION, 0, 1, [])]);
    // They are h2's to end, empty or long.
    let field = [&[0x00, 0x01, b'x', 0x7f, 0xe9, 0x06][..], &[b'y'; 1000]].concat();
    ends("http2_flood", &[begun], |_| vec![Frame::new(CONTINUATION, 0, 1, field.repeat(4))]);
}

#[test]
fn floods_of_settings_pings_and_priorities_end_the_connection() {
    ends("http2_settings", &[], |_| vec![Frame::new(SETTINGS, 0, 0, [])]);
    ends("http2_pings", &[], |_| vec![Frame::new(PING, 0, 0, [7; 8])]);
    ends("http2_priorities", &[], |_| vec![Frame::new(PRIORITY, 0, 1, [0, 0, 0, 0, 7])]);
    ends("http2_unknown_frames", &[], |_| vec![Frame::new(0xbe, 0, 0, [])]);
}

#[test]
fn floods_of_window_updates_and_empty_data_end_the_connection() {
    ends("http2_window_updates", &[], |_| vec![Frame::new(WINDOW_UPDATE, 0, 0, [0, 0, 0, 1])]);
    ends("http2_empty_frames", &[Frame::post(1, "/hello")], |_| vec![Frame::new(DATA, 0, 1, [])]);
}

#[test]
fn a_flood_that_is_paused_in_time_is_none() {
    let (authority, gateway) = secure("http2_resets: 50/500ms", HELLO);
    let mut peer = Frames::connect(gateway.address(), &authority, &[]);
    for n in 0..150_u8 {
        peer.send(&Frame::new(PING, 0, 0, [n; 8])).unwrap();
        // Answered one by one, with a rest: fewer than 50 in half a second.
        while peer.await_frame(PING).payload != [n; 8] {}
        std::thread::sleep(Duration::from_millis(12));
    }
}

#[test]
fn small_messages_that_wait_for_their_server_are_no_flood() {
    let (_listener, _queue, address) = unanswering();
    let rest = format!(
        "upstreams: {{o: {{servers: ['{address}'], timeouts: {{connect: 2s}}, retries: {{attempts: 1}}}}}}\nroutes:\n  \
         - {{name: o, match: {{path: /slow}}, upstream: o}}\n"
    );
    let (authority, gateway) = secure("http2_resets: 50/10s", &rest);
    let mut peer = Frames::connect(gateway.address(), &authority, &[]);
    // A call that streams: as many messages as the window holds, none of which anybody reads yet.
    let messages = vec![Frame::new(DATA, 0, 1, vec![0; 32]); 2_000];
    peer.send_all(&[vec![Frame::post(1, "/slow")], messages].concat()).unwrap();
    assert_eq!(peer.await_frame(HEADERS).stream, 1, "an answer: no server could be reached");
}

#[test]
fn a_thousand_streams_with_small_windows_are_no_flood() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        peer.answer(200, &"x".repeat(2_000))
    });
    let rest = behind(&origin);
    let (authority, gateway) = secure("http2_resets: 50/10s", &rest);
    // Windows of 500 bytes: four DATA frames a stream, and each is answered on its stream and on the connection, and by a PING.
    let mut peer = Frames::connect(gateway.address(), &authority, &[(4, 500)]);
    let mut received = 0;
    let (mut begun, mut done) = (0_u32, 0);
    while done < 1_000 {
        while begun < 1_000 && begun - done < 50 {
            let stream = 2 * begun + 1;
            // As browsers do: a place among the others, and a window.
            peer.send_all(&[Frame::get(stream, "/slow"), Frame::new(PRIORITY, 0, stream, [0, 0, 0, 0, 7])])
                .unwrap();
            begun += 1;
        }
        let frame = peer.next().unwrap_or_else(|| panic!("ended after {done}; said:\n{}", gateway.said()));
        match frame.kind {
            DATA => {
                received += frame.payload.len();
                let ended = frame.flags & END_STREAM != 0;
                done += u32::from(ended);
                let length = u32::try_from(frame.payload.len()).unwrap();
                if length > 0 {
                    let update = |stream| Frame::new(WINDOW_UPDATE, 0, stream, length.to_be_bytes());
                    let mut answer = vec![update(0), Frame::new(PING, 0, 0, [1; 8])];
                    answer.extend((!ended).then(|| update(frame.stream)));
                    peer.send_all(&answer).unwrap();
                }
            }
            SETTINGS if frame.flags == 0 => peer.send(&Frame::new(SETTINGS, 1, 0, [])).unwrap(),
            GOAWAY | RST_STREAM => panic!("{frame:?}"),
            _ => {}
        }
    }
    assert_eq!(received, 2_000_000);
}

#[test]
fn an_upload_in_tiny_pieces_is_no_flood() {
    let (authority, gateway) =
        secure("http2_resets: 50/10s", "routes:\n  - {name: echo, match: {path: /echo}, echo: true}\n");
    let mut peer = Frames::connect(gateway.address(), &authority, &[]);
    peer.send(&Frame::post(1, "/echo")).unwrap();
    for _ in 0..1_000 {
        peer.send(&Frame::new(DATA, 0, 1, [7])).unwrap();
    }
    peer.send(&Frame::new(DATA, END_STREAM, 1, [])).unwrap();
    let body = String::from_utf8(peer.await_frame(DATA).payload).unwrap();
    assert!(body.contains("\"body_bytes\":1000"), "{body}");
}

#[test]
fn what_breaks_the_protocol_is_told() {
    let (authority, gateway) = secure("", HELLO);
    let mut peer = Frames::connect(gateway.address(), &authority, &[]);
    // DATA on a stream that nobody opened.
    peer.send(&Frame::new(DATA, 0, 1, [7])).unwrap();
    assert_eq!(peer.end(Duration::from_secs(10)), Some(1), "PROTOCOL_ERROR");
    assert_eq!(record(&gateway, "http2_malformed")["status"], Value::Null);
}

#[test]
fn the_last_descriptors_are_not_for_clients() {
    let (origin, go) = Origin::waiting();
    let mut gateway = with_limits("", &behind(&origin));
    gateway.get("/hello").expect(200);
    let taken = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count() as u64;
    let limit = taken + 40;
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
    // Each takes one, and one for its server.
    let mut crowd = Vec::new();
    for _ in 0..60 {
        let mut connection = Connection::open(gateway.address());
        connection.write("GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n");
        crowd.push(connection);
    }
    gateway.await_line("no file descriptor is left for clients");
    for _ in 0..20 {
        assert_eq!(gateway.ready(), Some(200));
    }
    assert!(refused(&gateway, "descriptors") > 0.0);
    // What waits is served in the end. Requests for which no connection to the server was left are answered too.
    for _ in 0..60 {
        go.send(()).unwrap();
    }
    let mut statuses: Vec<_> = crowd.into_iter().map(|mut connection| connection.response().status).collect();
    assert!(statuses.contains(&200), "{statuses:?}");
    statuses.retain(|status| !matches!(status, 200 | 502));
    assert!(statuses.is_empty(), "{statuses:?}");
    gateway.get("/hello").expect(200);
    assert!(gateway.lives());
}

#[test]
fn a_limit_of_open_files_that_does_not_bear_the_connections_is_told() {
    let gateway = with_limits("connections: 1", HELLO);
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(256), maximum: Some(256) }).unwrap();
    gateway.place.write("portcullis.yaml", limited(&Place::with_base(HELLO), "connections: 113"));
    gateway.signal(Signal::HUP);
    gateway.await_line("`server.limits.connections` is 113, and the limit of open files (256) bears 112");
    gateway.await_metric("portcullis_config_generation", &[], 2.0);
    gateway.get("/hello").expect(200);
}

#[test]
fn head_frames_have_an_end() {
    // What the tests above stand on: a whole request by frames is answered.
    let (authority, gateway) = secure("", HELLO);
    let mut peer = Frames::connect(gateway.address(), &authority, &[]);
    peer.send(&Frame::get(1, "/hello")).unwrap();
    let head = peer.await_frame(HEADERS);
    assert_eq!((head.stream, head.flags & END_HEADERS), (1, END_HEADERS));
    assert_eq!(peer.await_frame(DATA).payload, b"hello");
}
