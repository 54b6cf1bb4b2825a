//! Keys made elsewhere, a line each: CSV with a line of names, or JSON. No message shows what a line says: it may be a key.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;
use zeroize::Zeroizing;

use super::describe::{Known, Words};
use crate::config::unreadable;
use crate::policy::auth::api_key::Foreign;
use crate::policy::auth::json_object;

/// A line.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What a column or a field may be called.
const NAMES: [&str; 8] = ["key", "sha256", "name", "owner", "scopes", "plan", "expires", "addresses"];
const ROUTES: &str = "routes";

/// A file or standard input, line by line.
pub(super) struct Source {
    name: String,
    reader: Box<dyn BufRead>,
    line: u64,
    form: Form,
}

/// Which the first line shows.
enum Form {
    Unknown,
    Json,
    /// Columns by their places.
    Csv(Vec<String>),
}

impl Source {
    /// Opens it; `-` is standard input.
    ///
    /// # Errors
    /// Says that and why it cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        if path.as_os_str() == "-" {
            return Ok(Self::of("standard input", Box::new(io::stdin().lock())));
        }
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) if file.metadata().is_ok_and(|found| found.is_dir()) => {
                Err(format!("cannot read `{name}`: it is a directory"))
            }
            Ok(file) => Ok(Self::of(&name, Box::new(BufReader::new(file)))),
            Err(error) => Err(format!("cannot read `{name}`: {}", unreadable(&error))),
        }
    }

    fn of(name: &str, reader: Box<dyn BufRead>) -> Self {
        Self { name: name.to_owned(), reader, line: 0, form: Form::Unknown }
    }

    /// The line last read.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.name, self.line)
    }

    /// Each line's key, or what is wrong with it, which names the line.
    pub(super) fn keys<'a>(
        &'a mut self,
        known: &'a Known,
        now: i64,
    ) -> impl Iterator<Item = Result<Foreign, String>> + 'a {
        std::iter::from_fn(move || {
            let next = self.next(known, now).transpose()?;
            Some(next.map_err(|cause| format!("{}: {cause}", self.place())))
        })
    }

    fn next(&mut self, known: &Known, now: i64) -> Result<Option<Foreign>, String> {
        loop {
            let Some(line) = self.line()? else { return Ok(None) };
            let text = std::str::from_utf8(&line).map_err(|_| "the line is not UTF-8".to_owned())?;
            let text = if self.line == 1 { text.trim_start_matches('\u{feff}') } else { text };
            if text.trim().is_empty() {
                continue;
            }
            if matches!(self.form, Form::Unknown) {
                if text.trim_start().starts_with('{') {
                    self.form = Form::Json;
                } else {
                    self.form = Form::Csv(columns(text)?);
                    continue;
                }
            }
            let fields = match &self.form {
                Form::Csv(columns) => of_csv(columns, text)?,
                Form::Json | Form::Unknown => of_json(text)?,
            };
            return fields.key(known, now).map(Some);
        }
    }

    fn line(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        let mut line = Zeroizing::new(Vec::with_capacity(512));
        self.line += 1;
        let mut bounded = self.reader.by_ref().take(LINE_BYTES_MAX + 1);
        bounded.read_until(b'\n', &mut line).map_err(|error| format!("cannot be read: {error}"))?;
        if line.len() as u64 > LINE_BYTES_MAX {
            return Err(format!("the line is longer than {} KiB", LINE_BYTES_MAX >> 10));
        }
        Ok((!line.is_empty()).then_some(line))
    }
}

/// What a line says.
#[derive(Default)]
struct Fields {
    key: Option<Zeroizing<String>>,
    sha256: Option<String>,
    words: Words,
}

impl Fields {
    /// Lists are words with spaces, commas or semicolons between them.
    fn set(&mut self, name: &str, text: String) {
        let words = |text: &str| -> Vec<String> {
            let words = text.split([' ', ',', ';']).filter(|word| !word.is_empty());
            words.map(ToOwned::to_owned).collect()
        };
        match name {
            "key" => self.key = Some(Zeroizing::new(text)),
            "sha256" => self.sha256 = Some(text),
            "name" => self.words.name = Some(text),
            "owner" => self.words.owner = Some(text),
            "plan" => self.words.plan = Some(text),
            "expires" => self.words.expires = Some(text),
            "scopes" => self.words.scopes = words(&text),
            "addresses" => self.words.addresses = words(&text),
            _ => self.words.routes = words(&text),
        }
    }

    fn key(self, known: &Known, now: i64) -> Result<Foreign, String> {
        let description = self.words.check(known, now).map_err(|(cause, cure)| format!("{cause}; {cure}"))?;
        let key = self.key.filter(|key| !key.is_empty());
        let sha256 = self.sha256.filter(|hash| !hash.is_empty());
        match (key, sha256) {
            (Some(key), None) => Foreign::by_key(&key, description)
                .ok_or_else(|| "the key is not 20 to 128 visible characters of ASCII".to_owned()),
            (None, Some(hash)) => Foreign::by_sha256(&hash, description)
                .ok_or_else(|| "`sha256` is not 64 hexadecimal digits".to_owned()),
            _ => Err("the line has neither `key` nor `sha256`, or both; give one of them".to_owned()),
        }
    }
}

/// The names of a table's columns. A table without that line would begin with a key: none of it is shown.
fn columns(line: &str) -> Result<Vec<String>, String> {
    let known = format!("{}, {ROUTES}", NAMES.join(", "));
    let mut columns = Vec::new();
    for (cell, number) in cells(line)?.into_iter().zip(1..) {
        let name = cell.trim().to_ascii_lowercase();
        if !NAMES.contains(&&*name) && name != ROUTES {
            return Err(format!("column {number} is none of: {known}; the first line names the columns"));
        }
        if columns.contains(&name) {
            return Err(format!("the column `{name}` is there twice"));
        }
        columns.push(name);
    }
    Ok(columns)
}

fn of_csv(columns: &[String], line: &str) -> Result<Fields, String> {
    let cells = cells(line)?;
    if cells.len() != columns.len() {
        return Err(format!("the line has {} columns, the first line names {}", cells.len(), columns.len()));
    }
    let mut fields = Fields::default();
    for (name, cell) in columns.iter().zip(cells) {
        fields.set(name, cell);
    }
    Ok(fields)
}

/// The cells of a line (RFC 4180), which ends with it: a quoted line break is none here.
fn cells(line: &str) -> Result<Vec<String>, String> {
    let mut cells = Vec::new();
    let mut rest = line.trim_end_matches(['\r', '\n']);
    loop {
        let (cell, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_cell(quoted)?,
            None => match rest.split_once(',') {
                Some((cell, after)) => (cell.to_owned(), Some(after)),
                None => (rest.to_owned(), None),
            },
        };
        cells.push(cell);
        match after {
            Some(after) => rest = after,
            None => return Ok(cells),
        }
    }
}

fn quoted_cell(mut rest: &str) -> Result<(String, Option<&str>), String> {
    let mut cell = String::new();
    loop {
        let (piece, after) = rest.split_once('"').ok_or("a quotation mark is not closed on its line")?;
        cell.push_str(piece);
        match after.chars().next() {
            Some('"') => {
                cell.push('"');
                rest = after.get(1..).unwrap_or_default();
            }
            Some(',') => return Ok((cell, after.get(1..))),
            None => return Ok((cell, None)),
            Some(_) => return Err("text follows a closed quotation mark".to_owned()),
        }
    }
}

fn of_json(line: &str) -> Result<Fields, String> {
    let object = json_object(line.as_bytes()).map_err(|why| format!("the line is no JSON object: {why}"))?;
    let mut fields = Fields::default();
    for (name, value) in object {
        if !NAMES.contains(&&*name) && name != ROUTES {
            return Err(format!("a field is none of: {}, {ROUTES}", NAMES.join(", ")));
        }
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text,
            Value::Array(list) if matches!(&*name, "scopes" | "addresses" | "routes") => {
                let words: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                words.ok_or_else(|| format!("`{name}` has something that is no text"))?.join(" ")
            }
            _ => return Err(format!("`{name}` is no text")),
        };
        fields.set(&name, text);
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "an-old-key-of-20-characters";

    fn read(text: &str) -> Vec<Result<Foreign, String>> {
        let mut source = Source::of("t", Box::new(io::Cursor::new(text.to_owned())));
        let known = Known { routes: ["orders".to_owned(), "items".to_owned()].into(), ..Known::default() };
        let mut all = Vec::new();
        for key in source.keys(&known, 0) {
            let stop = key.is_err();
            all.push(key);
            if stop {
                break;
            }
        }
        all
    }

    #[test]
    fn tables_and_objects_say_the_same() {
        let hash = "ab".repeat(32);
        let csv = read(&format!(
            "\u{feff}Key,sha256,name,owner,scopes,plan,expires,addresses,routes\r\n\
             {KEY},,one,acme,a b,gold,2027-01-31,10.0.0.0/8,\"orders,items\"\r\n\r\n,{hash},\"two \"\"2\"\"\",acme,,,,,"
        ));
        let json = read(&format!(
            "{{\"key\":\"{KEY}\",\"name\":\"one\",\"owner\":\"acme\",\"scopes\":[\"a\",\"b\"],\"plan\":\"gold\",\
             \"expires\":\"2027-01-31\",\"addresses\":\"10.0.0.0/8\",\"routes\":[\"orders\",\"items\"]}}\n\
             {{\"sha256\":\"{hash}\",\"name\":\"two \\\"2\\\"\",\"owner\":\"acme\",\"plan\":null}}\n"
        ));
        assert_eq!(csv, json);
        let [Ok(one), Ok(two)] = &*csv else { panic!("{csv:?}") };
        assert_eq!(one.description.scopes, ["a", "b"]);
        assert_eq!(one.description.routes, ["orders", "items"]);
        assert_eq!(two.description.name, "two \"2\"");
        assert_eq!(two.description.plan, None);
    }

    #[test]
    fn what_is_wrong_names_its_line_and_shows_no_key() {
        for (text, expected) in [
            (format!("{KEY},one,acme\n"), "t:1: column 1 is none of: key, sha256"),
            ("key,key\n".to_owned(), "t:1: the column `key` is there twice"),
            (format!("key,name,owner\n{KEY},one\n"), "t:2: the line has 2 columns, the first line names 3"),
            (format!("key,name,owner\n{KEY},one,\n"), "t:2: the key has no owner"),
            (format!("key,name,owner\n\"{KEY},one,acme\n"), "t:2: a quotation mark is not closed"),
            (format!("key,name,owner\n\"{KEY}\"x,one,acme\n"), "t:2: text follows a closed quotation mark"),
            ("key,name,owner\nshort,one,acme\n".to_owned(), "t:2: the key is not 20 to 128 visible"),
            ("sha256,name,owner\nabcd,one,acme\n".to_owned(), "t:2: `sha256` is not 64 hexadecimal"),
            ("name,owner\none,acme\n".to_owned(), "t:2: the line has neither `key` nor `sha256`"),
            (format!("{{\"key\":\"{KEY}\"}}"), "t:1: the key has no name"),
            (format!("{{\"{KEY}\":\"key\"}}"), "t:1: a field is none of"),
            (format!("{{\"key\":\"{KEY}\""), "t:1: the line is no JSON object"),
            (
                format!("{{\"key\":\"{KEY}\",\"name\":\"one\",\"owner\":\"low\",\"owner\":\"high\"}}"),
                "t:1: the line is no JSON object: a name stands twice",
            ),
            (format!("{{\"key\":\"{KEY}\",\"name\":7}}"), "t:1: `name` is no text"),
            (format!("{{\"key\":\"{}\"}}", "x".repeat(70_000)), "t:1: the line is longer than 64 KiB"),
        ] {
            let all = read(&text);
            let Some(Err(told)) = all.last() else { panic!("{expected}: {all:?}") };
            assert!(told.starts_with(expected), "{told}");
            assert!(!told.contains(KEY), "{told}");
        }
    }
}
