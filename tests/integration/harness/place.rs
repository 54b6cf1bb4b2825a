//! A directory of a test's own, and commands run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::certificates::Authority;
use super::gateway::Running;

/// What most tests say the same: one plain listener, the status address, an access log in a file, public routes.
const BASE: &str = "\
server: {status: '127.0.0.1:0', state: ./state, workers: 2, drain: 80s}
log: {access: {to: ./access.log}}
listeners:
  - address: 127.0.0.1:0
defaults: {auth: none}
";

/// A directory of a test's own, removed with it.
#[derive(Debug)]
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::Builder::new().prefix("portcullis-").tempdir().unwrap() }
    }

    /// The base configuration with what a test adds to it: `upstreams`, `policies`, `routes`, …
    pub(crate) fn with_base(rest: &str) -> String {
        format!("{BASE}{rest}")
    }

    /// Starts a gateway with the base configuration and `rest`, whose second listener speaks TLS as `gate.example`; `server` is what stands in
    /// `server` beside the base, such as `limits: {…}`.
    pub(crate) fn start_beside_tls(server: &str, rest: &str) -> (Authority, Running) {
        let (place, authority) = (Self::new(), Authority::new());
        authority.issue(&["gate.example"]).write(&place, "gate");
        let text = Self::with_base(rest)
            .replace(
                "  - address: 127.0.0.1:0\n",
                "  - address: 127.0.0.1:0\n  - address: 127.0.0.2:0\n    tls: {certificates: [{cert: gate.crt, key: gate.key}]}\n",
            )
            .replace("workers: 2", &["workers: 2", server].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "));
        (authority, place.start_whole(&text))
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Writes a file as a careful editor does: beside it, then renamed over it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let beside = self.path(&format!("{name}.new"));
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(&beside, &path).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Runs `portcullis` in this directory to its end.
    pub(crate) fn portcullis(&self, arguments: &[&str]) -> Output {
        super::run(self.command().args(arguments), b"")
    }

    pub(crate) fn command(&self) -> Command {
        // Another build of it, such as the release one, can be put to the same tests.
        let program = std::env::var_os("PORTCULLIS_TEST_BINARY");
        let mut command = Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_portcullis").into()));
        command.current_dir(self.root()).env("RUST_BACKTRACE", "1");
        command
    }

    /// Starts a gateway with the base configuration and `rest`.
    pub(crate) fn start(self, rest: &str) -> Running {
        self.start_whole(&Self::with_base(rest))
    }

    /// Starts a gateway with exactly this configuration.
    pub(crate) fn start_whole(self, text: &str) -> Running {
        let config = self.write("portcullis.yaml", text);
        Running::start(self, &config, text)
    }

    /// Starts a gateway with a `portcullis.yaml` that is there already and says `text`.
    pub(crate) fn start_existing(self, text: &str) -> Running {
        let config = self.path("portcullis.yaml");
        Running::start(self, &config, text)
    }
}
