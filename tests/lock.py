"""What development last ran with: versions and hashes of all packages, in requirements/dev.lock.

python -m tests.lock --write    ask pip what it would install now, and write that down

For the Python and the system that it is written on. `--write` needs an index, whose address is not
written down: whoever installs from the file brings an own one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
LOCK: Final = ROOT / "requirements" / "dev.lock"
OURS: Final = "django-poolkit"
LINE: Final = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})")
_HEAD = """\
# What development ran with on {platform}, Python {python}. Written by: python -m tests.lock --write
#   pip install --require-hashes -r requirements/dev.lock && pip install --no-deps -e .
"""


def locked() -> dict[str, str]:
    """Return the versions of the file by name. Raises ValueError for a line that is no pin."""
    found = {}
    for line in LOCK.read_text().splitlines():
        if line.startswith("#"):
            continue
        if (match := LINE.fullmatch(line)) is None:
            raise ValueError(f"{LOCK.name}: {line!r} is no version with its hash")
        found[match[1]] = match[2]
    return found


def requirements() -> Iterator[tuple[str, Requirement]]:
    """Return what pyproject.toml asks for, each behind the extra it is for (empty: for all)."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, lines in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        for line in lines:
            yield extra, Requirement(line)


def text(report: dict[str, Any]) -> str:
    """Return the file for what pip reports that it would install."""
    lines = []
    for each in report["install"]:
        name = canonicalize_name(each["metadata"]["name"])
        if name != OURS:
            digest = each["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{name}=={each['metadata']['version']} --hash=sha256:{digest}\n")
    there = report["environment"]
    head = _HEAD.format(
        platform=f"{there['platform_system']} {there['platform_machine']}",
        python=there["python_version"],
    )
    return head + "".join(sorted(lines))


def write() -> None:
    """Ask pip, and write the file."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--quiet", "--report", str(report), f"{ROOT}[dev,mutants,release]"]
        subprocess.run(command, check=True)
        LOCK.write_text(text(json.loads(report.read_text())))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
