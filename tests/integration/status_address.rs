//! The status address: whoever holds connections to it takes it from nobody.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::{Running, get};

#[test]
fn no_number_of_silent_connections_keeps_the_status_address_from_answering() {
    let gateway = Running::with("routes: [{name: all, respond: {body: hello}}]\n");
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(gateway.status()).unwrap()).collect();
    for _ in 0..3 {
        get(gateway.status(), "/readyz").expect(200);
    }
    // The oldest have made room.
    silent[0].set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(matches!((&silent[0]).read(&mut [0; 1]), Ok(0)) || silent[0].take_error().unwrap().is_some());
    let is_open = |mut one: &TcpStream| {
        one.set_nonblocking(true).unwrap();
        matches!(one.read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    };
    assert!(silent.iter().filter(|one| is_open(one)).count() <= 16);
}
