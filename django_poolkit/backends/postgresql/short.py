"""The short way through Django's `connect()` and `close()`, for the leases of session mode.

Django builds parameters that a pool does not want, asks several times over which pool it is, and
sets on the connection what it is lent with. Each request passes there. So what Django's own comes
to is spelled out, for wrappers on which nobody has put a step of his own: instrumentation and the
wrapper classes of other packages see each connect and each close as ever.
"""

from __future__ import annotations

from _thread import get_ident
from asyncio import _get_running_loop
from operator import attrgetter, methodcaller
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import django
from django.db.backends.base.base import RAN_DB_VERSION_CHECK, BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.db.backends.signals import connection_created

from django_poolkit.backends.postgresql.hosts import HostChoiceMixin
from django_poolkit.backends.request import RequestScope
from django_poolkit.pools.lease import STACK_DEPTH, Lease
from django_poolkit.pools.postgres import ConnectionPool

# By which Django connects, and closes.
_IN: Final = (
    "connect", "get_connection_params", "get_new_connection", "init_connection_state",
    "set_autocommit", "_set_autocommit",
)  # fmt: skip
_OUT: Final = "close", "_close"
_Steps = tuple[Any, ...]


def _own(steps: _Steps) -> _Steps | None:
    """Return Django's steps, None where somebody has replaced one before this was loaded."""
    folder = str(Path(django.__file__).parent)
    code = (getattr(step, "__code__", None) for step in steps)
    return steps if all(each and each.co_filename.startswith(folder) for each in code) else None


_steps_in, _steps_out = attrgetter(*_IN), attrgetter(*_OUT)
_djangos_in, _djangos_out = _own(_steps_in(DatabaseWrapper)), _own(_steps_out(DatabaseWrapper))
_OURS: Final = __name__.rpartition(".")[0]
_BELOW: Final = DatabaseWrapper, BaseDatabaseWrapper, object


def _plain(cls: type[Any], steps: tuple[str, ...]) -> bool:
    """Return whether no class but Django's and ours has, or may be given, one of these steps."""
    above = True
    for each in cls.__mro__:
        above = above and each is not ShortWayMixin
        ours = each.__module__.startswith(_OURS)
        if not ours and (any(map(vars(each).__contains__, steps)) if above else each not in _BELOW):
            return False
    return issubclass(cls, DatabaseWrapper)


class ShortWayMixin(HostChoiceMixin):
    """Connects and closes as Django does, in fewer steps where nobody sees the difference."""

    # The steps of a class as it was made, None where there are others' among them.
    _made_in: _Steps | None = None
    _made_out: _Steps | None = None
    _ensuring: bool
    """Whether Django's `ensure_connection()` is under way."""

    if TYPE_CHECKING:  # of those above
        _lease: Lease | None
        _scope: RequestScope | None
        _raw: Any

        def _take_over(self, lease: Lease) -> None: ...
        def _end(self, lease: Lease, scope: RequestScope | None) -> None: ...
        def _detach(self) -> RequestScope | None: ...
        def _ensure_connected(self) -> None: ...

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._made_in = _steps_in(cls) if _plain(cls, _IN) else None
        cls._made_out = _steps_out(cls) if _plain(cls, _OUT) else None

    def connect(self) -> None:
        """Connect, as Django does."""
        found = self._found()
        if (
            not isinstance(found, ConnectionPool)
            or self._raw is not None or self._lease is not None
            or self._search is not None or self._reroutes or self._handed is not None
            or self.run_commit_hooks_on_set_autocommit_on
            # Looked at each time: somebody may have patched one meanwhile.
            or _steps_in(type(self)) != self._made_in
            or _steps_in(DatabaseWrapper) != _djangos_in
            or not self.__dict__.keys().isdisjoint(_IN)
            or not (settings := self.settings_dict)["AUTOCOMMIT"]
            or "isolation_level" in settings["OPTIONS"]
        ):  # fmt: skip
            super().connect()
            return
        self.check_settings()
        self._begin()
        self.isolation_level = IsolationLevel.READ_COMMITTED
        lease: Lease = self._acquired(_acquire)
        self._take_over(lease)
        raw = self._raw = lease._connection
        if not raw._autocommit:
            self._set_autocommit(True)  # type: ignore[attr-defined]
        self.autocommit = True
        if self.alias not in RAN_DB_VERSION_CHECK:
            self.init_connection_state()
        connection_created.send(sender=self.__class__, connection=self)
        self.run_on_commit = []

    def _ensure_by_django(self) -> None:
        if not self._ensuring:
            self._ensuring = True
            try:
                super().ensure_connection()
            finally:
                self._ensuring = False
        elif self._raw is None:
            # Somebody has put a function in the place of Django's, and it calls the method that it
            # found on the wrapper: our own.
            self._ensure_connected()

    def _begin(self) -> None:
        """Forget the transaction before, as Django's `connect()` does."""
        self.in_atomic_block = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.needs_rollback = False
        self.health_check_enabled = self.settings_dict["CONN_HEALTH_CHECKS"]
        self.health_check_done = True
        self.close_at = monotonic()  # a pool allows no CONN_MAX_AGE
        self.closed_in_transaction = False
        self.errors_occurred = False

    def _closed_at_once(self) -> bool:
        """Close as Django does, if the short way leads there; return whether it did."""
        lease = self._lease
        if (
            lease is None
            or self._raw is None
            or self._opened
            or self.in_atomic_block
            or self.closed_in_transaction
            or self._thread_ident != get_ident()  # type: ignore[attr-defined]
            or _get_running_loop() is not None  # where Django forbids it
            or _steps_out(type(self)) != self._made_out
            or _steps_out(DatabaseWrapper) != _djangos_out
            or not self.__dict__.keys().isdisjoint(_OUT)
        ):
            return False
        self.run_on_commit = []
        self._end(lease, self._detach())
        return True


_acquire: Final = methodcaller("acquire", depth=STACK_DEPTH)
