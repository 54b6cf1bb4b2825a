//! The keys that there are, as a table or as JSON.

use std::io::Write;

use serde_json::json;

use super::{Failed, Place, is_missing, step_down, time};
use crate::policy::auth::api_key::{self, Listed};
use crate::state::{Access, Store};

/// Tells them all, as a table or as JSON.
pub(super) fn tell(place: &Place, json: bool, now: i64, out: &mut dyn Write) -> Result<(), Failed> {
    step_down(&place.directory, place.user.as_ref())?;
    let path = Store::path_in(&place.directory);
    let mut first = true;
    let mut each = |listed: Listed| -> Result<(), Failed> {
        if json {
            write!(out, "{}\n  {}", if first { "[" } else { "," }, as_json(&listed, now))?;
        } else {
            if first {
                writeln!(
                    out,
                    "{}",
                    line(["ID", "STATE", "NAME", "OWNER", "PLAN", "SCOPES", "EXPIRES", "LAST USED"])
                )?;
            }
            let Listed { id, description, last_used, .. } = &listed;
            let scopes = description.scopes.join(",");
            let at = |seconds: Option<i64>| seconds.map_or_else(|| "-".to_owned(), time);
            let (expires, last_used) = (at(description.expires), at(*last_used));
            let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            writeln!(
                out,
                "{}",
                line([
                    id,
                    state(&listed, now),
                    &description.name,
                    &description.owner,
                    description.plan.as_deref().unwrap_or("-"),
                    &dash(&scopes),
                    &expires,
                    &last_used
                ])
            )?;
        }
        first = false;
        Ok(())
    };
    if let Some(mut store) = Store::open(&place.directory, Access::Look)? {
        api_key::list(&mut store, now, &mut each)?;
    }
    match (json, first) {
        (true, true) => writeln!(out, "[]")?,
        (true, false) => writeln!(out, "\n]")?,
        (false, true) if is_missing(&path) => writeln!(out, "no keys: `{}` is not there", path.display())?,
        (false, true) => writeln!(out, "no keys")?,
        (false, false) => {}
    }
    out.flush()?;
    Ok(())
}

fn line(cells: [&str; 8]) -> String {
    let [id, state, name, owner, plan, scopes, expires, used] = cells;
    format!("{id:12}  {state:8}  {name:20}  {owner:20}  {plan:10}  {scopes:20}  {expires:20}  {used}")
}

pub(in crate::cli) fn state(listed: &Listed, now: i64) -> &'static str {
    match (listed.revoked, listed.description.expires) {
        (Some(_), _) => "revoked",
        (None, Some(expires)) if expires <= now => "expired",
        (None, _) => "active",
    }
}

fn as_json(listed: &Listed, now: i64) -> serde_json::Value {
    let Listed { id, description, created, revoked, overlap, last_used } = listed;
    json!({
        "id": id,
        "state": state(listed, now),
        "name": description.name,
        "owner": description.owner,
        "plan": description.plan,
        "scopes": description.scopes,
        "addresses": description.addresses,
        "routes": description.routes,
        "created": time(*created),
        "expires": description.expires.map(time),
        "revoked": revoked.map(time),
        "overlapUntil": overlap.map(time),
        "lastUsed": last_used.map(time),
    })
}
