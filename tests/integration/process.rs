//! Exit statuses, and what a wrong file, key, address or permission looks like: one clear error each, nothing half started.

use std::net::TcpListener;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::harness::{Authority, Connection, Place, eventually};

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn ends_with(output: &Output, code: i32, parts: &[&str]) {
    let said = errors(output);
    assert_eq!(output.status.code(), Some(code), "stderr:\n{said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in stderr:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

const GOOD: &str =
    "routes:\n  - {name: hello, match: {path: /hello, methods: [GET]}, respond: {body: hello}}\n";

#[test]
fn check_is_0_for_a_good_file_and_64_for_a_bad_one() {
    let place = Place::new();
    place.write("good.yaml", Place::with_base(GOOD));
    place.write("bad.yaml", Place::with_base("ruotes: []\nlisteners: 3\n"));
    ends_with(&place.portcullis(&["check", "--config", "good.yaml"]), 0, &[]);
    ends_with(&place.portcullis(&["check", "--config", "bad.yaml"]), 64, &["bad.yaml:", "ruotes", "routes"]);
    assert!(!place.path("state").exists(), "check made the state directory");
}

#[test]
fn usage_and_a_missing_file_are_64() {
    let place = Place::new();
    ends_with(&place.portcullis(&["run", "--config", "none.yaml"]), 64, &["none.yaml"]);
    ends_with(&place.portcullis(&["frobnicate"]), 64, &["frobnicate"]);
    ends_with(&place.portcullis(&["check", "--nonsense"]), 64, &["--nonsense"]);
    place.write("broken.yaml", "routes: [\n  - {");
    ends_with(&place.portcullis(&["check", "--config", "broken.yaml"]), 64, &["broken.yaml:"]);
    place.write("bytes.yaml", b"routes: \xff\xfe");
    ends_with(&place.portcullis(&["check", "--config", "bytes.yaml"]), 64, &["bytes.yaml"]);
    ends_with(&place.portcullis(&["check", "--config", "."]), 64, &[]);
}

#[test]
fn who_does_not_read_standard_error_keeps_nothing_waiting() {
    let place = Place::new();
    let socket = place.path("gate.sock");
    let text = |rest: &str| {
        Place::with_base(&format!("{GOOD}{rest}"))
            .replace("address: 127.0.0.1:0", &format!("address: 'unix:{}'", socket.display()))
    };
    place.write("portcullis.yaml", text(""));
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = place.command();
    command.args(["run", "--config", "portcullis.yaml"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut gateway = Ended(command.stderr(writer.try_clone().unwrap()).spawn().unwrap());
    let status = |path: &str| {
        let served = std::os::unix::net::UnixStream::connect(&socket).is_ok();
        served.then(|| Connection::over_unix(&socket).get(path).status)
    };
    eventually("it to serve", || (status("/hello") == Some(200)).then_some(()));
    let name = std::fs::read_to_string(format!("/proc/{}/comm", gateway.0.id())).unwrap();
    assert_eq!(name, "portcullis\n");
    // A log collector that hangs.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[b'x'; 512]).is_ok() {}
    while rustix::io::write(&writer, b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    place
        .write("portcullis.yaml", text("  - {name: other, match: {path: /other}, respond: {status: 204}}\n"));
    signal(&gateway.0, Signal::HUP);
    eventually("the other route", || (status("/other") == Some(204)).then_some(()));
    signal(&gateway.0, Signal::TERM);
    let began = Instant::now();
    let ended = eventually("its end", || gateway.0.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0), "{:?}", began.elapsed());
    drop(reader);
}

/// A process that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn run_with_a_bad_file_starts_nothing() {
    let place = Place::new();
    place.write(
        "bad.yaml",
        Place::with_base("routes:\n  - {name: hello, match: {path: hello}, respond: {}}\n"),
    );
    let output = place.portcullis(&["run", "--config", "bad.yaml"]);
    ends_with(&output, 64, &["bad.yaml:", "hello"]);
    assert!(!errors(&output).contains("listening on"), "{}", errors(&output));
}

#[test]
fn a_taken_port_is_1_and_says_which() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new();
    place.write(
        "taken.yaml",
        Place::with_base(GOOD).replacen("127.0.0.1:0\ndefaults", &format!("{address}\ndefaults"), 1),
    );
    ends_with(&place.portcullis(&["run", "--config", "taken.yaml"]), 1, &[&address]);
    place.write("status.yaml", Place::with_base(GOOD).replacen("'127.0.0.1:0'", &format!("'{address}'"), 1));
    ends_with(&place.portcullis(&["run", "--config", "status.yaml"]), 1, &[&address]);
}

#[test]
fn an_address_of_another_machine_is_1() {
    let place = Place::new();
    // TEST-NET-1 (RFC 5737): no machine has it.
    place.write(
        "far.yaml",
        Place::with_base(GOOD).replacen("127.0.0.1:0\ndefaults", "192.0.2.1:8080\ndefaults", 1),
    );
    ends_with(&place.portcullis(&["run", "--config", "far.yaml"]), 1, &["192.0.2.1:8080"]);
}

#[test]
fn who_says_nothing_to_the_status_address_keeps_nothing_there() {
    let gateway = Place::new().start_whole(&Place::with_base(GOOD));
    let began = Instant::now();
    let mut silent: Vec<_> = (0..40).map(|_| Connection::open(gateway.status())).collect();
    // Those that wait take no probe's place, and a probe takes that of the oldest.
    assert_eq!(gateway.ready(), Some(200));
    for connection in &mut silent[..24] {
        assert!(connection.is_closed(), "more than sixteen at once");
    }
    assert!(began.elapsed() < Duration::from_secs(8), "only at their deadline: {:?}", began.elapsed());
    // A byte now and then is no more than none.
    let last = silent.last_mut().unwrap();
    while last.try_write("G").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "kept open by single bytes");
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(silent[25..].iter_mut().all(Connection::is_closed));
    let response = gateway.told("/livez");
    assert!(response.expect(200).closes(), "{response:?}");
}

#[test]
fn a_public_status_address_wants_a_word() {
    let place = Place::new();
    let check = |address: &str| {
        place.write("open.yaml", Place::with_base(GOOD).replace("'127.0.0.1:0'", &format!("'{address}'")));
        place.portcullis(&["check", "--config", "open.yaml"])
    };
    for open in [
        "0.0.0.0:0",
        "*:0",
        "[::]:0",
        "192.0.2.1:0",
        "[::ffff:192.0.2.1]:0",
        "[::ffff:0.0.0.0]:0",
        "[fe80::1]:0",
    ] {
        ends_with(&check(open), 64, &["status_public"]);
        let said = format!("{open}', status_public: true, problem_types: 'a:");
        ends_with(&check(&said), 0, &[]);
    }
    for closed in
        ["127.0.0.1:0", "127.8.9.1:0", "localhost:0", "[::1]:0", "[::ffff:127.0.0.1]:0", "unix:./status.sock"]
    {
        ends_with(&check(closed), 0, &[]);
    }
    // A name could mean anything by tomorrow.
    ends_with(&check("status.example:0"), 64, &["is not an address to listen on"]);
}

#[test]
fn certificates_that_are_missing_broken_or_strangers_are_64() {
    let place = Place::new();
    let authority = Authority::new();
    authority.issue(&["a.example"]).write(&place, "a");
    authority.issue(&["b.example"]).write(&place, "b");
    place.write("junk.crt", "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n");
    let with = |cert: &str, key: &str| {
        let tls = format!("127.0.0.1:0\n    tls: {{certificates: [{{cert: {cert}, key: {key}}}]}}\ndefaults");
        place.write("tls.yaml", Place::with_base(GOOD).replacen("127.0.0.1:0\ndefaults", &tls, 1));
        place.portcullis(&["check", "--config", "tls.yaml"])
    };
    ends_with(&with("a.crt", "a.key"), 0, &[]);
    ends_with(&with("missing.crt", "a.key"), 64, &["tls.yaml:", "missing.crt"]);
    ends_with(&with("a.crt", "b.key"), 64, &["tls.yaml:", "key"]);
    ends_with(&with("junk.crt", "a.key"), 64, &["tls.yaml:", "junk.crt"]);
    ends_with(&with("a.key", "a.key"), 64, &["tls.yaml:"]);
}

#[test]
fn a_log_and_a_state_that_cannot_be_written_are_errors_at_the_start() {
    let place = Place::new();
    place.write("log.yaml", Place::with_base(GOOD).replace("./access.log", "/proc/none/access.log"));
    let output = place.portcullis(&["run", "--config", "log.yaml"]);
    assert!(matches!(output.status.code(), Some(1 | 64)), "{:?} {}", output.status, errors(&output));
    assert!(errors(&output).contains("/proc/none/access.log"), "{}", errors(&output));
    let state = Place::with_base(GOOD).replace("./state", "/proc/none/state").replacen(
        "127.0.0.1:0\ndefaults",
        "127.0.0.1:0\n    tls: {certificates: generate}\ndefaults",
        1,
    );
    place.write("state.yaml", state);
    let output = place.portcullis(&["run", "--config", "state.yaml"]);
    assert!(matches!(output.status.code(), Some(1 | 64)), "{:?} {}", output.status, errors(&output));
    assert!(errors(&output).contains("/proc/none/state"), "{}", errors(&output));
    place.write("key.yaml", Place::with_base(GOOD).replace("./state", "/proc/none/state"));
    ends_with(
        &place.portcullis(&["run", "--config", "key.yaml"]),
        1,
        &["error: key.yaml:", "`/proc/none/state` cannot be written", "server.state"],
    );
}

#[test]
fn the_verdict_of_check_stands_where_nobody_listens() {
    let place = Place::new();
    let mut command = place.command();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    command.args(["check", "--config", "none.yaml"]).stderr(full);
    assert_eq!(command.status().unwrap().code(), Some(64));
}

#[test]
fn a_first_try_leaves_nothing_behind() {
    let place = Place::new();
    // The addresses of `--to` are fixed and may be taken; whether they are or not, no directory is made.
    let mut child =
        place.command().args(["run", "--to", "http://127.0.0.1:9"]).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    child.kill().ok();
    child.wait().unwrap();
    assert!(!place.path("state").exists());
}

#[test]
fn a_status_address_that_is_taken_is_told_with_its_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new();
    place.write("status.yaml", Place::with_base(GOOD).replacen("'127.0.0.1:0'", &format!("'{address}'"), 1));
    let output = place.portcullis(&["run", "--config", "status.yaml"]);
    ends_with(&output, 1, &["error: status.yaml:", "server.status", &address]);
}

#[test]
fn sighup_and_sigusr1_do_not_end_what_is_still_loading() {
    use rustix::process::{Pid, Signal, kill_process};
    let place = Place::new();
    // Enough to be loading for a while.
    let routes: String =
        (0..3000).map(|n| format!("  - {{name: r{n}, match: {{path: /r{n}}}, respond: {{}}}}\n")).collect();
    place.write("large.yaml", Place::with_base(&format!("routes:\n{routes}")));
    let mut child =
        place.command().args(["run", "--config", "large.yaml"]).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    // From the moment they are caught.
    eventually("SIGHUP to be caught", || {
        let caught = std::fs::read_to_string(&status).ok()?;
        let mask = caught.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        (u64::from_str_radix(mask.trim(), 16).ok()? & 1 == 1).then_some(())
    });
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::HUP).unwrap();
    kill_process(pid, Signal::USR1).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it has ended");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn nothing_is_public_by_omission() {
    let place = Place::new();
    place.write("silent.yaml", Place::with_base(GOOD).replace("defaults: {auth: none}\n", ""));
    ends_with(&place.portcullis(&["check", "--config", "silent.yaml"]), 64, &["auth"]);
}

#[test]
fn environment_and_files_are_read_into_scalars() {
    let place = Place::new();
    place.write("word.txt", "from a file\n");
    place.write(
        "words.yaml",
        Place::with_base(
            "routes:\n  - {name: word, respond: {status: '${env:PORTCULLIS_MISSING_WORD}', body: '${file:word.txt}'}}\n",
        ),
    );
    ends_with(
        &place.portcullis(&["check", "--config", "words.yaml"]),
        64,
        &["words.yaml:", "PORTCULLIS_MISSING_WORD"],
    );
    // A plain one is typed after it has been put in: 201 is a number here.
    let plain = "routes:\n  - name: word\n    respond:\n      status: ${env:PORTCULLIS_WORD_STATUS}\n";
    place.write("plain.yaml", Place::with_base(plain));
    let mut command = place.command();
    command.args(["check", "--config", "plain.yaml"]);
    ends_with(&crate::harness::run(command.env("PORTCULLIS_WORD_STATUS", "201"), b""), 0, &[]);
    ends_with(&crate::harness::run(command.env("PORTCULLIS_WORD_STATUS", "many"), b""), 64, &["plain.yaml:"]);
    let gateway = place.start("routes:\n  - {name: word, respond: {body: '${file:word.txt}'}}\n");
    assert_eq!(gateway.get("/").text().trim_end(), "from a file");
}

#[test]
fn explain_is_0_for_a_pass_2_for_a_refusal_and_64_for_a_mistake() {
    let place = Place::new();
    place.write(
        "e.yaml",
        Place::with_base(
            "policies: {access: {office: {allow: [10.0.0.0/8]}}}
routes:
  - {name: open, match: {path: /open}, respond: {body: open}}
  - {name: office, match: {path: /office}, access: office, respond: {body: office}}
",
        ),
    );
    let explain =
        |arguments: &[&str]| place.portcullis(&[&["explain", "--config", "e.yaml"], arguments].concat());
    let pass = explain(&["http://example.com/open"]);
    ends_with(&pass, 0, &[]);
    assert!(String::from_utf8_lossy(&pass.stdout).contains("open"), "{pass:?}");
    let refused = explain(&["--client", "192.0.2.9", "http://example.com/office"]);
    ends_with(&refused, 2, &[]);
    let way = String::from_utf8_lossy(&refused.stdout).into_owned();
    for part in ["access.office", "ACCESS_DENIED", "e.yaml:"] {
        assert!(way.contains(part), "`{part}` is missing in:\n{way}");
    }
    ends_with(&explain(&["--client", "10.1.2.3", "http://example.com/office"]), 0, &[]);
    ends_with(&explain(&["http://example.com/nowhere"]), 2, &[]);
    ends_with(&explain(&["no url"]), 64, &[]);
    let json = explain(&["--json", "-X", "GET", "-H", "X-A: 1", "http://example.com/open"]);
    ends_with(&json, 0, &[]);
    serde_json::from_slice::<serde_json::Value>(&json.stdout).expect("explain --json writes JSON");
}

#[test]
fn explain_shows_no_credential_that_a_rule_sets() {
    let place = Place::new();
    place.write("key.txt", "zq7-from-a-file");
    let rules = "authorization: 'Basic zq7-written', x-upstream-token: zq7-by-name, x-plain: '${file:key.txt}', x-shown: shown";
    place.write(
        "e.yaml",
        Place::with_base(&format!(
            "policies: {{headers: {{up: {{request: {{set: {{{rules}}}}}}}}}}}
upstreams: {{o: {{servers: ['127.0.0.1:9']}}}}
routes: [{{name: all, headers: [up], upstream: o}}]
"
        )),
    );
    for form in [
        &["explain", "-c", "e.yaml", "http://example.com/"][..],
        &["explain", "--json", "-c", "e.yaml", "http://example.com/"],
    ] {
        let told = place.portcullis(form);
        ends_with(&told, 0, &[]);
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(!told.contains("zq7"), "{told}");
        for part in
            ["+ authorization: …", "+ x-upstream-token: …", "+ x-plain: ${file:key.txt}", "+ x-shown: shown"]
        {
            assert!(told.contains(part), "`{part}` is missing in:\n{told}");
        }
    }
}

#[test]
fn schema_and_version_are_for_machines_too() {
    let place = Place::new();
    let schema = place.portcullis(&["schema"]);
    ends_with(&schema, 0, &[]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).expect("the schema is JSON");
    assert!(schema["properties"]["routes"].is_object());
    let version = place.portcullis(&["version"]);
    ends_with(&version, 0, &[]);
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    ends_with(&place.portcullis(&["--help"]), 0, &[]);
}

#[test]
fn sigterm_is_0() {
    crate::harness::Running::with(GOOD).stop();
}

#[test]
fn run_to_needs_no_file() {
    // The one address that `run --to` is promised to use is fixed; what can be tried beside other tests is a wrong URL.
    let place = Place::new();
    ends_with(&place.portcullis(&["run", "--to", "not a url"]), 64, &[]);
}

#[test]
fn the_status_address_can_be_turned_off() {
    let text = Place::with_base(GOOD).replace("status: '127.0.0.1:0'", "status: none");
    let mut gateway = Place::new().start_whole(&text);
    gateway.get("/hello").expect(200);
    gateway.stop();
    assert!(!gateway.said().contains("status on"), "{}", gateway.said());
}

#[test]
fn without_a_file_the_usual_places_are_named() {
    if std::path::Path::new("/etc/portcullis/portcullis.yaml").exists() {
        return; // This machine has one.
    }
    for command in [&["run"][..], &["check"], &["explain", "http://a/"]] {
        let output = Place::new().portcullis(command);
        ends_with(
            &output,
            64,
            &["conf/portcullis.yaml", "/etc/portcullis/portcullis.yaml", "--config FILE", "--to"],
        );
    }
}
