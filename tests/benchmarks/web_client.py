"""The clients of `tests.benchmarks.web`: wrk where it is installed, else those of this checkout."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from example_project.clients import Crowd
from example_project.sending import send

PATIENCE: Final = 60.0
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class Load(NamedTuple):
    """What came of a crowd that asked for a page; times in seconds."""

    requests: int
    failed: int
    throughput: float
    p50: float
    p99: float


def find_wrk() -> str | None:
    """Return the program, None where there is none."""
    return shutil.which("wrk")


def ask(url: str, page: str, clients: int, seconds: float, log: Path) -> Load:
    """Have so many clients ask for a page again and again. Blocks for so many seconds."""
    if wrk := find_wrk():
        command = [wrk, "--latency", "--threads", "1", "--connections", str(clients)]
        command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", f"{PATIENCE:.0f}s"]
        done = subprocess.run([*command, url + page], capture_output=True, text=True, check=True)
        return of_wrk(done.stdout)
    report = send(Crowd(url, page, clients, 0.0, seconds, PATIENCE), log)
    return Load(
        requests=report["requests"],
        failed=sum(report["failures"].values()),
        throughput=report["throughput"],
        p50=report["p50"],
        p99=report["p99"],
    )


def of_wrk(text: str) -> Load:
    """Read what wrk prints with `--latency`."""
    requests = int(_found(r"(\d+) requests in ", text))
    answered_ill = int(_found(r"Non-2xx or 3xx responses: (\d+)", text, "0"))
    errors = re.search(r"Socket errors: (.*)", text)
    lost = sum(map(int, re.findall(r"\d+", errors[1]))) if errors else 0
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", text))
    return Load(
        requests=requests + lost,
        failed=answered_ill + lost,
        throughput=rate * (1 - answered_ill / max(requests, 1)),
        p50=_time(_found(r"50%\s+(\S+)", text)),
        p99=_time(_found(r"99%\s+(\S+)", text)),
    )


def _found(pattern: str, text: str, otherwise: str | None = None) -> str:
    match = re.search(pattern, text)
    if match is None:
        if otherwise is None:
            raise ValueError(f"wrk has printed nothing like {pattern!r}")
        return otherwise
    return str(match[1])


def _time(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if match is None:
        raise ValueError(f"{text!r} is no time of wrk's")
    return float(match[1]) * _SECONDS[match[2]]
