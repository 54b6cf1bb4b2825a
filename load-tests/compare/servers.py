"""The programs that are compared: their configurations, starting and stopping them."""

import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import measure
import tokens

CORES = os.cpu_count() or 1
# 40 bytes.
BODY = '{"answer":"forty bytes of json, really"}'


def free_port():
    """A port of 127.0.0.1 that nobody has at this moment, and that no connection of wrk or of a gateway is given meanwhile:
    below those from which the kernel takes the ports of clients."""
    for port in random.sample(range(15_000, 30_000), 200):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("200 ports between 15000 and 30000 were tried, and all are taken")


class Server:
    """One program under test, listening at `url`."""

    def __init__(self, name, directory, arguments, port, tls=False, path="/", stop=signal.SIGTERM, token=None):
        self.name = name
        self.token = token
        # Where its metrics are, if it has any.
        self.status = None
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}{path}"
        self.stop_signal = stop
        self.output = directory / "output"
        self.access_log = directory / "access.log"
        with open(self.output, "wb") as output:
            # In a session of its own: Ctrl-C reaches this script, which stops what it started.
            self.process = subprocess.Popen(
                arguments, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self):
        return self.process.pid

    def wait_ready(self, seconds=60):
        """Until it answers 200, else says what it printed."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        # Whatever proxy the environment names is not for the loopback.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        deadline = time.monotonic() + seconds
        why = "no answer"
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                asked = urllib.request.Request(self.url)
                if self.token:
                    asked.add_header("Authorization", f"Bearer {self.token}")
                with opener.open(asked, timeout=2) as answer:
                    body = answer.read().decode()
                if body != BODY:
                    why = f"the answer was {body[:60]!r}"
                    break
                return
            except (OSError, urllib.error.URLError) as error:
                why = str(error)
                time.sleep(0.1)
        said = self.output.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name} at {self.url} is not ready ({why})\n{said}")

    def empty_log(self):
        """Some hundred megabytes a minute are not kept: the directory may be in memory. Everyone here appends."""
        if self.access_log.exists():
            os.truncate(self.access_log, 0)

    def stop(self):
        """Ends it and what it started, by id."""
        if self.process.poll() is not None:
            return
        tree = measure.process_tree(self.pid)
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in tree[1:]:
            # A worker that outlived its master; ids are not given again within these seconds.
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class Bench:
    """Starts servers, each in a directory of its own, and stops them all."""

    def __init__(self, directory, binaries):
        self.directory = Path(directory)
        self.binaries = binaries
        self.servers = []
        self.certificate = None
        self.token = self.jwks = None

    def _place(self, name):
        place = self.directory / name
        place.mkdir()
        return place

    def _start(self, *arguments, **options):
        server = Server(*arguments, **options)
        self.servers.append(server)
        server.wait_ready()
        return server

    def stop(self):
        while self.servers:
            self.servers.pop().stop()

    def make_certificate(self):
        """A P-256 certificate for everyone who speaks TLS here."""
        place = self._place("tls")
        self.certificate = (str(place / "cert.pem"), str(place / "key.pem"))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-out", self.certificate[0], "-keyout", self.certificate[1]],
            check=True, capture_output=True,
        )

    def _nginx(self, name, workers, http, port, **options):
        place = self._place(name)
        user = "user root;" if os.getuid() == 0 else ""
        temporary = "\n".join(
            f"  {kind}_temp_path {place}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = place / "nginx.conf"
        config.write_text(
            f"daemon off; {user} worker_processes {workers}; pid {place}/pid;\n"
            f"error_log stderr warn;\nevents {{ worker_connections 4096; }}\n"
            f"http {{\n{temporary}\n  keepalive_requests 1000000000; keepalive_timeout 1h;\n{http}\n}}\n"
        )
        program = [shutil.which("nginx"), "-e", "stderr", "-p", str(place), "-c", str(config)]
        return self._start(name, place, program, port, **options)

    def origin(self):
        """nginx with one worker: 40 bytes for every path, connections kept, no log."""
        self.origin_port = free_port()
        return self._nginx(
            "origin", 1,
            f"  access_log off; default_type application/json;\n"
            f"  server {{ listen 127.0.0.1:{self.origin_port}; location / {{ return 200 '{BODY}'; }} }}",
            self.origin_port,
        )

    def nginx(self, name="nginx", tls=False):
        """nginx as proxy: a worker a core, 128 idle upstream connections a worker, a buffered access log to a file."""
        port = free_port()
        listen = f"listen 127.0.0.1:{port};"
        if tls:
            cert, key = self.certificate
            listen = (
                f"listen 127.0.0.1:{port} ssl; ssl_certificate {cert}; ssl_certificate_key {key};"
                " ssl_protocols TLSv1.3; ssl_session_cache shared:tls:1m;"
            )
        http = (
            f"  access_log {self.directory}/{name}/access.log combined buffer=64k flush=1s;\n"
            f"  upstream origin {{ server 127.0.0.1:{self.origin_port}; keepalive 128;"
            f" keepalive_requests 1000000000; }}\n"
            f"  server {{ {listen} location / {{ proxy_pass http://origin;"
            ' proxy_http_version 1.1; proxy_set_header Connection ""; } }'
        )
        return self._nginx(name, CORES, http, port, tls=tls)

    def floor(self, name="floor", tls=False):
        """Bare Pingora with its default server. SIGTERM would make it sleep for minutes."""
        port = free_port()
        arguments = [self.binaries["floor"], f"127.0.0.1:{port}", f"127.0.0.1:{self.origin_port}"]
        arguments += self.certificate if tls else ()
        return self._start(name, self._place(name), arguments, port, tls=tls, stop=signal.SIGINT)

    def haproxy(self, name="haproxy", tls=False):
        """HAProxy: a thread a core, connections shared, no access log (it has none to files)."""
        place, port = self._place(name), free_port()
        bind = f"bind 127.0.0.1:{port}"
        if tls:
            cert, key = self.certificate
            both = place / "both.pem"
            both.write_text(Path(cert).read_text() + Path(key).read_text())
            bind += f" ssl crt {both} alpn http/1.1 ssl-min-ver TLSv1.3"
        config = place / "haproxy.cfg"
        config.write_text(
            f"global\n  nbthread {CORES}\n  maxconn 4096\n"
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
            f"frontend in\n  {bind}\n  default_backend origin\n"
            f"backend origin\n  http-reuse always\n  server one 127.0.0.1:{self.origin_port} pool-max-conn 128\n"
        )
        return self._start(name, place, [shutil.which("haproxy"), "-db", "-f", str(config)], port, tls=tls)

    def make_token(self):
        """A token for everyone who verifies one here."""
        self.token, self.jwks = tokens.make(self._place("token"))

    def envoy(self, name="envoy", jwt=False):
        """Envoy: a thread a core, access log to a file as JSON; with `jwt`, its jwt_authn filter with its cache."""
        place, port = self._place(name), free_port()
        filters = []
        if jwt:
            provider = {
                "issuer": tokens.ISSUER, "audiences": [tokens.AUDIENCE], "forward": True,
                "local_jwks": {"filename": self.jwks}, "jwt_cache_config": {"jwt_cache_size": 1000},
            }
            filters.append(_typed("envoy.filters.http.jwt_authn", "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", {
                "providers": {"staff": provider},
                "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "staff"}}],
            }))
        filters.append(_typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", {}))
        log = _typed("envoy.access_loggers.file", "envoy.extensions.access_loggers.file.v3.FileAccessLog", {
            "path": f"{place}/access.log",
            "log_format": {"json_format": {"time": "%START_TIME%", "status": "%RESPONSE_CODE%", "path": "%REQ(:PATH)%",
                                           "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "duration": "%DURATION%"}},
        })
        manager = _typed("envoy.filters.network.http_connection_manager",
                         "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", {
            "stat_prefix": "in", "http_filters": filters, "access_log": [log],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": "origin"}}]}]},
        })
        at = lambda number: {"socket_address": {"address": "127.0.0.1", "port_value": number}}
        config = place / "envoy.json"
        config.write_text(json.dumps({"static_resources": {
            "listeners": [{"name": "in", "address": at(port), "filter_chains": [{"filters": [manager]}]}],
            "clusters": [{"name": "origin", "connect_timeout": "1s", "type": "STATIC", "load_assignment": {
                "cluster_name": "origin", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": at(self.origin_port)}}]}]}}],
        }}))
        program = [shutil.which("envoy"), "-c", str(config), "--concurrency", str(CORES), "-l", "warn",
                   "--disable-hot-restart"]
        return self._start(name, place, program, port, token=self.token if jwt else None)

    def portcullis(self, name="portcullis", tls=False, routes=None, binary="portcullis", jwt=False, under=(), own=False):
        """Portcullis: a worker a core, access log to a file as JSON, metrics on; with `jwt`, a token is wanted. `under` is the
        command that runs it, if any: valgrind's. `own` runs a copy of the program's file."""
        place, port, status = self._place(name), free_port(), free_port()
        listener = f"  - address: 127.0.0.1:{port}\n"
        if tls:
            cert, key = self.certificate
            listener += f"    tls:\n      certificates: [{{cert: {cert}, key: {key}}}]\n"
        config = place / "portcullis.yaml"
        config.write_text(
            f"server: {{workers: {CORES}, state: {place}/state, status: '127.0.0.1:{status}'}}\n"
            f"log: {{level: warn, access: {{to: {place}/access.log, format: json}}}}\n"
            f"listeners:\n{listener}"
            f"upstreams:\n  origin: {{servers: ['127.0.0.1:{self.origin_port}']}}\n"
            f"{self._auth(jwt)}"
            f"routes:\n{_routes(routes)}"
        )
        program = shutil.copy(self.binaries[binary], place / "program") if own else self.binaries[binary]
        arguments = [*under, str(program), "run", "--config", str(config)]
        path = route_path(0) if routes else "/"
        server = self._start(name, place, arguments, port, tls=tls, path=path, token=self.token if jwt else None)
        if own:
            # It lives as long as its process: the space is needed for the next.
            os.unlink(program)
        server.status = f"http://127.0.0.1:{status}"
        return server

    def _auth(self, jwt):
        if not jwt:
            return "defaults: {auth: none}\n"
        return (
            f"policies: {{auth: {{staff: {{jwt: {{issuer: '{tokens.ISSUER}', audiences: [{tokens.AUDIENCE}],"
            f" algorithms: [RS256], keys: {{file: '{self.jwks}'}}}}}}}}}}\n"
            "defaults: {auth: staff}\n"
        )


def _typed(name, kind, fields):
    """An extension of Envoy's, as its configuration wants it."""
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{kind}", **fields}}


def _routes(count):
    if not count:
        return '  - {name: all, match: {path: "/{*rest}"}, upstream: origin}\n'
    return "".join(
        f'  - {{name: r{n}, match: {{path: "/api/service-{n:05}/{{*rest}}"}}, upstream: origin}}\n'
        for n in range(count)
    )


def route_path(number):
    """A path that the route of this number takes."""
    return f"/api/service-{number:05}/orders/7"


def wrk_token(token, path):
    """A script for wrk that bears a token."""
    Path(path).write_text(f"wrk.headers['Authorization'] = 'Bearer {token}'\n")
    return str(path)


def wrk_script(count, path):
    """A script for wrk that asks each of `count` routes in turn, in an order that is none."""
    Path(path).write_text(
        f"local count, at, requests = {count}, 0, {{}}\n"
        "function init()\n"
        "  for n = 0, count - 1 do\n"
        "    requests[n] = wrk.format('GET', string.format('/api/service-%05d/orders/7', n))\n"
        "  end\n"
        "end\n"
        "function request()\n"
        "  at = (at + 7919) % count\n"
        "  return requests[at]\n"
        "end\n"
    )
    return str(path)
