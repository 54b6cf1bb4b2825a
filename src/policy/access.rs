//! Address lists: who may come at all, by where they come from.
//!
//! CIDRs are either disjoint or nested, so a list is kept as sorted disjoint ranges: what another entry contains is
//! dropped at load, and a look-up is one binary search (100,000 entries: 17 steps; figures by `benches/policies.rs`).

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Mode, Outcome, Verdict};
use crate::config::{Build, OrNone, Site, Spanned};
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
    /// None: no list, so everybody that is not denied may pass.
    allow: Option<Ranges>,
    deny: Ranges,
}

impl Access {
    /// None when `build.errors` says why.
    pub fn compile(name: &str, config: &Spanned<Config>, build: &mut Build) -> Option<Self> {
        let before = build.errors.errors().len();
        let deny = parse_all(&config.deny, build);
        let mut allow = parse_all(&config.allow, build);
        let file = config.file.as_option();
        if let Some(file) = file {
            allow.extend(read_file(file, build));
        }
        let listed = file.is_some() || !config.allow.is_empty();
        if !listed && config.deny.is_empty() {
            let cause = format!("the access policy `{name}` lists nobody");
            build.errors.push(&config.site, format!("policies.access.{name}"), cause, "add `allow`, `deny` or `file`, or remove it");
        }
        if build.errors.errors().len() > before {
            return None;
        }
        Some(Self {
            name: format!("access.{name}").into(),
            mode: config.mode,
            site: config.site.clone(),
            allow: listed.then(|| Ranges::new(allow)),
            deny: Ranges::new(deny),
        })
    }

    /// `access.NAME`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether a refusal is carried out.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether this address may come. The verdict's site is the entry that decided, else the policy. Allocates only to refuse.
    pub fn check(&self, client: IpAddr) -> Verdict<'_> {
        let client = client.to_canonical();
        if let Some(entry) = self.deny.find(client) {
            let message = format!("{client} is in the deny list");
            return refuse("denied", message, entry);
        }
        let Some(allow) = &self.allow else { return Verdict { outcome: Outcome::Pass, site: &self.site } };
        match allow.find(client) {
            Some(entry) => Verdict { outcome: Outcome::Pass, site: entry },
            None => refuse("not_allowed", format!("{client} is not in the allow list"), &self.site),
        }
    }
}

fn refuse(reason: &'static str, message: String, site: &Site) -> Verdict<'_> {
    Verdict { outcome: Outcome::Refuse { kind: Kind::AccessDenied, reason, message: message.into() }, site }
}

/// Sorted disjoint ranges; `entries` holds the place of each.
#[derive(Debug, Default)]
struct Ranges {
    four: Family<u32>,
    six: Family<u128>,
}

#[derive(Debug)]
struct Family<A> {
    starts: Box<[A]>,
    ends: Box<[A]>,
    entries: Box<[Site]>,
}

impl<A> Default for Family<A> {
    fn default() -> Self {
        Self { starts: Box::default(), ends: Box::default(), entries: Box::default() }
    }
}

impl Ranges {
    fn new(nets: Vec<(IpNet, Site)>) -> Self {
        let (mut four, mut six) = (Vec::new(), Vec::new());
        for (net, site) in nets {
            match net {
                IpNet::V4(net) => four.push((u32::from(net.network()), u32::from(net.broadcast()), site)),
                IpNet::V6(net) => six.push((u128::from(net.network()), u128::from(net.broadcast()), site)),
            }
        }
        Self { four: Family::new(four), six: Family::new(six) }
    }

    fn find(&self, address: IpAddr) -> Option<&Site> {
        match address {
            IpAddr::V4(address) => self.four.find(u32::from(address)),
            IpAddr::V6(address) => self.six.find(u128::from(address)),
        }
    }
}

impl<A: Copy + Ord> Family<A> {
    fn new(mut ranges: Vec<(A, A, Site)>) -> Self {
        // The widest first among those that begin together: what follows within it is contained and dropped.
        ranges.sort_by(|a, b| (a.0, std::cmp::Reverse(a.1)).cmp(&(b.0, std::cmp::Reverse(b.1))));
        let mut kept: Vec<(A, A, Site)> = Vec::with_capacity(ranges.len());
        for range in ranges {
            if kept.last().is_none_or(|last| range.1 > last.1) {
                kept.push(range);
            }
        }
        Self {
            starts: kept.iter().map(|range| range.0).collect(),
            ends: kept.iter().map(|range| range.1).collect(),
            entries: kept.into_iter().map(|range| range.2).collect(),
        }
    }

    fn find(&self, address: A) -> Option<&Site> {
        let at = self.starts.partition_point(|start| *start <= address).checked_sub(1)?;
        if *self.ends.get(at)? < address {
            return None;
        }
        self.entries.get(at)
    }
}

fn parse_all(written: &[Spanned<String>], build: &mut Build) -> Vec<(IpNet, Site)> {
    let mut nets = Vec::with_capacity(written.len());
    for entry in written {
        match parse(entry) {
            Ok(net) => nets.push((net, entry.site.clone())),
            Err(Unfit { cause, cure }) => build.errors.push(&entry.site, &*entry.path, cause, cure),
        }
    }
    nets
}

/// At most so many errors of one file are told: the rest is likely the same mistake.
const FILE_ERRORS: usize = 20;

fn read_file(file: &Spanned<String>, build: &mut Build) -> Vec<(IpNet, Site)> {
    let path = build.files.resolve(&file.site, file);
    let text = match build.files.read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            let cause = format!("the list `{}` cannot be read: {error}", path.display());
            build.errors.push(&file.site, &*file.path, cause, "name a file that is there and readable, one CIDR a line");
            return Vec::new();
        }
    };
    let name: Arc<str> = path.display().to_string().into();
    let mut nets = Vec::new();
    let mut faults = 0;
    for (line, number) in text.lines().zip(1..) {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        let site = Site::new(Arc::clone(&name), number, 1);
        match parse(entry) {
            Ok(net) => nets.push((net, site)),
            Err(Unfit { cause, cure }) if faults < FILE_ERRORS => {
                faults += 1;
                build.errors.push(&site, &*file.path, cause, cure);
            }
            Err(_) => {}
        }
    }
    nets
}

struct Unfit {
    cause: String,
    cure: String,
}

/// A CIDR or an address; IPv4 written as IPv6 is IPv4.
fn parse(text: &str) -> Result<IpNet, Unfit> {
    let net = match (IpNet::from_str(text), IpAddr::from_str(text)) {
        (Ok(net), _) => net,
        (_, Ok(address)) => IpNet::from(address),
        (Err(_), Err(_)) => {
            return Err(Unfit {
                cause: format!("`{text}` is neither an address nor a CIDR"),
                cure: "write such as `10.0.0.0/8`, `192.0.2.7` or `2001:db8::/32`".to_owned(),
            });
        }
    };
    let net = plain(net);
    if net.addr() != net.network() {
        return Err(Unfit {
            cause: format!("`{text}` has bits beyond its prefix: is the network meant, or one address?"),
            cure: format!("write `{}` or `{}`", net.trunc(), net.addr()),
        });
    }
    Ok(net)
}

/// `::ffff:a.b.c.d/96+n` is `a.b.c.d/n`.
fn plain(net: IpNet) -> IpNet {
    if let IpNet::V6(six) = net
        && let Some(four) = six.addr().to_ipv4_mapped()
        && let Some(length) = six.prefix_len().checked_sub(96)
        && let Ok(net) = ipnet::Ipv4Net::new(four, length)
    {
        return IpNet::V4(net);
    }
    net
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn config(allow: &[&str], deny: &[&str]) -> Spanned<Config> {
        let list = |entries: &[&str]| {
            let numbered = entries.iter().zip(10..);
            numbered.map(|(e, line)| Spanned { value: (*e).to_owned(), site: Site::new("t.yaml", line, 1), path: "x".into() }).collect()
        };
        let value = Config { allow: list(allow), deny: list(deny), ..Config::default() };
        Spanned { value, site: Site::new("t.yaml", 1, 1), path: "policies.access.t".into() }
    }

    fn compiled(allow: &[&str], deny: &[&str]) -> Access {
        let mut build = Build::default();
        let access = Access::compile("t", &config(allow, deny), &mut build);
        access.unwrap_or_else(|| panic!("{:?}", build.errors))
    }

    fn passes(access: &Access, client: &str) -> bool {
        matches!(access.check(client.parse().unwrap()).outcome, Outcome::Pass)
    }

    #[test]
    fn the_table() {
        let rows: &[(&[&str], &[&str], &str, bool, u32)] = &[
            (&["10.0.0.0/8"], &[], "10.1.2.3", true, 10),
            (&["10.0.0.0/8"], &[], "11.1.2.3", false, 1),
            (&["10.0.0.0/8"], &[], "9.255.255.255", false, 1),
            (&["10.0.0.0/8"], &[], "10.0.0.0", true, 10),
            (&["10.0.0.0/8"], &[], "10.255.255.255", true, 10),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3", false, 10),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.2.2.3", true, 10),
            (&["10.1.2.3"], &["10.0.0.0/8"], "10.1.2.3", false, 10),
            (&[], &["192.0.2.7"], "192.0.2.7", false, 10),
            (&[], &["192.0.2.7"], "192.0.2.8", true, 1),
            (&[], &["192.0.2.6", "192.0.2.7"], "192.0.2.7", false, 11),
            (&["0.0.0.0/0"], &[], "203.0.113.9", true, 10),
            (&["0.0.0.0/0"], &[], "2001:db8::1", false, 1),
            (&["::/0"], &[], "2001:db8::1", true, 10),
            (&["::/0"], &[], "203.0.113.9", false, 1),
            (&["2001:db8::/32"], &[], "2001:db8:1::1", true, 10),
            (&["2001:db8::/32"], &[], "2001:db9::1", false, 1),
            (&["10.0.0.0/8"], &[], "::ffff:10.1.2.3", true, 10),
            (&["::ffff:10.0.0.0/104"], &[], "10.1.2.3", true, 10),
            (&["::ffff:10.1.2.3"], &[], "10.1.2.3", true, 10),
            (&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"], &[], "10.1.2.3", true, 10),
            (&["10.1.2.0/24", "10.3.0.0/16"], &[], "10.2.0.0", false, 1),
        ];
        for (allow, deny, client, pass, line) in rows {
            let access = compiled(allow, deny);
            let verdict = access.check(client.parse().unwrap());
            let passed = matches!(verdict.outcome, Outcome::Pass);
            assert_eq!((passed, verdict.site.line), (*pass, *line), "{allow:?} {deny:?} {client}");
        }
    }

    #[test]
    fn refusals_of_the_configuration() {
        let rows: &[(&[&str], &[&str], &str, &str)] = &[
            (&[], &[], "the access policy `t` lists nobody", "add `allow`, `deny` or `file`, or remove it"),
            (&["10.0.0.1/8"], &[], "`10.0.0.1/8` has bits beyond its prefix: is the network meant, or one address?", "write `10.0.0.0/8` or `10.0.0.1`"),
            (&["10.0.0/8"], &[], "`10.0.0/8` is neither an address nor a CIDR", "write such as `10.0.0.0/8`, `192.0.2.7` or `2001:db8::/32`"),
            (&[], &["example.com"], "`example.com` is neither an address nor a CIDR", "write such as `10.0.0.0/8`, `192.0.2.7` or `2001:db8::/32`"),
            (&["10.0.0.0/33"], &[], "`10.0.0.0/33` is neither an address nor a CIDR", "write such as `10.0.0.0/8`, `192.0.2.7` or `2001:db8::/32`"),
        ];
        for (allow, deny, cause, cure) in rows {
            let mut build = Build::default();
            assert!(Access::compile("t", &config(allow, deny), &mut build).is_none());
            let errors = build.errors.errors();
            assert_eq!((errors[0].cause.as_str(), errors[0].cure.as_str()), (*cause, *cure));
        }
    }

    #[test]
    fn a_file_is_an_allow_list_and_its_lines_decide() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("office.txt"), "# office\n10.0.0.0/8 # all\n\n192.0.2.7\n").unwrap();
        let mut written = config(&[], &["10.9.0.0/16"]);
        written.value.file = OrNone::Some(Spanned {
            value: "office.txt".to_owned(),
            site: Site::new(directory.path().join("portcullis.yaml").display().to_string(), 3, 1),
            path: "policies.access.t.file".into(),
        });
        let mut build = Build::default();
        let access = Access::compile("t", &written, &mut build).unwrap();
        assert_eq!(access.check("192.0.2.7".parse().unwrap()).site.line, 4);
        assert!(access.check("192.0.2.7".parse().unwrap()).site.file.ends_with("office.txt"));
        assert!(passes(&access, "10.1.1.1") && !passes(&access, "10.9.1.1") && !passes(&access, "192.0.2.8"));
        assert!(build.files.watched().contains(&directory.path().join("office.txt")));
        std::fs::write(directory.path().join("office.txt"), "10.0.0.0/8\nnonsense\n").unwrap();
        assert!(Access::compile("t", &written, &mut build).is_none());
        let error = &build.errors.errors()[0];
        assert!(error.site.file.ends_with("office.txt") && error.site.line == 2, "{error:?}");
        std::fs::remove_file(directory.path().join("office.txt")).unwrap();
        assert!(Access::compile("t", &written, &mut build).is_none());
    }

    /// Addresses and networks close together, so that they meet.
    fn networks() -> impl Strategy<Value = Vec<(u32, u8)>> {
        prop::collection::vec((0_u32..4096, 20_u8..=32), 0..12)
    }

    proptest! {
        #[test]
        fn ranges_say_what_the_networks_say(nets in networks(), addresses in prop::collection::vec(0_u32..4096, 1..50)) {
            let nets: Vec<_> = nets.iter().map(|(a, l)| IpNet::new(Ipv4Addr::from(*a).into(), *l).unwrap().trunc()).collect();
            let ranges = Ranges::new(nets.iter().map(|net| (*net, Site::new("t", 1, 1))).collect());
            for address in addresses {
                let address = IpAddr::V4(Ipv4Addr::from(address));
                prop_assert_eq!(ranges.find(address).is_some(), nets.iter().any(|net| net.contains(&address)));
            }
        }
    }
}
