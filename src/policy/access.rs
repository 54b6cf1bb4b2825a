//! Address lists: who may come at all, by where they come from.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Mode, Outcome, Verdict};
use crate::client::network;
use crate::config::{Build, OrNone, Site, Spanned, unreadable};
use crate::reply::Kind;

/// An address list. `deny` wins; an `allow` list (here or in the file) refuses the rest.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// CIDRs or addresses that may pass. Where any is given, all others are refused. `::ffff:a.b.c.d` is `a.b.c.d`.
    pub allow: Vec<Spanned<String>>,
    /// CIDRs or addresses that may not pass, whatever `allow` says.
    pub deny: Vec<Spanned<String>>,
    /// A file with one CIDR or address a line that may pass, as in `allow`; `#` begins a comment. Reloaded when it changes.
    pub file: OrNone<Spanned<String>>,
    /// Whether a refusal is carried out (`enforce`) or only noted (`shadow`).
    pub mode: Mode,
}

/// An address list, compiled.
#[derive(Debug)]
pub struct Access {
    name: Arc<str>,
    mode: Mode,
    site: Site,
    deny: Table,
    /// None: whoever is not denied may pass.
    allow: Option<Table>,
}

impl Access {
    /// Compiles `policies.access.NAME`; its file is read, and watched from then on. None when `build.errors` says why.
    pub fn compile(name: &str, config: &Spanned<Config>, build: &mut Build) -> Option<Self> {
        let errors_before = build.errors.errors().len();
        let mut deny = read_list(&config.deny, build);
        let mut allow = read_list(&config.allow, build);
        if let Some(file) = config.file.as_option() {
            allow.extend(read_file(file, build));
        }
        if build.errors.errors().len() > errors_before {
            return None;
        }
        if deny.is_empty() && allow.is_empty() {
            build.errors.push(
                &config.site,
                &*config.path,
                format!("the address list `{name}` has no entries"),
                "give it `allow`, `deny` or `file`, or write `access: none` where it is used",
            );
            return None;
        }
        warn_of_the_contained(&config.path, "deny", &mut deny, build);
        warn_of_the_contained(&config.path, "allow", &mut allow, build);
        Some(Self {
            name: format!("access.{name}").into(),
            mode: config.mode,
            site: config.site.clone(),
            deny: Table::new(deny),
            allow: if allow.is_empty() { None } else { Some(Table::new(allow)) },
        })
    }

    /// `access.NAME`
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether refusals are carried out.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether this address may pass, and the entry that says so; for one that no entry names, the policy's own line.
    pub fn check(&self, address: IpAddr) -> Verdict<'_> {
        let address = plain(address);
        if let Some(site) = self.deny.find(address) {
            return refuse("denied", "the client's address is in `deny`", site);
        }
        match self.allow.as_ref().map(|allow| allow.find(address)) {
            None => Verdict { outcome: Outcome::Pass, site: &self.site },
            Some(Some(site)) => Verdict { outcome: Outcome::Pass, site },
            Some(None) => refuse("not_allowed", "the client's address is not in `allow`", &self.site),
        }
    }
}

/// The address itself is in the record: nothing to build here, where scanners pay.
fn refuse<'a>(reason: &'static str, message: &'static str, site: &'a Site) -> Verdict<'a> {
    Verdict { outcome: Outcome::Refuse { kind: Kind::AccessDenied, reason, message: message.into() }, site }
}

/// An address as lists compare it: IPv4-mapped IPv6 is IPv4.
pub fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Disjoint networks by their first address, for binary search.
///
/// First and last addresses stand in arrays of their own, and a search reads only these: 62 ns (IPv4) and 85 ns (IPv6) a check
/// against 100,000 entries (bench `access_v4`, `access_v6`).
#[derive(Debug, Default)]
struct Table {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

#[derive(Debug, Default)]
struct Ranges<A> {
    first: Vec<A>,
    last: Vec<A>,
    sites: Vec<Site>,
}

impl Table {
    fn new(entries: Vec<Entry>) -> Self {
        let mut table = Self::default();
        for Entry { network, site, .. } in outermost(entries) {
            match network {
                IpNet::V4(net) => table.v4.push(net.network().into(), net.broadcast().into(), site),
                IpNet::V6(net) => table.v6.push(net.network().into(), net.broadcast().into(), site),
            }
        }
        table
    }

    fn find(&self, address: IpAddr) -> Option<&Site> {
        match address {
            IpAddr::V4(address) => self.v4.find(address.into()),
            IpAddr::V6(address) => self.v6.find(address.into()),
        }
    }
}

impl<A: Ord + Copy> Ranges<A> {
    fn push(&mut self, first: A, last: A, site: Site) {
        self.first.push(first);
        self.last.push(last);
        self.sites.push(site);
    }

    fn find(&self, address: A) -> Option<&Site> {
        let at = self.first.partition_point(|first| *first <= address).checked_sub(1)?;
        if *self.last.get(at)? < address {
            return None;
        }
        self.sites.get(at)
    }
}

/// One entry of a list.
#[derive(Clone, Debug)]
struct Entry {
    network: IpNet,
    site: Site,
    written: Written,
}

/// Where an entry stands: warnings are for what a person wrote, not for a feed of 100,000 lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Configuration,
    File,
}

/// Networks contain each other or are apart: sorted, each is inside the one before that it is not behind.
fn outermost(mut entries: Vec<Entry>) -> Vec<Entry> {
    sort(&mut entries);
    let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        if !kept.last().is_some_and(|outer| outer.network.contains(&entry.network)) {
            kept.push(entry);
        }
    }
    kept
}

fn sort(entries: &mut [Entry]) {
    entries.sort_by_key(|entry| (entry.network.network(), entry.network.prefix_len()));
}

fn warn_of_the_contained(path: &str, list: &str, entries: &mut [Entry], build: &mut Build) {
    sort(entries);
    let mut outer: Option<&Entry> = None;
    for entry in &*entries {
        match outer {
            Some(outer) if outer.network.contains(&entry.network) => {
                if entry.written == Written::Configuration {
                    let cause = format!("`{}` is within `{}` ({})", entry.network, outer.network, outer.site);
                    build.errors.warn(&entry.site, format!("{path}.{list}"), cause, "remove one of them");
                }
            }
            _ => outer = Some(entry),
        }
    }
}

fn read_list(written: &[Spanned<String>], build: &mut Build) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(written.len());
    for text in written {
        match network(text) {
            Ok(network) => {
                entries.push(Entry { network, site: text.site.clone(), written: Written::Configuration });
            }
            Err((cause, cure)) => build.errors.push(&text.site, &*text.path, cause, cure),
        }
    }
    entries
}

/// The most errors told of one file; a wrong file is wrong in every line.
const FILE_ERRORS_MAX: usize = 20;

fn read_file(file: &Spanned<String>, build: &mut Build) -> Vec<Entry> {
    let path = build.files.resolve(&file.site, file);
    let content = match build.files.read(&path) {
        Ok(content) => content,
        Err(error) => {
            let cause = format!("cannot read `{}`: {}", path.display(), unreadable(&error));
            build.errors.push(&file.site, &*file.path, cause, "name a file with one CIDR a line");
            return Vec::new();
        }
    };
    let name: Arc<str> = path.display().to_string().into();
    let mut entries = Vec::new();
    let mut wrong = 0;
    for (line, number) in content.split(|byte| *byte == b'\n').zip(1..) {
        let text = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        if text.is_empty() {
            continue;
        }
        let site = Site::new(Arc::clone(&name), number, 1);
        match network(&String::from_utf8_lossy(text)) {
            Ok(network) => entries.push(Entry { network, site, written: Written::File }),
            Err((cause, cure)) => {
                wrong += 1;
                // It may be any file: that of a password, for one.
                let is_near = text.iter().all(|byte| byte.is_ascii_hexdigit() || b".:/".contains(byte));
                let cause =
                    if is_near { cause } else { "the line is neither an address nor a CIDR".to_owned() };
                if wrong <= FILE_ERRORS_MAX {
                    build.errors.push(&site, &*file.path, cause, cure);
                }
            }
        }
    }
    if wrong > FILE_ERRORS_MAX {
        let cause = format!("`{name}` has {} more lines that are wrong", wrong - FILE_ERRORS_MAX);
        build.errors.push(&file.site, &*file.path, cause, "name a file with one CIDR a line");
    } else if wrong == 0 && entries.is_empty() {
        // A feed cut short must not lock everybody out at a reload: the old list stays.
        let cause = format!("`{name}` has no entries, so nobody could pass");
        build.errors.push(&file.site, &*file.path, cause, "write one CIDR a line, or remove `file`");
    }
    entries
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    use super::*;
    use crate::config::OrNone;

    fn spanned(line: u32, text: &str) -> Spanned<String> {
        Spanned { value: text.to_owned(), site: Site::new("t.yaml", line, 1), path: "p".into() }
    }

    fn config(allow: &[&str], deny: &[&str], file: Option<&str>) -> Spanned<Config> {
        let lines =
            |from: u32, list: &[&str]| list.iter().zip(from..).map(|(t, line)| spanned(line, t)).collect();
        let value = Config {
            allow: lines(10, allow),
            deny: lines(20, deny),
            file: file.map_or(OrNone::None, |file| OrNone::Some(spanned(30, file))),
            mode: Mode::Enforce,
        };
        Spanned { value, site: Site::new("t.yaml", 1, 1), path: "policies.access.office".into() }
    }

    fn access(allow: &[&str], deny: &[&str], file: Option<&str>) -> Access {
        let mut build = Build::default();
        let access = Access::compile("office", &config(allow, deny, file), &mut build);
        assert!(build.errors.is_empty(), "{:?}", build.errors);
        access.unwrap()
    }

    /// `pass` or the reason, and the line.
    fn told(access: &Access, address: &str) -> String {
        let verdict = access.check(address.parse().unwrap());
        match verdict.outcome {
            Outcome::Pass => format!("pass {}", verdict.site.line),
            Outcome::Refuse { kind, reason, .. } => {
                assert_eq!(kind, Kind::AccessDenied);
                format!("{reason} {}", verdict.site.line)
            }
        }
    }

    #[test]
    fn deny_wins_and_allow_refuses_the_rest() {
        let allow: &[&str] = &["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::ffff:198.51.100.0/120"];
        let deny: &[&str] = &["10.1.0.0/16", "2001:db8:1::/48", "::ffff:203.0.113.9"];
        type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a str, &'a str);
        let rows: &[Row<'_>] = &[
            (allow, deny, "10.0.0.0", "pass 10"),
            (allow, deny, "10.255.255.255", "pass 10"),
            (allow, deny, "11.0.0.0", "not_allowed 1"),
            (allow, deny, "9.255.255.255", "not_allowed 1"),
            (allow, deny, "10.0.255.255", "pass 10"),
            (allow, deny, "10.1.0.0", "denied 20"),
            (allow, deny, "10.1.255.255", "denied 20"),
            (allow, deny, "10.2.0.0", "pass 10"),
            (allow, deny, "192.0.2.7", "pass 11"),
            (allow, deny, "192.0.2.6", "not_allowed 1"),
            (allow, deny, "192.0.2.8", "not_allowed 1"),
            (allow, deny, "2001:db8::1", "pass 12"),
            (allow, deny, "2001:db8:1::1", "denied 21"),
            (allow, deny, "2001:db9::", "not_allowed 1"),
            (allow, deny, "::ffff:10.0.0.1", "pass 10"),
            (allow, deny, "::ffff:10.1.0.1", "denied 20"),
            (allow, deny, "198.51.100.255", "pass 13"),
            (allow, deny, "198.51.101.0", "not_allowed 1"),
            (allow, deny, "203.0.113.9", "denied 22"),
            (allow, deny, "::", "not_allowed 1"),
            (&[], deny, "1.2.3.4", "pass 1"),
            (&[], deny, "10.1.2.3", "denied 20"),
            (&[], &["0.0.0.0/0"], "1.2.3.4", "denied 20"),
            (&[], &["0.0.0.0/0"], "::1", "pass 1"),
            (&[], &["::/0"], "1.2.3.4", "pass 1"),
            (&[], &["::/0"], "ffff::", "denied 20"),
            (&["0.0.0.0/0", "::/0"], &[], "255.255.255.255", "pass 10"),
            (&["0.0.0.0/0", "::/0"], &[], "ffff::", "pass 11"),
            (&["10.0.0.0/8", "10.1.0.0/16"], &[], "10.1.0.1", "pass 10"),
            (&["10.1.0.0/16", "10.0.0.0/8"], &[], "10.1.0.1", "pass 11"),
            (&["::ffff:0:0/96"], &[], "8.8.8.8", "pass 10"),
        ];
        for (allow, deny, address, expected) in rows {
            assert_eq!(told(&access(allow, deny, None), address), *expected, "{allow:?} {deny:?} {address}");
        }
    }

    #[test]
    fn files_are_read_with_their_own_lines() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"# office\n10.0.0.0/8\r\n\n  192.0.2.1 # printer\n2001:db8::/32").unwrap();
        let path = file.path().to_str().unwrap();
        let list = access(&["172.16.0.0/12"], &[], Some(path));
        assert_eq!(told(&list, "10.1.1.1"), "pass 2");
        assert_eq!(told(&list, "192.0.2.1"), "pass 4");
        assert_eq!(told(&list, "2001:db8::1"), "pass 5");
        assert_eq!(told(&list, "172.16.0.1"), "pass 10");
        assert_eq!(told(&list, "8.8.8.8"), "not_allowed 1");
        let verdict = list.check("10.1.1.1".parse().unwrap());
        assert_eq!(&*verdict.site.file, path);

        let mut build = Build::default();
        Access::compile("office", &config(&[], &[], Some(path)), &mut build).unwrap();
        assert!(build.files.watched().contains(file.path()));
    }

    #[test]
    fn wrong_lists_are_errors_with_a_cure() {
        let rows: &[(&[&str], &[&str], &str)] = &[
            (
                &[],
                &[],
                "t.yaml:1 the address list `office` has no entries; give it `allow`, `deny` or `file`",
            ),
            (
                &["10.0.0.1/8"],
                &[],
                "t.yaml:10 `10.0.0.1/8` has bits set behind its prefix; write `10.0.0.0/8`, or",
            ),
            (
                &[],
                &["2001:db8::1/32"],
                "t.yaml:20 `2001:db8::1/32` has bits set behind its prefix; write `2001:db8::/32`",
            ),
            (&["10.0.0.0/33"], &[], "t.yaml:10 `10.0.0.0/33` is neither an address nor a CIDR; write"),
            (&["10.0.0"], &[], "t.yaml:10 `10.0.0` is neither"),
            (&["010.0.0.1"], &[], "t.yaml:10 `010.0.0.1` is neither"),
            (&["office"], &[], "t.yaml:10 `office` is neither"),
            (&["10.0.0.0/8", ""], &[], "t.yaml:11 `` is neither"),
            (&["fe80::1%eth0"], &[], "t.yaml:10 `fe80::1%eth0` is neither"),
        ];
        for (allow, deny, expected) in rows {
            let mut build = Build::default();
            assert!(Access::compile("office", &config(allow, deny, None), &mut build).is_none());
            let [error] = build.errors.errors() else { panic!("{expected}: one error") };
            let text = format!("{} {}; {}", error.site, error.cause, error.cure);
            assert!(text.starts_with(expected), "{text}");
        }
    }

    fn errors_of_file(content: &[u8]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        std::fs::write(&path, content).unwrap();
        let mut build = Build::default();
        assert!(Access::compile("x", &config(&[], &["9.9.9.9"], path.to_str()), &mut build).is_none());
        let prefix = format!("{}:", path.display());
        build
            .errors
            .errors()
            .iter()
            .map(|e| format!("{} {}", e.site, e.cause).replace(&prefix, "list:"))
            .collect()
    }

    #[test]
    fn wrong_files_are_errors_with_their_lines() {
        assert_eq!(
            errors_of_file(b"10.0.0.0/8\n10.0.0.1/8\nx\n\xff"),
            [
                "list:2 `10.0.0.1/8` has bits set behind its prefix",
                "list:3 the line is neither an address nor a CIDR",
                "list:4 the line is neither an address nor a CIDR",
            ]
        );
        let errors = errors_of_file(&b"x\n".repeat(50));
        assert_eq!(errors.len(), 21);
        assert!(errors[20].contains("has 30 more lines that are wrong"));
        assert!(errors_of_file(b"# nothing\n\n")[0].contains("has no entries, so nobody could pass"));

        let mut build = Build::default();
        assert!(
            Access::compile("x", &config(&["10.0.0.0/8"], &[], Some("/nowhere/list")), &mut build).is_none()
        );
        assert!(build.errors.errors()[0].cause.starts_with("cannot read `/nowhere/list`: "));
        assert_eq!(build.files.watched().len(), 1, "watched all the same: it may come");
    }

    #[test]
    fn what_is_contained_is_warned_of() {
        let mut build = Build::default();
        let config = config(
            &["10.1.0.0/16", "10.0.0.0/8", "10.2.0.0/16", "11.0.0.0/8"],
            &["1.1.1.1", "1.1.1.1"],
            None,
        );
        assert!(Access::compile("office", &config, &mut build).is_some());
        let told: Vec<_> =
            build.errors.warnings().iter().map(|w| format!("{} {}", w.site, w.cause)).collect();
        assert_eq!(
            told,
            [
                "t.yaml:21 `1.1.1.1/32` is within `1.1.1.1/32` (t.yaml:20)",
                "t.yaml:10 `10.1.0.0/16` is within `10.0.0.0/8` (t.yaml:11)",
                "t.yaml:12 `10.2.0.0/16` is within `10.0.0.0/8` (t.yaml:11)",
            ]
        );
    }

    fn any_network() -> impl Strategy<Value = IpNet> {
        // Few bits, so that networks meet.
        prop_oneof![
            (0u32..64, 0u8..=32).prop_map(|(bits, length)| {
                let network = Ipv4Net::new((bits << 26 | bits).into(), length).unwrap();
                IpNet::V4(network.trunc())
            }),
            (0u128..64, 0u8..=128).prop_map(|(bits, length)| {
                let network = ipnet::Ipv6Net::new((bits << 122 | bits).into(), length).unwrap();
                IpNet::V6(network.trunc())
            }),
        ]
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..64, 0u32..64).prop_map(|(high, low)| IpAddr::V4((high << 26 | low).into())),
            (0u128..64, 0u128..64).prop_map(|(high, low)| IpAddr::V6((high << 122 | low).into())),
        ]
    }

    fn borrowed(texts: &[String]) -> Vec<&str> {
        texts.iter().map(String::as_str).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn lists_agree_with_a_look_at_every_entry(
            allow in prop::collection::vec(any_network(), 0..20),
            deny in prop::collection::vec(any_network(), 1..8),
            addresses in prop::collection::vec(any_address(), 20),
        ) {
            let texts = |list: &[IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            let (allow_texts, deny_texts) = (texts(&allow), texts(&deny));
            let list = access(&borrowed(&allow_texts), &borrowed(&deny_texts), None);
            for address in addresses {
                // A short IPv6 prefix of zeros may name an IPv4-mapped address, which is an IPv4 one.
                let address = plain(address);
                let within = |list: &[IpNet]| list.iter().any(|net| {
                    plain(net.addr()).is_ipv4() == address.is_ipv4() && net.contains(&address)
                });
                let passes = !within(&deny) && (allow.is_empty() || within(&allow));
                prop_assert_eq!(list.check(address).outcome == Outcome::Pass, passes, "{}", address);
            }
        }
    }
}
