use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509NameBuilder;
use openssl::x509::extension::BasicConstraints;

use super::*;

struct Made {
    certificate: X509,
    key: PKey<Private>,
}

fn make(subject: &str, issuer: Option<&Made>, days: std::ops::Range<i64>, ca: bool) -> Made {
    let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", subject).unwrap();
    let name = name.build();
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(0xa0b).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(issuer.map_or(&name, |issuer| issuer.certificate.subject_name())).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(now + days.start * 86_400).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(now + days.end * 86_400).unwrap()).unwrap();
    if ca {
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    }
    builder.sign(issuer.map_or(&key, |issuer| &issuer.key), MessageDigest::sha256()).unwrap();
    Made { certificate: builder.build(), key }
}

fn trust(demand: ClientDemand, authorities: &[&Made]) -> ClientTrust {
    let authorities = authorities.iter().map(|made| made.certificate.clone()).collect();
    ClientTrust::new(demand, authorities, None, Vec::new()).unwrap()
}

fn chain(certificates: &[&Made]) -> Vec<Box<[u8]>> {
    certificates.iter().map(|made| made.certificate.to_der().unwrap().into()).collect()
}

#[test]
fn a_chain_is_judged_by_another_rule() {
    let (root, other) = (make("root", None, -1..9, true), make("other", None, -1..9, true));
    let middle = make("middle", Some(&root), -1..9, true);
    let (leaf, deep) = (make("leaf", Some(&root), -1..9, false), make("deep", Some(&middle), -1..9, false));
    let (late, below) = (make("late", Some(&root), -9..-1, false), make("below", Some(&leaf), -1..9, false));
    let own = trust(ClientDemand::Required, &[&root]);
    assert_eq!(own.judge(&chain(&[&leaf])), Ok(()));
    assert_eq!(own.judge(&chain(&[&deep, &middle, &root])), Ok(()));
    for (bad, why) in [
        (&[&late][..], "certificate has expired"),
        (&[&deep], "unable to get local issuer certificate"),
        (&[&below, &leaf], "invalid CA certificate"),
        (&[&other], "self-signed certificate"),
    ] {
        assert_eq!(own.judge(&chain(bad)), Err(why.to_owned()));
    }
    assert!(trust(ClientDemand::Required, &[&other]).judge(&chain(&[&leaf, &root])).is_err());
    assert!(own.judge(&[]).is_err());
    assert!(own.judge(&[Box::from(&b"no DER"[..])]).is_err());
}

#[test]
fn rules_are_equal_where_everything_is() {
    let (root, other) = (make("root", None, -1..9, true), make("root", None, -1..9, true));
    let rule = |demand, authorities: &[&Made]| trust(demand, authorities).rule();
    let own = rule(ClientDemand::Required, &[&root]);
    assert_eq!(own, rule(ClientDemand::Required, &[&root]));
    assert_ne!(own, rule(ClientDemand::Optional, &[&root]));
    assert_ne!(own, rule(ClientDemand::Required, &[&other]));
    assert_ne!(own, rule(ClientDemand::Required, &[&root, &other]));
}

#[test]
fn a_list_that_ends_makes_another_rule() {
    let root = make("root", None, -1..9, true);
    let lists =
        |ends| ClientTrust::new(ClientDemand::Required, vec![root.certificate.clone()], None, ends).unwrap();
    let own = lists(vec![200, 100]);
    assert_eq!((own.rule_at(0), own.rule_at(100)), (own.rule(), own.rule()));
    let (one, both) = (own.rule_at(101), own.rule_at(201));
    assert!(one != own.rule() && both != own.rule() && one != both);
    assert_eq!((own.rule_at(200), own.rule_at(i64::MAX)), (one, both));
    assert_eq!(lists(Vec::new()).rule_at(i64::MAX), own.rule(), "lists without an end have none");
}

#[test]
fn facts_are_those_of_the_leaf() {
    let root = make("root", None, -1..9, true);
    let leaf = make("Zoë, Ltd", Some(&root), -1..9, false);
    let mut stack = Stack::new().unwrap();
    stack.push(leaf.certificate.clone()).unwrap();
    stack.push(root.certificate.clone()).unwrap();
    let facts = facts(&stack).unwrap();
    assert_eq!(&*facts.subject_dn, "CN=Zo\\C3\\AB\\, Ltd");
    assert_eq!(facts.common_name.as_deref(), Some("Zoë, Ltd"));
    assert_eq!((&*facts.issuer_dn, &*facts.serial_number), ("CN=root", "0A0B"));
    assert_eq!(facts.sha256, openssl::sha::sha256(&leaf.certificate.to_der().unwrap()));
    assert_eq!(facts.chain.len(), 2);
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag, u8::try_from(content.len()).unwrap()];
    out.extend_from_slice(content);
    out
}

/// Type, tag and value.
type Pair<'a> = (&'a [u8], u8, &'a [u8]);

/// A name of these sets of pairs.
fn encoded(sets: &[&[Pair<'_>]]) -> Vec<u8> {
    let pair = |(kind, tag, value): &Pair<'_>| tlv(0x30, &[tlv(6, kind), tlv(*tag, value)].concat());
    let set = |pairs: &&[Pair<'_>]| tlv(0x31, &pairs.iter().map(pair).collect::<Vec<_>>().concat());
    tlv(0x30, &sets.iter().map(set).collect::<Vec<_>>().concat())
}

#[test]
fn names_are_written_as_rfc_4514_says() {
    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];
    const ODD: &[u8] = &[0x2a, 3, 0x86, 0x48];
    let text = |sets: &[&[Pair<'_>]]| name::parse(&encoded(sets)).map(|name| name.text);
    for (sets, expected) in [
        (&[][..], ""),
        (&[&[(O, 0x0c, &b"Example"[..])][..], &[(CN, 0x13, b"press")]], "CN=press,O=Example"),
        // Two values of one part are not two parts.
        (&[&[(CN, 0x0c, &b"a"[..]), (O, 0x0c, b"b")][..]], "CN=a+O=b"),
        (&[&[(CN, 0x0c, &b"a+O=b,C=d"[..])][..]], "CN=a\\+O=b\\,C=d"),
        (&[&[(CN, 0x0c, &b" #x "[..])][..]], "CN=\\ #x\\ "),
        (&[&[(CN, 0x0c, &b"#x"[..])][..]], "CN=\\#x"),
        (&[&[(CN, 0x0c, &b"a\0b\"<>;\\"[..])][..]], "CN=a\\00b\\\"\\<\\>\\;\\\\"),
        (&[&[(CN, 0x1e, &b"\0Z\x01\x7e"[..])][..]], "CN=Z\\C5\\BE"),
        (&[&[(CN, 0x14, &b"\xe4"[..])][..]], "CN=\\C3\\A4"),
        (&[&[(ODD, 0x0c, &b"a"[..])][..]], "1.2.3.840=#0C0161"),
        (&[&[(CN, 0x0c, &b"\xff"[..])][..]], "CN=#0C01FF"),
    ] {
        assert_eq!(text(sets).as_deref(), Some(expected));
    }
    let whole = encoded(&[&[(CN, 0x0c, b"press")]]);
    for end in 0..whole.len() {
        assert_eq!(name::parse(&whole[..end]), None, "{end}");
    }
    assert_eq!(name::parse(&[&whole[..], b"x"].concat()), None);
}
