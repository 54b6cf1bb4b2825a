//! `portcullis keys`: makes, shows, ends and changes API keys, in the store that gateways read.

mod describe;
mod import;
mod list;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{ConfigFile, USAGE, environment};
use crate::config::units::Time;
use crate::config::{Build, load_sections};
use crate::gateway::document::Document;
use crate::gateway::{Account, state_directory};
use crate::policy::auth::api_key::{self, Made};
use crate::server::privileges;
use crate::state::{Access, Store, Unusable};
pub(super) use describe::time;
use describe::{Known, Told, Words};
pub(super) use list::state;

#[derive(Debug, Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a key, and print it this once: only its SHA-256 is kept
    Create(Create),
    /// Show all keys: what they are for, never the keys themselves
    List(List),
    /// End a key, and old ones of its id; gateways know within a second
    Revoke(Revoke),
    /// Give an id a new key, and print it this once; the old one is good for the overlap
    Rotate(Rotate),
    /// Move a key to another usage plan, or out of all; gateways know within a second
    Set(Set),
    /// Take over keys made elsewhere, from CSV with a line of names (key or sha256, name, owner, scopes, plan, expires,
    /// addresses, routes) or JSON with an object a line: all of them, or none
    Import(Import),
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    file: ConfigFile,
    /// The state directory, where no configuration can be read
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    state: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Create {
    #[command(flatten)]
    common: Common,
    /// What the key is for
    #[arg(long, value_name = "TEXT")]
    name: String,
    /// Whose it is: the identity of requests that bear it
    #[arg(long, value_name = "TEXT")]
    owner: String,
    /// What it may do: `orders:read,orders:write`
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    scopes: Vec<String>,
    /// Its usage plan
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    /// When it ends: `90d`, `2027-01-31`, or a time such as `2027-01-31T12:00:00+01:00` [default: never]
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// Addresses and CIDRs that it may be used from [default: all]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    addresses: Vec<String>,
    /// Routes that it opens, by name [default: all that ask for a key]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    routes: Vec<String>,
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Revoke {
    #[command(flatten)]
    common: Common,
    /// Which key
    #[arg(long, value_name = "ID")]
    id: String,
}

#[derive(Debug, Args)]
struct Rotate {
    #[command(flatten)]
    common: Common,
    /// Which key
    #[arg(long, value_name = "ID")]
    id: String,
    /// How long the old key is good beside the new one; `0s` ends it at once
    #[arg(long, value_name = "TIME", default_value = "24h")]
    overlap: String,
}

#[derive(Debug, Args)]
struct Set {
    #[command(flatten)]
    common: Common,
    /// Which key
    #[arg(long, value_name = "ID")]
    id: String,
    /// Its usage plan from now on: its throttle is fresh there, its quota is what the key has left in that plan
    #[arg(long, value_name = "NAME", required_unless_present = "no_plan")]
    plan: Option<String>,
    /// It is in no plan from now on
    #[arg(long, conflicts_with = "plan")]
    no_plan: bool,
}

#[derive(Debug, Args)]
struct Import {
    #[command(flatten)]
    common: Common,
    /// The file; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    from: PathBuf,
}

/// Why nothing was done: the exit status, what is wrong, what to do.
#[derive(Debug)]
pub(super) struct Failed {
    status: u8,
    cause: String,
    cure: Option<String>,
}

impl Failed {
    pub(super) fn new(cause: impl Into<String>) -> Self {
        Self { status: 1, cause: cause.into(), cure: None }
    }

    pub(super) fn with_cure(cause: impl Into<String>, cure: &str) -> Self {
        Self { status: 1, cause: cause.into(), cure: Some(cure.to_owned()) }
    }

    pub(super) fn usage((cause, cure): Told) -> Self {
        Self { status: USAGE, cause, cure: Some(cure) }
    }

    /// Said, with its cure; gives the exit status.
    pub(super) fn tell(self, err: &mut dyn Write) -> u8 {
        let _ = writeln!(err, "error: {}", self.cause);
        if let Some(cure) = self.cure {
            let _ = writeln!(err, "  = help: {cure}");
        }
        self.status
    }
}

impl From<Unusable> for Failed {
    fn from(unusable: Unusable) -> Self {
        Self { status: 1, cause: unusable.cause, cure: Some(unusable.cure.to_owned()) }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::new(format!("the answer cannot be written: {error}"))
    }
}

/// What of the configuration matters here.
struct Place {
    directory: PathBuf,
    /// Whether somebody has named it here (`--state`).
    is_named: bool,
    user: Option<Account>,
    /// What keys may be for; none where the configuration does not load.
    known: Option<Known>,
}

impl Place {
    /// What a configuration says; where it does not load, what of it is sound, and the rest is a warning: a key must be revoked while
    /// somebody mends a route. None when `build.errors` says why.
    fn find(asked: &Common, build: &mut Build, err: &mut dyn Write) -> Option<Self> {
        if let Some(directory) = &asked.state {
            return Some(Self { directory: directory.clone(), is_named: true, user: None, known: None });
        }
        let known = asked.file.compile(build, |document, _| {
            Some(Known {
                routes: document.routes.iter().map(|route| route.name.value.clone()).collect(),
                plans: Some(document.policies.plans.keys().cloned().collect()),
            })
        });
        let mut own = Build::default();
        let document: Document = load_sections(&asked.file.path(), &environment, &mut own, &["server"])?;
        let errors_before = own.errors.errors().len();
        let user = Account::of(&document, &mut own);
        if own.errors.errors().len() > errors_before {
            build.errors.append(own.errors);
            return None;
        }
        if known.is_none() {
            let _ = writeln!(
                err,
                "{}warning: the configuration does not load; of it keys need `server` alone, which is sound\n",
                build.errors.render(&build.sources)
            );
        }
        Some(Self { directory: state_directory(&document, &own), is_named: false, user, known })
    }

    /// The routes and plans that a key may be for.
    fn known(&self) -> Result<&Known, Failed> {
        self.known.as_ref().ok_or_else(|| {
            let cause = "routes of keys are checked against the configuration, and there is none that loads";
            Failed::usage((
                cause.to_owned(),
                "mend it first: `portcullis check` says what is wrong".to_owned(),
            ))
        })
    }
}

impl Keys {
    /// The file that it needs.
    pub(super) fn file(&self) -> Option<&ConfigFile> {
        let Common { file, state, json: _ } = self.common();
        state.is_none().then_some(file)
    }

    fn common(&self) -> &Common {
        match &self.verb {
            Verb::Create(asked) => &asked.common,
            Verb::List(asked) => &asked.common,
            Verb::Revoke(asked) => &asked.common,
            Verb::Rotate(asked) => &asked.common,
            Verb::Set(asked) => &asked.common,
            Verb::Import(asked) => &asked.common,
        }
    }
}

/// 0: done; 64: usage or configuration; 1: anything else, and nothing was changed.
pub(super) fn keys(asked: &Keys, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let mut build = Build::default();
    let Some(place) = Place::find(asked.common(), &mut build, err) else {
        let _ = write!(
            err,
            "{}\n= help: where the keys are cannot be told by this configuration; `--state DIR`, in place of `--config`, names their \
             directory (`server.state`)\n",
            build.errors.render(&build.sources)
        );
        return USAGE;
    };
    match run(asked, &place, out, err) {
        Ok(()) => 0,
        Err(failed) => failed.tell(err),
    }
}

fn run(asked: &Keys, place: &Place, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failed> {
    let now = now();
    let json = asked.common().json;
    match &asked.verb {
        Verb::Create(asked) => {
            let Create { common: _, name, owner, scopes, plan, expires, addresses, routes } = asked;
            let words = Words {
                name: Some(name.clone()),
                owner: Some(owner.clone()),
                plan: plan.clone(),
                scopes: scopes.iter().map(|scope| scope.trim().to_owned()).collect(),
                addresses: addresses.clone(),
                routes: routes.clone(),
                expires: expires.clone(),
            };
            // Without a configuration at hand a plan is taken as it is said; a gateway refuses keys of one that it does not have.
            let none = Known::default();
            let known =
                if routes.is_empty() { place.known.as_ref().unwrap_or(&none) } else { place.known()? };
            let description = words.check(known, now).map_err(Failed::usage)?;
            if description.expires.is_some_and(|at| at <= now) {
                let cure = "name a time to come, or leave `--expires` out";
                return Err(Failed::usage((
                    "the key would have expired already".to_owned(),
                    cure.to_owned(),
                )));
            }
            let mut store = open(place, err)?;
            let made =
                api_key::create(&mut store, &description, now).map_err(|why| Failed::new(why.to_string()))?;
            tell(&made, json, out)?;
            writeln!(err, "keep the key now: only its SHA-256 is stored, and it is not shown again")?;
        }
        Verb::Rotate(asked) => {
            let overlap = Time::parse(&asked.overlap).ok_or_else(|| {
                let cause = format!("`{}` is not a duration", asked.overlap);
                Failed::usage((cause, "write such as `24h`, `30m` or `0s`".to_owned()))
            })?;
            let overlap = i64::try_from(overlap.0.as_secs()).unwrap_or(i64::MAX);
            if now.saturating_add(overlap) >= i64::from(u32::MAX) {
                let cause = format!("an overlap of `{}` has no end", asked.overlap);
                return Err(Failed::usage((cause, "write a shorter one: the last year is 2105".to_owned())));
            }
            let mut store = existing(place, &asked.id)?;
            let (made, until) = api_key::rotate(&mut store, &asked.id, overlap, now)
                .map_err(|why| Failed::new(format!("`{}`: {why}", asked.id)))?;
            tell(&made, json, out)?;
            let until = time(until);
            writeln!(err, "keep the new key now: it is not shown again; the old one is good until {until}")?;
        }
        Verb::Revoke(asked) => {
            let mut store = existing(place, &asked.id)?;
            let changed = api_key::revoke(&mut store, &asked.id, now)
                .map_err(|why| Failed::new(format!("`{}`: {why}", asked.id)))?;
            if json {
                writeln!(out, "{}", json!({"id": asked.id, "revoked": true}))?;
            } else if changed {
                writeln!(out, "`{}` is revoked; gateways refuse it within a second", asked.id)?;
            } else {
                writeln!(out, "`{}` was revoked already", asked.id)?;
            }
        }
        Verb::Set(Set { common: _, id, plan, no_plan: _ }) => {
            let none = Known::default();
            let known = place.known.as_ref().unwrap_or(&none);
            let plan = plan.clone().map(|plan| describe::plan_in(plan, known)).transpose();
            let plan = plan.map_err(Failed::usage)?;
            let mut store = existing(place, id)?;
            let changed = api_key::set_plan(&mut store, id, plan.as_deref())
                .map_err(|why| Failed::new(format!("`{id}`: {why}")))?;
            let said =
                plan.as_deref().map_or_else(|| "no plan".to_owned(), |plan| format!("the plan `{plan}`"));
            if json {
                writeln!(out, "{}", json!({"id": id, "plan": plan}))?;
            } else if changed {
                writeln!(out, "`{id}` is in {said}; gateways know within a second")?;
            } else {
                writeln!(out, "`{id}` was in {said} already")?;
            }
        }
        Verb::List(_) => list::tell(place, json, now, out)?,
        Verb::Import(asked) => {
            let known = place.known()?;
            // Opened as who started this: the state's owner may not be able to.
            let mut source = import::Source::open(&asked.from).map_err(Failed::new)?;
            let mut store = open(place, err)?;
            let keys = source.keys(known, now);
            let taken = api_key::import(&mut store, keys, now);
            let number = taken.map_err(|(_, why)| {
                let cause = match why {
                    Ok(unchanged) => format!("{}: {unchanged}", source.place()),
                    Err(cause) => cause,
                };
                Failed {
                    cure: Some("nothing was imported; mend it and import all again".into()),
                    ..Failed::new(cause)
                }
            })?;
            if json {
                writeln!(out, "{}", json!({"imported": number}))?;
            } else {
                writeln!(out, "{number} keys imported")?;
            }
        }
    }
    out.flush()?;
    Ok(())
}

fn tell(made: &Made, json: bool, out: &mut dyn Write) -> io::Result<()> {
    let (id, key) = (&made.id, &*made.key);
    if json {
        writeln!(out, "{}", json!({"id": id, "key": key}))?;
    } else {
        writeln!(out, "id   {id}\nkey  {key}")?;
    }
    out.flush()
}

/// To be changed. One that was not there is made, which is told: where a gateway has keys, they are gone with the file in which they were.
fn open(place: &Place, err: &mut dyn Write) -> Result<Store, Failed> {
    step_down(&place.directory, place.user.as_ref())?;
    let path = Store::path_in(&place.directory);
    if is_missing(&path) {
        if place.is_named && is_missing(&place.directory) {
            let cure = "make it, or see how it is spelt: `server.state` of the configuration is what a gateway reads";
            let cause = format!("the directory `{}` is not there", place.directory.display());
            return Err(Failed::with_cure(cause, cure));
        }
        writeln!(err, "`{}` is not there and is made: it holds no keys so far", path.display())?;
    }
    changed(place)
}

/// One that may hold a key of this id: none is made for it.
fn existing(place: &Place, id: &str) -> Result<Store, Failed> {
    step_down(&place.directory, place.user.as_ref())?;
    let path = Store::path_in(&place.directory);
    if is_missing(&path) {
        let cause = format!("`{id}`: there is no key of this id: `{}` is not there", path.display());
        return Err(Failed::new(cause));
    }
    changed(place)
}

fn is_missing(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn changed(place: &Place) -> Result<Store, Failed> {
    let store = Store::open(&place.directory, Access::Change)?;
    store.ok_or_else(|| Failed::new("the store cannot be opened"))
}

/// Root becomes the user that the state is of: what is made is the gateway's then, and no link that this user has put there leads
/// root astray.
pub(super) fn step_down(directory: &Path, user: Option<&Account>) -> Result<(), Failed> {
    if !privileges::is_root() {
        return Ok(());
    }
    let account = user.cloned().or_else(|| Account::owner_of(directory));
    let Some(account) = account else { return Ok(()) };
    privileges::prepare(&account, Some(directory), None, std::iter::empty::<&Path>());
    privileges::become_user(&account).map_err(|cause| {
        let name = &account.name;
        Failed::new(format!("the state is of `{name}`, and this process has not become that user: {cause}"))
    })
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}
