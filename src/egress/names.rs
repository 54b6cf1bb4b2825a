//! Names → addresses, as this machine's files say.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};

/// How a name becomes addresses; a test may bring its own.
pub(super) type Lookup =
    Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, String>> + Send>> + Send + Sync>;

/// By [`lookup`].
pub(super) fn system() -> Lookup {
    Arc::new(|host| Box::pin(async move { lookup(&host).await.map(|(addresses, _)| addresses) }))
}

/// The addresses of a name, IPv6 only where there is no IPv4, and until when they hold. A resolver of its own each time:
/// changes of /etc/hosts and /etc/resolv.conf are seen, and no cache stands between a TTL and us.
///
/// # Errors
/// What the resolver says; an answer without an address is one too.
pub async fn lookup(host: &str) -> Result<(Vec<IpAddr>, Instant), String> {
    let mut builder = TokioResolver::builder_tokio().map_err(|error| error.to_string())?;
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    options.cache_size = 0;
    let resolver = builder.build().map_err(|error| error.to_string())?;
    let answer = resolver.lookup_ip(host).await.map_err(|error| error.to_string())?;
    let addresses: Vec<_> = answer.iter().collect();
    if addresses.is_empty() {
        return Err("the answer names no address".to_owned());
    }
    Ok((addresses, answer.valid_until()))
}
