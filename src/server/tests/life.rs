use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::rig::{Client, Rig, plain, wait};
use crate::gateway::{ListenAddress, Listener};

fn at(name: &str, address: SocketAddr) -> Listener {
    Listener { address: ListenAddress::Tcp(address), ..plain(name) }
}

fn status(rig: &Rig, request: &str) -> (u16, String) {
    let Some(ListenAddress::Tcp(address)) = rig.handle.status() else { panic!("no status address") };
    let mut client = Client::connect(*address);
    client.send(format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    let answer = client.answer().unwrap();
    (answer.status, answer.body)
}

fn with_status(settings: &mut crate::gateway::Settings) {
    settings.status = Some(ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()));
}

#[test]
fn a_taken_port_is_an_error_that_names_it_and_binds_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listeners = vec![at("a", free), at("b", taken.local_addr().unwrap())];
    let error = Rig::with(listeners, |_| {}).err().unwrap().to_string();
    let expected =
        format!("test.yaml:7: cannot listen on {}: Address already in use", taken.local_addr().unwrap());
    assert!(error.starts_with(&expected), "{error}");
    assert!(TcpStream::connect(free).is_err());

    let taken = ListenAddress::Tcp(taken.local_addr().unwrap());
    let error = Rig::with(vec![plain("a")], |s| s.status = Some(taken.clone())).err().unwrap().to_string();
    assert!(error.starts_with("test.yaml:4: cannot listen on the status address 127.0.0.1:"), "{error}");
}

#[test]
fn ipv6_serves_and_leaves_ipv4_alone() {
    let rig = Rig::start(vec![at("v6", "[::]:0".parse().unwrap())]);
    let port = rig.address("v6").port();
    assert_eq!(Client::connect(SocketAddr::new("::1".parse().unwrap(), port)).get("/hello").body, "hello");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn listeners_come_and_go_at_a_reload_and_their_connections_end_well() {
    let rig = Rig::start(vec![plain("a"), plain("b")]);
    let (old, gone) = (rig.address("a"), rig.address("b"));
    let mut kept = rig.client("a");
    let mut orphan = rig.client("b");
    assert_eq!(kept.get("/hello").status, 200);
    assert!(!orphan.get("/hello").closes());
    assert_eq!(rig.reload(Ok(vec![plain("a"), plain("c")])), Ok(2));
    assert_eq!(rig.address("a"), old);
    assert_eq!(rig.client("c").get("/hello").body, "hello");
    assert!(TcpStream::connect(gone).is_err());
    assert!(!kept.get("/hello").closes());
    // Its last answer did not say that it would be closed: the next one is served, and says so.
    assert!(orphan.get("/hello").closes());
    assert!(orphan.answer().is_none());
    assert_eq!(rig.handle.counts().generation.load(Ordering::Relaxed), 2);
}

#[test]
fn a_refused_reload_changes_nothing() {
    let rig = Rig::start(vec![plain("a")]);
    let counts = rig.handle.counts();
    assert_eq!(rig.reload(Err("p.yaml:3: wrong".into())), Err(vec!["p.yaml:3: wrong".to_owned()]));
    assert!(counts.stale.load(Ordering::Relaxed));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let errors = rig.reload(Ok(vec![plain("c"), at("b", taken.local_addr().unwrap())])).unwrap_err();
    assert!(errors[0].starts_with("test.yaml:7: cannot listen on"), "{errors:?}");
    assert_eq!(rig.client("a").get("/hello").body, "hello");
    assert_eq!(rig.handle.addresses().len(), 1);
    assert_eq!(counts.reloads_refused.load(Ordering::Relaxed), 2);
    assert_eq!(rig.reload(Ok(vec![plain("a")])), Ok(2));
    assert!(!counts.stale.load(Ordering::Relaxed));
}

/// Clients that never retry; returns how many requests were answered and what was lost.
fn load(address: SocketAddr, stop: &Arc<AtomicBool>, keep_alive: bool) -> (usize, Vec<String>) {
    use std::io::{Read, Write};
    let (mut served, mut lost) = (0, Vec::new());
    let mut connection: Option<TcpStream> = None;
    while !stop.load(Ordering::Relaxed) {
        let mut stream = match connection.take() {
            Some(stream) => stream,
            // Refused means that nothing was sent: the listener is gone.
            None => match TcpStream::connect(address) {
                Ok(stream) => stream,
                Err(_) => break,
            },
        };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let close = if keep_alive { "" } else { "Connection: close\r\n" };
        let mut exchange = || -> std::io::Result<String> {
            // In one write: several small ones would wait for each other's acknowledgement.
            stream.write_all(format!("GET /hello HTTP/1.1\r\nHost: a\r\n{close}\r\n").as_bytes())?;
            let mut answer = Vec::new();
            let mut buffer = [0; 1024];
            while !answer.ends_with(b"hello") {
                match stream.read(&mut buffer)? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    n => answer.extend_from_slice(&buffer[..n]),
                }
            }
            Ok(String::from_utf8(answer).unwrap().to_ascii_lowercase())
        };
        match exchange() {
            Ok(answer) => {
                served += 1;
                if !answer.contains("connection: close") {
                    connection = Some(stream);
                }
            }
            Err(error) => lost.push(error.to_string()),
        }
    }
    (served, lost)
}

#[test]
fn draining_under_load_loses_nothing() {
    for keep_alive in [true, false] {
        let mut rig = Rig::with(vec![plain("a")], with_status).unwrap();
        let address = rig.address("a");
        wait("ready", || status(&rig, "GET /readyz").0 == 200);
        let mut idle = rig.client("a");
        assert!(!idle.get("/hello").closes());
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || load(address, &stop, keep_alive))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        rig.handle.drain();
        let mut served = 0;
        for client in clients {
            let (count, lost) = client.join().unwrap();
            assert!(lost.is_empty(), "keep-alive {keep_alive}: {lost:?}");
            served += count;
        }
        assert!(served > 50, "{served}");
        assert_eq!(status(&rig, "GET /readyz").0, 503);
        assert!(rig.is_running());
        assert!(idle.get("/hello").closes());
        drop(idle);
        let began = Instant::now();
        rig.join();
        assert!(began.elapsed() < Duration::from_secs(3));
    }
}

#[test]
fn reloads_under_load_lose_nothing() {
    let rig = Rig::start(vec![plain("a")]);
    let address = rig.address("a");
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|i| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || load(address, &stop, i % 2 == 0))
        })
        .collect();
    for i in 0..10 {
        let name = format!("extra-{i}");
        assert!(rig.reload(Ok(vec![plain("a"), plain(&name)])).is_ok());
        assert_eq!(rig.client(&name).get("/hello").body, "hello");
        std::thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (count, lost) = client.join().unwrap();
        assert!(lost.is_empty() && count > 0, "{count} {lost:?}");
    }
}

#[test]
fn a_listener_removed_under_load_loses_nothing() {
    for keep_alive in [true, false] {
        let rig = Rig::start(vec![plain("a"), plain("b")]);
        let address = rig.address("b");
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || load(address, &stop, keep_alive))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(rig.reload(Ok(vec![plain("a")])), Ok(2));
        for client in clients {
            let (count, lost) = client.join().unwrap();
            assert!(lost.is_empty() && count > 0, "keep-alive {keep_alive}: {count} {lost:?}");
        }
        assert_eq!(rig.client("a").get("/hello").status, 200);
    }
}

#[test]
fn a_second_drain_and_a_stop_are_at_once() {
    for stop in [true, false] {
        let mut rig = Rig::start(vec![plain("a")]);
        let mut client = rig.client("a");
        assert_eq!(client.get("/hello").status, 200);
        rig.handle.drain();
        std::thread::sleep(Duration::from_millis(100));
        assert!(rig.is_running());
        if stop {
            rig.handle.stop()
        } else {
            rig.handle.drain()
        }
        let began = Instant::now();
        rig.join();
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn draining_has_an_end() {
    let mut rig = Rig::with(vec![plain("a")], |s| s.drain = Duration::from_millis(300)).unwrap();
    let mut client = rig.client("a");
    assert_eq!(client.get("/hello").status, 200);
    let began = Instant::now();
    rig.handle.drain();
    rig.join();
    assert!((Duration::from_millis(250)..Duration::from_secs(3)).contains(&began.elapsed()));
}

#[test]
fn connections_are_counted_and_spread_over_the_workers() {
    let rig = Rig::with(vec![plain("a")], |s| s.workers = 8).unwrap();
    let mut clients: Vec<_> = (0..400).map(|_| rig.client("a")).collect();
    let mut by_worker = [0_usize; 8];
    for client in &mut clients {
        let facts = client.get("/facts").body;
        by_worker[facts.split(' ').nth(1).unwrap().parse::<usize>().unwrap()] += 1;
    }
    assert!(by_worker.iter().all(|n| *n <= 60), "{by_worker:?}");
    let counts = rig.handle.counts();
    assert_eq!(counts.open(), 400);
    drop(clients);
    wait("all connections are gone", || counts.open() == 0);
    assert_eq!(counts.listeners()[0].1.accepted.load(Ordering::Relaxed), 400);
}

#[test]
fn the_status_address_tells_and_only_tells() {
    let rig = Rig::with(vec![plain("a")], with_status).unwrap();
    assert_eq!(status(&rig, "GET /livez").0, 200);
    assert_eq!(status(&rig, "GET /metrics"), (200, "portcullis_up 1\n".into()));
    let (code, version) = status(&rig, "GET /version");
    assert_eq!(code, 200);
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    assert_eq!((version["generation"].as_u64(), version["hash"].as_str()), (Some(1), Some("abc")));
    assert_eq!(status(&rig, "POST /livez").0, 405);
    assert_eq!(status(&rig, "DELETE /metrics").0, 405);
    assert_eq!(status(&rig, "GET /other").0, 404);
}

#[test]
fn changed_files_are_reloaded_whether_written_replaced_or_swapped_behind_links() {
    use std::os::unix::fs::symlink;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("..1")).unwrap();
    std::fs::write(path("..1/c.yaml"), "1").unwrap();
    symlink("..1", path("..data")).unwrap();
    symlink("..data/c.yaml", path("c.yaml")).unwrap();
    std::fs::write(path("d.yaml"), "1").unwrap();
    let files = vec![path("c.yaml"), path("d.yaml")];
    let rig = Rig::watching(vec![plain("a")], |_| {}, files).unwrap();
    let tried = AtomicUsize::new(1);
    let change = |what: &str, act: &dyn Fn()| {
        rig.offer(Ok(vec![plain("a")]));
        act();
        let expected = u64::try_from(tried.fetch_add(1, Ordering::Relaxed) + 1).unwrap();
        let counts = rig.handle.counts();
        let began = Instant::now();
        wait(what, || counts.generation.load(Ordering::Relaxed) == expected);
        began.elapsed()
    };
    std::thread::sleep(Duration::from_millis(300));
    change("written", &|| std::fs::write(path("d.yaml"), "2").unwrap());
    change("replaced", &|| {
        std::fs::write(path("d.new"), "3").unwrap();
        std::fs::rename(path("d.new"), path("d.yaml")).unwrap();
    });
    for i in 2..5 {
        // As Kubernetes does: a new directory, a new link renamed over the old one.
        let took = change("swapped", &|| {
            std::fs::create_dir(path(&format!("..{i}"))).unwrap();
            std::fs::write(path(&format!("..{i}/c.yaml")), i.to_string()).unwrap();
            symlink(format!("..{i}"), path("..tmp")).unwrap();
            std::fs::rename(path("..tmp"), path("..data")).unwrap();
        });
        assert!(took < Duration::from_secs(3), "by polling only: {took:?}");
    }
    // Touched, not changed: nothing happens.
    rig.offer(Ok(vec![plain("a")]));
    std::fs::write(path("d.yaml"), "3").unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(rig.handle.counts().generation.load(Ordering::Relaxed), 6);
    assert_eq!(rig.handle.counts().reloads_refused.load(Ordering::Relaxed), 0);
}

/// Reserves a port on every address of this machine; nobody else gets it while the test runs, as far as ports go.
fn a_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_port_moves_between_addresses_in_one_reload() {
    let port = a_port();
    let (all, one) = (SocketAddr::from(([0, 0, 0, 0], port)), SocketAddr::from(([127, 0, 0, 1], port)));
    let rig = Rig::start(vec![at("all", all)]);
    let mut kept = Client::connect(one);
    assert_eq!(kept.get("/hello").body, "hello");
    assert_eq!(rig.reload(Ok(vec![at("one", one)])), Ok(2));
    assert_eq!(Client::connect(one).get("/hello").body, "hello");
    assert!(TcpStream::connect(("127.0.0.2", port)).is_err(), "the wide one is gone");
    assert!(kept.get("/hello").closes(), "its connections end after their next answer");
    // A second gateway is refused as ever.
    assert!(TcpListener::bind(one).is_err());
    // And back, and once more.
    assert_eq!(rig.reload(Ok(vec![at("all", all)])), Ok(3));
    assert_eq!(Client::connect(SocketAddr::from(([127, 0, 0, 2], port))).get("/hello").body, "hello");
    assert_eq!(rig.reload(Ok(vec![at("one", one)])), Ok(4));
    assert_eq!(Client::connect(one).get("/hello").body, "hello");
    // What a stranger holds is still an error.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let errors = rig.reload(Ok(vec![at("b", taken.local_addr().unwrap())])).unwrap_err();
    assert!(errors[0].contains("Address already in use"), "{errors:?}");
    assert_eq!(Client::connect(one).get("/hello").body, "hello");
}

/// `localhost:80` becomes `127.0.0.1:80`: the same address under another name keeps its socket, and nobody is turned away.
#[test]
fn an_address_written_in_another_way_keeps_its_socket() {
    let one = SocketAddr::from(([127, 0, 0, 1], a_port()));
    let rig = Rig::start(vec![at("0", one)]);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = [true, false]
        .map(|keep_alive| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || load(one, &stop, keep_alive))
        })
        .into();
    for round in 1..6 {
        assert!(rig.reload(Ok(vec![at(&round.to_string(), one)])).is_ok());
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (served, lost) = client.join().unwrap();
        assert!(lost.is_empty() && served > 10, "{served} {lost:?}");
    }
    assert_eq!(rig.client("5").get("/hello").body, "hello");
}

#[test]
fn a_listener_that_is_no_more_is_remembered_while_it_has_connections() {
    let known = |rig: &Rig| rig.gateway().known_listeners().map(|l| l.name.to_string()).collect::<Vec<_>>();
    let rig = Rig::start(vec![plain("a"), plain("b")]);
    let mut orphan = rig.client("b");
    assert_eq!(orphan.get("/hello").status, 200);
    assert_eq!(rig.reload(Ok(vec![plain("a")])), Ok(2));
    assert_eq!(known(&rig), ["a", "b"]);
    assert_eq!(rig.reload(Ok(vec![plain("a")])), Ok(3));
    assert_eq!(known(&rig), ["a", "b"]);
    assert!(orphan.get("/hello").closes());
    drop(orphan);
    wait("its connection to end", || rig.handle.counts().open() == 0);
    assert_eq!(rig.reload(Ok(vec![plain("a")])), Ok(4));
    assert_eq!(known(&rig), ["a"]);
}

/// What nobody serves with any more is let go, the first configuration too: its health checks would go on for ever.
#[test]
fn an_old_configuration_is_let_go() {
    let rig = Rig::start(vec![plain("a")]);
    let first = rig.first();
    assert_eq!(rig.client("a").get("/hello").status, 200);
    assert_eq!(rig.reload(Ok(vec![plain("a")])), Ok(2));
    let second = Arc::downgrade(&rig.gateway());
    assert_eq!(rig.reload(Ok(vec![plain("a")])), Ok(3));
    wait("both to be gone", || first.upgrade().is_none() && second.upgrade().is_none());
}

#[test]
fn a_lost_worker_ends_the_server_with_an_error() {
    let mut rig = Rig::start(vec![plain("a")]);
    assert_eq!(rig.client("a").get("/hello").body, "hello");
    rig.handle.commands.send(crate::server::control::Command::Lost(1)).unwrap();
    let ended = rig.end().unwrap_err().to_string();
    assert_eq!(ended, "worker 1 has ended: a defect of the gateway");
}
