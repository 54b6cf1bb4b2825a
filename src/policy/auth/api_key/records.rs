//! Keys in the store: made, changed and read. Every change is one transaction and numbered, so that gateways read no more than
//! what is new.

use std::fmt;

use rusqlite::{Connection, OptionalExtension, Statement, Transaction, TransactionBehavior, params};

use super::table::{Hash, Row};
use super::text;
use crate::config::Secret;
use crate::state::{Store, Unusable};

/// What is said of a key when it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// What it is for.
    pub name: String,
    /// Whose it is: the identity of requests that bear it.
    pub owner: String,
    /// Its usage plan.
    pub plan: Option<String>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Whence it is good; empty: from anywhere.
    pub addresses: Vec<String>,
    /// Which routes it opens; empty: all that ask for a key.
    pub routes: Vec<String>,
    /// Its end, in seconds since 1970.
    pub expires: Option<i64>,
}

/// A key that was just made: the only moment at which it can be read.
#[derive(Debug)]
pub struct Made {
    /// Names it from now on.
    pub id: String,
    /// The key.
    pub key: Secret,
}

/// A key made elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Foreign {
    /// SHA-256 of the key.
    hash: Hash,
    /// What is said of it.
    pub description: Description,
}

/// A key as `list` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// What is said of it.
    pub description: Description,
    /// When it was made, in seconds since 1970, as the next three.
    pub created: i64,
    /// When it was revoked.
    pub revoked: Option<i64>,
    /// Until when an old key of this id is good beside the present one.
    pub overlap: Option<i64>,
    /// When it was last used, give or take a minute.
    pub last_used: Option<i64>,
}

/// Why a change was not made.
#[derive(Debug)]
pub enum Unchanged {
    /// The file cannot be used.
    Store(Unusable),
    /// There is no key of this id.
    NoSuchKey,
    /// It is revoked: there is nothing to rotate.
    Revoked,
    /// It has expired.
    Expired,
    /// The key is in the store already, under this id.
    Known(String),
    /// The system gives no random bytes.
    NoRandomness,
}

impl fmt::Display for Unchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(unusable) => unusable.fmt(f),
            Self::NoSuchKey => f.write_str("there is no key of this id; `portcullis keys list` shows them"),
            Self::Revoked => f.write_str("the key is revoked; make another with `portcullis keys create`"),
            Self::Expired => f.write_str("the key has expired; make another with `portcullis keys create`"),
            Self::Known(id) => write!(f, "this key is there already, as `{id}`"),
            Self::NoRandomness => f.write_str("the system gives no random bytes; try again"),
        }
    }
}

impl From<text::NoRandomness> for Unchanged {
    fn from(_: text::NoRandomness) -> Self {
        Self::NoRandomness
    }
}

impl Foreign {
    /// By the key itself. None for one that is not 20 to 128 visible characters of ASCII: no request could bear it.
    pub fn by_key(key: &str, description: Description) -> Option<Self> {
        let fits = text::LENGTHS.contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self { hash: text::hash(key.as_bytes()), description })
    }

    /// By the SHA-256 of the key, in hex. None for what is none.
    pub fn by_sha256(hex: &str, description: Description) -> Option<Self> {
        let mut hash = [0; 32];
        let digits = hex.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self { hash, description })
    }
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Foreign").field("description", &self.description).finish_non_exhaustive()
    }
}

/// One transaction on a store.
fn change<T>(
    store: &mut Store,
    make: impl FnOnce(&Transaction<'_>, i64) -> Result<T, Problem>,
) -> Result<T, Unchanged> {
    let attempt = |connection: &mut Connection| -> Result<T, Problem> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let number = transaction.query_row(
            "UPDATE changes SET number = number + 1 WHERE what = 'api_keys' RETURNING number",
            [],
            |row| row.get(0),
        )?;
        let made = make(&transaction, number)?;
        transaction.commit()?;
        Ok(made)
    };
    attempt(store.connection()).map_err(|problem| match problem {
        Problem::Sqlite(error) => Unchanged::Store(store.explain(&error)),
        Problem::Said(unchanged) => unchanged,
    })
}

/// What ends a transaction.
enum Problem {
    Sqlite(rusqlite::Error),
    Said(Unchanged),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Unchanged> for Problem {
    fn from(unchanged: Unchanged) -> Self {
        Self::Said(unchanged)
    }
}

/// Makes a key.
///
/// # Errors
/// See [`Unchanged`]; nothing was made then.
pub fn create(store: &mut Store, description: &Description, now: i64) -> Result<Made, Unchanged> {
    let id = text::new_id()?;
    let key = text::new_key(&id)?;
    let hash = text::hash(key.as_bytes());
    change(store, |transaction, number| {
        Insert::prepare(transaction)?.run(&id, &hash, description, now, number)
    })?;
    Ok(Made { id, key })
}

/// Takes keys over that were made elsewhere: all, or none. Gives how many.
///
/// # Errors
/// See [`Unchanged`]; or what `keys` stopped with. Both with the number of the key, from 0.
pub fn import<E>(
    store: &mut Store,
    keys: impl Iterator<Item = Result<Foreign, E>>,
    now: i64,
) -> Result<usize, (usize, Result<Unchanged, E>)> {
    let mut at = 0;
    let mut wrong = None;
    let done = change(store, |transaction, number| {
        let mut insert = Insert::prepare(transaction)?;
        for key in keys {
            let Foreign { hash, description } = match key {
                Ok(key) => key,
                Err(error) => {
                    wrong = Some(error);
                    return Err(Unchanged::NoSuchKey.into());
                }
            };
            let id = text::new_id().map_err(Unchanged::from)?;
            insert.run(&id, &hash, &description, now, number)?;
            at += 1;
        }
        Ok(())
    });
    match (done, wrong) {
        (_, Some(error)) => Err((at, Err(error))),
        (Err(unchanged), None) => Err((at, Ok(unchanged))),
        (Ok(()), None) => Ok(at),
    }
}

/// The statements that make a key, prepared once for all of an import.
struct Insert<'t> {
    known: Statement<'t>,
    key: Statement<'t>,
    hash: Statement<'t>,
}

impl<'t> Insert<'t> {
    fn prepare(transaction: &'t Transaction<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            known: transaction.prepare("SELECT key FROM api_key_hashes WHERE hash = ?1")?,
            key: transaction.prepare(
                "INSERT INTO api_keys (id, name, owner, plan, scopes, addresses, routes, created, expires, change)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?,
            hash: transaction.prepare("INSERT INTO api_key_hashes (hash, key) VALUES (?1, ?2)")?,
        })
    }

    fn run(
        &mut self,
        id: &str,
        hash: &Hash,
        description: &Description,
        now: i64,
        number: i64,
    ) -> Result<(), Problem> {
        if let Some(known) = self.known.query_row([hash], |row| row.get(0)).optional()? {
            return Err(Unchanged::Known(known).into());
        }
        let Description { name, owner, plan, scopes, addresses, routes, expires } = description;
        let (scopes, addresses, routes) = (scopes.join(" "), addresses.join(" "), routes.join(" "));
        self.key.execute(params![id, name, owner, plan, scopes, addresses, routes, now, expires, number])?;
        self.hash.execute(params![hash, id])?;
        Ok(())
    }
}

/// Gives an id a new key; what was its key is good for `overlap` seconds more, as are those before it at the most, and none for longer than
/// the id. Until when, in seconds since 1970.
///
/// # Errors
/// See [`Unchanged`]; nothing was changed then.
pub fn rotate(store: &mut Store, id: &str, overlap: i64, now: i64) -> Result<(Made, i64), Unchanged> {
    let key = text::new_key(id)?;
    let hash = text::hash(key.as_bytes());
    let until = change(store, |transaction, number| {
        let found = transaction
            .query_row("SELECT expires, revoked FROM api_keys WHERE id = ?1", [id], |row| {
                Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?))
            })
            .optional()?;
        match found {
            None => return Err(Unchanged::NoSuchKey.into()),
            Some((_, Some(_))) => return Err(Unchanged::Revoked.into()),
            Some((Some(expires), None)) if expires <= now => return Err(Unchanged::Expired.into()),
            Some((_, None)) => {}
        }
        let ends = found.and_then(|(expires, _)| expires).unwrap_or(i64::MAX);
        let until = now.saturating_add(overlap).min(ends);
        // Gateways forget what has ended at their next start; until then it has ended there too.
        transaction.execute("DELETE FROM api_key_hashes WHERE key = ?1 AND until <= ?2", params![id, now])?;
        transaction.execute(
            "UPDATE api_key_hashes SET until = min(coalesce(until, ?2), ?2) WHERE key = ?1",
            params![id, until],
        )?;
        transaction.execute("INSERT INTO api_key_hashes (hash, key) VALUES (?1, ?2)", params![hash, id])?;
        transaction.execute("UPDATE api_keys SET change = ?2 WHERE id = ?1", params![id, number])?;
        Ok(until)
    })?;
    Ok((Made { id: id.to_owned(), key }, until))
}

/// Ends a key, and old ones of its id. False where it was revoked already.
///
/// # Errors
/// See [`Unchanged`].
pub fn revoke(store: &mut Store, id: &str, now: i64) -> Result<bool, Unchanged> {
    change(store, |transaction, number| {
        let revoked = transaction
            .query_row("SELECT revoked IS NOT NULL FROM api_keys WHERE id = ?1", [id], |row| row.get(0))
            .optional()?;
        if revoked.ok_or(Unchanged::NoSuchKey)? {
            return Ok(false);
        }
        transaction.execute(
            "UPDATE api_keys SET revoked = ?2, change = ?3 WHERE id = ?1",
            params![id, now, number],
        )?;
        Ok(true)
    })
}

/// Moves a key to another usage plan, or out of all. False where it is there already.
///
/// # Errors
/// See [`Unchanged`]; one that is revoked stays as it is.
pub fn set_plan(store: &mut Store, id: &str, plan: Option<&str>) -> Result<bool, Unchanged> {
    change(store, |transaction, number| {
        let found = transaction
            .query_row("SELECT plan, revoked FROM api_keys WHERE id = ?1", [id], |row| {
                Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<i64>>(1)?))
            })
            .optional()?;
        match found {
            None => Err(Unchanged::NoSuchKey.into()),
            Some((_, Some(_))) => Err(Unchanged::Revoked.into()),
            Some((before, None)) if before.as_deref() == plan => Ok(false),
            Some((_, None)) => {
                let changed = "UPDATE api_keys SET plan = ?2, change = ?3 WHERE id = ?1";
                transaction.execute(changed, params![id, plan, number])?;
                Ok(true)
            }
        }
    })
}

/// Tells every key, the eldest first.
///
/// # Errors
/// The file cannot be read, or what `each` gives.
pub fn list<E: From<Unusable>>(
    store: &mut Store,
    now: i64,
    mut each: impl FnMut(Listed) -> Result<(), E>,
) -> Result<(), E> {
    let told = (|| -> rusqlite::Result<Result<(), E>> {
        let mut statement = store.connection().prepare(
            "SELECT id, name, owner, plan, scopes, addresses, routes, expires, created, revoked,
                    (SELECT max(until) FROM api_key_hashes WHERE key = id AND until > ?1),
                    (SELECT at FROM api_key_uses WHERE key = id)
             FROM api_keys ORDER BY created, id",
        )?;
        let mut rows = statement.query([now])?;
        while let Some(row) = rows.next()? {
            let words = |at| {
                let words = |text: String| text.split_whitespace().map(ToOwned::to_owned).collect();
                row.get::<_, String>(at).map(words)
            };
            let description = Description {
                name: row.get(1)?,
                owner: row.get(2)?,
                plan: row.get(3)?,
                scopes: words(4)?,
                addresses: words(5)?,
                routes: words(6)?,
                expires: row.get(7)?,
            };
            let listed = Listed {
                id: row.get(0)?,
                description,
                created: row.get(8)?,
                revoked: row.get(9)?,
                overlap: row.get(10)?,
                last_used: row.get(11)?,
            };
            if let Err(error) = each(listed) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    })();
    told.unwrap_or_else(|error| Err(store.explain(&error).into()))
}

/// The rows that were written after this change, or all, to `take`; gives the number of the last change.
pub(super) fn read(
    connection: &mut Connection,
    after: Option<i64>,
    take: impl FnOnce(&mut dyn Iterator<Item = Row>),
) -> rusqlite::Result<i64> {
    // Number and rows are of one moment.
    let transaction = connection.transaction()?;
    let number = last_change(&transaction)?;
    let which = if after.is_some() { "WHERE k.change > ?1" } else { "WHERE ?1 IS NULL ORDER BY h.hash" };
    let mut wrong = None;
    {
        let mut statement = transaction.prepare(&format!(
            "SELECT h.hash, h.until, k.id, k.name, k.owner, k.plan, k.scopes, k.addresses, k.routes, k.expires,
                    k.revoked, k.change
             FROM api_key_hashes h JOIN api_keys k ON k.id = h.key {which}"
        ))?;
        let rows = statement.query_map([after], |row| {
            Ok(Row {
                hash: row.get(0)?,
                until: row.get(1)?,
                id: row.get(2)?,
                name: row.get(3)?,
                owner: row.get(4)?,
                plan: row.get(5)?,
                scopes: row.get(6)?,
                addresses: row.get(7)?,
                routes: row.get(8)?,
                expires: row.get(9)?,
                revoked: row.get(10)?,
                change: row.get(11)?,
            })
        })?;
        let mut good = rows.map_while(|row| row.map_err(|error| wrong = Some(error)).ok());
        take(&mut good);
    }
    wrong.map_or(Ok(number), Err)
}

/// The number of the last change.
pub(super) fn last_change(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT number FROM changes WHERE what = 'api_keys'", [], |row| row.get(0))
}

/// Notes when keys were last used: ids and minutes since 1970.
pub(super) fn note_uses(connection: &mut Connection, uses: &[(String, u32)]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut statement = transaction.prepare(
            "INSERT INTO api_key_uses (key, at) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET at = max(at, excluded.at)",
        )?;
        for (id, minute) in uses {
            statement.execute(params![id, i64::from(*minute) * 60])?;
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Access;

    fn store() -> (tempfile::TempDir, Store) {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path(), Access::Change).unwrap().unwrap();
        (place, store)
    }

    fn description(name: &str) -> Description {
        Description { name: name.into(), owner: "acme".into(), ..Description::default() }
    }

    fn rows(store: &mut Store, after: Option<i64>) -> (i64, Vec<Row>) {
        let mut found = Vec::new();
        let number = read(store.connection(), after, |rows| found.extend(rows)).unwrap();
        (number, found)
    }

    fn listed(store: &mut Store, now: i64) -> Vec<Listed> {
        let mut all = Vec::new();
        list::<Unusable>(store, now, |key| {
            all.push(key);
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn a_key_is_kept_as_its_hash_alone() {
        let (place, mut store) = store();
        let full = Description {
            plan: Some("gold".into()),
            scopes: vec!["a".into(), "b".into()],
            addresses: vec!["10.0.0.0/8".into()],
            routes: vec!["orders".into()],
            expires: Some(99),
            ..description("one")
        };
        let made = create(&mut store, &full, 10).unwrap();
        let (number, rows) = rows(&mut store, None);
        let [row] = &*rows else { panic!("{rows:?}") };
        assert_eq!(row.hash, text::hash(made.key.as_bytes()));
        assert_eq!((number, row.change, &row.id, &*row.scopes), (1, 1, &made.id, "a b"));
        let [listed] = &*listed(&mut store, 10) else { panic!("one key") };
        assert_eq!((&listed.description, listed.created, listed.revoked), (&full, 10, None));
        drop(store);
        let secret = made.key.rsplit('_').next().unwrap();
        for file in std::fs::read_dir(place.path()).unwrap() {
            let content = std::fs::read(file.unwrap().path()).unwrap();
            assert!(memchr::memmem::find(&content, secret.as_bytes()).is_none());
            assert!(memchr::memmem::find(&content, made.id.as_bytes()).is_some());
        }
    }

    #[test]
    fn a_key_moves_to_another_plan_and_is_read_again() {
        let (_place, mut store) = store();
        let id = create(&mut store, &description("one"), 10).unwrap().id;
        let plan = |store: &mut Store| listed(store, 10)[0].description.plan.clone();
        assert!(set_plan(&mut store, &id, Some("gold")).unwrap());
        assert_eq!(plan(&mut store).as_deref(), Some("gold"));
        let (seen, read) = rows(&mut store, Some(1));
        assert_eq!((seen, read.len(), read[0].change), (2, 1, 2));
        assert!(!set_plan(&mut store, &id, Some("gold")).unwrap(), "it is there already");
        assert!(set_plan(&mut store, &id, None).unwrap());
        assert_eq!(plan(&mut store), None);
        assert!(matches!(set_plan(&mut store, "none", None), Err(Unchanged::NoSuchKey)));
        revoke(&mut store, &id, 20).unwrap();
        assert!(matches!(set_plan(&mut store, &id, Some("gold")), Err(Unchanged::Revoked)));
        assert_eq!(plan(&mut store), None);
    }

    #[test]
    fn only_what_is_new_is_read_again() {
        let (_place, mut store) = store();
        let first = create(&mut store, &description("one"), 10).unwrap();
        create(&mut store, &description("two"), 10).unwrap();
        let (seen, all) = rows(&mut store, None);
        assert_eq!((seen, all.len()), (2, 2));
        assert!(rows(&mut store, Some(seen)).1.is_empty());
        assert!(revoke(&mut store, &first.id, 11).unwrap());
        assert!(!revoke(&mut store, &first.id, 12).unwrap(), "it was already");
        let (_, changed) = rows(&mut store, Some(seen));
        assert_eq!(changed.len(), 1);
        assert_eq!((&changed[0].id, changed[0].revoked), (&first.id, Some(11)));
        note_uses(store.connection(), &[(first.id.clone(), 7), (first.id.clone(), 5)]).unwrap();
        assert_eq!(last_change(store.connection()).unwrap(), 4, "uses are no change");
        let used = listed(&mut store, 13).into_iter().find(|key| key.id == first.id);
        assert_eq!(used.unwrap().last_used, Some(420));
    }

    #[test]
    fn rotation_keeps_the_id_and_the_old_key_for_a_while() {
        let (_place, mut store) = store();
        let old = create(&mut store, &description("one"), 100).unwrap();
        let (new, until) = rotate(&mut store, &old.id, 50, 200).unwrap();
        assert_eq!(until, 250);
        assert_eq!(new.id, old.id);
        assert_ne!(*new.key, *old.key);
        let until = |store: &mut Store, key: &str| {
            let (_, rows) = rows(store, None);
            rows.iter().find(|row| row.hash == text::hash(key.as_bytes())).map(|row| row.until)
        };
        assert_eq!(until(&mut store, &old.key), Some(Some(250)));
        assert_eq!(until(&mut store, &new.key), Some(None));
        assert_eq!(listed(&mut store, 249)[0].overlap, Some(250));
        assert_eq!(listed(&mut store, 250)[0].overlap, None);
        // A second rotation ends no old key later than it would have ended, and maybe sooner.
        let (third, _) = rotate(&mut store, &old.id, 10, 220).unwrap();
        assert_eq!(until(&mut store, &old.key), Some(Some(230)));
        assert_eq!(until(&mut store, &new.key), Some(Some(230)));
        rotate(&mut store, &old.id, 1000, 225).unwrap();
        assert_eq!(until(&mut store, &old.key), Some(Some(230)));
        assert_eq!(until(&mut store, &third.key), Some(Some(1225)));
        rotate(&mut store, &old.id, 0, 300).unwrap();
        assert_eq!(until(&mut store, &old.key), None, "what has ended is forgotten");
        revoke(&mut store, &old.id, 300).unwrap();
        assert!(matches!(rotate(&mut store, &old.id, 0, 301), Err(Unchanged::Revoked)));
    }

    #[test]
    fn what_cannot_be_changed_says_why() {
        let (_place, mut store) = store();
        assert!(matches!(rotate(&mut store, "nobody", 0, 1), Err(Unchanged::NoSuchKey)));
        assert!(matches!(revoke(&mut store, "nobody", 1), Err(Unchanged::NoSuchKey)));
        let short = Description { expires: Some(10), ..description("short") };
        let made = create(&mut store, &short, 5).unwrap();
        assert!(matches!(rotate(&mut store, &made.id, 0, 10), Err(Unchanged::Expired)));
    }

    #[test]
    fn an_import_is_whole_or_nothing() {
        let (_place, mut store) = store();
        let key = |text: &str| Foreign::by_key(text, description(text)).unwrap();
        let (one, two) = ("key-number-one-of-old", "key-number-two-of-old");
        let good = [Ok::<_, ()>(key(one)), Ok(key(two))];
        assert!(matches!(import(&mut store, good.into_iter(), 1), Ok(2)));
        let known = listed(&mut store, 1).into_iter().find(|key| key.description.name == two).unwrap().id;
        let again = [Ok::<_, ()>(key("key-number-three-of-old")), Ok(key(two))];
        match import(&mut store, again.into_iter(), 1) {
            Err((1, Ok(Unchanged::Known(id)))) => assert_eq!(id, known),
            other => panic!("{other:?}"),
        }
        let stopped = [Ok(key("key-number-four-of-old")), Err("line")];
        assert!(matches!(import(&mut store, stopped.into_iter(), 1), Err((1, Err("line")))));
        assert_eq!(listed(&mut store, 1).len(), 2);
        let hex: String = text::hash(one.as_bytes()).iter().map(|byte| format!("{byte:02X}")).collect();
        let same = Foreign::by_sha256(&hex, description("same")).unwrap();
        assert!(matches!(
            import(&mut store, [Ok::<_, ()>(same)].into_iter(), 1),
            Err((0, Ok(Unchanged::Known(_))))
        ));
        for wrong in ["short", "with a space in it, yet long", "ünfit-for-a-header-field", &"x".repeat(129)]
        {
            assert!(Foreign::by_key(wrong, description("x")).is_none(), "{wrong}");
        }
        for wrong in ["", "00", &"g".repeat(64), &"0".repeat(65)] {
            assert!(Foreign::by_sha256(wrong, description("x")).is_none(), "{wrong}");
        }
        assert!(!format!("{:?}", key(one)).contains("hash"));
    }
}
