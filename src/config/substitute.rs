//! `${env:NAME}` and `${file:path}`, put into values after YAML has been parsed: what is put in cannot change the
//! structure. `$${` is a literal `${`.

use zeroize::Zeroizing;

use super::tree::{Node, Scalar, Trail, Value, shortened};
use super::{Build, Site};

/// How a loader asks for environment variables.
pub(super) type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Puts values into every scalar of a tree. What cannot be put in is complained about and marked broken.
pub(super) fn substitute(node: &mut Node, trail: Trail<'_>, env: &Env<'_>, build: &mut Build) {
    match &mut node.value {
        Value::Broken => {}
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                substitute(item, Trail::Index(&trail, index), env, build);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                substitute(&mut entry.value, Trail::Key(&trail, &entry.key), env, build);
            }
        }
        Value::Scalar(scalar) if !scalar.text.contains("${") => {}
        Value::Scalar(scalar) => {
            if let Err((cause, cure)) = put_in(scalar, &node.site, trail, env, build) {
                build.errors.push(&node.site, trail.to_string(), cause, cure);
                node.value = Value::Broken;
            }
        }
    }
}

/// A cause and a cure.
type Complaint = (String, String);

fn put_in(
    scalar: &mut Scalar,
    site: &Site,
    trail: Trail<'_>,
    env: &Env<'_>,
    build: &mut Build,
) -> Result<(), Complaint> {
    let template = std::mem::take(&mut scalar.text);
    let mut text = String::with_capacity(template.len());
    let mut rest = template.as_str();
    let mut filled = false;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            text.push_str(before);
            text.push_str("${");
            rest = after;
            continue;
        }
        text.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            let cure = "write `${env:NAME}` or `${file:path}`; for a literal `${` write `$${`";
            return Err(("`${` is never closed".into(), cure.into()));
        };
        let value = look_up(name, site, env, build)?;
        build.sources.hide(&value, &format!("${{{name}}}"), site, &trail.to_string());
        text.push_str(&value);
        filled = true;
        rest = after;
    }
    text.push_str(rest);
    scalar.text = text;
    scalar.absent = false;
    scalar.template = filled.then(|| template.into());
    Ok(())
}

fn look_up(
    name: &str,
    site: &Site,
    env: &Env<'_>,
    build: &mut Build,
) -> Result<Zeroizing<String>, Complaint> {
    if let Some(variable) = name.strip_prefix("env:") {
        let value = env(variable).map(Zeroizing::new).ok_or_else(|| {
            let cause = format!("the environment variable `{}` is not set", shortened(variable));
            (cause, "set it, or write the value".into())
        })?;
        build.files.note(value.as_bytes());
        return Ok(value);
    }
    if let Some(path) = name.strip_prefix("file:") {
        return file(path, site, build);
    }
    let shown = shortened(name);
    let cause = format!("`${{{shown}}}` does not say where its value comes from");
    let variable = if shown.contains(':') { "NAME" } else { &shown };
    let cure =
        format!("write `${{env:{variable}}}`, `${{file:path}}`, or `$${{{shown}}}` for the text itself");
    Err((cause, cure))
}

/// The text of a file, without the line ends that editors put at its end.
fn file(name: &str, site: &Site, build: &mut Build) -> Result<Zeroizing<String>, Complaint> {
    let path = build.files.resolve(site, name);
    match build.files.read_text(&path) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()))
        }
        Err(problem) => {
            let cause = format!("cannot read `{}`: {problem}", path.display());
            Err((cause, "relative paths start at the file that names them".into()))
        }
    }
}
