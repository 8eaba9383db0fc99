"""Metrics that no scrape will see."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from django.core import checks
from django.core.checks import CheckMessage


def multiprocess() -> Iterator[CheckMessage]:
    """Look whether prometheus_client was told too late that there are several processes."""
    if not find_spec("prometheus_client"):
        return
    from django_poolkit.metrics.multiprocess import is_too_late

    if is_too_late():
        yield checks.Warning(
            "PROMETHEUS_MULTIPROC_DIR was set after prometheus_client had been imported, so no "
            "figure of this process reaches a scrape.",
            hint="Set it in the environment, before Python starts: not in the settings, nor in "
            "manage.py or wsgi.py.",
            id="poolkit.W032",
        )
