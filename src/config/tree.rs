//! A configuration as a tree in which every node knows where it was written.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use zeroize::Zeroize;

use super::Site;
use super::scalars::{self, Typed};

/// What was written at one place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it begins.
    pub(super) site: Site,
    /// What it is.
    pub(super) value: Value,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// One text, not yet typed.
    Scalar(Scalar),
    /// `[a, b]`
    List(Vec<Node>),
    /// `{a: b}`, in the order written; no key twice.
    Map(Vec<Entry>),
    /// Something that has already been complained about: later checks pass over it.
    Broken,
}

/// One text, and how it was written.
#[derive(Clone)]
pub(super) struct Scalar {
    /// After escapes and substitutions.
    pub(super) text: String,
    /// Written without quotes and not as a block: it may be a number, a truth value or nothing.
    pub(super) plain: bool,
    /// Nothing was written at all, as in `key:`.
    pub(super) absent: bool,
    /// As written, where `${…}` was put in: what may be shown, since `text` may be a secret.
    pub(super) template: Option<Box<str>>,
    /// Where it stands in its file, quotes included; in bytes.
    pub(super) extent: Range<usize>,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) site: Site,
    pub(super) value: Node,
    /// Where the key stands, quotes included; in bytes.
    pub(super) key_extent: Range<usize>,
    /// From the key's end to the value's, in bytes of its file.
    pub(super) extent: Range<usize>,
}

/// Which way leads from the root to a node.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trail<'a> {
    Root,
    Key(&'a Self, &'a str),
    Index(&'a Self, usize),
}

impl Node {
    pub(super) fn broken(site: Site) -> Self {
        Self { site, value: Value::Broken }
    }

    /// A mapping without keys: what an empty file says.
    pub(super) fn empty_map(site: Site) -> Self {
        Self { site, value: Value::Map(Vec::new()) }
    }

    /// The node itself and all below it.
    pub(super) fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) | Value::Broken => 0,
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.count()).sum(),
        }
    }

    /// Levels, this one included.
    pub(super) fn depth(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) | Value::Broken => 0,
            Value::List(items) => items.iter().map(Self::depth).max().unwrap_or_default(),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.depth()).max().unwrap_or_default(),
        }
    }

    /// The value of a key, where this is a mapping that has it.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Value::Scalar(_) | Value::List(_) | Value::Broken => None,
        }
    }

    pub(super) fn item(&self, index: usize) -> Option<&Self> {
        match &self.value {
            Value::List(items) => items.get(index),
            Value::Scalar(_) | Value::Map(_) | Value::Broken => None,
        }
    }

    /// True where nothing stands: `key:`, `~`, `null`.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.typed() == Typed::Null)
    }

    /// The tree as JSON. What is broken becomes null.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar(scalar) => scalar.typed().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect()
            }
            Value::Broken => serde_json::Value::Null,
        }
    }

    /// Overwrites what `${…}` stood for, once it has been decoded.
    pub(super) fn wipe(&mut self) {
        match &mut self.value {
            Value::Scalar(Scalar { text, template: Some(_), .. }) => text.zeroize(),
            Value::Scalar(_) | Value::Broken => {}
            Value::List(items) => items.iter_mut().for_each(Self::wipe),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| entry.value.wipe()),
        }
    }

    /// As a message may show it: never what `${…}` stands for, never long.
    pub(super) fn shown(&self) -> Cow<'static, str> {
        match &self.value {
            Value::Scalar(Scalar { template: Some(template), .. }) => {
                format!("the value of `{}`", shortened(template)).into()
            }
            Value::Scalar(scalar) if scalar.absent => "nothing".into(),
            Value::Scalar(scalar)
                if !scalar.plain && scalars::typed(&scalar.text) != Typed::Text(&scalar.text) =>
            {
                // Only the quotes make it a text.
                format!("`\"{}\"`", shortened(&scalar.text)).into()
            }
            Value::Scalar(scalar) => format!("`{}`", shortened(&scalar.text)).into(),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
            Value::Broken => "this".into(),
        }
    }
}

impl fmt::Debug for Scalar {
    /// As written: what was put in may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.template.as_deref().unwrap_or(&self.text), f)
    }
}

impl Scalar {
    pub(super) fn typed(&self) -> Typed<'_> {
        if self.plain { scalars::typed(&self.text) } else { Typed::Text(&self.text) }
    }
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// How many characters of a text a message shows.
pub(super) const SHOWN_CHARACTERS_MAX: usize = 60;

/// The first 60 characters, on one line.
pub(super) fn shortened(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.trim_end().chars().take(SHOWN_CHARACTERS_MAX).map(plain).collect();
    if text.trim_end().chars().nth(SHOWN_CHARACTERS_MAX).is_some() {
        short.push('…');
    }
    short
}
