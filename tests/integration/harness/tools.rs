//! Waiting, and programs of the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Asks until there is an answer, or fails naming what it waited for.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited 15 s in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program of this machine, or of `target/tools`, where `scripts/test` unpacks what it fetches.
pub(crate) fn find_tool(name: &str) -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain([PathBuf::from("/usr/sbin"), unpacked])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Runs a program to its end; kills it after 30 s.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    use std::io::Write as _;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // A program that does not read its input closes the pipe: no failure of ours.
        stdin.write_all(&input).ok();
    });
    let pid = child.id();
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if finished.recv_timeout(Duration::from_secs(30)).is_err() {
            super::gateway::signal_pid(pid, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    done.send(()).ok();
    guard.join().unwrap();
    feeder.join().unwrap();
    output
}

/// Runs curl quietly and gives what it wrote to standard output; fails with its words if it failed.
pub(crate) fn curl(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20"]).args(arguments);
    // A proxy of the machine's environment has no business between a test and its gateway.
    command.env_remove("http_proxy").env_remove("https_proxy").env_remove("ALL_PROXY").env("NO_PROXY", "*");
    let output = run(&mut command, b"");
    assert!(
        output.status.success(),
        "curl {arguments:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
