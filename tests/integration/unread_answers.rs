//! Answers that nobody reads are held in little memory, and clients that read theirs get them whole meanwhile.

use crate::harness::frames::{Frame, Frames, WINDOW_UPDATE};
use crate::harness::{Authority, Connection, Origin, Place, eventually};

/// Bytes of an answer: more than is held of any, and less than fills the system's buffers of all.
const LENGTH: usize = 2 << 20;
const CONNECTIONS: usize = 6;
const STREAMS: u32 = 50;
/// The parameter of RFC 9113 §6.5.2.
const INITIAL_WINDOW_SIZE: u16 = 4;
const WAITING: &str = "portcullis_answer_bytes_waiting";

fn content() -> Vec<u8> {
    (0..LENGTH).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn they_take_little_memory_and_nobody_else_s_answer() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")) && peer.write(content())
    });
    let (place, authority) = (Place::new(), Authority::new());
    authority.issue(&["gate.example"]).write(&place, "gate");
    let rest = format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes: [{{name: o, upstream: o}}]\n",
        origin.address()
    );
    let text = Place::with_base(&rest).replace(
        "  - address: 127.0.0.1:0\n",
        "  - address: 127.0.0.1:0\n  - address: 127.0.0.2:0\n    tls: {certificates: [{cert: gate.crt, key: gate.key}]}\n",
    );
    let gateway = place.start_whole(&text);
    let [plain, secure] = [0, 1].map(|at| gateway.listener(at));
    let whole = || {
        let mut connection = Connection::open(plain);
        connection.write("GET /whole HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert!(connection.response().expect(200).body == content());
    };
    whole();
    let before = gateway.memory("VmRSS");
    let mut clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            // There is no end to what they say they would take.
            let mut client = Frames::connect(secure, &authority, &[(INITIAL_WINDOW_SIZE, 0x7fff_ffff)]);
            client.send(&Frame::new(WINDOW_UPDATE, 0, 0, 0x7fff_0000_u32.to_be_bytes())).unwrap();
            let streams: Vec<_> = (0..STREAMS).map(|n| Frame::get(2 * n + 1, "/unread")).collect();
            client.send_all(&streams).unwrap();
            client
        })
        .collect();
    eventually("more to wait than is free", || {
        (gateway.metrics().of(WAITING, &[]) >= f64::from(32 << 20)).then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(2));
    let after = gateway.memory("VmRSS");
    // 32 MiB, and 64 KiB in each of h2 and TLS and Pingora's own buffers. Without the bound: 290 MiB.
    println!("{} MiB more", (after - before) >> 10);
    let most = (32 << 10) + 300 * 224;
    assert!(after < before + most, "{before} KiB before, {after} KiB with unread answers");
    // In small pieces as well as in large ones.
    whole();
    clients.clear();
    eventually("nothing to wait", || (gateway.metrics().of(WAITING, &[]) == 0.0).then_some(()));
    whole();
}
