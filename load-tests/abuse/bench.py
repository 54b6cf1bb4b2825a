"""The gateway under test and the origin behind it, on free ports of the loopback; what they cost is read from /proc."""

import asyncio
import os
import resource
import socket
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def raise_descriptors():
    """As many descriptors as this user may have, for this process and those it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def binary(asked):
    """The gateway's program: the one asked for, else the release build, else the debug build."""
    built = [ROOT / "target" / profile / "portcullis" for profile in ("release", "debug")]
    for path in [Path(asked)] if asked else built:
        if path.is_file():
            return path.resolve()
    raise SystemExit("no gateway is built: cargo build --release")


class Origin:
    """Takes requests, and answers none of them until `release`."""

    def __init__(self):
        self.port = free_port()
        self.held = 0
        self.loop = asyncio.new_event_loop()
        self.go = None
        ready = threading.Event()
        threading.Thread(target=self._run, args=[ready], daemon=True).start()
        ready.wait(10)

    def _run(self, ready):
        asyncio.set_event_loop(self.loop)
        self.go = asyncio.Event()
        self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=4096, limit=1 << 20))
        self.loop.call_soon(ready.set)
        self.loop.run_forever()

    async def _serve(self, reader, writer):
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.held += 1
                gone = asyncio.ensure_future(reader.read(1))
                go = asyncio.ensure_future(self.go.wait())
                await asyncio.wait({gone, go}, return_when=asyncio.FIRST_COMPLETED)
                self.held -= 1
                go.cancel()
                if gone.done():
                    break
                gone.cancel()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()


class Gateway:
    """A gateway before the origin: `/held` is forwarded, `/hello` is answered by itself. Plain and with TLS."""

    def __init__(self, program, directory, origin, limits=""):
        self.plain, self.secure = free_port(), free_port()
        config = directory / "portcullis.yaml"
        config.write_text(
            f"""server: {{status: none, state: {directory}/state, drain: 80s, limits: {{{limits}}}}}
log: {{level: error, access: {{to: {directory}/access.log}}}}
listeners:
  - address: 127.0.0.1:{self.plain}
  - address: 127.0.0.1:{self.secure}
    tls: {{certificates: generate}}
defaults: {{auth: none}}
upstreams:
  origin: {{servers: ['127.0.0.1:{origin.port}'], timeouts: {{connect: 20s, read: 10m, total: 10m}}}}
routes:
  - {{name: hello, match: {{path: /hello}}, respond: {{body: hello}}}}
  - {{name: held, match: {{path: /held}}, upstream: origin}}
"""
        )
        self.log = directory / "access.log"
        self.output = directory / "output"
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [program, "run", "--config", config], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.secure), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the gateway does not start:\n{self.output.read_text()}") from None
                time.sleep(0.05)

    def memory(self, field="VmRSS"):
        """Resident bytes now (`VmRSS`), or at most since `forget_peak` (`VmHWM`)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise SystemExit("the gateway has ended")

    def forget_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def processor(self):
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
