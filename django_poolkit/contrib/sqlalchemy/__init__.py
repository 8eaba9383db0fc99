"""SQLAlchemy on the pools of the site: engines whose connections are leases.

`create_engine("default")` takes its connections from the pool that Django uses,
`create_async_engine("default")` from asyncpg's; `shared_connection()` works inside of Django's own
transaction, and `from_sqlalchemy()` translates the options of SQLAlchemy's pool. Settings may
import this module: each of them is loaded where it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_poolkit.contrib.sqlalchemy.translation import from_sqlalchemy

if TYPE_CHECKING:
    from django_poolkit.contrib.sqlalchemy.engines import create_async_engine, create_engine
    from django_poolkit.contrib.sqlalchemy.sharing import shared_connection

__all__ = ["create_async_engine", "create_engine", "from_sqlalchemy", "shared_connection"]


def __getattr__(name: str) -> Any:
    if name in ("create_async_engine", "create_engine"):
        from django_poolkit.contrib.sqlalchemy import engines

        return getattr(engines, name)
    if name == "shared_connection":
        from django_poolkit.contrib.sqlalchemy import sharing

        return sharing.shared_connection
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
