//! A real nginx as origin, with a configuration, a port and files of its own.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use super::{Place, eventually, exchange, find_tool};

/// An nginx. Stopped by its id when dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    _place: Place,
    child: Child,
    address: SocketAddr,
    proxied: SocketAddr,
}

impl Nginx {
    /// Serves `file.bin` of `bytes` bytes, `/hello`, and `/status/404`. None, with a word why, where nginx is missing.
    pub(crate) fn start(bytes: usize) -> Option<Self> {
        let Some(program) = find_tool("nginx") else {
            println!("skipped: nginx is not installed");
            return None;
        };
        let place = Place::new();
        place.write("file.bin", vec![b'x'; bytes]);
        // Another process may take the port between here and nginx's bind: then the next one.
        (0..5).find_map(|_| Self::try_start(&place, &program)).map(|(child, address, proxied)| Self {
            _place: place,
            child,
            address,
            proxied,
        })
    }

    fn try_start(place: &Place, program: &std::path::Path) -> Option<(Child, SocketAddr, SocketAddr)> {
        let [address, proxied] = {
            let free = || TcpListener::bind("127.0.0.1:0").unwrap();
            [free(), free()].map(|listener| listener.local_addr().unwrap())
        };
        let root = place.root().display();
        let config = format!(
            "daemon off; master_process off; pid {root}/nginx.pid; error_log stderr warn;
            events {{ worker_connections 512; }}
            http {{
              access_log off; client_max_body_size 0; keepalive_requests 100000;
              client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
              uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
              server {{
                listen {address};
                location = /hello {{ return 200 'hello from nginx'; }}
                location = /status/404 {{ return 404 'none'; }}
                location / {{ root {root}; }}
              }}
              server {{
                listen {proxied} proxy_protocol;
                set_real_ip_from 127.0.0.0/8; real_ip_header proxy_protocol;
                location = /own {{ return 200 '$remote_addr'; }}
                location / {{
                  return 200 '$remote_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port';
                }}
              }}
            }}"
        );
        let config = place.write("nginx.conf", config);
        let mut child = Command::new(program)
            .arg("-e")
            .arg("stderr")
            .arg("-p")
            .arg(place.root())
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let up = eventually("nginx to answer or to end", || {
            if child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let response = exchange::Connection::try_open(address)?.try_get("/hello")?;
            (response.text() == "hello from nginx").then_some(true)
        });
        up.then_some((child, address, proxied))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections must begin with a PROXY header; answers with what it says.
    pub(crate) fn proxied(&self) -> SocketAddr {
        self.proxied
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
