"""What is wrong with `POOLKIT["HEALTH"]`, beyond what a single value shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, get_script_prefix, reverse

from django_poolkit.conf.health import HealthConfig, health_config
from django_poolkit.conf.poolkit import is_readable
from django_poolkit.health import groups

_LIVENESS = (
    "An orchestrator restarts what is not alive. A database or an upstream that is down would "
    "have all processes restarted, for as long as it is. Name it in 'ready', or in a group of "
    "its own."
)


def check_health(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> Iterable[CheckMessage]:
    """Return what is wrong with the section, its groups and the project's own checks."""
    if not is_readable():
        return []  # poolkit.E008 says it, once for all sections
    try:
        config = health_config()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="poolkit.E001")]
    try:
        missing = groups.unknown_members(config)
    except ImproperlyConfigured as error:
        return [Error(str(error), id="poolkit.E002")]
    found: list[CheckMessage] = []
    for group, names in missing.items():
        found += [_unknown(group, name, config) for name in names]
    for look in _LOOKS:
        found += look(config)
    return found


def _unknown(group: str, name: str, config: HealthConfig) -> CheckMessage:
    return Error(
        f"POOLKIT['HEALTH']['GROUPS'][{group!r}] has {name!r} for a member, which is no check.",
        hint=f"There are: {', '.join(groups.names(config)) or 'none'}.",
        id="poolkit.E003",
    )


def _empty(config: HealthConfig) -> Iterator[CheckMessage]:
    joined = {group for check in groups.own(config).values() for group in check.groups}
    for group, members in config.groups.items():
        # The process is a member of those that are there anyhow.
        if not members and group not in joined and group not in (*groups.ALONE, "ready"):
            yield checks.Warning(
                f"The group {group!r} of POOLKIT['HEALTH']['GROUPS'] has no members, so it passes "
                "whatever happens.",
                id="poolkit.W001",
            )


def _liveness(config: HealthConfig) -> Iterator[CheckMessage]:
    for name in config.groups.get("live", ()):
        if ":" in name:
            yield checks.Warning(
                f"POOLKIT['HEALTH']['GROUPS']['live'] has {name!r} for a member.",
                hint=_LIVENESS,
                id="poolkit.W002",
            )


def _slow(config: HealthConfig) -> Iterator[CheckMessage]:
    for name, check in groups.own(config).items():
        if check.timeout is not None and check.timeout > config.timeout:
            yield checks.Warning(
                f"The check {name!r} may take {check.timeout:g} s, which is more than "
                f"POOLKIT['HEALTH']['TIMEOUT'] ({config.timeout:g} s): every group that it is in "
                "may take as long.",
                hint="Have the timeouts of your probes above that, or lower its own.",
                id="poolkit.W003",
            )


def _hidden_view(config: HealthConfig) -> Iterator[CheckMessage]:
    if config.permission is None or config.path is None:
        return
    try:
        view = reverse("poolkit_health:index")
    except (NoReverseMatch, AttributeError):  # the latter where there is no ROOT_URLCONF
        return
    if ("/" + view.removeprefix(get_script_prefix())).startswith(config.path):
        yield checks.Warning(
            "Nobody sees details by POOLKIT['HEALTH']['PERMISSION']: the view that asks for it is "
            f"below POOLKIT['HEALTH']['PATH'] ({config.path!r}), where health is answered before "
            "any user is known.",
            hint="Include django_poolkit.health.urls at another path.",
            id="poolkit.W004",
        )


_LOOKS: tuple[Callable[[HealthConfig], Iterator[CheckMessage]], ...] = (
    _empty, _liveness, _slow, _hidden_view,
)  # fmt: skip
