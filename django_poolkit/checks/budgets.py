"""Whether a process can stop in the time that it is given. For `check --deploy`."""

from __future__ import annotations

from collections.abc import Iterator

from django.core import checks
from django.core.checks import CheckMessage

from django_poolkit.checks.aliases import lifespan


def stop() -> Iterator[CheckMessage]:
    """Look whether a stop may take longer than whoever asked for it waits."""
    config = lifespan()
    if config is None:
        return
    total = (config.cut_after or 0.0) + config.stop_timeout
    if total >= config.killed_after:
        sum_ = f"STOP_TIMEOUT ({config.stop_timeout:g})"
        if config.cut_after is not None:
            sum_ = f"CUT_AFTER ({config.cut_after:g}) and {sum_}"
        yield checks.Warning(
            f"POOLKIT['LIFESPAN']: a process may take {total:g} s to stop, by {sum_}, and is "
            f"killed after KILLED_AFTER ({config.killed_after:g} s), before all is closed.",
            hint="Lower the former, or have whoever stops it wait longer (gunicorn by "
            "--graceful-timeout, Kubernetes by terminationGracePeriodSeconds, systemd by "
            "TimeoutStopSec), and write into KILLED_AFTER how long. What the server itself waits "
            "for requests comes on top.",
            id="poolkit.W033",
        )


def parts() -> Iterator[CheckMessage]:
    """Look for one resource that may take longer than all of them together."""
    config = lifespan()
    if config is None or not config.resources:
        return
    closing = config.stop_timeout - config.drain_timeout
    for key, part, whole, what in (
        ("RESOURCE_START_TIMEOUT", config.resource_start_timeout, config.start_timeout,
         "START_TIMEOUT"),
        ("RESOURCE_STOP_TIMEOUT", config.resource_stop_timeout, closing,
         "STOP_TIMEOUT less DRAIN_TIMEOUT"),
    ):  # fmt: skip
        if part > whole:
            yield checks.Warning(
                f"POOLKIT['LIFESPAN'][{key!r}] ({part:g} s) is above {what} ({whole:g} s): one "
                "resource that hangs takes the time of all.",
                hint=f"Lower {key}.",
                id="poolkit.W034",
            )
