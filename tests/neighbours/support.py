"""Sites of their own, in a process of their own: other packages change all of Django."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django_poolkit.testing import Node

ROOT = Path(__file__).parents[2]

Drive = Callable[..., dict[str, Any]]


def drive(module: str, variable: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run a program; `given` reaches it as JSON in `variable`. Return the JSON it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-m", module],
        cwd=ROOT,
        env=os.environ | {variable: json.dumps(given)},
        capture_output=True,
        text=True,
        timeout=150.0,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def own_database(node: Node, name: str, *, mode: str) -> Iterator[dict[str, Any]]:
    """Make a database; yield its entry of `DATABASES`, on a pool of two. Drop it at the end."""
    node.create_database(name)
    yield {
        **node.django_settings(),
        "NAME": name,
        "ENGINE": "django_poolkit.backends.postgresql",
        "OPTIONS": {"pool": {"mode": mode, "max_size": 2, "timeout": 30.0}},
    }
    node.execute(f"DROP DATABASE {name} WITH (FORCE)")
