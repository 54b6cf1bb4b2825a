//! A real OpenID provider as issuer: `oidc-provider` from npm, in a process of its own (tests/openid).

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use base64::Engine as _;

use super::exchange::{self, Response};
use super::find_tool;

/// A provider. It ends with the test that started it.
#[derive(Debug)]
pub(crate) struct Provider {
    child: Child,
    talk: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    issuer: String,
}

impl Provider {
    /// Starts with these options. None, with a word why, where node is missing or `scripts/setup test` has not been run.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openid");
        let Some(node) = find_tool("node").filter(|_| home.join("node_modules/oidc-provider").is_dir())
        else {
            println!("skipped: node, or oidc-provider in tests/openid, is not installed");
            return None;
        };
        let mut child = Command::new(node)
            .arg("provider.mjs")
            .args(options)
            .current_dir(home)
            .env("NODE_ENV", "test")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It may say other things before.
        let issuer = lines.find_map(|line| Some(line.ok()?.strip_prefix("listening ")?.to_owned()));
        let issuer = issuer.expect("the provider ended before it listened");
        Some(Self { child, talk: Mutex::new((stdin, lines)), issuer })
    }

    /// `iss`
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.issuer.strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// Tells it something (`rotate`, `retire`) and waits until it is done.
    pub(crate) fn tell(&self, command: &str) {
        let (stdin, lines) = &mut *self.talk.lock().unwrap();
        writeln!(stdin, "{command}").unwrap();
        lines.find(|line| line.as_ref().is_ok_and(|line| line == "done")).unwrap().unwrap();
    }

    /// An access token for this resource, by client credentials.
    pub(crate) fn token(&self, resource: &str) -> String {
        let form = format!("grant_type=client_credentials&resource={resource}&scope=orders:read");
        let answer = self.post("/token", "shop:shop-secret", &form);
        answer.expect(200).json()["access_token"].as_str().unwrap().to_owned()
    }

    /// Revokes a token (RFC 7009).
    pub(crate) fn revoke(&self, token: &str) {
        self.post("/token/revocation", "shop:shop-secret", &format!("token={token}")).expect(200);
    }

    fn post(&self, path: &str, client: &str, form: &str) -> Response {
        let client = base64::engine::general_purpose::STANDARD.encode(client);
        let host = self.address();
        exchange::send(
            host,
            format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic {client}\r\nConnection: close\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
                form.len()
            ),
        )
    }

    /// Dies at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.kill();
    }
}
