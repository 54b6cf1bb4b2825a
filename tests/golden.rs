//! Golden configurations: the refused ones with their exact message, the accepted ones as they are published.
//!
//! `GOLDEN=update cargo test --test golden` writes the messages anew; read the difference before committing it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may panic; clippy knows only functions marked as tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::config::{self, Build};
use portcullis::gateway::Gateway;
use portcullis::gateway::document::Document;
use portcullis::state::Live;
use serde_json::Value;

#[path = "golden/secrets.rs"]
mod secrets;

/// What an operator is told about a file; empty where nothing is wrong.
fn check_file(path: &Path) -> String {
    let mut build = Build::default();
    config::load_then(path, &environment, &mut build, |document: &Document, build| {
        Gateway::compile(document, &Live::default(), 1, build)
    });
    build.errors.render(&build.sources)
}

/// The variables that the golden files use.
fn environment(name: &str) -> Option<String> {
    let value = match name {
        "PORT" => "9001",
        "SECRET" => "correct horse battery staple",
        "NUMBER" => "31",
        "EMPTY" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

/// The `.yaml` files of a directory, sorted.
fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(directory).expect("the directory of the golden files is part of the repository");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

#[test]
fn refused_configurations_say_what_is_wrong() {
    let update = std::env::var_os("GOLDEN").is_some_and(|word| word == "update");
    let files = yaml_files("tests/golden/refused");
    // How open a key's file is depends on who checked it out, and a warning on that.
    for key in ["one.key", "two.key"] {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(format!("tests/golden/refused/parts/{key}"), private).unwrap();
    }
    for key in ["977-rsa.pem", "977-open.pem"] {
        let public = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(format!("tests/golden/refused/parts/{key}"), public).unwrap();
    }
    let mut differences = Vec::new();
    for path in &files {
        let said = check_file(path);
        let expected_at = path.with_extension("expected");
        if update {
            fs::write(&expected_at, &said).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&expected_at).unwrap_or_default();
        if said != expected {
            differences.push(format!("── {}\n{said}── expected\n{expected}", path.display()));
        } else if !said.contains("error: ") {
            differences.push(format!("── {} is accepted", path.display()));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(files.len() >= 140, "only {} refused configurations", files.len());
}

#[test]
fn every_form_is_accepted_without_a_word() {
    let files = yaml_files("tests/golden/accepted");
    assert!(files.len() >= 3, "{files:?}");
    for path in files {
        assert_eq!(check_file(&path), "", "{}", path.display());
    }
}

/// A copy of `conf` alone, as a fresh clone has it: the repository itself may not be ours to write.
fn published() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    copy(Path::new("conf"), directory.path());
    directory
}

/// Puts the files that examples name in comments beside them.
fn add_certificates(directory: &Path) {
    let tls = directory.join("examples/tls");
    fs::create_dir_all(&tls).unwrap();
    for name in ["api.example.com", "shop.example.org", "internal-ca", "identity"] {
        let (certificate, key) = self_signed(name);
        fs::write(tls.join(format!("{name}.crt")), certificate).unwrap();
        let path = tls.join(format!("{name}.key"));
        fs::write(&path, key).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// A certificate and its key, PEM.
fn self_signed(name: &str) -> (Vec<u8>, Vec<u8>) {
    use openssl::{asn1::Asn1Time, ec, hash::MessageDigest, nid::Nid, pkey::PKey, x509};
    let curve = ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(ec::EcKey::generate(&curve).unwrap()).unwrap();
    let mut subject = x509::X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut certificate = x509::X509Builder::new().unwrap();
    certificate.set_version(2).unwrap();
    certificate.set_subject_name(&subject).unwrap();
    certificate.set_issuer_name(&subject).unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(30).unwrap()).unwrap();
    let context = certificate.x509v3_context(None, None);
    let names = x509::extension::SubjectAlternativeName::new().dns(name).build(&context).unwrap();
    certificate.append_extension(names).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    (certificate.build().to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap())
}

/// An example with what it comments out, since a fresh clone does not have the files for it: `#key: …`, without a space
/// after `#`, takes the place of the line `key: …` before it.
fn with_alternatives(text: &str) -> String {
    let is_comment = |line: &str| line.trim_start().starts_with('#');
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        let Some(setting) = rest.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' '))
        else {
            lines.push(line.to_owned());
            continue;
        };
        let key = setting.split_inclusive(':').next().unwrap_or_default();
        let before = lines.iter().rposition(|before| !is_comment(before)).unwrap_or_default();
        if lines.get(before).is_some_and(|before| before.starts_with(&format!("{indent}{key}"))) {
            lines.remove(before);
        }
        lines.push(format!("{indent}{setting}"));
    }
    lines.join("\n")
}

/// What an example is warned of because it shows a key that is better not used.
const WARNED: &[(&str, &str)] = &[
    ("auth-jwt.yaml", "a credential in the query stands in histories"),
    ("auth-keys.yaml", "a credential in the query stands in histories"),
    ("auth-introspection.yaml", "a credential in the query stands in histories"),
];

/// What is said of a published configuration, but for the one warning that it may have.
fn said_of(path: &Path) -> String {
    let said = check_file(path);
    let known = WARNED.iter().find(|(name, _)| path.ends_with(name));
    match known {
        Some((_, warning)) if said.starts_with("warning: ") && said.contains(warning) => {
            let rest = said.matches("warning: ").count() != 1 || said.contains("error: ");
            if rest { said } else { String::new() }
        }
        _ => said,
    }
}

#[test]
fn published_configurations_are_accepted_as_they_are() {
    let directory = published();
    let conf = directory.path().to_str().unwrap();
    let mut files = yaml_files(conf);
    files.extend(yaml_files(&format!("{conf}/examples")));
    assert!(files.len() >= 10, "{files:?}");
    for path in files {
        assert_eq!(said_of(&path), "", "{}", path.display());
    }
}

#[test]
fn what_published_configurations_comment_out_is_accepted_where_its_files_are() {
    let directory = published();
    add_certificates(directory.path());
    let mut changed = 0;
    for path in yaml_files(&format!("{}/examples", directory.path().display())) {
        let text = fs::read_to_string(&path).unwrap();
        let whole = with_alternatives(&text);
        changed += usize::from(whole.trim_end() != text.trim_end());
        fs::write(&path, whole).unwrap();
        assert_eq!(said_of(&path), "", "{}", path.display());
    }
    assert_eq!(
        changed, 4,
        "tls.yaml, upstream-tls.yaml, fleet.yaml and auth-identity-tokens-own-key.yaml have alternatives"
    );
}

#[test]
fn every_published_configuration_names_its_schema() {
    let mut files = yaml_files("conf");
    files.extend(yaml_files("conf/examples"));
    files.extend(yaml_files("conf/examples/includes"));
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap_or_default();
        let schema = first.strip_prefix("# yaml-language-server: $schema=");
        let schema = schema.unwrap_or_else(|| panic!("{} does not name its schema", path.display()));
        assert!(path.with_file_name(schema).exists(), "{}: no {schema}", path.display());
    }
}

#[test]
fn the_published_schema_is_current() {
    let path = "conf/portcullis.schema.json";
    let schema = config::schema::<Document>();
    if std::env::var_os("GOLDEN").is_some_and(|word| word == "update") {
        fs::write(path, &schema).unwrap();
    }
    let published = fs::read_to_string(path).unwrap_or_default();
    assert!(published == schema, "run `portcullis schema > {path}`, or this test with GOLDEN=update");
}

#[test]
fn the_schema_is_a_schema_and_its_defaults_fit_it() {
    let schema: Value = serde_json::from_str(&config::schema::<Document>()).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    let mut defaults = 0;
    visit_properties(&schema, &mut |name, property| {
        let Some(default) = property.get("default") else { return };
        defaults += 1;
        let mut alone = property.clone();
        alone.as_object_mut().unwrap().insert("$defs".into(), schema["$defs"].clone());
        assert!(jsonschema::is_valid(&alone, default), "{name}: {default}");
    });
    assert!(defaults >= 30, "only {defaults} keys tell their default");
}

#[test]
fn every_key_is_documented() {
    let schema: Value = serde_json::from_str(&config::schema::<Document>()).unwrap();
    visit_properties(&schema, &mut |name, property| {
        // The two forms of a pattern are told by the pattern's own description.
        let told = property.get("description").is_some() || matches!(name, "regex" | "present");
        assert!(told, "{name} has no description");
    });
}

/// Every key of every mapping of a schema.
fn visit_properties(schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        properties.iter().for_each(|(name, property)| visit(name, property));
    }
    match schema {
        Value::Object(map) => map.values().for_each(|below| visit_properties(below, visit)),
        Value::Array(items) => items.iter().for_each(|below| visit_properties(below, visit)),
        _ => {}
    }
}

#[test]
fn the_examples_show_every_key() {
    let schema: Value = serde_json::from_str(&config::schema::<Document>()).unwrap();
    let mut shown = BTreeSet::new();
    let mut files = yaml_files("conf");
    files.extend(yaml_files("conf/examples"));
    for path in files {
        let text = with_alternatives(&fs::read_to_string(&path).unwrap());
        let mut build = Build::default();
        let none = |_: &str| None;
        let name = path.to_str().unwrap();
        let value: Option<Value> = config::load_text(name, &text, &none, &mut build);
        let value = value.unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)));
        collect_shown(&schema, &schema, &value, "", &mut shown);
    }
    let mut known = BTreeSet::new();
    collect_known(&schema, &schema, "", &mut known);
    // What stands in `defaults` is of one form with what stands on a route.
    let is_shown = |key: &String| {
        let of_a_route = key.strip_prefix(".defaults.").map(|key| format!(".routes[].{key}"));
        shown.contains(key) || of_a_route.is_some_and(|key| shown.contains(&key))
    };
    let missing: Vec<&String> = known.iter().filter(|key| !is_shown(key)).collect();
    assert!(missing.is_empty(), "no example under conf/ shows {missing:?}");
    assert!(known.len() >= 90, "only {} keys are known: does the test still see them?", known.len());
}

/// A schema with its references followed, and the branches it may have.
fn forms<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let reference = schema.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
    if let Some(pointer) = reference {
        return forms(root, root.pointer(pointer).unwrap());
    }
    let branches = schema.get("anyOf").and_then(Value::as_array);
    let below = branches.into_iter().flatten().flat_map(|branch| forms(root, branch));
    std::iter::once(schema).chain(below).collect()
}

/// The paths of all keys that a schema knows; a name of the operator's own is `*`.
fn collect_known(root: &Value, schema: &Value, path: &str, known: &mut BTreeSet<String>) {
    for form in forms(root, schema) {
        for (key, below) in form.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{path}.{key}");
            collect_known(root, below, &path, known);
            known.insert(path);
        }
        for (keyword, mark) in [("additionalProperties", ".*"), ("items", "[]")] {
            if let Some(below) = form.get(keyword).filter(|below| below.is_object()) {
                collect_known(root, below, &format!("{path}{mark}"), known);
            }
        }
    }
}

/// Those of them that a document has.
fn collect_shown(root: &Value, schema: &Value, value: &Value, path: &str, shown: &mut BTreeSet<String>) {
    for form in forms(root, schema) {
        for (key, value) in value.as_object().into_iter().flatten() {
            if let Some(below) = form.get("properties").and_then(|properties| properties.get(key)) {
                let path = format!("{path}.{key}");
                collect_shown(root, below, value, &path, shown);
                shown.insert(path);
            } else if let Some(below) = form.get("additionalProperties").filter(|below| below.is_object()) {
                collect_shown(root, below, value, &format!("{path}.*"), shown);
            }
        }
        if let Some(below) = form.get("items") {
            for value in value.as_array().into_iter().flatten() {
                collect_shown(root, below, value, &format!("{path}[]"), shown);
            }
        }
    }
}
