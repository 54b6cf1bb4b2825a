//! The access log, read as an operator's tools would.

use serde_json::Value;

use super::eventually;
use super::gateway::Running;

impl Running {
    /// Waits until the access log has this many lines and gives them, parsed.
    pub(crate) fn access(&self, lines: usize) -> Vec<Value> {
        self.access_lines("access.log", lines)
            .iter()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON ({e}): {line}")))
            .collect()
    }

    /// Waits until a log file has this many lines and gives them as they are.
    pub(crate) fn access_lines(&self, file: &str, lines: usize) -> Vec<String> {
        eventually(&format!("{lines} lines in {file}, which has:\n{}", self.place.read(file)), || {
            let text = self.place.read(file);
            // A line without its end is still being written.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let found: Vec<_> = whole.lines().map(str::to_owned).collect();
            (found.len() >= lines && !whole.is_empty()).then_some(found)
        })
    }

    /// Waits for the line of the request with this path.
    pub(crate) fn access_of(&self, path: &str) -> Value {
        eventually(&format!("a line of {path} in access.log"), || {
            let text = self.place.read("access.log");
            // Most lines are of other paths: they are not parsed.
            text.lines()
                .filter(|line| line.contains(path))
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["path"] == path)
        })
    }
}
