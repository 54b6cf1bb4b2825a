//! What whole policies cost: the limits of a route, a plan; and what a restart costs.

use std::hint::black_box;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method};
use portcullis::config::{Build, Spanned, load_text};
use portcullis::policy::Effects;
use portcullis::policy::rate_limit::{
    Config, Facts, Limits, LimitsFile, Place, Plan, RateLimit, plan_config,
};
use portcullis::state::Live;

use super::{address, mixed, stretches};

const TENANTS: u64 = 100;

fn limit(name: &str, text: &str) -> Arc<RateLimit> {
    let mut build = Build::default();
    let config: Spanned<Config> = load_text("bench.yaml", text, &|_| None, &mut build).unwrap();
    let limit = RateLimit::compile(name, &config, &Live::default(), &mut build).unwrap();
    limit.put_in_force();
    Arc::new(limit)
}

fn plan(text: &str) -> Arc<Plan> {
    let mut build = Build::default();
    let config: Spanned<plan_config::Config> = load_text("bench.yaml", text, &|_| None, &mut build).unwrap();
    let plan = Plan::compile("free", &config, &Live::default(), &mut build).unwrap();
    plan.put_in_force();
    Arc::new(plan)
}

fn client(number: u64) -> IpAddr {
    // A network of its own for each.
    IpAddr::V6(Ipv6Addr::from_bits(address(number).rotate_right(64)))
}

/// The policy's whole decision about a request, from its parts to what is noted of it.
fn asked(limits: &Limits, client: IpAddr, headers: &HeaderMap) -> bool {
    let mut effects = Effects::default();
    let facts = Facts {
        client,
        method: &Method::GET,
        host: "a.test",
        headers,
        route: Some("r"),
        identity: None,
        api_key: None,
        ahead: None,
    };
    let checked = limits.check(Place::Route, &facts, &mut effects).now_or_never().unwrap();
    black_box(&effects);
    checked.is_ok()
}

/// Nanoseconds a request, with few keys and with many.
pub(super) fn decisions(size: u64) {
    let (few, many) = (size / 1000, size / 10);
    println!(
        "## Whole policies\n\nNanoseconds that one thread works for all that a policy does with a request that passes: keys are made of \
         what the request has, the clock is read, what is told is noted. Tables of 64 MiB; the plan counts its quota in memory, as \
         `durable: batched` does between two writes.\n"
    );
    println!("| policy | {few} keys | {many} keys |\n|---|---|---|");
    let tenants: Vec<HeaderMap> = (0..TENANTS)
        .map(|tenant| {
            let value = HeaderValue::try_from(format!("tenant-{tenant}")).unwrap();
            [("x-tenant".parse().unwrap(), value)].into_iter().collect()
        })
        .collect();
    let by_client = "{key: client, limit: 1000/1s, burst: 1000000, memory: 64MiB}";
    let by_tenant = "{key: {header: x-tenant}, limit: 1000000/1s, burst: 1000000000, memory: 64MiB}";
    let row = |name: &str, ask: &dyn Fn(u64)| {
        let timed = |keys: u64| {
            (0..2 * keys).for_each(|number| ask(number % keys));
            stretches(0..size / 10, |number| ask(mixed(number) % keys))
        };
        println!("| {name} | {:.0} | {:.0} |", timed(few), timed(many));
    };
    let tenant = |number: u64| tenants.get(usize::try_from(number % TENANTS).unwrap()).unwrap();
    let one = Limits::new(&[], vec![limit("client", by_client)], false).unwrap();
    row("one limit, by client", &|number| assert!(asked(&one, client(number), tenant(number))));
    let two = Limits::new(&[], vec![limit("client", by_client), limit("tenant", by_tenant)], false).unwrap();
    row("two limits of a route, by client and by a field", &|number| {
        assert!(asked(&two, client(number), tenant(number)));
    });
    let (now, throttle) = (SystemTime::now(), "throttle: {rate: 1000/1s, burst: 1000000}");
    let of_plan = |plan: &Arc<Plan>, number: u64| {
        let mut effects = Effects::default();
        let mut key = itoa::Buffer::new();
        let id = key.format(number);
        let is_spent = plan.is_spent(id, "r", now);
        let checked = plan.check(id, "r", now, is_spent, &mut effects).now_or_never().unwrap();
        black_box(&effects);
        assert!(checked.is_ok());
    };
    let throttled = plan(&format!("{{{throttle}, memory: 64MiB}}"));
    row("a plan's throttle, by API key", &|number| of_plan(&throttled, number));
    let quota = "quota: {limit: 1000000000, per: MONTH}";
    let counted = plan(&format!("{{{throttle}, {quota}, memory: 64MiB}}"));
    row("a plan's throttle and quota", &|number| of_plan(&counted, number));
    println!();
}

/// How long a process with so many keys below a full bucket takes to leave, and the next one to begin.
pub(super) fn restart(size: u64) {
    let memory = (size * 26).div_ceil(1 << 20).max(1);
    let text = format!("{{key: client, limit: 1/1h, burst: 8, memory: {memory}MiB}}");
    let (place, fields) = (tempfile::tempdir().unwrap(), HeaderMap::new());
    let before = limit("few", &text);
    let limits = Limits::new(&[], vec![Arc::clone(&before)], false).unwrap();
    for number in 0..size {
        assert!(asked(&limits, client(number), &fields));
    }
    let kept = |limit: &Arc<RateLimit>| vec![limit.kept()];
    let begin = || LimitsFile::new(&Arc::new(Live::new(place.path())));
    let file = begin();
    file.read(&kept(&before), None);
    let began = Instant::now();
    file.write(kept(&before), Vec::new(), None);
    let written = began.elapsed();
    let length = std::fs::metadata(place.path().join("rate-limits.bin")).unwrap().len();
    let after = limit("few", &text);
    let file = begin();
    let began = Instant::now();
    file.read(&kept(&after), None);
    let read = began.elapsed();
    let [had, has] = [&before, &after].map(|limit| limit.figures().unwrap().entries);
    println!(
        "## A restart\n\n{size} keys have spent of a limit with a table of {memory} MiB. The process leaves, and another one begins.\n\n\
         | buckets below full | written in | file | read in | buckets after it |\n|---|---|---|---|---|\n\
         | {had} | {:.2} s | {:.1} MiB | {:.2} s | {has} |\n",
        written.as_secs_f64(),
        length as f64 / f64::from(1 << 20),
        read.as_secs_f64()
    );
    // Neither has an end after which it stops, but on a machine that is too slow for so many.
    if written.max(read).as_secs() < 9 {
        assert_eq!(had, has);
    }
}
