//! `portcullis explain`: what would become of a request.

use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use super::{Explain, USAGE};
use crate::config::{Build, Sources};
use crate::gateway::explain::{Explanation, Question, explain as ask};
use crate::gateway::{Gateway, state_directory};
use crate::state::Live;

/// 0: would pass; 2: would be refused; 64: usage or configuration.
pub(super) fn explain(asked: &Explain, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let mut build = Build::default();
    let gateway = asked.file.compile(&mut build, |document, build| {
        let live = Live::new(state_directory(document, build));
        Gateway::compile(document, &live, 0, build)
    });
    let Some(gateway) = gateway else {
        let _ = write!(err, "{}", build.errors.render(&build.sources));
        return USAGE;
    };
    let explained = question(asked).and_then(|question| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
        runtime.block_on(ask(&Arc::new(gateway), &question))
    });
    let mut explanation = match explained {
        Ok(explanation) => explanation,
        Err(cause) => {
            let _ = writeln!(err, "error: {cause}");
            return USAGE;
        }
    };
    veil(&mut explanation, &build.sources);
    let written = if asked.json {
        serde_json::to_string_pretty(&explanation)
            .map_err(std::io::Error::other)
            .and_then(|text| writeln!(out, "{text}"))
    } else {
        tell(&explanation, &asked.method, out)
    };
    match (written, explanation.error) {
        (Err(_), _) => 1,
        (Ok(()), Some(_)) => 2,
        (Ok(()), None) => 0,
    }
}

/// What `${…}` put in is shown as it is written there, and what rules give to fields only where it can be no secret.
fn veil(explanation: &mut Explanation, sources: &Sources) {
    let answered = explanation.response_headers.iter_mut().map(|(_, value)| value);
    let changes = explanation.upstream.iter_mut().flat_map(|upstream| &mut upstream.headers);
    changes.chain(answered).for_each(|text| *text = sources.discreet_value(text));
    let steps = explanation.steps.iter_mut().map(|step| &mut step.detail);
    let target = explanation.upstream.iter_mut().map(|upstream| &mut upstream.target);
    let told = explanation.error.iter_mut().chain(&mut explanation.would).map(|error| &mut error.message);
    steps.chain(target).chain(told).for_each(|text| *text = sources.discreet(text));
    for server in explanation.upstream.iter_mut().flat_map(|upstream| &mut upstream.servers) {
        *server = sources.discreet(server).into();
    }
}

fn question(asked: &Explain) -> Result<Question, String> {
    let method =
        Method::from_str(&asked.method).map_err(|_| format!("`{}` is not a method", asked.method))?;
    let mut headers = Vec::with_capacity(asked.headers.len());
    for line in &asked.headers {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("`{line}` is not `name: value`"))?;
        let name =
            HeaderName::from_str(name.trim()).map_err(|_| format!("`{name}` is not a field's name"))?;
        let value = HeaderValue::from_str(value.trim())
            .map_err(|_| format!("the value of `{name}` is not printable"))?;
        headers.push((name, value));
    }
    Ok(Question { method, url: asked.url.clone(), headers, client: Some(asked.client) })
}

fn tell(explanation: &Explanation, method: &str, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{method} {} by listener {}", explanation.url, explanation.listener)?;
    let width = explanation.steps.iter().map(|step| step.step.len()).max().unwrap_or(0);
    for step in &explanation.steps {
        let site = step.site.as_ref().map(|site| format!("  [{site}]")).unwrap_or_default();
        writeln!(out, "  {:width$}  {:12} {}{site}", step.step, step.outcome, step.detail)?;
    }
    for lost in &explanation.over {
        writeln!(out, "  the route won over {}  [{}]", lost.name, lost.site)?;
    }
    for would in &explanation.would {
        let policy = would.policy.as_deref().unwrap_or("gateway");
        writeln!(
            out,
            "  shadowed: {policy} would refuse: {} [{}]",
            would.message,
            would.site.as_deref().unwrap_or("-")
        )?;
    }
    if let Some(upstream) = &explanation.upstream {
        writeln!(
            out,
            "  upstream {} ({}) would be asked for {}",
            upstream.name,
            upstream.servers.join(", "),
            upstream.target
        )?;
        for change in &upstream.headers {
            writeln!(out, "    {change}")?;
        }
    }
    if !explanation.response_rules.is_empty() {
        writeln!(out, "  its answer would be changed by {}", explanation.response_rules.join(", "))?;
    }
    match (&explanation.error, explanation.status) {
        (Some(error), Some(status)) => writeln!(
            out,
            "refused: {status} {}: {} (reason {}, {}{})",
            error.response_type,
            error.message,
            error.reason,
            error.policy.as_deref().unwrap_or("gateway"),
            error.site.as_ref().map(|site| format!(", {site}")).unwrap_or_default(),
        )?,
        (_, Some(status)) => writeln!(out, "answered: {status}")?,
        (_, None) => writeln!(out, "forwarded")?,
    }
    for (name, value) in &explanation.response_headers {
        writeln!(out, "    {name}: {value}")?;
    }
    Ok(())
}
