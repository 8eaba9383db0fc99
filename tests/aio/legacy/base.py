"""An engine of others: SQLite's, which the test runner lets connect where it would not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.backends.sqlite3 import base

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper as Base
else:
    Base = base.DatabaseWrapper


class DatabaseWrapper(Base):
    """Django's own."""

    def ensure_connection(self) -> None:
        """Connect, without asking whether the test may."""
        if self.connection is None:
            with self.wrap_database_errors:
                self.connect()
