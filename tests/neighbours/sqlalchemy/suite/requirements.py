"""What PostgreSQL can do, as far as SQLAlchemy's tests ask: what they would skip otherwise."""

from __future__ import annotations

from typing import Any

from sqlalchemy.testing import exclusions
from sqlalchemy.testing.requirements import SuiteRequirements


def _open() -> property:
    return property(lambda self: exclusions.open())


class Requirements(SuiteRequirements):
    """What the suite may try."""

    autocommit = _open()
    isolation_level = _open()
    savepoints = _open()
    two_phase_transactions = _open()
    server_side_cursors = _open()
    json_type = _open()
    json_array_indexes = _open()
    update_returning = _open()
    delete_returning = _open()
    insert_returning = _open()
    insert_executemany_returning = _open()
    sane_multi_rowcount = property(
        lambda self: exclusions.only_if(lambda config: not config.db.dialect.is_async)
    )
    schemas = _open()
    default_schema_name_switch = _open()
    uuid_data_type = _open()
    array_type = _open()

    def get_isolation_levels(self, config: Any) -> dict[str, Any]:
        """Return the default, and what the driver has beside it."""
        levels = config.db.dialect.get_isolation_level_values(None)
        return {"default": "READ COMMITTED", "supported": list(levels)}
