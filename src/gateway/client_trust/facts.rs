//! What a verified client certificate says.

use openssl::sha::sha256;
use openssl::stack::StackRef;
use openssl::x509::{GeneralNameRef, X509};

use super::name;
use crate::gateway::certificates::unix;
use crate::identity::ClientCertificate;

/// The facts of a chain that was verified, the client's certificate first. None where it cannot be read: nobody can be known by it.
pub fn facts(chain: &StackRef<X509>) -> Option<ClientCertificate> {
    let leaf = chain.iter().next()?;
    let subject = name::of(leaf.subject_name())?;
    let issuer = name::of(leaf.issuer_name())?;
    let alternatives = leaf.subject_alt_names();
    let names = |of: fn(&GeneralNameRef) -> Option<&str>| -> Box<[Box<str>]> {
        let all = alternatives.iter().flatten().filter_map(of);
        // No honest name has a control character, and no program reads one alike.
        all.filter(|name| !name.is_empty() && !name.contains(char::is_control)).map(Into::into).collect()
    };
    let der: Vec<Box<[u8]>> =
        chain.iter().map(|own| own.to_der().map(Into::into)).collect::<Result<_, _>>().ok()?;
    Some(ClientCertificate {
        subject_dn: subject.text.into(),
        issuer_dn: issuer.text.into(),
        serial_number: serial(leaf)?.into(),
        common_name: subject.common.filter(|name| !name.contains(char::is_control)).map(Into::into),
        dns_names: names(GeneralNameRef::dnsname),
        uris: names(GeneralNameRef::uri),
        emails: names(GeneralNameRef::email),
        sha256: sha256(der.first()?),
        not_after: unix(leaf.not_after()),
        chain: der.into(),
    })
}

fn serial(leaf: &openssl::x509::X509Ref) -> Option<String> {
    let number = leaf.serial_number().to_bn().ok()?;
    number.to_hex_str().ok().map(|text| text.to_string())
}
