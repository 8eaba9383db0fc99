"""Settings that Django's `runtests.py` is given: Django's own for its tests, on one variant."""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import Any

# It lies beside `runtests.py`, and differs from one Django to the next.
_theirs = vars(import_module("test_sqlite"))
globals().update({name: value for name, value in _theirs.items() if name.isupper()})

_variant: dict[str, Any] = json.loads(os.environ["POOLKIT_DJANGO_SUITE"])


def _database(name: str) -> dict[str, Any]:
    return {**_variant["database"], "NAME": name}


DATABASES = {"default": _database("django"), "other": _database("django2")}
TEST_RUNNER = "tests.django_suite.recorder.Recorder"
