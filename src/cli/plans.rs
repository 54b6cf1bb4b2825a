//! `portcullis plans`: the usage plans of a configuration, and how many keys are in each.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::keys::{Failed, now, state, step_down};
use super::{ConfigFile, USAGE};
use crate::config::{Build, OrNone, Spanned};
use crate::gateway::{Account, Gateway, state_directory};
use crate::policy::auth::api_key;
use crate::policy::rate_limit::config::Scope;
use crate::policy::rate_limit::plan_config::{Config, Durable, QuotaConfig, ThrottleConfig};
use crate::state::{Access, Live, Store};

#[derive(Debug, Args)]
pub(super) struct Plans {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// As JSON
    #[arg(long)]
    json: bool,
}

type Named = BTreeMap<String, Spanned<Config>>;

/// 0: told; 64: usage or configuration; 1: anything else.
pub(super) fn plans(asked: &Plans, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let mut build = Build::default();
    let found = asked.file.compile(&mut build, |document, build| {
        // What does not load has no plans to be told.
        Gateway::compile(document, &Live::default(), 0, build)?;
        let user = Account::of(document, build);
        Some((document.policies.plans.clone(), state_directory(document, build), user))
    });
    let Some((plans, directory, user)) = found else {
        let _ = write!(err, "{}", build.errors.render(&build.sources));
        return USAGE;
    };
    let told = keys(directory, user.as_ref()).and_then(|keys| {
        if asked.json {
            writeln!(out, "{:#}", as_json(&plans, &keys))?;
        } else {
            tell(&plans, &keys, out)?;
        }
        Ok(())
    });
    told.map_or_else(|failed| failed.tell(err), |()| 0)
}

/// How many keys that are good are in each plan.
fn keys(directory: PathBuf, user: Option<&Account>) -> Result<BTreeMap<String, u64>, Failed> {
    step_down(&directory, user)?;
    let (mut keys, now) = (BTreeMap::new(), now());
    if let Some(mut store) = Store::open(&directory, Access::Look)? {
        api_key::list(&mut store, now, |listed| {
            if let Some(plan) = listed.description.plan.clone().filter(|_| state(&listed, now) == "active") {
                *keys.entry(plan).or_default() += 1;
            }
            Ok::<_, Failed>(())
        })?;
    }
    Ok(keys)
}

fn tell(plans: &Named, keys: &BTreeMap<String, u64>, out: &mut dyn Write) -> io::Result<()> {
    if plans.is_empty() {
        writeln!(out, "no plans")?;
    }
    let mut lines: Vec<Line> = Vec::new();
    if !plans.is_empty() || !keys.is_empty() {
        lines.push(["PLAN", "MODE", "THROTTLE", "QUOTA", "KEYS", "WRITTEN AT"].map(str::to_owned));
    }
    let mut line = |cells: [&str; 6]| lines.push(cells.map(str::to_owned));
    for (name, plan) in plans {
        let count = keys.get(name).copied().unwrap_or_default().to_string();
        let throttle = plan.throttle.as_ref().map_or_else(|| "-".to_owned(), throttle);
        let quota = plan.quota.as_ref().and_then(OrNone::as_option).map_or_else(|| "-".to_owned(), quota);
        line([name, mode(plan), &throttle, &quota, &count, &plan.site.to_string()]);
        for (route, own) in &plan.routes {
            let site = own.site.to_string();
            line([&format!("  {route}"), "", &self::throttle(&own.throttle), "", "", &site]);
        }
    }
    for (name, count) in keys.iter().filter(|(name, _)| !plans.contains_key(*name)) {
        line([name, "-", "-", "no such plan: its keys are refused", &count.to_string(), "-"]);
    }
    let wide = |at: fn(&Line) -> &str| lines.iter().map(|line| at(line).chars().count()).max().unwrap_or(0);
    let names = wide(|[name, ..]| name);
    let modes = wide(|[_, mode, ..]| mode);
    let throttles = wide(|[_, _, throttle, ..]| throttle);
    let quotas = wide(|[_, _, _, quota, ..]| quota);
    for [name, mode, throttle, quota, keys, site] in &lines {
        let begin = format!("{name:names$}  {mode:modes$}  {throttle:throttles$}  {quota:quotas$}");
        writeln!(out, "{begin}  {keys:>8}  {site}")?;
    }
    Ok(())
}

/// Plan, mode, throttle, quota, number of keys, where it is written.
type Line = [String; 6];

fn mode(plan: &Config) -> &'static str {
    match plan.mode {
        crate::policy::Mode::Enforce => "enforce",
        crate::policy::Mode::Shadow => "shadow",
    }
}

/// `5/1s, burst 10`
fn throttle(written: &OrNone<Spanned<ThrottleConfig>>) -> String {
    let Some(written) = written.as_option() else { return "none".to_owned() };
    format!("{}, burst {}{}", written.rate.value, burst(written), scope(written.scope))
}

fn burst(written: &ThrottleConfig) -> u32 {
    written.burst.as_ref().map_or(written.rate.value.count, |burst| burst.value)
}

/// `1000 a DAY, Europe/Berlin, strict`
fn quota(written: &Spanned<QuotaConfig>) -> String {
    let offset =
        written.offset.as_ref().map_or_else(String::new, |offset| format!(" (first -{})", offset.value));
    let (zone, durable) = (zone(written), durable(written));
    let scope = scope(written.scope);
    format!("{}{offset} a {}, {zone}, {durable}{scope}", written.limit.value, written.per.as_str())
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Node => "",
        Scope::Fleet => ", fleet",
    }
}

fn zone(written: &QuotaConfig) -> &str {
    written.time_zone.as_ref().map_or("UTC", |zone| zone.as_str())
}

fn durable(written: &QuotaConfig) -> &'static str {
    match written.durable {
        Durable::Batched => "batched",
        Durable::Strict => "strict",
    }
}

fn as_json(plans: &Named, keys: &BTreeMap<String, u64>) -> Value {
    let throttle = |written: &OrNone<Spanned<ThrottleConfig>>| {
        let written = written.as_option()?;
        let (rate, burst) = (written.rate.value.to_string(), burst(written));
        Some(json!({"rate": rate, "burst": burst, "scope": written.scope}))
    };
    let known = plans.iter().map(|(name, plan)| {
        let quota = plan.quota.as_ref().and_then(OrNone::as_option).map(|written| {
            json!({
                "limit": written.limit.value,
                "per": written.per.as_str(),
                "offset": written.offset.as_ref().map_or(0, |offset| offset.value),
                "timeZone": zone(written),
                "durable": durable(written),
                "scope": written.scope,
            })
        });
        let routes = plan.routes.iter().map(|(route, own)| (route.clone(), throttle(&own.throttle).into()));
        json!({
            "name": name,
            "configured": true,
            "mode": mode(plan),
            "throttle": plan.throttle.as_ref().and_then(throttle),
            "quota": quota,
            "routes": Value::Object(routes.collect()),
            "keys": keys.get(name).copied().unwrap_or_default(),
            "site": plan.site.to_string(),
        })
    });
    let unknown = keys.iter().filter(|(name, _)| !plans.contains_key(*name));
    let unknown = unknown.map(|(name, count)| json!({"name": name, "configured": false, "keys": count}));
    known.chain(unknown).collect()
}
