//! What policies may fetch, said at the load as far as it can be told; and from when on it may be copied.

use reqwest::Url;
use tokio::sync::watch;

use super::Context;
use crate::config::Spanned;
use crate::egress::Reason;

/// Whether `server.egress` lets this be fetched, as far as the URL tells; else an error that says what to write.
pub(super) fn may_be_fetched(written: &Spanned<String>, context: &mut Context<'_>) -> Option<()> {
    let Err(failure) = context.egress.may_fetch(written) else { return Some(()) };
    let cause = match failure.reason {
        // Not shown: there may be a password in it.
        Reason::Userinfo => format!("this URL may not be fetched: {}", failure.message),
        _ => format!("`{}` may not be fetched: {}", written.value, failure.message),
    };
    let host = Url::parse(written).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let allow = format!("`server: {{egress: {{allow: [\"{}\"]}}}}`", host.trim_matches(['[', ']']));
    let cure = match failure.reason {
        Reason::NotPublic => format!("write {allow} if it is meant to be fetched from there"),
        Reason::PlainHttp => format!("write `https://`, or {allow} if nobody is on the way"),
        Reason::Userinfo => "remove the credentials from the URL".to_owned(),
        _ => "write a URL such as `https://id.example.com/keys`".to_owned(),
    };
    context.build.errors.push(&written.site, &*written.path, cause, cure);
    None
}

/// Whether root has been left: until then, a copy in `server.state` would be root's. `what` is not copied, for the log.
pub(super) fn settled(context: &Context<'_>, what: &str) -> watch::Receiver<bool> {
    let (settle, settled) = watch::channel(false);
    let ready = move || {
        settle.send_replace(true);
        Ok(())
    };
    if let Err(cause) = context.live.open_settled(ready) {
        log::warn!("{what}: no copy is kept: {cause}");
    }
    settled
}
