//! Bare Pingora with its own server: what a gateway on Pingora costs before it does anything.
//!
//! `floor LISTEN UPSTREAM [CERTIFICATE KEY]`: forwards everything, as many threads as cores, defaults otherwise.
//! `load-tests/compare/run` measures Portcullis against it.

use std::error::Error;
use std::thread;

use async_trait::async_trait;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

struct Floor {
    upstream: String,
}

#[async_trait]
impl ProxyHttp for Floor {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora_error::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream.as_str(), false, String::new())))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, tls @ ..] = arguments.as_slice() else {
        return Err("usage: floor LISTEN UPSTREAM [CERTIFICATE KEY]".into());
    };
    let conf = ServerConf { threads: thread::available_parallelism()?.get(), ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Floor { upstream: upstream.clone() });
    match tls {
        [certificate, key] => service.add_tls(listen, certificate, key)?,
        _ => service.add_tcp(listen),
    }
    server.add_service(service);
    server.run_forever()
}
