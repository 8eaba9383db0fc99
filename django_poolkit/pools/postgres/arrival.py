"""What of a session's defaults has arrived with a connect, and what becomes of the rest.

An old PgBouncer refuses start-up options, or drops them without a word. So what arrived is looked
at. What did not is set by statement, where that stays with the client; else the connect fails with
a sentence that names the setting: never a wrong time zone, or the wrong role, in silence.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any, Final

from psycopg import sql

from django_poolkit.pools.errors import PoolConfigError, PoolWarning
from django_poolkit.pools.poolers import Pooler, traits
from django_poolkit.pools.postgres import poolers, probe, reset
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.spelled import same

logger = logging.getLogger("django_poolkit.pool")

_SETTING: Final = sql.SQL("pg_catalog.current_setting({}, true)")


def statements(settings: Mapping[str, str]) -> bytes:
    """Return settings as SET statements, in one text."""
    return "; ".join(
        sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)).as_string()
        for name, value in settings.items()
    ).encode()


class Arrival:
    """Completes the connections of one pool. Used by its worker threads.

    What it remembers is written by whichever of them is first; a race costs a second warning.
    """

    def __init__(
        self,
        settings: Mapping[str, str],
        origins: Mapping[str, str],
        *,
        name: str,
        pooler: Pooler | None = None,
    ) -> None:
        self._settings = settings
        self._origins = origins
        self._name = name
        self._pooler = pooler
        self._between: bool | None = None  # whether a pooler has been found; None: not looked for
        self._traits = traits(pooler)
        self.refused = False
        """Whether the server has refused start-up options."""
        self.unsure = False
        """Whether to find out once if a pooler stands in between that nobody has declared."""
        self._warned: set[str] = set()

    @property
    def at_start(self) -> dict[str, str]:
        """The settings to be sent with the start-up packet; empty where it takes none."""
        if self.refused:
            return {}
        takes = self._traits.takes_at_start
        return {name: value for name, value in self._settings.items() if takes(name)}

    def complete(self, connection: PoolConnection, *, prepares: bool, warn: bool) -> None:
        """Set by statement what the start-up packet did not bring.

        `prepares` says that statements will be prepared, which not each pooler can keep apart.
        Blocks for a few round trips. Raises psycopg.Error, and PoolConfigError for a setting that
        would not stay.
        """
        connection._shared = self._traits.shares
        if prepares or (self.unsure and self._pooler is None and self._between is None):
            self._between = poolers.stands_between(connection)
            if self._between and prepares:
                poolers.refuse_untracked(connection, self._pooler)
            if self._between and self._pooler is None:
                self._warn_of_pooler()
        lacking = self._lacking(connection) if self._settings else []
        lost = [name for name in lacking if not self._traits.keeps(name)]
        if lost:
            raise PoolConfigError(self._unkept(lost))
        if lacking:
            self._set(connection, lacking)
            if warn and self._pooler is None:
                self._warn(lacking)
        elif self._settings and self._resets_to_others:
            connection._restore_sql = statements(self._settings)

    @property
    def _resets_to_others(self) -> bool:
        """Whether RESET ALL goes back to what a pooler has begun with, which knows of no client."""
        return self._pooler == "pgbouncer-session" or bool(self._between)

    def _set(self, connection: PoolConnection, lacking: list[str]) -> None:
        text = statements({name: self._settings[name] for name in lacking})
        probe.execute(connection, text, reset.TIMEOUT)
        # RESET ALL would undo them: they are set again after each reset.
        all_of_them = self._resets_to_others
        connection._restore_sql = statements(self._settings) if all_of_them else text

    def _lacking(self, connection: PoolConnection) -> list[str]:
        wanted = self._settings
        if self.refused and self._pooler is None:
            return list(wanted)
        if set(wanted) == {"TimeZone"}:
            # The server reports it unasked, so the common case costs no round trip.
            reported = connection.pgconn.parameter_status(b"TimeZone") or b""
            return [] if same("TimeZone", reported.decode(), wanted["TimeZone"]) else ["TimeZone"]
        names = list(wanted)
        # Compared as the server spells it: '30s' and '30000ms' are one value to it.
        asked = sql.SQL("SELECT {}").format(sql.SQL(", ").join(map(_SETTING.format, names)))
        row = probe.execute(connection, asked.as_string().encode(), reset.TIMEOUT)
        lacking = []
        for index, name in enumerate(names):
            value = (row[0].get_value(0, index) or b"").decode()
            if not same(name, value, wanted[name]):
                lacking.append(name)
        return lacking

    def _origin(self, name: str) -> str:
        return self._origins.get(name, f"start-up option {name}")

    def _unkept(self, names: list[str]) -> str:
        places = ", ".join(map(self._origin, names))
        them = "; ".join(f"ALTER ROLE … SET {name} = …" for name in names)
        return (
            f"{places}: the server has another value for this role, and behind ['pooler'] "
            f"{self._pooler!r} what a client sets does not stay with it. Give it to the role "
            f"({them}), and have the pooler connect anew; or remove it here"
        )

    def _warn(self, lacking: list[str]) -> None:
        new = [name for name in lacking if name not in self._warned]
        self._warned.update(new)
        for name in new:
            self._tell(
                f"pool {self._name!r}: {self._origin(name)} did not reach the server with the "
                "connection (a pooler in between drops start-up options), so it is set by "
                "statement. Have the pooler pass or track `options`, and declare it by the option "
                "'pooler'.",
                "event=options_dropped",
            )

    def _warn_of_pooler(self) -> None:
        if "pooler" in self._warned:
            return
        self._warned.add("pooler")
        place: Any = self._origins.get("pooler", "the option 'pooler'")
        self._tell(
            f"pool {self._name!r}: a pooler stands in between, and {place} does not say which. If "
            "it lends its sessions by transaction, session state is lost there without a word: "
            "write 'pgbouncer-transaction', 'pgbouncer-session' or 'rds-proxy'.",
            "event=pooler_undeclared",
        )

    def _tell(self, text: str, event: str) -> None:
        try:
            warnings.warn(text, PoolWarning, stacklevel=2)
        except PoolWarning:
            # A filter made it an error, which in this thread could only fail the connect.
            logger.warning("%s %s", event, text)
