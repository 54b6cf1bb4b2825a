//! `portcullis usage`: what keys have used of their quotas, as the store has it. Of a quota that a fleet shares this node's store has what
//! passed here; how much is left only the fleet's knows, and that is not asked.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::keys::{Failed, now, state, step_down, time};
use super::{ConfigFile, USAGE};
use crate::config::Build;
use crate::gateway::{Account, Gateway, state_directory};
use crate::policy::auth::api_key::{self, Listed};
use crate::policy::rate_limit::{PlanQuota, Plans, Used, Uses};
use crate::state::{Access, Live, Store};

#[derive(Debug, Args)]
pub(super) struct Usage {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// Of one key, by its id
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Of the keys in one plan
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What of the configuration matters here.
struct Place {
    plans: Arc<Plans>,
    directory: PathBuf,
    user: Option<Account>,
}

/// 0: told; 64: usage or configuration; 1: anything else.
pub(super) fn usage(asked: &Usage, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let mut build = Build::default();
    let place = asked.file.compile(&mut build, |document, build| {
        let gateway = Gateway::compile(document, &Live::default(), 0, build)?;
        let user = Account::of(document, build);
        Some(Place { plans: gateway.plans, directory: state_directory(document, build), user })
    });
    let Some(place) = place else {
        let _ = write!(err, "{}", build.errors.render(&build.sources));
        return USAGE;
    };
    match tell(asked, &place, out) {
        Ok(()) => 0,
        Err(failed) => failed.tell(err),
    }
}

fn tell(asked: &Usage, place: &Place, out: &mut dyn Write) -> Result<(), Failed> {
    if let Some(plan) = asked.plan.as_deref().filter(|name| place.plans.get(name).is_none()) {
        let cure = "`portcullis plans` shows them";
        return Err(Failed::usage((format!("the configuration has no plan `{plan}`"), cure.to_owned())));
    }
    step_down(&place.directory, place.user.as_ref())?;
    let now = now();
    let (mut first, mut found, mut of_fleet) = (true, asked.key.is_none(), false);
    // One reads the keys one by one, the other what each has used.
    let stores = (Store::open(&place.directory, Access::Look)?, Store::open(&place.directory, Access::Look)?);
    if let (Some(mut keys), Some(mut counts)) = stores {
        let unread = |error: rusqlite::Error| Failed::new(format!("what was used cannot be read: {error}"));
        let mut uses = Uses::prepare(counts.connection()).map_err(unread)?;
        api_key::list(&mut keys, now, |listed| -> Result<(), Failed> {
            if asked.key.as_ref().is_some_and(|id| *id != listed.id) {
                return Ok(());
            }
            found = true;
            let plan = listed.description.plan.as_deref();
            if asked.plan.as_deref().is_some_and(|name| plan != Some(name)) {
                return Ok(());
            }
            let Some(plan) = plan.and_then(|name| place.plans.get(name)) else { return Ok(()) };
            let Some(quota) = plan.quota() else { return Ok(()) };
            let rows = uses.of(plan.label(), &listed.id).map_err(unread)?;
            let told = Told::of(plan.label(), quota, &rows, now);
            if asked.json {
                write!(out, "{}\n  {}", if first { "[" } else { "," }, told.as_json(&listed, quota, now))?;
            } else {
                if first {
                    line(out, ["KEY", "NAME", "OWNER", "PLAN", "USED", "OF", "LEFT", "BEFORE", "UNTIL"])?;
                }
                told.line(&listed, out)?;
            }
            first = false;
            of_fleet |= told.of_fleet;
            Ok(())
        })?;
    }
    if let (false, Some(id)) = (found, &asked.key) {
        let cause = format!("`{id}`: there is no key of this id");
        return Err(Failed::new(cause));
    }
    match (asked.json, first) {
        (true, true) => writeln!(out, "[]")?,
        (true, false) => writeln!(out, "\n]")?,
        (false, true) => writeln!(out, "no key is in a plan with a quota")?,
        (false, false) if of_fleet => writeln!(out, "{OF_FLEET}")?,
        (false, false) => {}
    }
    out.flush()?;
    Ok(())
}

/// Said below the table where a quota is a fleet's.
const OF_FLEET: &str = "LEFT is `-` where all nodes of a fleet share the quota: USED and BEFORE are what passed at this node alone";

/// How it stands with a key.
struct Told<'a> {
    plan: &'a str,
    begins: i64,
    ends: i64,
    used: u64,
    allowed: u64,
    /// Then `used` is this node's part.
    of_fleet: bool,
    /// What was used in the period before this one, where that is known.
    before: Option<u64>,
}

impl<'a> Told<'a> {
    fn of(plan: &'a str, quota: &PlanQuota, rows: &[Used], now: i64) -> Self {
        let period = quota.period(now);
        let present = rows.iter().find(|row| row.period.begins == period.begins);
        // A key that has used nothing yet is in its first period.
        let first = present.map_or(rows.is_empty(), |row| row.known.first);
        let of_fleet = quota.is_of_fleet();
        let used = |row: &Used| if of_fleet { row.known.own() } else { row.known.used };
        let before = rows.iter().find(|row| row.period.ends == period.begins);
        Self {
            plan,
            begins: period.begins,
            ends: period.ends,
            used: present.map_or(0, used),
            allowed: quota.allowance().of(first),
            of_fleet,
            before: before.map(used),
        }
    }

    /// None where this node does not know it.
    fn left(&self) -> Option<u64> {
        (!self.of_fleet).then(|| self.allowed.saturating_sub(self.used))
    }

    fn line(&self, listed: &Listed, out: &mut dyn Write) -> std::io::Result<()> {
        let or_dash =
            |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let before = or_dash(self.before);
        let description = &listed.description;
        line(
            out,
            [
                &listed.id,
                &description.name,
                &description.owner,
                self.plan,
                &self.used.to_string(),
                &self.allowed.to_string(),
                &or_dash(self.left()),
                &before,
                &time(self.ends),
            ],
        )
    }

    fn as_json(&self, listed: &Listed, quota: &PlanQuota, now: i64) -> Value {
        json!({
            "key": listed.id,
            "state": state(listed, now),
            "name": listed.description.name,
            "owner": listed.description.owner,
            "plan": self.plan,
            "scope": if self.of_fleet { "fleet" } else { "node" },
            "per": quota.per().as_str(),
            "timeZone": quota.zone(),
            "begins": time(self.begins),
            "ends": time(self.ends),
            "used": self.used,
            "allowed": self.allowed,
            "left": self.left(),
            "usedBefore": self.before,
        })
    }
}

fn line(out: &mut dyn Write, cells: [&str; 9]) -> std::io::Result<()> {
    let [key, name, owner, plan, used, of, left, before, until] = cells;
    writeln!(
        out,
        "{key:12}  {name:20}  {owner:20}  {plan:12}  {used:>12}  {of:>12}  {left:>12}  {before:>12}  {until}"
    )
}
