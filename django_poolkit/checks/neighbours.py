"""Packages beside the kit, in versions that are known to do harm to pools."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from django.core import checks
from django.core.checks import CheckMessage

from django_poolkit.checks.aliases import entries
from django_poolkit.conf import site

_Version = tuple[int, ...]
# Its wrapper takes the cursor class of a connection that comes from a pool, and wraps it once more,
# each time. https://github.com/django-commons/django-prometheus/issues/445
_PROMETHEUS_FIXED: Final = (2, 5)
# receive() answered a cancellation by http.disconnect, so Django never sent request_finished.
# https://github.com/benoitc/gunicorn/pull/3654: after 25.1.0 worked, and 26.0.0 did not yet.
_GUNICORN_BROKEN: Final = (25, 2)
_GUNICORN_FIXED: Final = (26, 1)


def django_prometheus() -> Iterator[CheckMessage]:
    """Look for the engine of django-prometheus on a pool of Django's, before 2.5."""
    found = _installed("django-prometheus")
    if found is None or found >= _PROMETHEUS_FIXED:
        return
    for name, settings in entries():
        engine, options = str(settings.get("ENGINE")), settings.get("OPTIONS") or {}
        if engine.startswith("django_prometheus.db.backends.post") and options.get("pool"):
            yield checks.Warning(
                f"django-prometheus {_shown(found)} is installed, and DATABASES[{name!r}] has "
                "its ENGINE, with a pool: it wraps the cursors of a connection once more each "
                "time that the pool gives it out, and so gets slower and slower.",
                hint="Install 2.5 or later. Or have ENGINE lead to a wrapper with our mixin in "
                "front of theirs.",
                id="poolkit.W030",
            )


def gunicorn() -> Iterator[CheckMessage]:
    """Look for an `asgi` worker of gunicorn's that keeps requests from ending."""
    found = _installed("gunicorn")
    if found is None or site.asgi_application() is None:
        return
    if _GUNICORN_BROKEN <= found < _GUNICORN_FIXED:
        yield checks.Warning(
            f"gunicorn {_shown(found)} is installed: its asgi worker swallows the cancellation by "
            "which Django ends a request, so request_finished is not sent, and what waits for it "
            "keeps its connections.",
            hint="Install 26.1 or later, or use another worker. django_poolkit.asgi gives the "
            "pools' leases back all the same; other libraries' connections pile up.",
            id="poolkit.W031",
        )


def _installed(name: str) -> _Version | None:
    """Return the version of a package, None where it is not installed or its version is odd."""
    try:
        text = version(name)
    except PackageNotFoundError:
        return None
    numbers = re.match(r"\d+(\.\d+)*", text or "")
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else None


def _shown(found: _Version) -> str:
    return ".".join(map(str, found))
