//! Limits of which all nodes have one: three gateways on a real Redis, which is killed, paused and restarted under load.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Authority, Connection, Place, Redis, Running, eventually};

const ROUTE: &str = "routes: [{name: all, rate_limits: [all], respond: {body: hello}}]\n";

/// A configuration with this fleet and this limit, by the field `x-tenant`.
pub(crate) fn config(fleet: &str, limit: &str) -> String {
    let rest = format!(
        "policies: {{rate_limits: {{all: {{key: {{header: x-tenant}}, scope: fleet, {limit}}}}}}}\n{ROUTE}"
    );
    Place::with_base(&rest).replace("server: {", &format!("server: {{fleet: {{{fleet}}}, "))
}

pub(crate) fn start(fleet: &str, limit: &str) -> Running {
    Place::new().start_whole(&config(fleet, limit))
}

/// So many gateways, each of which knows how many there are.
pub(crate) fn gateways(number: u32, redis: &Redis, limit: &str) -> Vec<Running> {
    gateways_of(number, &format!("redis: '{}'", redis.url()), limit)
}

pub(crate) fn gateways_of(number: u32, fleet: &str, limit: &str) -> Vec<Running> {
    let all: Vec<_> = (0..number).map(|_| start(fleet, limit)).collect();
    for gateway in &all {
        gateway.await_metric("portcullis_fleet_nodes", &[], f64::from(number));
    }
    all
}

pub(crate) fn request(tenant: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nX-Tenant: {tenant}\r\n\r\n")
}

pub(crate) fn passes(gateway: &Running, tenant: &str) -> bool {
    match gateway.send(request(tenant)).status {
        200 => true,
        429 => false,
        other => panic!("{other}"),
    }
}

/// Decisions that nodes have made by themselves: the store was not there in time.
pub(crate) fn alone(gateways: &[Running]) -> f64 {
    let of = |gateway: &Running| gateway.metrics().of("portcullis_fleet_alone_total", &[]);
    gateways.iter().map(of).sum()
}

pub(crate) fn count(requests: impl Iterator<Item = usize>) -> f64 {
    f64::from(u32::try_from(requests.count()).unwrap())
}

/// What came of asking as fast as answers came.
pub(crate) struct Load {
    pub(crate) passed: f64,
    pub(crate) took: Duration,
    /// When each request was sent, and when it was answered.
    times: Vec<(Duration, Duration)>,
}

impl Load {
    /// What a perfect limiter passes of exactly these requests, whenever between sending and answer it decides: on a busy machine clients
    /// may ask for less than there is.
    fn perfect(&self, rate: f64, burst: f64) -> f64 {
        let of = |mut times: Vec<Duration>| {
            times.sort();
            let (mut left, mut last, mut passed) = (burst, Duration::ZERO, 0.0);
            for time in times {
                left = (left + rate * (time - last).as_secs_f64()).min(burst);
                last = time;
                if left >= 1.0 {
                    left -= 1.0;
                    passed += 1.0;
                }
            }
            passed
        };
        let sent = of(self.times.iter().map(|time| time.0).collect());
        f64::min(sent, of(self.times.iter().map(|time| time.1).collect()))
    }
}

/// All gateways are asked as fast as they answer, over `connections` each, for so long: what passed, and how long it took.
pub(crate) fn hammer(
    gateways: &[Running],
    tenant: &str,
    connections: usize,
    time: Duration,
) -> (f64, Duration) {
    let Load { passed, took, .. } = load(gateways, tenant, connections, time);
    (passed, took)
}

fn load(gateways: &[Running], tenant: &str, connections: usize, time: Duration) -> Load {
    let done = AtomicBool::new(false);
    let begun = Instant::now();
    let client = &|gateway: &Running| {
        let (mut passed, mut times) = (0, Vec::new());
        let mut connection = Connection::open(gateway.address());
        while !done.load(Ordering::Relaxed) {
            let sent = begun.elapsed();
            let response = connection.ask_on(gateway.address(), request(tenant));
            passed += u32::from(response.status == 200);
            times.push((sent, begun.elapsed()));
        }
        (passed, times)
    };
    let told: Vec<_> = std::thread::scope(|scope| {
        let mut clients = Vec::new();
        for gateway in gateways {
            clients.extend((0..connections).map(|_| scope.spawn(move || client(gateway))));
        }
        std::thread::sleep(time);
        done.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    Load {
        passed: f64::from(told.iter().map(|(passed, _)| passed).sum::<u32>()),
        took: begun.elapsed(),
        times: told.into_iter().flat_map(|(_, times)| times).collect(),
    }
}

#[test]
fn three_gateways_are_one_limit_but_for_a_lease_each() {
    let Some(redis) = Redis::start(&[]) else { return };
    let gateways = gateways(3, &redis, "limit: 150/1s, burst: 100");
    for tenant in ["a", "b"] {
        let before = alone(&gateways);
        let load = load(&gateways, tenant, 2, Duration::from_secs(3));
        let (passed, took) = (load.passed, load.took);
        let most = 100.0 + 150.0 * took.as_secs_f64();
        let perfect = load.perfect(150.0, 100.0);
        // A tenth of 250, over three nodes.
        let leases = 25.0;
        let alone = alone(&gateways) - before;
        let asked = load.times.len();
        println!(
            "{passed} passed of {asked} in {took:?}, by a perfect limiter {perfect} and {most:.0} at the most; {alone} decided alone"
        );
        assert!(passed <= most + leases + alone, "{passed} passed of {most}, {alone} decided alone");
        assert!(passed >= perfect - leases - 150.0 * 0.1 - alone, "{passed} passed of {perfect}");
    }
    let metrics = gateways[0].metrics();
    assert!(metrics.of("portcullis_fleet_leased_tokens", &[("policy", "rate_limits.all")]) <= 25.0 / 3.0);
    // What is in the store is bounded, hashed, and goes by itself.
    let keys = redis.ask(&["KEYS", "*"]);
    assert!(keys.len() <= 4 && keys.contains(&"portcullis:nodes".to_owned()), "{keys:?}");
    for key in keys {
        assert!(key.len() <= 64, "{key}");
        let left: i64 = redis.ask(&["PTTL", &key])[0].parse().unwrap();
        // Gone meanwhile, or going.
        assert!(left == -2 || (0..=12_000).contains(&left), "{key} lives for {left} ms");
    }
}

#[test]
fn a_strict_limit_is_exact() {
    let Some(redis) = Redis::start(&[]) else { return };
    let gateways = gateways(3, &redis, "limit: 20/1h, strict: true");
    let mut exact = 0;
    // On a busy machine the store may be late for a while.
    for round in 0..60 {
        if round >= 5 && exact >= 1 {
            break;
        }
        let before = alone(&gateways);
        let tenant = format!("tenant-{round}");
        let passed = count((0..30).filter(|turn| passes(&gateways[turn % 3], &tenant)));
        let alone = alone(&gateways) - before;
        assert!(passed >= 20.0 && passed <= 20.0 + alone, "{passed} of 20 passed, {alone} decided alone");
        exact += u64::from(passed == 20.0 && alone == 0.0);
    }
    assert!(exact >= 1, "the store was never there in time");
    // All at once.
    let before = alone(&gateways);
    let (passed, _) = hammer(&gateways, "crowd", 3, Duration::from_millis(800));
    let alone = alone(&gateways) - before;
    assert!(passed >= 20.0 && passed <= 20.0 + alone, "{passed} of 20 passed, {alone} decided alone");
}

/// How long each of a hundred requests of new keys takes, which all need the store; the quickest first.
pub(crate) fn times(gateway: &Running, word: &str) -> Vec<Duration> {
    let mut connection = Connection::open(gateway.address());
    let mut times: Vec<_> = (0..100)
        .map(|turn| {
            let begun = Instant::now();
            connection.write(request(&format!("{word}-{turn}")));
            connection.response().expect(200);
            begun.elapsed()
        })
        .collect();
    times.sort();
    times
}

/// The 95th percentile of how long such requests take.
pub(crate) fn slowest(gateway: &Running, word: &str) -> Duration {
    times(gateway, word)[94]
}

#[test]
fn a_store_that_is_paused_killed_and_restarted_costs_no_request_more_than_five_milliseconds() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let gateways = gateways(3, &redis, "limit: 30/1h");
    let first = &gateways[0];
    let policy = ("policy", "rate_limits.all");
    let up = slowest(first, "up");
    // Five milliseconds, and what a machine with other things to do takes.
    let bound = up + Duration::from_millis(5 + 40);
    let spent = |gateway: &Running, tenant: &str| (0..30).filter(|_| passes(gateway, tenant)).count();
    // Half of it spent: half of the share is left when the store goes.
    for turn in 0..15 {
        assert!(passes(&gateways[turn % 3], "half"), "{turn}");
    }
    redis.pause();
    let paused = slowest(first, "paused");
    assert!(paused <= bound, "{paused:?} while the store is paused, {up:?} before");
    first.await_line("the store is lost");
    first.await_metric("portcullis_fleet_store", &[], 0.0);
    let lost = slowest(first, "lost");
    assert!(lost <= bound, "{lost:?} once the store is lost, {up:?} before");
    assert_eq!(spent(first, "fresh"), 10, "a third of 30");
    let half = spent(first, "half");
    assert!((4..=6).contains(&half), "half of a third of 30 and no more, {half}");
    assert!(first.metrics().of("portcullis_fleet_alone_total", &[policy, ("reason", "store")]) >= 100.0);
    redis.go_on();
    first.await_metric("portcullis_fleet_store", &[], 2.0);
    first.await_line("the store answers again");
    gateways.iter().for_each(|gateway| gateway.await_metric("portcullis_fleet_store", &[], 2.0));
    // What was spent alone is charged with the next question: of 30 these are left, less the 15 before.
    let before = alone(&gateways);
    let rest = count((0..45).filter(|turn| passes(&gateways[turn % 3], "half")));
    let (alone_since, left) = (alone(&gateways) - before, 15.0 - count(0..half));
    // Fewer: a lease (two tokens) that a node had when the store went is held back, or was given back and not heard.
    assert!(
        rest >= left - 6.0 && rest <= left + 1.0 + alone_since,
        "{rest} of {left}, {alone_since} decided alone"
    );

    redis.kill();
    let killed = slowest(first, "killed");
    assert!(killed <= bound, "{killed:?} when the store is killed, {up:?} before");
    first.await_metric("portcullis_fleet_store", &[], 0.0);
    redis.restart();
    for gateway in &gateways {
        gateway.await_metric("portcullis_fleet_store", &[], 2.0);
        gateway.await_metric("portcullis_fleet_nodes", &[], 3.0);
    }
    assert!(first.metrics().of("portcullis_fleet_store_losses_total", &[]) >= 2.0);
    let before = alone(&gateways);
    let passed = count((0..60).filter(|turn| passes(&gateways[turn % 3], "after")));
    let alone = alone(&gateways) - before;
    assert!(passed >= 28.0 && passed <= 30.0 + alone, "{passed} of 30 passed, {alone} decided alone");
}

/// Ends the clients, also where the test fails.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_fleet_under_load_outlives_its_store() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let gateways = gateways(3, &redis, "limit: 300/1s, burst: 300");
    let (done, longest) = (AtomicBool::new(false), Mutex::new(Duration::ZERO));
    let await_store = |value: f64| {
        gateways.iter().for_each(|gateway| gateway.await_metric("portcullis_fleet_store", &[], value));
    };
    let mut waits = Vec::new();
    std::thread::scope(|scope| {
        let _over = Over(&done);
        let client = |gateway: &Running| {
            let mut connection = Connection::open(gateway.address());
            let mut answered = 0;
            while !done.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let status = connection.ask_on(gateway.address(), request("all")).status;
                assert!(matches!(status, 200 | 429), "{status}");
                let mut longest = longest.lock().unwrap();
                *longest = begun.elapsed().max(*longest);
                answered += 1;
            }
            answered
        };
        let clients: Vec<_> = gateways.iter().map(|gateway| scope.spawn(move || client(gateway))).collect();
        for turn in 0..5 {
            *longest.lock().unwrap() = Duration::ZERO;
            if turn % 2 == 0 {
                redis.pause();
            } else {
                redis.kill();
            }
            await_store(0.0);
            if turn % 2 == 0 {
                waits.push(*longest.lock().unwrap());
                redis.go_on();
            } else {
                redis.restart();
            }
            await_store(2.0);
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            let answered: u32 = client.join().unwrap();
            assert!(answered > 100, "{answered}");
        }
    });
    // The store is given half a second to answer. No request waits for that; a busy machine may keep one waiting, not every time.
    let least = waits.iter().min().unwrap();
    assert!(*least < Duration::from_millis(300), "{waits:?}");
    let (passed, took) = hammer(&gateways, "after", 2, Duration::from_secs(2));
    let perfect = 300.0 + 300.0 * took.as_secs_f64();
    assert!(passed < perfect * 1.5, "{passed} passed of {perfect}: one limit again, not three");
}

fn remaining(gateway: &Running, tenant: &str) -> f64 {
    let response = gateway.send(request(tenant));
    response.expect(200);
    let told = response.all("ratelimit");
    told.split(';').find_map(|part| part.strip_prefix("r=")).unwrap().parse().unwrap()
}

/// So many requests of tenant `a` on one connection, all of which pass: however fast a machine is, what it does in a time may be all there
/// is, and then there is no lease to look at.
fn spend(gateway: &Running, requests: usize) {
    let mut connection = Connection::open(gateway.address());
    for _ in 0..requests {
        connection.ask_on(gateway.address(), request("a")).expect(200);
    }
}

#[test]
fn leases_outlive_a_reload_and_go_back_when_a_gateway_ends() {
    let Some(redis) = Redis::start(&[]) else { return };
    let limit = "limit: 10000/1h";
    let mut both = gateways(2, &redis, limit);
    let policy = [("policy", "rate_limits.all")];
    spend(&both[0], 2000);
    let (keys, asked) = ("portcullis_fleet_keys", "portcullis_fleet_questions_total");
    let before = both[0].metrics();
    assert!(before.of(keys, &policy) == 1.0 && before.of(asked, &policy) >= 1.0);
    let fleet = format!("redis: '{}'", redis.url());
    both[0].reload_whole(&config(&fleet, limit).replace("hello", "hello again"));
    let after = both[0].metrics();
    assert_eq!(after.of(keys, &policy), 1.0);
    assert!(after.of(asked, &policy) >= before.of(asked, &policy));
    spend(&both[0], 2000);
    let passed = 4000.0;
    let held = both[0].metrics().of("portcullis_fleet_leased_tokens", &policy);
    assert!((1.0..=1000.0).contains(&held), "{held}");
    both[0].stop();
    let left = remaining(&both[1], "a");
    // The refill of an hour's ten thousand is three a second.
    let spent = 10_000.0 - left - 1.0;
    assert!(spent <= passed, "{spent} are gone, {passed} were spent");
    assert!(spent + 60.0 >= passed, "{spent} are gone, {passed} were spent");
    both[1].await_metric("portcullis_fleet_nodes", &[], 1.0);
}

#[test]
fn a_key_that_is_cooled_off_is_refused_without_asking_the_store() {
    let Some(redis) = Redis::start(&[]) else { return };
    let penalty = "penalty: {after: 3, within: 1m, first: 10m, max: 1h}";
    let rest = format!(
        "policies:
  rate_limits:
    all: {{key: {{header: x-tenant}}, scope: fleet, limit: 1/1h, strict: true, {penalty}}}
    more: {{key: {{header: x-tenant}}, scope: fleet, limit: 100000/1h, strict: true}}
    trial: {{key: host, scope: fleet, limit: 1/1h, strict: true, mode: shadow, {penalty}}}
routes:
  - {{name: all, match: {{path: /}}, rate_limits: [all, more], respond: {{body: hello}}}}
  - {{name: trial, match: {{path: /trial}}, rate_limits: [trial, more], respond: {{body: hello}}}}
"
    );
    let fleet = format!("server: {{fleet: {{redis: '{}'}}, ", redis.url());
    let gateway = Place::new().start_whole(&Place::with_base(&rest).replace("server: {", &fleet));
    gateway.await_metric("portcullis_fleet_nodes", &[], 1.0);
    let questions = |name: &str| {
        let policy = format!("rate_limits.{name}");
        gateway.metrics().of("portcullis_fleet_questions_total", &[("policy", &policy)])
    };
    passes(&gateway, "a");
    eventually("a cool-off", || {
        // It has to hammer second after second, and a question takes a while on a busy machine.
        let refused: Vec<_> = (0..20).map(|_| gateway.send(request("a")).text()).collect();
        refused.iter().any(|text| text.contains("abnormal-usage-detected")).then_some(())
    });
    let before = ["all", "more"].map(questions);
    assert!(before.iter().all(|asked| *asked > 0.0), "{before:?}");
    for _ in 0..30 {
        let refused = gateway.send(request("a"));
        refused.expect(429);
        assert!(refused.all("retry-after").parse::<u64>().unwrap() > 500, "{refused:?}");
    }
    assert_eq!(["all", "more"].map(questions), before, "the store was asked for a key that is cooled off");
    // Others are asked about, as ever.
    assert!(passes(&gateway, "b"));
    eventually("the store to be asked about others", || {
        passes(&gateway, "d");
        (questions("all") > before[0] && questions("more") > before[1]).then_some(())
    });
    // A shadowed limit that has cooled the key off refuses nobody and need not be asked; the one beside it is.
    let trial = || gateway.send(request("c").replace("GET / ", "GET /trial ")).expect(200).status;
    let labels = [("policy", "rate_limits.trial")];
    eventually("a cool-off in shadow", || {
        // It has to hammer second after second, and to look takes a while on a busy machine.
        (0..20).for_each(|_| assert_eq!(trial(), 200));
        (gateway.metrics().of("portcullis_rate_limit_cooled_off", &labels) > 0.0).then_some(())
    });
    let before = ["trial", "more"].map(questions);
    // Where the store is late for a moment, nobody is asked.
    eventually("the one beside it to be asked", || {
        trial();
        (questions("more") >= before[1] + 10.0).then_some(())
    });
    assert_eq!(questions("trial"), before[0]);
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let users = Place::new();
    let file = users.write("users.acl", "user default off\nuser gate on >sesame-17 ~portcullis:* +@all\n");
    let options = ["--aclfile".to_owned(), file.to_str().unwrap().to_owned()];
    let Some(redis) = Redis::start_in(users, |_| options.to_vec()) else { return };
    let place = Place::new();
    place.write("password", "barley-33");
    let fleet = format!("redis: '{}', user: gate, password: '${{file:password}}'", redis.url());
    let gateway = place.start_whole(&config(&fleet, "limit: 2/1h"));
    gateway.await_line("does not let us in: user or password are wrong");
    assert_eq!((0..3).filter(|_| passes(&gateway, "a")).count(), 2, "the only node there is");
    assert!(!gateway.said().contains("barley"), "{}", gateway.said());
    gateway.place.write("password", "sesame-17");
    gateway.await_metric("portcullis_fleet_store", &[], 2.0);
    assert!(passes(&gateway, "b"));
    assert!(!gateway.said().contains("sesame"), "{}", gateway.said());
    let none = start(&format!("redis: '{}'", redis.url()), "limit: 2/1h");
    none.await_line("NOAUTH: it wants a password");
}

/// A server that speaks TLS too, as `localhost`, at the port that is one beside its own; the plain one tells the harness when it is up.
pub(crate) fn tls(authority: &Authority, place: &Place, options: &[&str]) -> Option<Redis> {
    let (certificate, key) = authority.issue(&["localhost"]).write(place, "redis");
    let ca = authority.write(place, "ca.pem");
    let options = |address: std::net::SocketAddr| {
        let port = beside(address).to_string();
        let words = [
            ("--tls-port", port.as_str()),
            ("--tls-cert-file", certificate.to_str().unwrap()),
            ("--tls-key-file", key.to_str().unwrap()),
            ("--tls-ca-cert-file", ca.to_str().unwrap()),
            ("--tls-auth-clients", "no"),
        ];
        let words = words.iter().flat_map(|(name, value)| [*name, *value]);
        words.chain(options.iter().copied()).map(str::to_owned).collect()
    };
    Redis::start_in(Place::new(), options)
}

pub(crate) fn beside(address: std::net::SocketAddr) -> u16 {
    address.port() ^ 1
}

#[test]
fn a_store_is_spoken_to_in_tls_if_its_certificate_is_right() {
    let (authority, stranger) = (Authority::new(), Authority::named("stranger"));
    let place = Place::new();
    let Some(redis) = tls(&authority, &place, &[]) else { return };
    let port = beside(redis.address());
    let ca = authority.write(&place, "ca.pem");
    let ca = ca.display();
    let right = start(&format!("redis: 'rediss://localhost:{port}', ca: '{ca}'"), "limit: 2/1h");
    right.await_metric("portcullis_fleet_store", &[], 2.0);
    assert!(passes(&right, "a"));
    let other = start(&format!("redis: 'rediss://127.0.0.1:{port}', ca: '{ca}'"), "limit: 2/1h");
    other.await_line("cannot be spoken to in TLS");
    let strange = stranger.write(redis.place(), "strange.pem");
    let unknown =
        start(&format!("redis: 'rediss://localhost:{port}', ca: '{}'", strange.display()), "limit: 2/1h");
    unknown.await_line("cannot be spoken to in TLS");
    assert_eq!(unknown.metrics().of("portcullis_fleet_store", &[]), 0.0);
}

#[test]
fn a_cluster_is_spoken_to_in_tls_with_an_authority_of_ones_own() {
    let (authority, stranger) = (Authority::new(), Authority::named("stranger"));
    let place = Place::new();
    let bus = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    // With `tls-cluster` it tells the port at which it speaks TLS.
    let options = ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", &bus];
    let Some(node) = tls(&authority, &place, &options) else { return };
    node.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    await_cluster(&node);
    let url = format!("cluster: {{urls: ['rediss://localhost:{}']}}", beside(node.address()));
    let ca = authority.write(&place, "ca.pem");
    let gateway = start(&format!("{url}, ca: '{}'", ca.display()), "limit: 2/1h, strict: true");
    gateway.await_metric("portcullis_fleet_store", &[], 2.0);
    eventually("a key in the cluster", || {
        passes(&gateway, "a");
        (!node.ask(&["KEYS", "portcullis:l:*"]).is_empty()).then_some(())
    });
    let strange = stranger.write(&place, "strange.pem");
    let unknown = start(&format!("{url}, ca: '{}'", strange.display()), "limit: 2/1h");
    unknown.await_line("cannot be spoken to in TLS");
}

pub(crate) fn await_cluster(node: &Redis) {
    eventually("the cluster to be whole", || {
        node.ask(&["CLUSTER", "INFO"])[0].contains("cluster_state:ok").then_some(())
    });
}

/// A master, its replica, and the sentinel that watches both.
pub(crate) struct Watched {
    pub(crate) master: Redis,
    pub(crate) replica: Redis,
    pub(crate) sentinel: Redis,
}

/// Starts them, the master with these options. None where no store is installed.
pub(crate) fn watched(options: &[&str]) -> Option<Watched> {
    let master = Redis::start(options)?;
    let port = master.address().port().to_string();
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &port])?;
    let place = Place::new();
    let watched = format!(
        "sentinel monitor store 127.0.0.1 {port} 1\nsentinel down-after-milliseconds store 500\nsentinel failover-timeout store 3000\n"
    );
    let file = place.write("sentinel.conf", watched);
    let options = vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
    let sentinel = Redis::start_in(place, |_| options.clone())?;
    Some(Watched { master, replica, sentinel })
}

#[test]
fn sentinels_say_which_server_is_the_master() {
    let Some(Watched { master, replica, sentinel }) = watched(&[]) else { return };
    let urls = format!("sentinel: {{urls: ['redis://127.0.0.1:1', '{}'], master: store}}", sentinel.url());
    let gateway = start(&urls, "limit: 2/1h");
    gateway.await_metric("portcullis_fleet_store", &[], 2.0);
    assert!(passes(&gateway, "a"));
    // It is the replica's turn.
    eventually("the sentinel to know the replica", || {
        let known = sentinel.ask(&["SENTINEL", "replicas", "store"]);
        known.contains(&replica.address().port().to_string()).then_some(())
    });
    drop(master);
    gateway.await_metric("portcullis_fleet_store", &[], 0.0);
    gateway.await_metric("portcullis_fleet_store", &[], 2.0);
    eventually("the replica to be asked", || {
        passes(&gateway, "b");
        redis_keys(&replica).contains(&"portcullis:nodes".to_owned()).then_some(())
    });
    let stranger = start(&urls.replace("master: store", "master: other"), "limit: 2/1h");
    stranger.await_line("knows no master `other`");
}

fn redis_keys(redis: &Redis) -> Vec<String> {
    redis.ask(&["KEYS", "*"])
}

#[test]
fn a_plan_s_throttle_and_quota_are_one_for_all_nodes() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let rest = "policies:\n  auth: {partners: {api_key: {header: x-api-key}}}\n  plans:\n    \
                day: {quota: {limit: 12, per: MONTH, scope: fleet, strict: true}}\n    \
                fast: {throttle: {rate: 6/1h, scope: fleet, strict: true}}\n\
                routes: [{name: a, auth: partners, respond: {}}]\n";
    let fleet = format!("server: {{fleet: {{redis: '{}'}}, ", redis.url());
    let text = Place::with_base(rest).replace("server: {", &fleet);
    let places = [Place::new(), Place::new(), Place::new()];
    let create = |plan: &str| {
        let arguments =
            ["keys", "create", "--name", "n", "--owner", "o", "--json", "--config", "portcullis.yaml"];
        let output = places[0].portcullis(&[&arguments[..], &["--plan", plan]].concat());
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        told["key"].as_str().unwrap().to_owned()
    };
    places[0].write("portcullis.yaml", &text);
    let keys = ["day", "fast", "day"].map(create);
    // The nodes have the same keys.
    for place in &places[1..] {
        std::fs::create_dir(place.path("state")).unwrap();
        std::fs::copy(places[0].path("state/portcullis.db"), place.path("state/portcullis.db")).unwrap();
    }
    let gateways = places.map(|place| place.start_whole(&text));
    for gateway in &gateways {
        gateway.await_metric("portcullis_fleet_nodes", &[], 3.0);
        gateway.await_metric("portcullis_api_keys", &[], 3.0);
    }
    let passes = |turn: usize, key: &str| {
        let asked = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n");
        let status = gateways[turn % 3].send(asked).status;
        assert!(matches!(status, 200 | 429), "{status}");
        status == 200
    };
    for (key, most) in [(&keys[0], 12.0), (&keys[1], 6.0)] {
        let before = alone(&gateways);
        let passed = count((0..24).filter(|turn| passes(*turn, key)));
        let alone = alone(&gateways) - before;
        assert!(passed >= most && passed <= most + alone, "{passed} of {most} passed, {alone} decided alone");
    }
    let counted = redis.ask(&["KEYS", "portcullis:q:*"]);
    assert_eq!(counted.len(), 1, "{counted:?}");
    let left: i64 = redis.ask(&["TTL", &counted[0]])[0].parse().unwrap();
    assert!(left > 86_400 && left <= 33 * 86_400, "{left}");
    // Each node notes what it let pass itself.
    let used = |gateway: &Running| {
        let output =
            gateway.place.portcullis(&["usage", "--plan", "day", "--json", "--config", "portcullis.yaml"]);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let told = told.as_array().unwrap();
        assert!(told.iter().all(|key| key["scope"] == "fleet" && key["left"].is_null()), "{told:?}");
        told.iter().filter_map(|key| key["used"].as_u64()).sum::<u64>()
    };
    eventually("what passed to be written by the nodes", || {
        (gateways.iter().map(used).sum::<u64>() >= 12).then_some(())
    });
    let output = gateways[0].place.portcullis(&["usage", "--config", "portcullis.yaml"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("  12             -             -  2"), "{said}");
    assert!(said.contains("this node alone"), "{said}");
    // Without the store each node has its third of what was left.
    let passed = count((0..6).filter(|turn| passes(*turn, &keys[2])));
    assert!(passed >= 6.0, "{passed}");
    redis.kill();
    gateways.iter().for_each(|gateway| gateway.await_metric("portcullis_fleet_store", &[], 0.0));
    let passed = count((0..24).filter(|turn| passes(*turn, &keys[2])));
    assert!((6.0..=12.0).contains(&passed), "a third each of what each knew to be left: {passed}");
}

#[test]
fn check_and_explain_ask_no_store() {
    let place = Place::new();
    place.write("portcullis.yaml", config("redis: 'redis://127.0.0.1:1', nodes: 3", "limit: 30/1h"));
    let checked = place.portcullis(&["check", "--config", "portcullis.yaml"]);
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));
    let explained = place.portcullis(&["explain", "--config", "portcullis.yaml", "http://a/"]);
    let told = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(told.contains("29 of 30 left, by header x-tenant, over the fleet"), "{told}");
}

#[test]
fn a_cluster_is_one_store() {
    let node = |bus: u16| {
        let options = ["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()];
        Redis::start(&options)
    };
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let buses = [free(), free()];
    let Some(one) = node(buses[0]) else { return };
    let other = node(buses[1]).unwrap();
    one.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    other.ask(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    let port = other.address().port().to_string();
    one.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &buses[1].to_string()]);
    await_cluster(&one);
    await_cluster(&other);
    let gateway = start(&format!("cluster: {{urls: ['{}']}}", one.url()), "limit: 2/1h");
    gateway.await_metric("portcullis_fleet_store", &[], 2.0);
    for turn in 0..40 {
        assert!(passes(&gateway, &format!("tenant-{turn}")), "{turn}");
    }
    let of = |node: &Redis| node.ask(&["KEYS", "portcullis:l:*"]).len();
    eventually("keys in both halves", || (of(&one) > 5 && of(&other) > 5).then_some(()));
    let stranger = start(&format!("redis: '{}'", one.url()), "limit: 2/1h");
    for turn in 0..10 {
        passes(&stranger, &format!("tenant-{turn}"));
    }
    stranger.await_line("it is one of a cluster");
}

/// Between gateways and their store: hands on what comes, answers so many milliseconds late.
struct Way {
    address: std::net::SocketAddr,
    late: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Way {
    fn to(store: std::net::SocketAddr) -> Self {
        use std::io::{Read as _, Write as _};
        use std::net::{TcpListener, TcpStream};
        fn hand_on(mut from: TcpStream, mut to: TcpStream, late: &std::sync::atomic::AtomicU64) {
            let mut bytes = [0; 65_536];
            while let Ok(number @ 1..) = from.read(&mut bytes) {
                std::thread::sleep(Duration::from_millis(late.load(Ordering::Relaxed)));
                if to.write_all(&bytes[..number]).is_err() {
                    break;
                }
            }
            to.shutdown(std::net::Shutdown::Both).ok();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Self { address: listener.local_addr().unwrap(), late: std::sync::Arc::default() };
        let late = std::sync::Arc::clone(&own.late);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(store) else { continue };
                client.set_nodelay(true).ok();
                server.set_nodelay(true).ok();
                let (back, there) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let late = std::sync::Arc::clone(&late);
                std::thread::spawn(move || hand_on(client, there, &std::sync::atomic::AtomicU64::new(0)));
                std::thread::spawn(move || hand_on(server, back, &late));
            }
        });
        own
    }

    fn is_late_by(&self, milliseconds: u64) {
        self.late.store(milliseconds, Ordering::Relaxed);
    }
}

#[test]
fn a_store_that_turns_late_gives_nobody_another_burst() {
    for (limit, leases) in [("limit: 60/1h, strict: true", 0.0), ("limit: 60/1h", 12.0)] {
        let Some(redis) = Redis::start(&[]) else { return };
        let way = Way::to(redis.address());
        let fleet = format!("redis: 'redis://{}'", way.address);
        let gateways: Vec<_> = (0..3).map(|_| start(&fleet, limit)).collect();
        gateways.iter().for_each(|gateway| gateway.await_metric("portcullis_fleet_nodes", &[], 3.0));
        // One is spent before the store is late, of the others a part while it is, now and then.
        for tenant in ["spent", "half", "by-and-by"].map(|name| format!("{name} {leases}")) {
            let ask = |number: usize| count((0..number).filter(|turn| passes(&gateways[turn % 3], &tenant)));
            let mut passed = match tenant.split(' ').next() {
                Some("spent") => ask(90),
                Some("half") => ask(30),
                _ => 0.0,
            };
            for turn in 0..6 {
                way.is_late_by(if turn % 2 == 0 { 50 } else { 0 });
                if turn % 2 == 1 {
                    gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_store", &[], 2.0));
                }
                passed += ask(36);
            }
            println!("{limit}, {tenant}: {passed} of 60");
            // What was not known yet when a node decided: each may have been asked once by then.
            assert!(passed <= 60.0 + leases + 6.0, "{limit}, {tenant}: {passed} passed of 60");
            assert!(passed >= 60.0 - 18.0, "{limit}, {tenant}: {passed} passed of 60");
            way.is_late_by(0);
            gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_store", &[], 2.0));
        }
        // Always about as late as a request may wait.
        way.is_late_by(2);
        let (passed, took) = hammer(&gateways, &format!("slow {leases}"), 1, Duration::from_secs(3));
        way.is_late_by(0);
        assert!(passed <= 60.0 + took.as_secs_f64() / 60.0 + leases + 9.0, "{limit}: {passed} passed of 60");
        println!("{limit}, slow: {passed} of 60 in {took:?}");
    }
}

#[test]
fn a_limit_that_is_gone_from_a_node_holds_nothing() {
    let Some(redis) = Redis::start(&[]) else { return };
    let limit = "limit: 10000/1h";
    let both = gateways(2, &redis, limit);
    spend(&both[0], 2000);
    let passed = 2000.0;
    let held = both[0].metrics().of("portcullis_fleet_leased_tokens", &[("policy", "rate_limits.all")]);
    assert!((1.0..=1000.0).contains(&held), "{held}");
    // Within the second after which it would be idle.
    let without = config(&format!("redis: '{}'", redis.url()), limit).replace(", rate_limits: [all]", "");
    let text = without.lines().filter(|line| !line.starts_with("policies:")).collect::<Vec<_>>().join("\n");
    both[0].reload_whole(&text);
    let mut asked = 0.0;
    eventually("the lease to be back", || {
        asked += 1.0;
        let spent = 10_000.0 - remaining(&both[1], "a") - asked;
        println!("{spent} are gone, {passed} were spent, {held} held");
        (spent <= passed + 1.0).then_some(())
    });
}

#[test]
fn whoever_has_spent_half_of_a_limit_has_spent_half_of_the_one_that_takes_its_place() {
    let Some(redis) = Redis::start(&[]) else { return };
    let fleet = format!("redis: '{}'", redis.url());
    for rest in ["", ", strict: true"] {
        let both = gateways(2, &redis, &format!("limit: 30/1h{rest}"));
        let reload = |own: &Running, limit: &str| {
            own.reload_whole(&config(&fleet, &format!("{limit}{rest}")));
        };
        let passed = |both: &[Running], number: usize, tenant: &str| {
            let before = alone(both);
            let passed = count((0..number).filter(|turn| passes(&both[turn % both.len()], tenant)));
            (passed, alone(both) - before)
        };
        let [half, all, mixed] = ["half", "all", "mixed"].map(|name| format!("{name}{}", rest.len()));
        let lease = if rest.is_empty() { 3.0 } else { 0.0 };
        assert_eq!(passed(&both, 15, &half).0, 15.0);
        assert!(passed(&both, 40, &all).0 >= 30.0 - 2.0 * lease);
        // A faster rate: half of it is left, and another half of it is brought in half a minute.
        both.iter().for_each(|own| reload(own, "limit: 30/1m"));
        let begun = Instant::now();
        let (more, alone) = passed(&both, 40, &half);
        let brought = begun.elapsed().as_secs_f64() / 2.0 + 1.0;
        println!("{more} of 15 more, {alone} decided alone");
        assert!(more >= 15.0 - 2.0 * lease && more <= 15.0 + lease + brought + alone, "{more} of 15 more");
        // A larger bucket.
        both.iter().for_each(|own| reload(own, "limit: 30/1h, burst: 300"));
        let (more, alone) = passed(&both, 20, &all);
        println!("{more} where all was spent, {alone} decided alone");
        // What the minute's rate had brought back meanwhile is ten times as much of this one.
        let brought = begun.elapsed().as_secs_f64() / 2.0 * 10.0 + 10.0;
        assert!(more <= 10.0 * lease + brought + alone, "{more} where all was spent");
        // Nodes that do not agree, as while a change goes round.
        reload(&both[0], "limit: 30/1h");
        let (spent, _) = passed(&both[..1], 50, &mixed);
        assert!((30.0 - lease..=31.0).contains(&spent), "{spent}");
        let (more, alone) = passed(&both[1..], 50, &mixed);
        println!("{more} at a node with another limit where all was spent, {alone} decided alone");
        assert!(more <= 10.0 * lease + 1.0 + 10.0 * alone, "{more} at a node with another limit");
    }
}

#[test]
fn a_store_that_comes_back_empty_hears_what_was_spent() {
    for (limit, leases) in [("limit: 60/1h, strict: true", 0.0), ("limit: 60/1h", 12.0)] {
        let Some(mut redis) = Redis::start(&[]) else { return };
        let gateways = gateways(3, &redis, limit);
        let ask = |number: usize, tenant: &str| {
            count((0..number).filter(|turn| passes(&gateways[turn % 3], tenant)))
        };
        let names = ["spent", "half"].map(|name| format!("{name} {leases}"));
        let begun = alone(&gateways);
        let before = [ask(90, &names[0]), ask(30, &names[1])];
        for _ in 0..2 {
            redis.kill();
            gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_store", &[], 0.0));
            redis.restart();
            gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_store", &[], 2.0));
        }
        let after = [ask(90, &names[0]), ask(90, &names[1])];
        let alone = alone(&gateways) - begun;
        println!("{limit}: {before:?} before, {after:?} after, {alone} decided alone");
        for (before, after) in before.iter().zip(after) {
            let passed = before + after;
            assert!(passed <= 60.0 + leases + alone.min(9.0), "{limit}: {before} before, {after} after");
            assert!(passed >= 60.0 - leases - 6.0, "{limit}: {before} before, {after} after");
        }
    }
}

#[test]
fn gateways_that_begin_while_the_store_is_lost_know_what_was_left() {
    for rest in ["", ", strict: true"] {
        let Some(mut redis) = Redis::start(&[]) else { return };
        let lease = if rest.is_empty() { 1.0 } else { 0.0 };
        let mut three = gateways(3, &redis, &format!("limit: 30/1h{rest}"));
        let passed = |three: &[Running], number: usize, tenant: &str| {
            count((0..number).filter(|turn| passes(&three[turn % three.len()], tenant)))
        };
        assert!(passed(&three, 60, "all") >= 30.0 - 3.0 * lease);
        assert_eq!(passed(&three, 15, "half"), 15.0);
        let await_store = |three: &[Running], value: f64| {
            three.iter().for_each(|own| own.await_metric("portcullis_fleet_store", &[], value));
        };
        // While it is there they give back what they hold; then they know that they are three.
        for store_is_lost in [false, true] {
            if store_is_lost {
                redis.kill();
                await_store(&three, 0.0);
            }
            three = three.into_iter().map(Running::restart).collect();
            if !store_is_lost {
                three.iter().for_each(|own| own.await_metric("portcullis_fleet_nodes", &[], 3.0));
            }
        }
        let (all, half, fresh) =
            (passed(&three, 30, "all"), passed(&three, 45, "half"), passed(&three, 90, "new"));
        println!("without the store{rest}: {all} of 0, {half} of 15, {fresh} of 30");
        assert!(all <= 3.0 * lease, "{all} where all was spent");
        assert!((9.0..=15.0 + 3.0 * lease).contains(&half), "{half} of 15");
        assert_eq!(fresh, 30.0);
        // It comes back and knows nothing.
        redis.restart();
        await_store(&three, 2.0);
        let [all, half, fresh] = ["all", "half", "new"].map(|tenant| passed(&three, 30, tenant));
        println!("with an empty store{rest}: {all} of 0, {half} of 15 less what passed, {fresh} of 0");
        assert!(
            all <= 3.0 * lease + 1.0 && half <= 6.0 + 3.0 * lease && fresh <= 3.0,
            "{all} {half} {fresh}"
        );
    }
}

#[test]
fn a_store_that_has_lost_its_memory_and_not_its_connections_is_told_by_whoever_knows() {
    let Some(redis) = Redis::start(&[]) else { return };
    let both = gateways(2, &redis, "limit: 60/1h, strict: true");
    eventually("the store to have said since when it remembers", || {
        redis.ask(&["KEYS", "portcullis:life"]).pop().map(drop)
    });
    let spent = count((0..70).filter(|_| passes(&both[0], "a")));
    assert!(spent >= 60.0, "{spent}");
    std::thread::sleep(Duration::from_millis(2_500));
    redis.ask(&["FLUSHALL"]);
    both[0].await_line("the store has lost what it knew");
    eventually("it to be told", || (redis.ask(&["KEYS", "portcullis:l:*"]).len() == 1).then_some(()));
    let before = alone(&both);
    let passed = count((0..60).filter(|_| passes(&both[1], "a")));
    assert!(passed <= 1.0 + alone(&both) - before, "{passed} of none");
    assert_eq!(both[0].metrics().of("portcullis_fleet_store_losses_total", &[]), 0.0);
}

#[test]
fn what_was_spent_is_spent_for_a_limit_of_ones_own_and_under_another_prefix() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let fleet = format!("redis: '{}'", redis.url());
    let both = gateways(2, &redis, "limit: 20/1h, strict: true");
    let spent = |tenant: &str| count((0..30).filter(|turn| passes(&both[turn % 2], tenant)));
    let reload = |text: &str| both.iter().for_each(|own| own.reload_whole(text));
    assert_eq!((spent("a"), spent("b")), (20.0, 20.0));
    let text = config(&format!("{fleet}, prefix: other"), "limit: 20/1h, strict: true");
    reload(&text);
    both.iter().for_each(|own| own.await_metric("portcullis_fleet_nodes", &[], 2.0));
    eventually("what is known to be told", || (redis.ask(&["KEYS", "other:l:*"]).len() == 2).then_some(()));
    let before = alone(&both);
    let passed = spent("a");
    assert!(passed <= 1.0 + alone(&both) - before, "{passed} of none under another prefix");
    // And back: what the former store knows is a part of what is known.
    let before = alone(&both);
    let ask = |number: usize| count((0..number).filter(|turn| passes(&both[turn % 2], "c")));
    let some = ask(8);
    let told = |prefix: &str, number: usize| {
        eventually("all to be told", || {
            (redis.ask(&["KEYS", &format!("{prefix}:l:*")]).len() == number).then_some(())
        });
    };
    reload(&config(&fleet, "limit: 20/1h, strict: true"));
    both.iter().for_each(|own| own.await_metric("portcullis_fleet_nodes", &[], 2.0));
    told("portcullis", 3);
    let more = ask(4);
    reload(&text);
    both.iter().for_each(|own| own.await_metric("portcullis_fleet_nodes", &[], 2.0));
    std::thread::sleep(Duration::from_secs(1));
    let rest = ask(20);
    let alone = alone(&both) - before;
    println!("{some}, {more} and {rest} of 20, {alone} decided alone");
    let all = some + more + rest;
    assert!(all >= 20.0 - 1.0 - alone && all <= 20.0 + 1.0 + alone, "{all} of 20, {alone} decided alone");
    // A value that gets a limit of its own while the store is lost.
    redis.kill();
    both.iter().for_each(|own| own.await_metric("portcullis_fleet_store", &[], 0.0));
    reload(&text.replace("limit: 20/1h", "limit: 20/1h, overrides: {b: 400/1h}"));
    let passed = spent("b");
    assert!(passed <= 4.0, "{passed} of none, but for what minutes bring of a larger limit");
}
