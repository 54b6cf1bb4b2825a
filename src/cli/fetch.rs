//! `portcullis fetch`: may the gateway fetch this, and what comes?

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use super::{Fetch, USAGE};
use crate::config::Build;
use crate::egress::{Egress, Failure, Fetched};
use crate::gateway::Gateway;
use crate::server::BackOffice;
use crate::state::Live;

/// Fetches by the rules of `server.egress`, exactly as the gateway does. 0: an answer came, of whatever status; 2: the rules forbid
/// it; 1: it was tried and failed; 64: usage or configuration.
pub(super) fn fetch(asked: &Fetch, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let mut build = Build::default();
    let compiled = asked
        .file
        .compile(&mut build, |document, build| Gateway::compile(document, &Live::default(), 0, build));
    let Some(gateway) = compiled else {
        let _ = write!(err, "{}", build.errors.render(&build.sources));
        return USAGE;
    };
    let office = BackOffice::new().map_err(|error| error.to_string());
    let began = Instant::now();
    let answer = office.and_then(|office| {
        let egress = Egress::new(Arc::clone(&gateway.egress))?;
        Ok(office.handle().block_on(egress.get(&asked.url)))
    });
    let answer = match answer {
        Ok(answer) => answer,
        Err(cause) => {
            let _ = writeln!(err, "error: cannot start: {cause}");
            return 1;
        }
    };
    tell(&answer, began, out).unwrap_or(1)
}

fn tell(answer: &Result<Fetched, Failure>, began: Instant, out: &mut dyn Write) -> io::Result<u8> {
    match answer {
        Ok(fetched) => {
            writeln!(out, "  address    {}", fetched.address)?;
            writeln!(out, "  redirects  {}", fetched.redirects)?;
            writeln!(out, "  status     {}", fetched.status.as_u16())?;
            writeln!(out, "  bytes      {}", fetched.body.len())?;
            writeln!(out, "fetched in {} ms", began.elapsed().as_millis())?;
            Ok(0)
        }
        Err(failure) if failure.reason.is_refusal() => {
            writeln!(out, "refused: {failure}")?;
            Ok(2)
        }
        Err(failure) => {
            writeln!(out, "failed: {failure}")?;
            Ok(1)
        }
    }
}
