//! Gateways for the tests of other rooms.

use crate::config::{Build, load_text};
use crate::gateway::Gateway;
use crate::state::Live;

/// Something to listen on and a route, for tests that are about neither.
pub(crate) const PLAIN: &str = "
log: {access: {to: none}}
listeners: [{address: '127.0.0.1:0'}]
routes: [{name: all, auth: none, respond: {body: hello}}]
";

/// Compiles a configuration that is known to be good.
pub(crate) fn gateway(text: &str, live: &Live, generation: u64) -> Gateway {
    let mut build = Build::default();
    let gateway = load_text("test.yaml", text, &|_| None, &mut build)
        .and_then(|document| Gateway::compile(&document, live, generation, &mut build));
    gateway.unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)))
}
