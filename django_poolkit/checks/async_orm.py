"""The ORM on the event loop: what it cannot serve, and what would hold the loop up."""

from __future__ import annotations

from collections.abc import Iterator

from django.apps import apps
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.db.models import FileField

from django_poolkit.aio import placing, starting
from django_poolkit.checks.aliases import entries
from django_poolkit.conf.async_orm import AsyncOrmConfig, async_orm_config

_NEAR = (FileSystemStorage, InMemoryStorage)
_SHOWN = 3


def aliases() -> Iterator[CheckMessage]:
    """Look for aliases that no loop can wait for, and that are not named as left on threads."""
    config = _enabled()
    if config is None:
        return
    for name, entry in entries():
        if name in config.thread_aliases or placing.serves(name, entry):
            continue
        yield checks.Error(
            f"POOLKIT['ASYNC_ORM'] is on, and the connections of DATABASES[{name!r}] are none of "
            "our pools: an event loop cannot wait for them.",
            hint=f"Add {name!r} to POOLKIT['ASYNC_ORM']['THREAD_ALIASES']: its calls then run on "
            "Django's threads, as they do in any case. Or give it our ENGINE, and a pool.",
            id="poolkit.E009",
        )


def obstacles() -> Iterator[CheckMessage]:
    """Look for what keeps the ORM off the loop although the settings want it there."""
    config = _enabled()
    if config is None:
        return
    try:
        why = starting.obstacle(config)
    except ImproperlyConfigured as error:
        yield checks.Error(str(error), id="poolkit.E010")
        return
    if why is not None:
        yield checks.Warning(
            f"POOLKIT['ASYNC_ORM'] is on, and has no effect: {why}.",
            hint="Async methods of the ORM run on threads, as Django has it. A Django that is "
            "newer than the kit may need a newer kit.",
            id="poolkit.W040",
        )


def storages() -> Iterator[CheckMessage]:
    """Look for files that `save()` sends to a storage elsewhere: it then holds the loop up."""
    if _enabled() is None:
        return
    remote = [
        f"{model._meta.label}.{field.name}"
        for model in apps.get_models()
        for field in model._meta.local_fields
        if isinstance(field, FileField) and not isinstance(field.storage, _NEAR)
    ]
    if remote:
        more = f" and {len(remote) - _SHOWN} more" if len(remote) > _SHOWN else ""
        yield checks.Warning(
            f"POOLKIT['ASYNC_ORM'] is on, and {', '.join(remote[:_SHOWN])}{more} may upload in "
            "save(), which asave() and acreate() run on the event loop: nothing else runs there "
            "meanwhile.",
            hint="Save such objects by sync_to_async(object.save)(), which has a thread do it.",
            id="poolkit.W041",
        )


def _enabled() -> AsyncOrmConfig | None:
    """Return the settings where they can be read, and turn it on."""
    try:
        config = async_orm_config()
    except ImproperlyConfigured:
        return None
    return config if config.enabled else None
