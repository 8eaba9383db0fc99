"""A worker: whether its pools fit to the tasks that it runs at once, and how its processes end."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NoReturn

from billiard.common import TERM_SIGNAL
from celery.exceptions import WorkerShutdown
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.conf.databases import copy_settings, pool_config
from django_poolkit.pools import endings
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.postgres.greenlets import why_greenlets_block

logger = logging.getLogger("django_poolkit.celery")

# Of a worker's pool, by the last part of its module's name.
_GREENLETS: Final = ("gevent", "eventlet")
_AT_ONCE: Final = ("thread", *_GREENLETS)
_SPARE: Final = 1
# sysexits.h, EX_CONFIG
_MISCONFIGURED: Final = 78


_fits = False  # whether pools are to have the size of their worker


def fit_pools() -> None:
    """Have each pool of a worker's process be as large as the tasks that it runs at once need.

    That is a `max_size` of one for each of them, and one to spare. Whatever the settings say of it
    is replaced before the worker forks or opens a pool. A worker that cannot, as where `min_size`
    is larger, says so and ends. May be called again, and needs `install()`.
    """
    global _fits
    _fits = True


def start(instance: Any = None, **kwargs: Any) -> None:
    """Look at a worker that is about to start: refuse what would block it, warn of small pools."""
    kind, tasks = _kind_of(instance), _tasks_at_once(instance)
    if kind in _GREENLETS and (reason := why_greenlets_block(kind)) is not None:
        _refuse(reason)
    if _fits:
        _fit(tasks + _SPARE)
    small = {
        alias: config.max_size
        for alias, _, config in _pooled()
        if config.mode == "session" and config.max_size < tasks
    }
    if small:
        _warn(kind, tasks, small)


def _fit(size: int) -> None:
    for alias, settings, _ in _pooled():
        fitted = copy_settings(settings)
        pool = fitted["OPTIONS"].get("pool")
        fitted["OPTIONS"]["pool"] = {
            **(pool if isinstance(pool, Mapping) else {}),
            "max_size": size,
        }
        try:
            pool_config(alias, fitted)
        except ImproperlyConfigured as error:
            _refuse(f"the pools cannot be fitted to this worker: {error}")
        settings["OPTIONS"]["pool"] = fitted["OPTIONS"]["pool"]


def leave(**kwargs: Any) -> None:
    """Close what a process of a worker has open, which ends without Python's exit hooks."""
    endings.end()
    # What comes next is billiard's farewell, with the lock of a queue that all processes share.
    # It blocks the signal for that (4.3, pool.py, Worker._do_exit()), but in its own thread: any
    # other would take it, the process die with the lock, and the whole worker stand still.
    if signal.getsignal(TERM_SIGNAL) is signal.SIG_DFL:
        with suppress(ValueError):  # not in the main thread
            signal.signal(TERM_SIGNAL, _take_here)


def _take_here(number: int, frame: object) -> None:
    """Have the main thread die of a signal, as soon as it does not block it."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_kill(threading.get_ident(), number)


def _kind_of(worker: Any) -> str:
    """Return the kind of a worker's pool: `prefork`, `thread`, `solo`, `gevent`, or another."""
    return str(worker.pool_cls.__module__).rpartition(".")[2]


def _tasks_at_once(worker: Any) -> int:
    """Return how many tasks one process of a worker may run at once."""
    if _kind_of(worker) not in _AT_ONCE:
        return 1
    # Where it is scaled, its instance has the bounds of that.
    return int(getattr(worker, "max_concurrency", None) or worker.concurrency)


def _pooled() -> Iterator[tuple[str, dict[str, Any], PoolConfig]]:
    for alias in connections:
        wrapper = connections[alias]
        if isinstance(wrapper, PooledDatabaseWrapperMixin):
            settings = connections.settings[alias]
            if (config := pool_config(alias, settings)) is not None:
                yield alias, settings, config


def _warn(kind: str, tasks: int, small: Mapping[str, int]) -> None:
    named = ", ".join(
        f"DATABASES[{alias!r}]['OPTIONS']['pool']['max_size'] is {size}"
        for alias, size in small.items()
    )
    logger.warning(
        "event=small_pool pool=%s concurrency=%d; %s: in session mode each task holds a "
        "connection from its first query to its end, so the others wait for 'timeout' seconds and "
        "fail. Set 'max_size' to at least %d, call fit_pools() beside install(), or have 'mode' "
        "be 'transaction'",
        kind, tasks, named, tasks,
    )  # fmt: skip


def _refuse(reason: str) -> NoReturn:
    # Celery logs what a receiver raises, and goes on, unless it is a SystemExit.
    logger.critical("event=worker_refused reason=%s", reason)
    raise WorkerShutdown(_MISCONFIGURED)
