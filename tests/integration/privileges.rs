//! What the process gives up: root, new privileges, core dumps; and what still works without.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Signal, getuid};

use crate::harness::{Authority, Connection, Place, Running, eventually};

/// The user of these tests: there is one everywhere, and it owns nothing.
const NOBODY: u32 = 65_534;

const HELLO: &str = "routes:\n  - {name: hello, respond: {body: hello}}\n";

/// Whether users can be changed here at all.
fn is_root() -> bool {
    let root = getuid().is_root();
    if !root {
        println!("skipped: only root can change users");
    }
    root
}

/// A place that another user can enter.
fn open_place() -> Place {
    let place = Place::new();
    fs::set_permissions(place.root(), fs::Permissions::from_mode(0o755)).unwrap();
    place
}

fn with_user(user: &str, rest: &str) -> String {
    Place::with_base(rest).replacen("server: {", &format!("server: {{user: {user}, "), 1)
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.mode() & 0o777)
}

/// What the threads of a process have in a field of their status; one value where all agree.
fn of_all_threads(pid: u32, field: &str) -> BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let value = |text: String| {
        let line =
            text.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap_or_default().to_owned();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    texts.map(value).collect()
}

fn one(value: &str) -> BTreeSet<String> {
    BTreeSet::from([value.to_owned()])
}

fn limit(pid: u32, name: &str) -> (String, String) {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut words = line.split_whitespace().map(ToOwned::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn root_is_left_in_every_thread_and_what_is_made_is_the_users() {
    if !is_root() {
        return;
    }
    let place = open_place();
    let socket = place.path("gate.sock");
    let listeners = format!(
        "127.0.0.1:0\n  - address: 127.0.0.2:0\n    tls: {{certificates: generate}}\n  - address: 'unix:{}'\ndefaults",
        socket.display()
    );
    let gateway =
        place.start_whole(&with_user("nobody", HELLO).replacen("127.0.0.1:0\ndefaults", &listeners, 1));
    gateway.get("/").expect(200);
    Connection::over_unix(&socket).get("/").expect(200);
    let pid = gateway.pid();
    let four = [NOBODY.to_string(), NOBODY.to_string(), NOBODY.to_string(), NOBODY.to_string()].join(" ");
    let nothing = "0".repeat(16);
    assert!(fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() >= 5);
    for (field, value) in [
        ("Uid", four.as_str()),
        ("Gid", four.as_str()),
        ("Groups", "65534"),
        ("NoNewPrivs", "1"),
        ("CapPrm", nothing.as_str()),
        ("CapEff", nothing.as_str()),
        ("CapAmb", nothing.as_str()),
    ] {
        assert_eq!(of_all_threads(pid, field), one(value), "{field}");
    }
    let root = gateway.place.root();
    assert_eq!(owner(&root.join("state")), (NOBODY, 0o700));
    assert_eq!(owner(&root.join("state/generated.key")), (NOBODY, 0o600));
    assert_eq!(owner(&root.join("access.log")), (NOBODY, 0o640));
    assert_eq!(owner(&socket), (NOBODY, 0o660));
    // Figures of the process are read from /proc, which belongs to root where a process cannot be dumped.
    let metrics = gateway.metrics();
    for figure in ["process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_threads"]
    {
        assert!(metrics.of(figure, &[]) > 0.0, "{figure}");
    }
    gateway.await_line("root is left: running as `nobody`");
}

#[test]
fn no_core_dumps_no_new_privileges_and_all_files_that_are_allowed() {
    let gateway = Running::with(HELLO);
    let pid = gateway.pid();
    assert_eq!(of_all_threads(pid, "NoNewPrivs"), one("1"));
    assert_eq!(limit(pid, "Max core file size"), ("0".into(), "0".into()));
    let (soft, hard) = limit(pid, "Max open files");
    assert_eq!(soft, hard);
    // A process that cannot be dumped has files in /proc that are root's (proc(5)): tell it from root by another user.
    if !getuid().is_root() {
        assert_eq!(fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid(), 0);
    } else {
        gateway.await_line("running as root");
    }
    assert!(gateway.metrics().of("process_open_fds", &[]) > 0.0);
}

#[test]
fn a_process_that_left_root_cannot_be_dumped() {
    if !is_root() {
        return;
    }
    let gateway = open_place().start_whole(&with_user("nobody", HELLO));
    assert_eq!(owner(Path::new(&format!("/proc/{}/environ", gateway.pid()))).0, 0);
}

#[test]
fn reloads_go_on_and_say_what_only_root_could() {
    if !is_root() {
        return;
    }
    let place = open_place();
    let authority = Authority::new();
    authority.issue(&["a.example"]).write(&place, "a");
    let key = place.path("a.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let text = |body: &str, port: &str| {
        let tls = format!("{port}\n    tls: {{certificates: [{{cert: a.crt, key: a.key}}]}}\ndefaults");
        with_user("nobody", &HELLO.replace("body: hello", &format!("body: {body}"))).replacen(
            "127.0.0.1:0\ndefaults",
            &format!("127.0.0.1:0\n  - address: {tls}"),
            1,
        )
    };
    let gateway = place.start_whole(&text("one", "127.0.0.2:0"));
    gateway.await_line("a.key` cannot be read by `nobody`");
    let refused = |count: f64| {
        gateway.signal(Signal::HUP);
        gateway.await_metric("portcullis_reloads_total", &[("result", "refused")], count);
    };
    refused(1.0);
    gateway.await_line("a.key`: permission denied");
    assert_eq!(gateway.get("/").text(), "one");
    // A reload needs what it reads; nothing was tried again by itself meanwhile.
    assert_eq!(gateway.metrics().of("portcullis_config_generation", &[]), 1.0);
    chown(&key, Some(NOBODY), Some(NOBODY)).unwrap();
    gateway.place.write("portcullis.yaml", text("two", "127.0.0.2:0"));
    eventually("two", || (gateway.get("/").text() == "two").then_some(()));
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if first.trim().parse().unwrap_or(1024) > 1 {
        let before = gateway.metrics().of("portcullis_reloads_total", &[("result", "refused")]);
        gateway.place.write("portcullis.yaml", text("three", "127.0.0.3:1"));
        gateway.await_metric("portcullis_reloads_total", &[("result", "refused")], before + 1.0);
        let line = gateway.await_line("cannot listen on 127.0.0.3:1");
        assert!(line.contains("`server.user`: a restart"), "{line}");
        assert_eq!(gateway.get("/").text(), "two");
    }
}

#[test]
fn a_moved_log_is_reopened_if_the_user_may_and_kept_if_not() {
    if !is_root() {
        return;
    }
    let gateway = open_place().start_whole(&with_user("nobody", HELLO));
    let log = gateway.place.path("access.log");
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    fs::rename(&log, gateway.place.path("access.log.1")).unwrap();
    gateway.signal(Signal::USR1);
    let line = gateway.await_line("access.log cannot be opened");
    assert!(line.contains("the file that was open is kept") && line.contains("for the user"), "{line}");
    gateway.get("/").expect(200);
    eventually("the old file to be written", || {
        (lines(&gateway.place.path("access.log.1")) == 1).then_some(())
    });
    fs::write(&log, "").unwrap();
    chown(&log, Some(NOBODY), Some(NOBODY)).unwrap();
    gateway.signal(Signal::USR1);
    eventually("the new file to be written", || {
        gateway.get("/").expect(200);
        (lines(&log) > 0).then_some(())
    });
}

#[test]
fn what_the_user_cannot_write_is_told_before_anything_is_served() {
    if !is_root() {
        return;
    }
    let refused = |place: &Place, parts: &[&str]| {
        place.write("portcullis.yaml", with_user("nobody", HELLO));
        let output = place.portcullis(&["run", "--config", "portcullis.yaml"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in parts {
            assert!(said.contains(part), "`{part}` is missing in:\n{said}");
        }
    };
    let place = open_place();
    fs::create_dir(place.path("state")).unwrap();
    refused(&place, &["error: portcullis.yaml:1: the state directory", "cannot be written by `nobody`"]);
    let place = open_place();
    place.write("access.log", "");
    refused(&place, &["access.log` cannot be written by `nobody`", "give it to that user"]);
}

#[test]
fn only_root_can_become_another_user() {
    if !is_root() {
        return;
    }
    let place = open_place();
    chown(place.root(), Some(NOBODY), Some(NOBODY)).unwrap();
    let said = place.path("said");
    let start = |user: &str| {
        place.write("portcullis.yaml", with_user(user, HELLO));
        let mut command = place.command();
        command.args(["run", "--config", "portcullis.yaml"]).uid(NOBODY).gid(NOBODY);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap()).spawn()
    };
    let text = || fs::read_to_string(&said).unwrap();
    let mut other = match start("daemon") {
        Ok(child) => child,
        Err(error) => return println!("skipped: another user cannot start the program: {error}"),
    };
    assert_eq!(other.wait().unwrap().code(), Some(1), "{}", text());
    assert!(text().contains("portcullis.yaml:1: only root can become `daemon`"), "{}", text());
    let mut same = start("nobody").unwrap();
    eventually("the gateway to serve", || text().contains("status on").then_some(()));
    assert!(!text().contains("root is left"), "{}", text());
    same.kill().unwrap();
    same.wait().unwrap();
}

#[test]
fn a_user_changes_at_a_restart_only() {
    let place = Place::new();
    let gateway = place.start(HELLO);
    gateway.place.write("portcullis.yaml", with_user("nobody", HELLO));
    gateway.signal(Signal::HUP);
    let line = gateway.await_line("server.user has changed");
    assert!(line.contains("takes effect at the next restart"), "{line}");
    assert_eq!(of_all_threads(gateway.pid(), "Uid").len(), 1);
}
