"""On what was measured: the machine, the system and the versions. No names of hosts, no paths."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "django", "psycopg", "psycopg-pool", "asyncpg", "aiohttp", "greenlet", "gunicorn", "uvicorn",
    "uvloop", "SQLAlchemy",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Return what a reader has to know of this machine, for a file."""
    return {
        "cpu": _fact(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": _cores(),
        "memory_gib": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "postgresql": _postgresql(),
        "packages": dict(_versions()),
    }


def load() -> float:
    """Return how many processes wanted to compute in the last minute, on average."""
    return round(os.getloadavg()[0], 2)


def _cores() -> int:
    # Not on every system: those that this process may use.
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def _memory() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _fact(path: Path, name: str) -> str | None:
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _postgresql() -> str:
    from django_poolkit.testing import binaries, runuser

    return str(binaries.find(runuser.ServerUser.resolve()).version)


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
