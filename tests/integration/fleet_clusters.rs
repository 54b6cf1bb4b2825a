//! Stores of several servers: a cluster whose keys move under load, sentinels in TLS with users, and a failover.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::fleet::{
    Over, Watched, alone, await_cluster, beside, count, gateways_of, passes, request, start, tls, watched,
};
use crate::harness::{Authority, Connection, Place, Redis, eventually};

fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// So many masters, each with its part of the slots.
fn cluster(number: usize) -> Option<Vec<Redis>> {
    let buses: Vec<_> = (0..number).map(|_| free()).collect();
    let start = |bus: &u16| {
        let (bus, timeout) = (bus.to_string(), "15000");
        Redis::start(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", timeout])
    };
    let nodes = buses.iter().map(start).collect::<Option<Vec<_>>>()?;
    for (place, node) in nodes.iter().enumerate() {
        // As `redis-cli --cluster create` does. Masters that begin with the same epoch change it by themselves a while later, and
        // one that does so while a slot moves may take it back.
        node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
        let (first, last) = (place * 16_384 / number, (place + 1) * 16_384 / number - 1);
        node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        if place > 0 {
            let (port, bus) = (nodes[0].address().port().to_string(), buses[0].to_string());
            node.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
    }
    eventually("the masters to know each other", || {
        let known = |node: &Redis| {
            node.ask(&["CLUSTER", "INFO"])[0].contains(&format!("cluster_known_nodes:{number}"))
        };
        nodes.iter().all(known).then_some(())
    });
    nodes.iter().for_each(await_cluster);
    Some(nodes)
}

fn keys(node: &Redis) -> Vec<String> {
    node.ask(&["KEYS", "portcullis:l:*"])
}

#[test]
fn a_key_that_moves_within_a_cluster_is_counted_on() {
    let Some(nodes) = cluster(3) else { return };
    let gateway =
        start(&format!("cluster: {{urls: ['{}']}}", nodes[0].url()), "limit: 100000/1h, strict: true");
    gateway.await_metric("portcullis_fleet_store", &[], 2.0);
    for turn in 0..60 {
        assert!(passes(&gateway, &format!("tenant-{turn}")), "{turn}");
    }
    eventually("keys on all masters", || nodes.iter().all(|node| keys(node).len() > 5).then_some(()));
    nodes.iter().for_each(|node| drop(node.ask(&["FLUSHALL"])));
    let answers =
        |result: &str| gateway.metrics().of("portcullis_fleet_store_answers_total", &[("result", result)]);
    let (mut spent, begun, unanswered) = (0.0, Instant::now(), answers("none"));
    // Asked until the store has answered some of it. Where it is late the node decides, and the store is told all the same.
    let mut spend = || {
        let before = answers("answered");
        eventually("the store to answer", || {
            assert!(passes(&gateway, "moved"));
            spent += 1.0;
            (answers("answered") >= before + 3.0).then_some(())
        });
    };
    spend();
    let found =
        eventually("a key", || nodes.iter().find_map(|node| Some((node, keys(node).into_iter().next()?))));
    let (from, key) = found;
    let to = nodes.iter().find(|node| node.address() != from.address()).unwrap();
    let slot = from.ask(&["CLUSTER", "KEYSLOT", &key])[0].clone();
    let id = |node: &Redis| node.ask(&["CLUSTER", "MYID"])[0].clone();
    // On its way, and still where it was.
    to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    spend();
    // There already, while the slot is not: ASK.
    let port = to.address().port().to_string();
    assert_eq!(from.ask(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]), ["OK"]);
    let asked = from.ask(&["EVAL", "return {1}", "1", &key]);
    assert!(asked[0].starts_with("ASK "), "{asked:?}");
    spend();
    assert!(keys(from).is_empty() && keys(to).contains(&key));
    // The slot too: MOVED.
    for node in [to, from] {
        node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
    let asked = from.ask(&["EVAL", "return {1}", "1", &key]);
    assert!(asked[0].starts_with("MOVED "), "{asked:?}");
    spend();
    assert!(keys(from).is_empty() && keys(to).contains(&key));
    assert_eq!(answers("none"), unanswered, "all of it was answered");
    assert_eq!(gateway.metrics().of("portcullis_fleet_store_losses_total", &[]), 0.0);
    // All that was spent is owed there, but for what an hour's hundred thousand bring back.
    eventually("all of it to be counted", || {
        let full_at: f64 = to.ask(&["GET", &key])[0].split(' ').next().unwrap().parse().unwrap();
        let time: Vec<f64> = to.ask(&["TIME"]).iter().map(|part| part.parse().unwrap()).collect();
        let now = (time[0] - 1_767_225_600.0) * 1e6 + time[1];
        let (owed, brought) = ((full_at - now) / 36_000.0, begun.elapsed().as_secs_f64() / 0.036);
        println!("{owed:.0} are owed of {spent}, {brought:.0} were brought back");
        (owed <= spent + 1.0 && owed >= spent - brought - 1.0).then_some(())
    });
}

#[test]
fn a_cluster_without_one_of_its_masters_is_lost_and_found() {
    let Some(mut nodes) = cluster(3) else { return };
    let gateway = start(&format!("cluster: {{urls: ['{}']}}", nodes[1].url()), "limit: 30/1h");
    gateway.await_metric("portcullis_fleet_store", &[], 2.0);
    assert!(passes(&gateway, "a"));
    nodes[2].kill();
    let mut turn = 0;
    eventually("the loss to be noticed", || {
        turn += 1;
        assert!(passes(&gateway, &format!("tenant-{turn}")));
        (gateway.metrics().of("portcullis_fleet_store_losses_total", &[]) >= 1.0).then_some(())
    });
    gateway.await_line("the store is lost");
    // The only node there is, whether the key's master is there or not.
    let passed = count((0..40).filter(|_| passes(&gateway, "b")));
    assert!((29.0..=33.0).contains(&passed), "{passed} of 30");
    nodes[2].restart();
    await_cluster(&nodes[0]);
    gateway.await_metric("portcullis_fleet_store", &[], 2.0);
    eventually("all keys to be counted", || {
        turn += 1;
        let before = alone(std::slice::from_ref(&gateway));
        passes(&gateway, &format!("tenant-{turn}"));
        (0..8).all(|_| passes(&gateway, &format!("tenant-{turn}")));
        (alone(std::slice::from_ref(&gateway)) == before).then_some(())
    });
}

/// A certificate's files, as options of a server with TLS.
fn options(authority: &Authority, place: &Place, address: SocketAddr) -> Vec<String> {
    let (certificate, key) = authority.issue(&["localhost"]).write(place, "redis");
    let ca = authority.write(place, "ca.pem");
    let port = beside(address).to_string();
    let words = [
        ("--tls-port", port.as_str()),
        ("--tls-cert-file", certificate.to_str().unwrap()),
        ("--tls-key-file", key.to_str().unwrap()),
        ("--tls-ca-cert-file", ca.to_str().unwrap()),
        ("--tls-auth-clients", "no"),
        ("--tls-replication", "yes"),
    ];
    words.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]).collect()
}

#[test]
fn sentinels_and_their_master_are_spoken_to_in_tls_by_users_that_may_do_what_is_needed() {
    let (authority, place) = (Authority::new(), Place::new());
    // As docs and the example say it; and who watches.
    let users = place.write(
        "users.acl",
        "user default off\n\
         user gate on >sesame-17 ~portcullis:* +@read +@write +@scripting +@connection +@fast\n\
         user watch on >barley-33 ~* &* +@all\n",
    );
    let Some(master) = tls(&authority, &place, &["--aclfile", users.to_str().unwrap()]) else { return };
    let port = beside(master.address());
    let files = Place::new();
    let sentinel = Redis::start_in(Place::new(), |address| {
        // It writes to its file, so each attempt has its own.
        let file = files.write(
            &format!("sentinel-{}.conf", address.port()),
            format!(
                "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n\
                 sentinel monitor store localhost {port} 1\nsentinel auth-user store watch\nsentinel auth-pass store barley-33\n\
                 user default off\nuser ask on >poppy-91 +@connection +sentinel|get-master-addr-by-name\n"
            ),
        );
        let first = [file.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
        first.into_iter().chain(options(&authority, &place, address)).collect()
    })
    .unwrap();
    let secrets = Place::new();
    secrets.write("server", "sesame-17");
    secrets.write("sentinel", "poppy-91");
    let ca = authority.write(&secrets, "ca.pem");
    let fleet = |user: &str| {
        format!(
            "sentinel: {{urls: ['rediss://localhost:{}'], master: store, user: {user}, \
             password: '${{file:{}}}'}}, user: gate, password: '${{file:{}}}', ca: '{}'",
            beside(sentinel.address()),
            secrets.path("sentinel").display(),
            secrets.path("server").display(),
            ca.display()
        )
    };
    let gateway = start(&fleet("ask"), "limit: 2/1h, strict: true");
    gateway.await_metric("portcullis_fleet_store", &[], 2.0);
    gateway.await_metric("portcullis_fleet_nodes", &[], 1.0);
    eventually("a question to be answered", || {
        passes(&gateway, "a");
        (gateway.metrics().of("portcullis_fleet_store_answers_total", &[("result", "answered")]) >= 2.0)
            .then_some(())
    });
    let said = gateway.said();
    assert!(!said.contains("sesame") && !said.contains("poppy"), "{said}");
    let stranger = start(&fleet("nobody"), "limit: 2/1h");
    stranger.await_line("does not let us in: user or password are wrong");
}

#[test]
fn a_failover_under_load_costs_nobody_an_answer_and_gives_nobody_a_second_burst() {
    let Some(Watched { master, replica, sentinel }) = watched(&["--repl-ping-replica-period", "1"]) else {
        return;
    };
    let fleet = format!("sentinel: {{urls: ['{}'], master: store}}", sentinel.url());
    let gateways = gateways_of(2, &fleet, "limit: 60/1h, strict: true");
    let store = |value: f64| {
        gateways.iter().for_each(|gateway| gateway.await_metric("portcullis_fleet_store", &[], value));
    };
    let ask =
        |number: usize, tenant: &str| count((0..number).filter(|turn| passes(&gateways[turn % 2], tenant)));
    let begun = alone(&gateways);
    let before = ask(30, "half");
    eventually("the sentinel to know the replica, and it to have all", || {
        let known = sentinel.ask(&["SENTINEL", "replicas", "store"]);
        let has = replica.ask(&["INFO", "replication"])[0].contains("master_link_status:up");
        (has && known.contains(&replica.address().port().to_string())).then_some(())
    });
    let (done, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let _over = Over(&done);
        for gateway in &gateways {
            scope.spawn(|| {
                let mut connection = Connection::open(gateway.address());
                while !done.load(Ordering::Relaxed) {
                    let status = connection.ask_on(gateway.address(), request("load")).status;
                    assert!(matches!(status, 200 | 429), "{status}");
                    answered.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        drop(master);
        store(0.0);
        store(2.0);
    });
    assert!(answered.load(Ordering::Relaxed) > 100);
    eventually("the replica to be asked", || {
        passes(&gateways[0], "b");
        replica.ask(&["KEYS", "*"]).contains(&"portcullis:nodes".to_owned()).then_some(())
    });
    let after = ask(90, "half");
    let alone = alone(&gateways) - begun;
    println!("{before} before, {after} after, {alone} decided alone");
    // Of this key only what was asked just then was decided alone.
    assert!(
        before + after <= 60.0 + alone.min(10.0),
        "{before} before, {after} after, {alone} decided alone"
    );
    assert!(before + after >= 60.0 - 6.0, "{before} before, {after} after, {alone} decided alone");
}
