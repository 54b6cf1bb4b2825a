//! A certificate of our own, so that a first try needs nothing.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

use zeroize::Zeroizing;

use super::{Certificate, join, parse_chain, parse_key};

/// Browsers refuse longer ones.
const DAYS: u32 = 397;
/// A certificate this close to its end is made anew.
const NEAR: i64 = 30 * 86_400;

/// The generated certificate kept in `directory`; made, or made anew near its end.
///
/// # Errors
/// The directory cannot be written, or OpenSSL refuses.
pub fn generated(directory: &Path) -> io::Result<Certificate> {
    let chain = directory.join("generated.crt");
    let key = directory.join("generated.key");
    if let Some(kept) = kept(&chain, &key) {
        return Ok(kept);
    }
    let (leaf, private) = make().map_err(io::Error::other)?;
    fs::create_dir_all(directory)?;
    // The key first: a crash in between leaves a pair that does not fit, and that is made anew.
    let pem = Zeroizing::new(private.private_key_to_pem_pkcs8().map_err(io::Error::other)?);
    write(&key, &pem, 0o600)?;
    write(&chain, &leaf.to_pem().map_err(io::Error::other)?, 0o644)?;
    join(vec![leaf], private).map_err(|bad| io::Error::other(bad.cause))
}

fn kept(chain: &Path, key: &Path) -> Option<Certificate> {
    let chain = parse_chain(&fs::read(chain).ok()?).ok()?;
    let key = parse_key(&Zeroizing::new(fs::read(key).ok()?)).ok()?;
    let certificate = join(chain, key).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    (certificate.not_after > i64::try_from(now).ok()? + NEAR).then_some(certificate)
}

/// Written beside and renamed: a reader never sees half a file.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn make() -> Result<(X509, PKey<Private>), ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;

    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, "localhost")?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(159, MsbOption::MAYBE_ZERO, false)?;

    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(&key)?;
    builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(DAYS)?)?;
    let names = SubjectAlternativeName::new()
        .dns("localhost")
        .ip(&IpAddr::from(Ipv4Addr::LOCALHOST).to_string())
        .ip(&IpAddr::from(Ipv6Addr::LOCALHOST).to_string())
        .build(&builder.x509v3_context(None, None))?;
    builder.append_extension(names)?;
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
    builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok((builder.build(), key))
}
