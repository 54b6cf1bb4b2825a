//! What was used of quotas, in the store: one row for each key, plan and period.
//!
//! The period before the present one is kept beside it, to be told by `portcullis usage`, and the first one, because a key has only
//! one first period in a plan. What is older goes: [`forget`]. So there are three rows of a key and a plan at the most.

use rusqlite::{Connection, OptionalExtension, Row, Statement, TransactionBehavior, params};

use super::counters::Known;
use super::period::Period;

/// One period of a key in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// From when to when.
    pub period: Period,
    /// How many requests have passed, and whether it was the first period.
    pub known: Known,
}

/// The statements of one transaction, prepared once for all of it.
pub(super) struct Counts<'c> {
    read: Statement<'c>,
    earlier: Statement<'c>,
    add: Statement<'c>,
}

impl<'c> Counts<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        let copied = copied(connection)?;
        Ok(Self {
            read: connection.prepare(&format!(
                "SELECT used, first, {copied} FROM quota_uses WHERE key = ?1 AND plan = ?2 AND begins = ?3"
            ))?,
            earlier: connection.prepare(
                "SELECT NOT EXISTS (SELECT 1 FROM quota_uses WHERE key = ?1 AND plan = ?2 AND begins < ?3)",
            )?,
            add: connection.prepare(&format!(
                "INSERT INTO quota_uses (key, plan, begins, ends, used, first)
                 VALUES (?1, ?2, ?3, ?4, max(?5, 0),
                         NOT EXISTS (SELECT 1 FROM quota_uses WHERE key = ?1 AND plan = ?2 AND begins < ?3))
                 ON CONFLICT (key, plan, begins) DO UPDATE SET used = max(used + ?5, 0), ends = excluded.ends
                 RETURNING used, first, {copied}"
            ))?,
        })
    }

    /// What was used of a period.
    pub(super) fn read(&mut self, plan: &str, key: &str, period: Period) -> rusqlite::Result<Known> {
        let found = self.read.query_row(params![key, plan, period.begins], known).optional()?;
        if let Some(known) = found {
            return Ok(known);
        }
        let first = self.earlier.query_row(params![key, plan, period.begins], |row| row.get(0))?;
        Ok(Known { used: 0, first, copied: 0 })
    }

    /// Adds to what was used of a period, and gives what it is then.
    pub(super) fn add(
        &mut self,
        plan: &str,
        key: &str,
        period: Period,
        number: i64,
    ) -> rusqlite::Result<Known> {
        self.add.query_row(params![key, plan, period.begins, period.ends, number], known)
    }
}

/// Deletes periods that ended longer ago than they lasted, but for each key's first one in a plan. Gives how many.
pub(super) fn forget(connection: &Connection, now: i64) -> rusqlite::Result<usize> {
    connection.execute("DELETE FROM quota_uses WHERE ends + (ends - begins) <= ?1 AND NOT first", [now])
}

/// What keys have used, to be read one by one.
#[derive(Debug)]
pub struct Uses<'c>(Option<Statement<'c>>);

impl<'c> Uses<'c> {
    /// Nobody has used anything where the store was made by a version that knew no quotas.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        if !is_known(connection)? {
            return Ok(Self(None));
        }
        let copied = copied(connection)?;
        let statement = connection.prepare(&format!(
            "SELECT used, first, {copied}, begins, ends FROM quota_uses WHERE key = ?1 AND plan = ?2
             ORDER BY begins DESC LIMIT 8"
        ))?;
        Ok(Self(Some(statement)))
    }

    /// What a key has used in a plan, the latest period first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn of(&mut self, plan: &str, key: &str) -> rusqlite::Result<Vec<Used>> {
        let Some(statement) = &mut self.0 else { return Ok(Vec::new()) };
        let used = |row: &Row<'_>| {
            Ok(Used { known: known(row)?, period: Period { begins: row.get(3)?, ends: row.get(4)? } })
        };
        let rows = statement.query_map(params![key, plan], used)?;
        rows.collect()
    }
}

/// Whether the store has quotas in it.
pub(super) fn is_known(connection: &Connection) -> rusqlite::Result<bool> {
    let asked = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'quota_uses')";
    connection.query_row(asked, [], |row| row.get(0))
}

/// Makes all counts this node's. In the file of another node, which was copied, they were let pass there: gives how many such there are.
pub(super) fn belong(connection: &mut Connection, node: &str) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let owner: Option<String> =
        transaction.query_row("SELECT name FROM quota_node", [], |row| row.get(0)).optional()?;
    let copied = match owner.as_deref() {
        Some(owner) if owner == node => return Ok(0),
        Some(_) => transaction.execute("UPDATE quota_uses SET copied = used WHERE copied <> used", [])?,
        // Of a version that knew no nodes.
        None => 0,
    };
    transaction.execute("DELETE FROM quota_node", [])?;
    transaction.execute("INSERT INTO quota_node (name) VALUES (?1)", [node])?;
    transaction.commit()?;
    Ok(copied)
}

/// Keys of a plan of which some requests were let pass here in this period, with how many.
pub(super) fn passed(
    connection: &Connection,
    plan: &str,
    period: Period,
    most: u32,
) -> rusqlite::Result<Vec<(Box<str>, u64)>> {
    if !knows_copies(connection)? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare(
        "SELECT key, used - copied FROM quota_uses WHERE plan = ?1 AND begins = ?2 AND used > copied LIMIT ?3",
    )?;
    let rows = statement.query_map(params![plan, period.begins, most], |row| {
        let (key, passed): (String, i64) = (row.get(0)?, row.get(1)?);
        Ok((key.into_boxed_str(), u64::try_from(passed).unwrap_or_default()))
    })?;
    rows.collect()
}

/// The column of what was copied: a store that is only looked at may be of an older version.
fn copied(connection: &Connection) -> rusqlite::Result<&'static str> {
    Ok(if knows_copies(connection)? { "copied" } else { "0" })
}

/// Whether the store tells what was copied.
fn knows_copies(connection: &Connection) -> rusqlite::Result<bool> {
    let asked = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('quota_uses') WHERE name = 'copied')";
    connection.query_row(asked, [], |row| row.get(0))
}

fn known(row: &Row<'_>) -> rusqlite::Result<Known> {
    let [used, copied] =
        [row.get(0)?, row.get(2)?].map(|number: i64| u64::try_from(number).unwrap_or_default());
    Ok(Known { used, first: row.get(1)?, copied })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Access, Store};

    const DAY: i64 = 86_400;

    fn day(number: i64) -> Period {
        Period { begins: number * DAY, ends: (number + 1) * DAY }
    }

    fn known(used: u64, first: bool) -> Known {
        Known { used, first, copied: 0 }
    }

    #[test]
    fn what_is_added_is_summed_by_key_plan_and_period() {
        let place = tempfile::tempdir().unwrap();
        let mut store = Store::open(place.path(), Access::Change).unwrap().unwrap();
        let db = &*store.connection();
        let mut counts = Counts::prepare(db).unwrap();
        assert_eq!(counts.read("free", "one", day(1)).unwrap(), known(0, true), "nothing yet");
        assert_eq!(counts.add("free", "one", day(1), 3).unwrap(), known(3, true));
        assert_eq!(counts.add("free", "one", day(1), 4).unwrap(), known(7, true));
        assert_eq!(counts.add("free", "two", day(1), 1).unwrap(), known(1, true));
        assert_eq!(counts.add("gold", "one", day(1), 1).unwrap(), known(1, true));
        assert_eq!(counts.read("free", "one", day(1)).unwrap(), known(7, true));
        assert_eq!(counts.read("free", "one", day(2)).unwrap(), known(0, false));
        assert_eq!(counts.add("free", "one", day(2), 1).unwrap(), known(1, false));
        assert_eq!(counts.add("free", "one", day(2), -1).unwrap(), known(0, false));
        assert_eq!(
            counts.add("free", "one", day(2), -1).unwrap(),
            known(0, false),
            "never less than nothing"
        );
        assert_eq!(counts.add("free", "one", day(3), -1).unwrap(), known(0, false));
        let told: Vec<_> = Uses::prepare(db)
            .unwrap()
            .of("free", "one")
            .unwrap()
            .iter()
            .map(|used| (used.period, used.known.used))
            .collect();
        assert_eq!(told, [(day(3), 0), (day(2), 0), (day(1), 7)]);
    }

    #[test]
    fn the_present_period_the_last_and_the_first_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let mut store = Store::open(place.path(), Access::Change).unwrap().unwrap();
        let db = &*store.connection();
        let mut counts = Counts::prepare(db).unwrap();
        for number in 1..=9 {
            counts.add("free", "one", day(number), number).unwrap();
        }
        let kept = |db: &Connection| {
            let uses = Uses::prepare(db).unwrap().of("free", "one").unwrap();
            uses.iter().map(|used| used.period.begins / DAY).collect::<Vec<_>>()
        };
        assert_eq!(forget(db, 9 * DAY).unwrap(), 6);
        assert_eq!(kept(db), [9, 8, 1]);
        assert_eq!(forget(db, 10 * DAY - 1).unwrap(), 0);
        assert_eq!(forget(db, 99 * DAY).unwrap(), 2);
        assert_eq!(kept(db), [1]);
        assert_eq!(
            counts.read("free", "one", day(99)).unwrap(),
            known(0, false),
            "the first period was long ago"
        );
    }

    #[test]
    fn what_stands_in_a_copied_store_was_let_pass_elsewhere() {
        let place = tempfile::tempdir().unwrap();
        let mut store = Store::open(place.path(), Access::Change).unwrap().unwrap();
        let db = store.connection();
        let add = |db: &Connection, number| {
            Counts::prepare(db).unwrap().add("free", "one", day(1), number).unwrap()
        };
        add(db, 5);
        assert_eq!(belong(db, "a").unwrap(), 0, "whose it was nobody knows: its own");
        assert_eq!(add(db, 2), known(7, true));
        assert_eq!(belong(db, "a").unwrap(), 0);
        assert_eq!(passed(db, "free", day(1), 9).unwrap(), [("one".into(), 7)]);
        assert_eq!(belong(db, "b").unwrap(), 1);
        assert_eq!(passed(db, "free", day(1), 9).unwrap(), []);
        assert_eq!(add(db, 2), Known { used: 9, first: true, copied: 7 });
        assert_eq!(belong(db, "b").unwrap(), 0);
        assert_eq!(Counts::prepare(db).unwrap().read("free", "one", day(1)).unwrap().copied, 7);
    }

    #[test]
    fn an_older_store_has_no_uses() {
        let db = Connection::open_in_memory().unwrap();
        assert!(!is_known(&db).unwrap());
        assert!(Uses::prepare(&db).unwrap().of("free", "one").unwrap().is_empty());
    }
}
