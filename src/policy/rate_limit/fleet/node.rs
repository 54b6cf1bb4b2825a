//! Who this node is from one process to the next, and how many there were: a file of the state directory.
//!
//! By its name the store knows what the node has told it already; by the number a node that begins while the store is lost knows its share.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::NODES_MAX;
use crate::state::private;

pub(super) const FILE: &str = "fleet.node";
const FILE_BYTES_MAX: u64 = 256;
/// A name is so many bytes, in hex.
const NAME_BYTES: usize = 16;
/// Fewer nodes than before are noted after this time: a fleet that is stopped node by node is no smaller fleet.
const FEWER: Duration = Duration::from_secs(60);

/// This node, once that is known; none where it cannot be.
pub(super) type Whoever = OnceLock<Option<Arc<Node>>>;

/// This node.
#[derive(Debug)]
pub(super) struct Node {
    path: PathBuf,
    name: Box<str>,
    /// As many as are noted.
    nodes: AtomicU32,
    /// Since when there are fewer.
    fewer: Mutex<Option<Instant>>,
}

impl Node {
    /// The one of this state directory; it gets a name where it has none yet.
    ///
    /// # Errors
    /// Its file cannot be read or made, or is none of ours.
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let path = directory.join(FILE);
        if let Some(found) = read(&path)? {
            return Ok(found);
        }
        write(&path, &name()?, 0)?;
        // Another process may have been faster or slower: what stands there counts.
        read(&path)?.ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// What the store knows it by.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How many there were; nought where nobody has said so yet.
    pub(super) fn nodes(&self) -> u32 {
        self.nodes.load(Ordering::Relaxed)
    }

    /// Whether this number is to be noted.
    pub(super) fn is_news(&self, nodes: u32, now: Instant) -> bool {
        let mut fewer = self.fewer.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes >= self.nodes() {
            *fewer = None;
            return nodes > self.nodes();
        }
        now.saturating_duration_since(*fewer.get_or_insert(now)) >= FEWER
    }

    /// Notes it. Where that fails, this process does not try again with the same number.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn note(&self, nodes: u32) -> io::Result<()> {
        self.nodes.store(nodes, Ordering::Relaxed);
        *self.fewer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        write(&self.path, &self.name, nodes)
    }
}

/// None where there is no file.
fn read(path: &Path) -> io::Result<Option<Node>> {
    let mut text = String::new();
    match private::open(path, FILE_BYTES_MAX) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?.take(FILE_BYTES_MAX).read_to_string(&mut text)?,
    };
    let parts = text.trim_end().split_once(' ').filter(|(name, _)| {
        name.len() == 2 * NAME_BYTES && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    });
    let found =
        parts.and_then(|(name, nodes)| Some((name, nodes.parse().ok().filter(|nodes| *nodes <= NODES_MAX)?)));
    let Some((name, nodes)) = found else {
        return Err(io::Error::other("it is none of the gateway's; remove it"));
    };
    Ok(Some(Node {
        path: path.to_owned(),
        name: name.into(),
        nodes: AtomicU32::new(nodes),
        fewer: Mutex::default(),
    }))
}

fn write(path: &Path, name: &str, nodes: u32) -> io::Result<()> {
    let beside = path.with_extension(format!("node.new-{}", std::process::id()));
    private::replace(path, &beside, |file| writeln!(file, "{name} {nodes}"))
}

/// One that nobody else has.
pub(super) fn name() -> io::Result<String> {
    use std::fmt::Write as _;
    let mut bytes = [0; NAME_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("this machine has no randomness"))?;
    Ok(bytes.iter().fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_who_it_was() {
        let place = tempfile::tempdir().unwrap();
        let first = Node::of(place.path()).unwrap();
        assert_eq!((first.name().len(), first.nodes()), (32, 0));
        first.note(3).unwrap();
        let again = Node::of(place.path()).unwrap();
        assert_eq!((again.name(), again.nodes()), (first.name(), 3));
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Node::of(other.path()).unwrap().name(), first.name());
    }

    #[test]
    fn fewer_nodes_are_noted_after_a_while() {
        let place = tempfile::tempdir().unwrap();
        let node = Node::of(place.path()).unwrap();
        let begun = Instant::now();
        assert!(node.is_news(3, begun), "more at once");
        node.note(3).unwrap();
        assert!(!node.is_news(3, begun) && !node.is_news(2, begun) && !node.is_news(1, begun + FEWER / 2));
        assert!(!node.is_news(3, begun + FEWER / 2), "they are back");
        assert!(!node.is_news(1, begun + FEWER));
        assert!(node.is_news(1, begun + FEWER * 2));
    }

    #[test]
    fn what_is_none_of_ours_is_no_node() {
        for text in ["", "abc 3\n", &format!("{} 3\n", "g".repeat(32)), &format!("{} -1\n", "a".repeat(32))] {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join(FILE);
            private::replace(&path, &place.path().join("new"), |file| file.write_all(text.as_bytes()))
                .unwrap();
            assert!(Node::of(place.path()).is_err(), "{text}");
        }
    }
}
