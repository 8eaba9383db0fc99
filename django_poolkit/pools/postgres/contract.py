"""The private names of psycopg and psycopg_pool that are relied on, in one list.

Both are pinned to a minor series in pyproject.toml. The names are looked for at import, so
that another version is refused with a sentence instead of failing in the middle of a night.
"""

from __future__ import annotations

from typing import Final

import psycopg
import psycopg_pool
from psycopg import _cursor_base, _server_cursor_base, waiting
from psycopg._preparing import PrepareManager
from psycopg.adapt import AdaptersMap
from psycopg_pool import base, sched
from psycopg_pool import pool as shell

# Overridden: called by the shell, or by those who know it.
METHODS: Final = (
    "_start_workers", "_start_initial_tasks", "_check_open", "_check_open_getconn",
    "_get_measures", "getconn", "putconn", "connection", "drain", "resize", "check", "close",
    "run_task", "schedule_task", "get_stats", "pop_stats",
)  # fmt: skip
# Called as they are.
INHERITED: Final = (
    "open", "_open", "wait", "_resolve_conninfo", "_resolve_kwargs", "reconnect_failed",
    "_signal_stop_worker", "_check_pool_putconn", "_check_size",
)  # fmt: skip
MODULE: Final = ("MaintenanceTask", "StopWorker", "gather", "spawn")  # the latter two from _acompat
CONNECTION: Final = (
    "_autocommit", "_isolation_level", "_read_only", "_deferrable", "_begin_statement",
    "_notice_handlers", "_notify_handlers", "_notifies_backlog", "_pipeline", "_tpc",
    "_num_transactions", "_adapters", "_prepared",
)  # fmt: skip
OF_A_TASK: Final = ("lock", "cursor_factory", "server_cursor_factory")
WAITING: Final = ("wait_async", "wait_conn_async", "wait_conn")
CONNECTION_METHODS: Final = ("_start_query", "_exec_command", "_cancel_gen")


def missing() -> list[str]:
    """Return what this psycopg or psycopg_pool lacks of the names relied on."""
    pool_class = psycopg_pool.ConnectionPool
    absent = [f"ConnectionPool.{n}" for n in (*METHODS, *INHERITED) if not hasattr(pool_class, n)]
    absent += [f"psycopg_pool.pool.{n}" for n in MODULE if not hasattr(shell, n)]
    connection_names = {
        *psycopg.Connection.__init__.__code__.co_names,
        *psycopg.BaseConnection.__init__.__code__.co_names,
    }
    absent += [f"Connection.{n}" for n in CONNECTION if n not in connection_names]
    owners: dict[type, tuple[str, ...]] = {
        # The first is overridden by the connection of a prober, the second by every one.
        psycopg.Connection: ("_connect_gen", "_commit_gen", *CONNECTION_METHODS),
        psycopg.AsyncConnection: ("_commit_gen", "_exec_command", "wait"),
        psycopg.pq.PGconn: ("_encoding",),
        base.BasePool: ("_jitter", "_set_connection_expiry_date"),
        sched.Scheduler: ("enter",),
        _cursor_base.BaseCursor: (
            "_start_query", "_start_copy_gen", "_check_result_for_fetch", "_raise_for_result",
            "_reset", "_close", "_execute_gen", "_maybe_prepare_gen", "_loaders_changed", "_conn",
            "_adapters", "_closed", "_last_query", "_tx",
        ),
        AdaptersMap: ("_register_loader_callback",),
        _server_cursor_base.ServerCursorMixin: (
            "_declare_gen", "_fetch_gen", "_scroll_gen", "_close_gen",
        ),
    }  # fmt: skip
    for owner, names in owners.items():
        absent += [f"{owner.__name__}.{n}" for n in names if not hasattr(owner, n)]
    absent += [f"waiting.{n}" for n in WAITING if not hasattr(waiting, n)]
    # A connection of a task has them for itself, and the rest from that of the pool.
    own = psycopg.AsyncConnection.__init__.__code__.co_names
    absent += [f"AsyncConnection.{n}" for n in OF_A_TASK if n not in own]
    adapters = AdaptersMap()
    for name in ("_dumpers", "_dumpers_by_oid", "_loaders"):
        if not hasattr(adapters, name):
            absent.append(f"AdaptersMap.{name}")
    prepared = PrepareManager()
    for name in ("_names", "_counts", "_to_flush", "key", "get", "clear", "_should_discard"):
        if not hasattr(prepared, name):
            absent.append(f"PrepareManager.{name}")
    return absent


def verify() -> None:
    """Raise ImportError if a name relied on is missing."""
    if absent := missing():
        raise ImportError(
            "django_poolkit does not fit this psycopg "
            f"{psycopg.__version__} with psycopg_pool {psycopg_pool.__version__}: "
            f"{', '.join(absent)} not found. Install psycopg>=3.3,<3.4 and psycopg-pool>=3.3,<3.4."
        )
