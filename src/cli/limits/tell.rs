//! What `portcullis limits` says, for people and as JSON.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::propose::{Proposal, nearest_rank, share_of};
use super::sample::Sample;
use super::{Count, Limits, Place, Refused, Told, network, shown};
use crate::cli::keys::time;
use crate::config::units::{Rate, Time};
use crate::policy::rate_limit::Config;

/// How many are named of those who come most often.
const NAMED: usize = 5;
const PERCENTILES: [(f64, &str); 5] =
    [(50.0, "p50"), (95.0, "p95"), (99.0, "p99"), (99.9, "p99.9"), (100.0, "max")];

pub(super) fn tell(
    asked: &Limits,
    per: Duration,
    place: &Place,
    told: &Told,
    proposal: Option<&Proposal>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (requests, keys) = (told.spool.requests(), told.keys.number());
    let Some((from, until)) = told.times else {
        writeln!(out, "none of {} lines is about such a request", told.read - told.malformed)?;
        return uneven(told, out);
    };
    let about = if told.keys.one_in() > 1 { "about " } else { "" };
    writeln!(
        out,
        "{} of {about}{} by {}, from {} to {}",
        counted(requests, "request"),
        counted(keys, "key"),
        key(asked).replace(", ", " and "),
        second(from),
        second(until)
    )?;
    uneven(told, out)?;
    writeln!(out, "\nrequests in {}, in the busiest of each key:", Time(per))?;
    for (name, value) in percentiles(told) {
        writeln!(out, "  {name:<6} {value:>9}")?;
    }
    writeln!(out, "\nlimits, and what they made of it:")?;
    present(place, told, out)?;
    let Some(proposal) = proposal else {
        return writeln!(out, "\nno limit is proposed: none is as fast as these keys ask");
    };
    writeln!(out, "\na limit that refuses nothing of {} % of the keys:\n", asked.percentile)?;
    if let Some(route) = &asked.route {
        writeln!(out, "# for the route `{}`", shown(route))?;
    }
    writeln!(out, "policies:\n  rate_limits:\n    proposed: {{{}}}", written(asked, per, proposal))?;
    let replay = &proposal.replay;
    writeln!(
        out,
        "\nof this log it would refuse {} ({}) of {about}{} ({})",
        counted(replay.refused, "request"),
        percent(replay.refused, requests),
        counted(replay.keys.number(), "key"),
        percent(replay.keys.number(), keys)
    )?;
    for (name, number) in worst(told, &replay.keys) {
        writeln!(out, "  {number:>9}  {name}")?;
    }
    if replay.overflows > 0 {
        let cause =
            "requests passed since 64 MiB had no room for all keys; a limit with more `memory` refuses them";
        writeln!(out, "{} {cause}", replay.overflows)?;
    }
    Ok(())
}

/// What could not be read as it should be.
fn uneven(told: &Told, out: &mut dyn Write) -> io::Result<()> {
    let Told { malformed, late, .. } = told;
    if *malformed > 0 {
        writeln!(out, "{malformed} lines are left out: they are none of an access log in JSON")?;
    }
    if *late > 0 {
        writeln!(
            out,
            "{late} requests stand too far from their place to be put in order: taken as if a little later"
        )?;
    }
    let one_in = told.keys.one_in();
    if one_in > 1 {
        let looked_at = told.keys.iter().count();
        writeln!(
            out,
            "one key in {one_in} was looked at, {looked_at} in all, from its first request to its last; percentiles are right \
             within {:.3} % of the keys at p99.9",
            1.96 * 100.0 * (0.999 * 0.001 / float(looked_at as u64)).sqrt()
        )?;
    }
    Ok(())
}

fn percentiles(told: &Told) -> impl Iterator<Item = (&'static str, u32)> {
    let mut busiest: Vec<u32> = told.keys.iter().map(|(_, known)| known.busiest).collect();
    busiest.sort_unstable();
    PERCENTILES
        .into_iter()
        .filter_map(move |(percentile, name)| Some((name, nearest_rank(&busiest, percentile)?)))
}

/// The limits of the configuration, then plans that have refused something, and what only the log knows.
fn present(place: &Place, told: &Told, out: &mut dyn Write) -> io::Result<()> {
    let mut is_any = false;
    for (name, config) in &place.limits {
        is_any = true;
        let policy = format!("rate_limits.{name}");
        let own = told.refusals.iter().filter(|(refused, _)| *refused.policy == policy);
        let own: Vec<_> = own.collect();
        writeln!(out, "  {policy}: {}, {}", limit(config), config.site)?;
        if own.is_empty() {
            writeln!(out, "    refuses nothing")?;
        }
        own.into_iter().try_for_each(|(refused, count)| refusal(refused, count, out))?;
    }
    let is_limit = |policy: &str| {
        policy.strip_prefix("rate_limits.").is_some_and(|name| place.limits.contains_key(name))
    };
    for (refused, count) in told.refusals.iter().filter(|(refused, _)| !is_limit(&refused.policy)) {
        is_any = true;
        let plan = refused.policy.strip_prefix("plans.").and_then(|name| place.plans.get(name));
        let place = plan.map_or_else(|| "no more in the configuration".to_owned(), ToString::to_string);
        writeln!(out, "  {}: {place}", refused.policy)?;
        refusal(refused, count, out)?;
    }
    if is_any { Ok(()) } else { writeln!(out, "  there are none") }
}

fn refusal(refused: &Refused, count: &Count, out: &mut dyn Write) -> io::Result<()> {
    let word = if refused.shadowed { "would have refused" } else { "refused" };
    let at_least = if count.clients.is_full { "at least " } else { "" };
    writeln!(
        out,
        "    {word} {} of {at_least}{} ({})",
        counted(count.requests, "request"),
        counted(count.clients.number() as u64, "client"),
        refused.reason
    )?;
    for (client, seen) in count.clients.first(NAMED) {
        let or_fewer = match seen.uncertain {
            0 => String::new(),
            uncertain => format!(", or {uncertain} fewer"),
        };
        writeln!(out, "  {:>9}  {}{or_fewer}", seen.seen, network(client))?;
    }
    Ok(())
}

/// `50/1s, burst 100, shadow`
fn limit(config: &Config) -> String {
    let mut text = String::new();
    if let Some(rate) = &config.limit {
        let burst = config.burst.as_ref().map_or(rate.value.count, |burst| burst.value);
        let _ = write!(text, "{}, burst {burst}", rate.value);
    }
    if let Some(concurrent) = &config.concurrent {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{} at once", concurrent.value);
    }
    if config.mode == crate::policy::Mode::Shadow {
        text.push_str(", shadow");
    }
    text
}

/// As it stands in a configuration.
fn written(asked: &Limits, per: Duration, proposal: &Proposal) -> String {
    let (key, rate) = (key(asked), Rate { count: proposal.count, per });
    let key = if asked.key.len() > 1 { format!("[{key}]") } else { key };
    let mut text = format!("key: {key}, limit: {rate}, burst: {}", proposal.burst);
    if !asked.status.is_empty() {
        let statuses: Vec<_> = asked.status.iter().map(u16::to_string).collect();
        let _ = write!(text, ", count: {{status: [{}]}}", statuses.join(", "));
    }
    text + ", mode: shadow"
}

fn key(asked: &Limits) -> String {
    asked.key.iter().map(|part| part.name()).collect::<Vec<_>>().join(", ")
}

/// Those keys that are refused most, by name.
fn worst<'a>(told: &'a Told, refused: &Sample<u64>) -> Vec<(&'a str, u64)> {
    let mut all: Vec<_> = refused.iter().map(|(key, number)| (*number, key)).collect();
    all.sort_unstable_by_key(|(number, key)| (std::cmp::Reverse(*number), key.bits()));
    // A key that is no more looked at has no name.
    let named = all.into_iter().filter_map(|(number, key)| Some((&*told.keys.get(key)?.shown, number)));
    named.take(NAMED).collect()
}

pub(super) fn as_json(asked: &Limits, per: Duration, told: &Told, proposal: Option<&Proposal>) -> Value {
    let keys = told.keys.number();
    let refusals = told.refusals.iter().map(|(refused, count)| {
        let client = |(client, seen): (IpAddr, super::sample::Count)| {
            json!({"client": network(client), "requests": seen.seen, "uncertain": seen.uncertain})
        };
        let clients: Vec<_> = count.clients.first(NAMED).into_iter().map(client).collect();
        json!({
            "policy": refused.policy,
            "reason": refused.reason,
            "shadowed": refused.shadowed,
            "requests": count.requests,
            "clients": count.clients.number(),
            "clientsAreMore": count.clients.is_full,
            "most": clients,
        })
    });
    let proposal = proposal.map(|proposal| {
        let replay = &proposal.replay;
        let most: Vec<_> = worst(told, &replay.keys)
            .into_iter()
            .map(|(name, number)| json!({"key": name, "requests": number}))
            .collect();
        json!({
            "limit": Rate { count: proposal.count, per },
            "burst": proposal.burst,
            "refusedRequests": replay.refused,
            "refusedKeys": replay.keys.number(),
            "refusedKeysPercent": share_of(replay.keys.number(), keys),
            "overflows": replay.overflows,
            "most": most,
        })
    });
    json!({
        "requests": told.spool.requests(),
        "keys": keys,
        "keysLookedAt": told.keys.iter().count(),
        "key": asked.key.iter().map(|part| part.name()).collect::<Vec<_>>(),
        "per": Time(per).to_string(),
        "begins": told.times.map(|(from, _)| second(from)),
        "ends": told.times.map(|(_, until)| second(until)),
        "malformed": told.malformed,
        "late": told.late,
        "busiest": percentiles(told).map(|(name, value)| (name.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>(),
        "refusals": refusals.collect::<Vec<_>>(),
        "proposal": proposal,
    })
}

/// `1 key`, `2 keys`
fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn second(millis: u64) -> String {
    time(i64::try_from(millis / 1000).unwrap_or_default())
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.3} %", share_of(part, whole))
}

#[expect(clippy::cast_precision_loss, reason = "a share is told with three digits")]
fn float(number: u64) -> f64 {
    number as f64
}
