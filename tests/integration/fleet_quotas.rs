//! Quotas that all nodes share: shorter first periods, and none that is counted by nobody but the store.

use std::time::{Duration, Instant};

use crate::fleet::{alone, count};
use crate::harness::{Place, Redis, Running, eventually};

/// So many gateways with the same keys, and the ids of keys by name of their plans.
struct Nodes {
    gateways: Vec<Running>,
    keys: Vec<String>,
}

fn text(redis: &Redis, plans: &str) -> String {
    let rest = format!(
        "policies:\n  auth: {{partners: {{api_key: {{header: x-api-key}}}}}}\n  plans:\n{plans}\
         routes: [{{name: a, auth: partners, respond: {{}}}}]\n"
    );
    let fleet = format!("server: {{fleet: {{redis: '{}'}}, ", redis.url());
    Place::with_base(&rest).replace("server: {", &fleet)
}

impl Nodes {
    fn start(number: usize, redis: &Redis, plans: &str, keys: &[&str]) -> Self {
        let text = text(redis, plans);
        let places: Vec<_> = (0..number).map(|_| Place::new()).collect();
        places[0].write("portcullis.yaml", &text);
        let create = |plan: &&str| {
            let arguments =
                ["keys", "create", "--name", "n", "--owner", "o", "--json", "--config", "portcullis.yaml"];
            let output = places[0].portcullis(&[&arguments[..], &["--plan", plan]].concat());
            let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            told["key"].as_str().unwrap().to_owned()
        };
        let keys: Vec<_> = keys.iter().map(create).collect();
        for place in &places[1..] {
            std::fs::create_dir(place.path("state")).unwrap();
            std::fs::copy(places[0].path("state/portcullis.db"), place.path("state/portcullis.db")).unwrap();
        }
        let gateways: Vec<_> = places.into_iter().map(|place| place.start_whole(&text)).collect();
        for gateway in &gateways {
            gateway.await_metric("portcullis_fleet_nodes", &[], f64::from(u32::try_from(number).unwrap()));
            gateway.await_metric("portcullis_api_keys", &[], f64::from(u32::try_from(keys.len()).unwrap()));
        }
        Self { gateways, keys }
    }

    /// Asks a node until the store was there in time: what was told then, and how often it was asked.
    fn told(&self, node: usize, key: usize) -> (String, u32) {
        let mut asked = 0;
        let told = eventually("the store to be there in time", || {
            let before = alone(&self.gateways);
            asked += 1;
            let told = self.ask(node, key).1;
            (alone(&self.gateways) == before).then_some(told)
        });
        (told, asked)
    }

    fn ask(&self, turn: usize, key: usize) -> (u16, String) {
        let asked = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {}\r\n\r\n", self.keys[key]);
        let response = self.gateways[turn % self.gateways.len()].send(asked);
        (response.status, response.all("ratelimit"))
    }

    /// What passes of so many requests, in turn over the nodes; and what was decided without the store.
    fn passed(&self, number: usize, key: usize) -> (f64, f64) {
        let before = alone(&self.gateways);
        let passed = count((0..number).filter(|turn| match self.ask(*turn, key).0 {
            200 => true,
            429 => false,
            other => panic!("{other}"),
        }));
        (passed, alone(&self.gateways) - before)
    }
}

/// How many are counted in each period of each key.
fn counts(redis: &Redis) -> Vec<u32> {
    let keys = redis.ask(&["KEYS", "portcullis:q:*"]);
    let values = keys.iter().flat_map(|key| redis.ask(&["HVALS", key]));
    let counted = |value: String| {
        let parts: Vec<_> = value.split(' ').map(str::parse::<u64>).collect::<Result<_, _>>().ok()?;
        let [said, _, sum, _] = parts[..] else { return None };
        u32::try_from(said.max(sum)).ok()
    };
    values.filter_map(counted).collect()
}

#[test]
fn a_first_period_is_shorter_on_all_nodes_together_and_no_other_is() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let plans = "    late: {quota: {limit: 20, per: MONTH, offset: 8, time_zone: Europe/Berlin, scope: fleet, strict: true}}\n    \
                 leased: {quota: {limit: 2000, per: WEEK, offset: 1900, time_zone: Asia/Kolkata, scope: fleet}}\n";
    let nodes = Nodes::start(3, &redis, plans, &["late", "leased", "late"]);
    let (passed, alone) = nodes.passed(40, 0);
    assert!((12.0 - alone..=12.0 + alone).contains(&passed), "{passed} of 12, {alone} decided alone");
    // What the leases of the nodes may hold is a part of the limit, and what a first period has less is not there to be leased.
    let (passed, alone) = nodes.passed(150, 1);
    assert!(passed <= 100.0 + alone, "{passed} of 100, {alone} decided alone");
    assert!(passed >= 100.0 - 100.0 * 0.5 - alone, "{passed} of 100, {alone} decided alone");
    let (told, asked) = nodes.told(0, 2);
    assert!(told.contains(&format!("\"late-quota\";r={}", 12 - asked)), "{told}");
    // Another period was the first: as though this one were the second.
    let keys = redis.ask(&["KEYS", "portcullis:q:*"]);
    assert_eq!(keys.len(), 3, "{keys:?}");
    for key in &keys {
        let left: i64 = redis.ask(&["TTL", key])[0].parse().unwrap();
        assert!(left > 390 * 86_400, "{key} lives for {left} s");
        let first: i64 = redis.ask(&["HGET", key, "first"])[0].parse().unwrap();
        redis.ask(&["HSET", key, "first", &(first - 86_400).to_string()]);
    }
    let (passed, alone) = nodes.passed(40, 0);
    assert!((8.0 - alone..=8.0 + alone).contains(&passed), "{passed} of 8 more, {alone} decided alone");
    let (told, again) = nodes.told(0, 2);
    let left = 20 - asked - again;
    assert!(told.contains(&format!("\"late-quota\";r={left}")), "{told}");
    let left = f64::from(left);
    // A store that comes back empty is told of it, as of what was counted.
    let of_store = |value| {
        nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_store", &[], value));
    };
    redis.kill();
    of_store(0.0);
    redis.restart();
    of_store(2.0);
    let (passed, alone) = nodes.passed(10, 0);
    assert!(passed <= alone, "{passed} of 0, {alone} decided alone");
    let (passed, alone) = nodes.passed(30, 2);
    assert!((left - alone..=left + alone).contains(&passed), "{passed} of {left}, {alone} decided alone");
}

#[test]
fn a_node_that_knows_of_an_earlier_period_says_so_to_a_store_that_does_not() {
    let Some(redis) = Redis::start(&[]) else { return };
    let plans = "    late: {quota: {limit: 20, per: DAY, offset: 8, scope: fleet, strict: true}}\n";
    let place = Place::new();
    let text = text(&redis, plans);
    place.write("portcullis.yaml", &text);
    let arguments = ["keys", "create", "--name", "n", "--owner", "o", "--plan", "late", "--json"];
    let output = place.portcullis(&[&arguments[..], &["--config", "portcullis.yaml"]].concat());
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let (key, id) = (told["key"].as_str().unwrap(), told["id"].as_str().unwrap());
    // The key was used here a year ago.
    let store = rusqlite::Connection::open(place.path("state/portcullis.db")).unwrap();
    store
        .execute(
            "INSERT INTO quota_uses (key, plan, begins, ends, used, first) VALUES (?1, 'late', 86400, 172800, 5, 1)",
            [id],
        )
        .unwrap();
    drop(store);
    let gateway = place.start_whole(&text);
    gateway.await_metric("portcullis_fleet_nodes", &[], 1.0);
    gateway.await_metric("portcullis_api_keys", &[], 1.0);
    let asked = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n");
    let mut passed = 0;
    // Until the node has read it the store takes this period for the first.
    eventually("all of the quota", || {
        passed += u32::from(gateway.send(&asked).status == 200);
        (passed == 20).then_some(())
    });
    gateway.send(&asked).expect(429);
}

#[test]
fn a_quota_that_is_raised_or_lowered_counts_what_was_used() {
    let Some(redis) = Redis::start(&[]) else { return };
    for rest in ["", ", strict: true"] {
        let plan = |limit: u32, offset: u32| {
            format!(
                "    free: {{quota: {{limit: {limit}, per: MONTH, offset: {offset}, scope: fleet{rest}}}}}\n"
            )
        };
        let nodes = Nodes::start(2, &redis, &plan(20, 5), &["free"]);
        let (mut passed, mut alone) = (0.0, 0.0);
        for (limit, offset, all) in
            [(20, 5, 15.0), (30, 5, 25.0), (30, 0, 30.0), (10, 0, 30.0), (40, 2, 38.0), (38, 0, 38.0)]
        {
            let text = text(&redis, &plan(limit, offset));
            nodes.gateways.iter().for_each(|own| own.reload_whole(&text));
            let (more, more_alone) = nodes.passed(30, 0);
            (passed, alone) = (passed + more, alone + more_alone);
            println!("{limit}, {offset} less{rest}: {passed} of {all}, {alone} decided alone");
            // What one node holds another may miss.
            assert!((all - 4.0..=all + alone).contains(&passed), "{passed} of {all}, {alone} decided alone");
        }
    }
}

#[test]
fn a_durable_quota_of_the_fleet_s_passes_nothing_that_the_store_has_not_counted() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let plans = "    sure: {quota: {limit: 600, per: MONTH, scope: fleet, durable: strict, wait: 10s}}\n";
    let nodes = Nodes::start(3, &redis, plans, &["sure"]);
    let ready = |value: f64| {
        nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_store", &[], value));
    };
    let passes = |number: usize| {
        count((0..number).filter(|turn| match nodes.ask(*turn, 0).0 {
            200 => true,
            429 | 503 => false,
            other => panic!("{other}"),
        }))
    };
    let mut passed = passes(21);
    assert_eq!(passed, 21.0, "however slow it is, the store has counted them");
    // At once, and killed meanwhile: nobody has passed whom it has not counted.
    std::thread::scope(|scope| {
        let mut asking = Vec::new();
        asking.extend((0..6).map(|_| scope.spawn(|| passes(150))));
        eventually("some to be counted", || {
            let key = &redis.ask(&["KEYS", "portcullis:q:*"])[0];
            let counted = redis.ask(&["HVALS", key]);
            let used =
                |said: &String| said.split(' ').next()?.parse::<u32>().ok().filter(|used| *used < 1_000);
            counted.iter().filter_map(used).any(|used| used > 60).then_some(())
        });
        redis.pause();
        ready(0.0);
        redis.go_on();
        passed += asking.into_iter().map(|asking| asking.join().unwrap()).sum::<f64>();
    });
    assert!(passed <= 600.0, "{passed} passed of 600");
    ready(2.0);
    passed += passes(600);
    // Counted, and then nobody was told: the connection was given up while the store was silent.
    assert!((570.0..=600.0).contains(&passed), "{passed} passed of 600");
    let key = &redis.ask(&["KEYS", "portcullis:q:*"])[0];
    let counted = redis.ask(&["HVALS", key]);
    assert!(counted.iter().any(|said| said.starts_with("600 ")), "{counted:?}");
    redis.kill();
    ready(0.0);
    // At once: there is nothing to wait for.
    let begun = Instant::now();
    let asked = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {}\r\n\r\n", nodes.keys[0]);
    let refused = nodes.gateways[0].send(asked);
    refused.expect(503);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let reason = [("policy", "plans.sure"), ("reason", "quota_store")];
    assert!(nodes.gateways[0].metrics().of("portcullis_refusals_total", &reason) >= 1.0);
}

#[test]
fn a_quota_that_becomes_the_fleet_s_or_moves_to_another_store_counts_what_its_nodes_let_pass() {
    let (Some(one), Some(two)) = (Redis::start(&[]), Redis::start(&[])) else { return };
    let plan = |rest: &str| format!("    free: {{quota: {{limit: 40, per: MONTH, {rest}}}}}\n");
    let (own, shared) = (plan("scope: node"), plan("scope: fleet, strict: true"));
    let mut nodes = Nodes::start(2, &one, &own, &["free"]);
    let reload = |nodes: &Nodes, redis: &Redis, plans: &str| {
        let text = text(redis, plans);
        nodes.gateways.iter().for_each(|own| own.reload_whole(&text));
        nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_nodes", &[], 2.0));
    };
    let before = (0..20).filter(|turn| nodes.ask(*turn, 0).0 == 200).count();
    assert_eq!(before, 20, "ten at each node");
    reload(&nodes, &one, &shared);
    assert_eq!(nodes.passed(10, 0).0, 10.0);
    reload(&nodes, &two, &shared);
    let (passed, alone) = nodes.passed(30, 0);
    assert!((10.0..=10.0 + alone).contains(&passed), "{passed} of 10 more, {alone} decided alone");
    // Whoever is there again has said it already.
    let restarted = nodes.gateways.drain(..).map(Running::restart).collect();
    nodes.gateways = restarted;
    nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_nodes", &[], 2.0));
    reload(&nodes, &two, &shared.replace("40", "50"));
    let (passed, alone) = nodes.passed(30, 0);
    assert!((10.0 - alone..=10.0 + alone).contains(&passed), "{passed} of 10 more, {alone} decided alone");
    // Who begins with a copy of another's store has let nothing pass.
    let place = Place::new();
    std::fs::create_dir(place.path("state")).unwrap();
    let store = rusqlite::Connection::open(nodes.gateways[0].place.path("state/portcullis.db")).unwrap();
    let copy = place.path("state/portcullis.db");
    nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_quota_unwritten", &[], 0.0));
    store.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let larger = text(&two, &shared.replace("40", "60"));
    nodes.gateways.iter().for_each(|own| own.reload_whole(&larger));
    nodes.gateways.push(place.start_whole(&larger));
    nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_nodes", &[], 3.0));
    nodes.gateways[2].await_metric("portcullis_api_keys", &[], 1.0);
    let (passed, alone) = nodes.passed(30, 0);
    assert!((10.0 - alone..=10.0 + alone).contains(&passed), "{passed} of 10 more, {alone} decided alone");
    // The first store knows of thirty, and hears of the others.
    nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_quota_unwritten", &[], 0.0));
    let largest = text(&one, &shared.replace("40", "66"));
    nodes.gateways.iter().for_each(|own| own.reload_whole(&largest));
    nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_nodes", &[], 3.0));
    eventually("all of it to be told", || counts(&one).contains(&60).then_some(()));
    let (passed, alone) = nodes.passed(30, 0);
    assert!((6.0 - alone..=6.0 + alone).contains(&passed), "{passed} of 6 more, {alone} decided alone");
}

#[test]
fn a_quota_is_not_whole_again_for_gateways_that_begin_while_the_store_is_lost() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let plans = "    free: {quota: {limit: 60, per: MONTH, scope: fleet, strict: true}}\n";
    let mut nodes = Nodes::start(3, &redis, plans, &["free", "free"]);
    assert_eq!(nodes.passed(27, 0).0, 27.0);
    // Each has heard how it stands.
    let asked: u32 = (0..3).map(|node| nodes.told(node, 0).1).sum();
    let left = 60.0 - 27.0 - f64::from(asked);
    redis.kill();
    nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_store", &[], 0.0));
    nodes.gateways = nodes.gateways.into_iter().map(Running::restart).collect();
    let restart = |nodes: &mut Nodes, again: fn(Running) -> Running| {
        for own in &nodes.gateways {
            own.await_metric("portcullis_quota_unwritten", &[], 0.0);
        }
        nodes.gateways = nodes.gateways.drain(..).map(again).collect();
        nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_api_keys", &[], 2.0));
    };
    nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_api_keys", &[], 2.0));
    let (half, _) = nodes.passed(60, 0);
    let (fresh, _) = nodes.passed(90, 1);
    // A third of what was left at each, when it was told so.
    assert!((left - 3.0..=left + 3.0).contains(&half), "{half} of {left}");
    assert_eq!(fresh, 60.0);
    // However often they begin anew, each has had its part; killed, a node knows what it has counted itself.
    for again in [Running::restart, Running::restart, Running::kill_and_restart] {
        restart(&mut nodes, again);
        let (half, _) = nodes.passed(30, 0);
        assert!(half <= 3.0, "{half} more");
        let (fresh, _) = nodes.passed(90, 1);
        assert_eq!(fresh, 0.0, "each has counted its twenty of 60");
    }
    // The store comes back without anything, and hears from each what it has let pass.
    redis.restart();
    nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_store", &[], 2.0));
    let passed = (nodes.passed(30, 0).0, nodes.passed(30, 1).0);
    assert!(passed.0 <= 3.0 && passed.1 <= 3.0, "{passed:?}: until each node has been asked");
}

#[test]
fn what_a_node_let_pass_before_it_was_killed_or_by_itself_is_counted_without_a_request() {
    let Some(redis) = Redis::start(&[]) else { return };
    let plan = |rest: &str| format!("    free: {{quota: {{limit: 60, per: MONTH, {rest}}}}}\n");
    let (own, shared) = (plan("scope: node"), plan("scope: fleet, strict: true"));
    let mut nodes = Nodes::start(2, &redis, &shared, &["free", "free", "free"]);
    let only = |nodes: &Nodes, node: usize, number: usize, key: usize| {
        count((0..number).filter(|_| nodes.ask(node, key).0 == 200))
    };
    let of_store = |nodes: &Nodes, value| {
        nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_fleet_store", &[], value));
    };
    // Alone, and killed before it could say so.
    redis.pause();
    of_store(&nodes, 0.0);
    assert_eq!(only(&nodes, 0, 40, 0), 30.0, "its part");
    nodes.gateways[0].await_metric("portcullis_quota_unwritten", &[], 0.0);
    let killed = nodes.gateways.remove(0).kill_and_restart();
    nodes.gateways.insert(0, killed);
    redis.go_on();
    of_store(&nodes, 2.0);
    let counted = |number: u32| {
        eventually(&format!("{number} to be counted"), || counts(&redis).contains(&number).then_some(()));
    };
    counted(30);
    let (passed, alone) = (only(&nodes, 1, 50, 0), alone(&nodes.gateways));
    assert!((30.0..=30.0 + alone).contains(&passed), "{passed} of 30, {alone} decided alone");
    // To a quota of each node's and back.
    assert_eq!(only(&nodes, 0, 10, 1), 10.0);
    let reload = |nodes: &Nodes, plans: &str| {
        let text = text(&redis, plans);
        nodes.gateways.iter().for_each(|own| own.reload_whole(&text));
    };
    reload(&nodes, &own);
    assert_eq!((only(&nodes, 0, 7, 1), only(&nodes, 1, 8, 1)), (7.0, 8.0));
    assert_eq!((only(&nodes, 0, 5, 2), only(&nodes, 1, 6, 2)), (5.0, 6.0));
    nodes.gateways.iter().for_each(|own| own.await_metric("portcullis_quota_unwritten", &[], 0.0));
    reload(&nodes, &shared);
    counted(25);
    counted(11);
}
