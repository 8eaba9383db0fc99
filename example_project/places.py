"""Where the example keeps its things: the cluster's data, logs, and what the site needs to know.

Standard library only: settings and manage.py read it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from example_project.bootstrap import ROOT
from example_project.environment import environments_home


def home() -> Path:
    """Return the folder for everything that a start leaves for the next one."""
    chosen = os.environ.get("SHOP_HOME")
    return Path(chosen) if chosen else environments_home(ROOT) / ".poolkit"


def _environment_file() -> Path:
    return home() / "example-environment.json"


def saved_environment() -> dict[str, str]:
    """Return the variables of the site that runs from this checkout; nothing if none runs."""
    try:
        saved = json.loads(_environment_file().read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in saved.items()}


def save_environment(environment: Mapping[str, str]) -> None:
    """Write the variables down for `manage.py`, readable by nobody else: a password is in it."""
    path = _environment_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(dict(environment), file, indent=1)


def forget_environment() -> None:
    """The site has stopped: the variables lead nowhere."""
    _environment_file().unlink(missing_ok=True)
