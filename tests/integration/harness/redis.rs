//! A real Redis or Valkey, with a port and a directory of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::gateway::signal_pid;
use super::{Place, eventually, find_tool};

/// A server. Killed by its id when dropped.
#[derive(Debug)]
pub(crate) struct Redis {
    place: Place,
    program: PathBuf,
    options: Vec<String>,
    address: SocketAddr,
    child: Child,
}

impl Redis {
    /// None, with a word why, where there is none.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        Self::start_in(Place::new(), |_| options.iter().map(|option| (*option).to_owned()).collect())
    }

    /// With options that know its port; `{port}` is where it listens without them.
    pub(crate) fn start_in(place: Place, options: impl Fn(SocketAddr) -> Vec<String>) -> Option<Self> {
        let program = program()?;
        // Another process may take the port between here and the server's bind: then the next one.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let options = options(address);
            let mut child = spawn(&program, &place, address, &options);
            if is_up(&mut child, address) {
                return Some(Self { place, program, options, address, child });
            }
        }
        panic!("no port was free for Redis");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// SIGSTOP: it keeps its connections and says nothing.
    pub(crate) fn pause(&self) {
        signal_pid(self.child.id(), Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        signal_pid(self.child.id(), Signal::CONT);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was, with nothing in it.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.program, &self.place, self.address, &self.options);
        assert!(is_up(&mut self.child, self.address), "its port was taken meanwhile");
    }

    /// Asks a command, and gives the texts and numbers of the answer, one after the other.
    pub(crate) fn ask(&self, words: &[&str]) -> Vec<String> {
        ask(self.address, words).unwrap()
    }
}

/// Whichever is there, or the one that `PORTCULLIS_STORE` names (`redis`, `valkey`), which has to be there.
fn program() -> Option<PathBuf> {
    match std::env::var("PORTCULLIS_STORE").as_deref() {
        Err(_) => {}
        Ok(name @ ("redis" | "valkey")) => {
            let program = find_tool(&format!("{name}-server"));
            return Some(program.unwrap_or_else(|| panic!("PORTCULLIS_STORE={name}: there is none")));
        }
        Ok(other) => panic!("PORTCULLIS_STORE={other}: `redis` or `valkey` is meant"),
    }
    let found = ["redis-server", "valkey-server"].iter().find_map(|name| find_tool(name));
    if found.is_none() {
        println!(
            "skipped: neither redis-server nor valkey-server is installed (scripts/setup test unpacks it)"
        );
    }
    found
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(program: &PathBuf, place: &Place, address: SocketAddr, options: &[String]) -> Child {
    let mut command = Command::new(program);
    // A sentinel's file is its first argument.
    let (first, rest) = match options.first() {
        Some(first) if !first.starts_with("--") => options.split_at(1),
        _ => options.split_at(0),
    };
    command.args(first).args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--dir"]);
    command.arg(place.root()).args(rest);
    if first.is_empty() {
        command.args(["--save", "", "--appendonly", "no"]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn is_up(child: &mut Child, address: SocketAddr) -> bool {
    eventually("Redis to answer or to end", || {
        if child.try_wait().unwrap().is_some() {
            return Some(false);
        }
        ask(address, &["PING"]).map(|_| true)
    })
}

fn ask(address: SocketAddr, words: &[&str]) -> Option<Vec<String>> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut sent = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| sent.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    stream.write_all(sent.as_bytes()).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut open, mut found) = (1, Vec::new());
    while open > 0 {
        open -= 1;
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let (mark, said) = (line.chars().next()?, line[1..].trim_end());
        match mark {
            '*' => open += said.parse::<usize>().ok()?,
            '$' if said == "-1" => found.push("(nothing)".to_owned()),
            '$' => {
                let mut text = vec![0; said.parse::<usize>().ok()? + 2];
                reader.read_exact(&mut text).ok()?;
                found.push(String::from_utf8_lossy(&text[..text.len() - 2]).into_owned());
            }
            _ => found.push(said.to_owned()),
        }
    }
    Some(found)
}
