"""The start of the ORM on the loop, as the settings have it; or why there is none."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from typing import Final

from django.core.exceptions import ImproperlyConfigured

from django_poolkit.aio.names import NamesMissing
from django_poolkit.conf.async_orm import AsyncOrmConfig, async_orm_config

logger = logging.getLogger("django_poolkit.aio")

_NO_GREENLET: Final = (
    "POOLKIT['ASYNC_ORM']['ENABLED'] needs greenlet, which is not installed: "
    "pip install django-poolkit[bridge]."
)


def start() -> None:
    """Have Django's async methods run on the loop, where `POOLKIT["ASYNC_ORM"]` says so.

    Where that cannot be, they go on to run on threads, which is logged. Raises
    ImproperlyConfigured for settings that cannot be honoured, and where greenlet is missing.
    """
    config = async_orm_config()
    if not config.enabled:
        return
    if (why := obstacle(config)) is not None:
        logger.error("event=async_orm_off reason=%r", why)
        return
    from django_poolkit.aio import orm  # loads greenlet

    orm.install(config)


def obstacle(config: AsyncOrmConfig) -> str | None:
    """Return why the ORM cannot run on the loop here, None where it can.

    Raises ImproperlyConfigured where greenlet is missing.
    """
    if sys.platform == "win32":
        return "event loops of Windows cannot wait for the connections of psycopg"
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("socket"):
        return "gevent has replaced the sockets, so no event loop waits for them"
    if find_spec("greenlet") is None:
        raise ImproperlyConfigured(_NO_GREENLET)
    from django_poolkit.aio import orm

    gone = orm.names_missing(config)
    return str(NamesMissing(gone)) if gone else None
