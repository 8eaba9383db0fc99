"""`POOLKIT["CONTROL"]`: whether and where a process can be seen from another, and who may steer."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from django.conf import settings

from django_poolkit.conf.poolkit import bad_value, section

Steering = Literal[True, False, "root"]

# Fixed, and not asked of the environment: a service and the shell of who looks at it differ in
# TMPDIR and in all of XDG, and would not meet.
_TEMPORARY: Final = Path("/tmp")  # noqa: S108 - the directory in it is ours alone, or refused
_SERVICE: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
# A path longer than 103 bytes is no address of a socket on macOS, than 107 on Linux. In the
# directory come a process id, 8 random digits and ".sock".
_LONGEST_DIRECTORY: Final = 100 - len("/4194304-01234567.sock")
ROOT: Final = 0


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """How the processes of this project can be seen and steered."""

    enabled: bool = True
    """Whether a process that opens a pool serves a socket."""
    directory: Path
    """Where the sockets are: 0700, and owned by who runs the process."""
    steering: Steering = False
    """Who may steer: nobody (False), the user of the process and root (True), or `root`."""
    service: str
    """What the processes call themselves, on the PostgreSQL server too."""
    mark: str = ""
    """8 hex digits that stand for the project in the name of the default directory, which
    differs from user to user; empty where the directory was set."""

    def steerers(self) -> frozenset[int]:
        """Return the user ids that may steer a process of the calling user's."""
        if self.steering == "root":
            return frozenset({ROOT})
        return frozenset({os.geteuid(), ROOT}) if self.steering else frozenset()


_KEYS: Final = tuple(f.name.upper() for f in fields(ControlConfig) if f.name != "mark")


def control_config() -> ControlConfig:
    """Return the section, read now, for the user that the process now runs as.

    Raises ImproperlyConfigured with the path of the first value that cannot be honoured.
    """
    values = section("CONTROL", _KEYS)
    module = _settings_module()
    mark = hashlib.sha256(f"{_project(module)}\0{module}".encode()).hexdigest()[:8]
    own = _directory(values.get("DIRECTORY"))
    return ControlConfig(
        enabled=_enabled(values.get("ENABLED", ControlConfig.enabled)),
        directory=own or default_directory(os.geteuid(), mark),
        steering=_steering(values.get("STEERING", ControlConfig.steering)),
        service=_service(values.get("SERVICE"), module),
        mark="" if own else mark,
    )


def default_directory(user: int | str, mark: str) -> Path:
    """Return where the sockets of one user's processes are, or a pattern for those of all (`*`)."""
    return _TEMPORARY / f"poolkit-{user}-{mark}"


def _settings_module() -> str:
    # Inside override_settings() and the like what is in force is a layer over the module.
    holder: Any = settings
    while (name := getattr(holder, "SETTINGS_MODULE", None)) is None:
        holder = getattr(holder, "default_settings", None)
        if holder is None:
            return ""  # settings.configure()
    return str(name)


def _project(module: str) -> str:
    path = getattr(sys.modules.get(module), "__file__", None)
    return str(Path(os.path.realpath(path)).parent) if path else ""


def _enabled(value: object) -> bool:
    if not isinstance(value, bool):
        raise bad_value("CONTROL", "ENABLED", value, "must be True or False")
    return value


def _steering(value: object) -> Steering:
    if isinstance(value, bool):
        return value
    if value == "root":
        return "root"
    what = "must be False (nobody), True (the user of the process, and root) or 'root'"
    raise bad_value("CONTROL", "STEERING", value, what)


def _directory(value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not Path(value).is_absolute():
        raise bad_value("CONTROL", "DIRECTORY", value, "must be an absolute path, or absent")
    path = Path(value)
    if (length := len(os.fsencode(path))) > _LONGEST_DIRECTORY:
        what = f"must have at most {_LONGEST_DIRECTORY} bytes, since a socket's path must fit"
        raise bad_value("CONTROL", "DIRECTORY", length, f"{what} into 100")
    return path


def _service(value: object, module: str) -> str:
    if value is None:
        return re.sub(r"[^A-Za-z0-9_.-]", "_", module.partition(".")[0])[:40] or "django"
    if not isinstance(value, str) or not _SERVICE.fullmatch(value):
        what = "must be a name of at most 40 letters, digits, dots, hyphens and underscores"
        raise bad_value("CONTROL", "SERVICE", value, what)
    return value
