"""What a run cost: processor time and memory by the kernel's account, latencies by wrk's."""

import os
import re
import subprocess
from dataclasses import dataclass

TICKS = os.sysconf("SC_CLK_TCK")


def process_tree(root):
    """The process `root` and everything below it, by id."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    tree, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        tree.append(pid)
        waiting.extend(children.get(pid, []))
    return tree


def _stat(pid):
    """The fields of /proc/PID/stat after the name: state, parent, …; None when the process has gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def cpu_seconds(root):
    """Processor time of the whole tree so far, in user and kernel."""
    ticks = 0
    for pid in process_tree(root):
        fields = _stat(pid)
        if fields:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def resident_mib(root):
    """VmRSS summed over the tree. Pages that processes share are counted for each of them."""
    kib = 0
    for pid in process_tree(root):
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
                found = re.search(r"^VmRSS:\s+(\d+) kB", file.read(), re.M)
        except OSError:
            continue
        kib += int(found.group(1)) if found else 0
    return kib / 1024


@dataclass
class Load:
    """What wrk saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failures: int


UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}


def milliseconds(text):
    """`1.23ms`, `870.00us` → milliseconds."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m|h)", text).groups()
    return float(number) * UNITS_MS[unit]


def parse_wrk(text):
    """Reads what `wrk --latency` prints."""
    total = re.search(r"(\d+) requests in ([\d.]+(?:us|ms|s|m|h)),", text)
    if not total:
        raise ValueError(f"wrk said something else than expected:\n{text}")
    percentile = {p: milliseconds(v) for p, v in re.findall(r"^\s+(\d+)%\s+([\d.]+\w+)$", text, re.M)}
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failures = sum(map(int, errors.groups())) if errors else 0
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    failures += int(refused.group(1)) if refused else 0
    return Load(
        int(total.group(1)), milliseconds(total.group(2)) / 1000, percentile["50"], percentile["99"], failures
    )


def wrk(url, connections, seconds, script=None):
    """Loads `url` with one thread of wrk."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["-s", script] if script else []
    done = subprocess.run(
        command + [url], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=seconds + 60,
    )
    if done.returncode != 0:
        raise RuntimeError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    return parse_wrk(done.stdout)
