"""What the versions of the package are about: its public names, with their parameters.

python -m tests.public_api            print them
python -m tests.public_api --write    write them to tests/public_api.txt, after a change on purpose
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path
from typing import Any

MODULES = (
    "django_poolkit",
    "django_poolkit.aio",
    "django_poolkit.asgi",
    "django_poolkit.contrib.sqlalchemy",
    "django_poolkit.health",
    "django_poolkit.lifespan",
    "django_poolkit.middleware",
    "django_poolkit.pools.postgres",
    "django_poolkit.retry",
    "django_poolkit.routing",
    "django_poolkit.signals",
    "django_poolkit.streams",
    "django_poolkit.testing",
    "django_poolkit.wsgi",
)
SNAPSHOT = Path(__file__).with_name("public_api.txt")
REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "python-api.md"


def lines() -> list[str]:
    """Return a line for each public name, and for each public member of a class."""
    return [line for module in MODULES for line in _of_module(module)]


def _of_module(path: str) -> Iterator[str]:
    module = importlib.import_module(path)
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", path) == path
            if not inspect.ismodule(value) and name != "annotations"
        ]
    for name in sorted(names):
        value = getattr(module, name)
        yield f"{path}.{name}{_parameters(value)}"
        if inspect.isclass(value):
            for member in _members(value):
                # The pool's own parts call one another: what is for users is in the reference.
                if name != "ConnectionPool" or member.partition("(")[0] in documented():
                    yield f"{path}.{name}.{member}"


def documented() -> set[str]:
    """Return the names in the first columns of the reference's tables."""
    cells = re.findall(r"^\| (.*?) \|", REFERENCE.read_text(), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)[`(]", cell)}


def _members(kind: type[Any]) -> Iterator[str]:
    """Yield what a class has of us: not what it has of psycopg, Django or Python."""
    names = {
        name: base
        for base in reversed(kind.__mro__)
        if base.__module__.startswith("django_poolkit")
        for name in (*vars(base), *getattr(base, "__annotations__", ()))
        if not name.startswith("_")
    }
    for name in sorted(names):
        value = inspect.getattr_static(kind, name, None)
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        yield name + (_parameters(value) if inspect.isfunction(value) else "")


def _parameters(value: Any) -> str:
    if not (inspect.isclass(value) or inspect.isroutine(value)) or isinstance(value, EnumType):
        return ""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    return str(
        signature.replace(
            return_annotation=inspect.Signature.empty,
            parameters=[
                each.replace(annotation=inspect.Parameter.empty, default=_default(each.default))
                for each in signature.parameters.values()
                if not each.name.startswith("_")
            ],
        )
    )


def _default(value: Any) -> Any:
    if value is inspect.Parameter.empty or isinstance(value, str | int | float | None | tuple):
        return value
    return ...


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
    if sys.argv[1:] == ["--write"]:
        SNAPSHOT.write_text("\n".join(lines()) + "\n")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        print("\n".join(lines()))
