"""Cursor classes with the lease mixed in; what nearly all of them do is spelled out.

Every statement passes here, and who has waited for a server finds the caches cold, where each
function costs half a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from operator import itemgetter
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

import psycopg
from psycopg import _cursor_base
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.client_cursor import ClientCursorMixin
from psycopg.pq import ExecStatus, Format

from django_poolkit.pools.errors import PoolConfigError
from django_poolkit.pools.postgres.cursor import ClientCursor, ServerCursor, refused
from django_poolkit.pools.postgres.plans import PreparingCursor

_TEXT: Final = Format.TEXT
_TUPLES: Final = ExecStatus.TUPLES_OK
_mixed: WeakKeyDictionary[type[Any], ref[type[Any]]] = WeakKeyDictionary()
_mixed_preparing: WeakKeyDictionary[type[Any], ref[type[Any]]] = WeakKeyDictionary()

# What `PlainCursor` spells out, as psycopg 3.3 has it, and what state there is to set.
SPELLED_OUT: Final = {
    name: getattr(psycopg.Cursor, name)
    for name in (
        "__init__", "_reset", "_close", "close", "adapters", "_start_query",
        "_check_result_for_fetch",
    )
}  # fmt: skip
_STATE: Final = {
    "_adapters", "_closed", "_conn", "_execmany_returning", "_iresult", "_last_query", "_make_row",
    "_pgconn", "_pos", "_query", "_results", "_row_factory", "_rowcount", "_statusmessage", "_tx",
    "__weakref__", "arraysize", "format", "pgresult",
}  # fmt: skip
KNOWN: Final = {*_cursor_base.BaseCursor.__slots__} == _STATE


def leased(factory: type[Any], *, preparing: bool = False) -> type[Any]:
    """Return `factory` with the lease mixed in, under its own name.

    `preparing` says that its statements may be prepared, and so that they may outlive tables.
    """
    if issubclass(factory, ClientCursor):
        return factory
    server = hasattr(factory, "_declare_gen")
    # Not for those that do a step in their own way, nor for a psycopg with more to set.
    plain = KNOWN and all(getattr(factory, n) is own for n, own in SPELLED_OUT.items())
    mixin = ServerCursor if server else PlainCursor if plain else ClientCursor
    # One that the server knows by name is never prepared.
    return mix(factory, mixin, PreparingCursor if preparing and not server else None)


def mix(factory: type[Any], mixin: type[ClientCursor], healing: type[Any] | None) -> type[Any]:
    """Return `factory` with a mixin, and in front of it one that heals what was prepared."""
    mixed = _mixed if healing is None else _mixed_preparing
    # Held weakly on both sides: some instrumentation makes a new class per connection.
    if (known := mixed.get(factory)) is not None and (cls := known()) is not None:
        return cls
    names: dict[str, Any] = {
        "__module__": factory.__module__,
        "__qualname__": factory.__qualname__,
        "__slots__": mixin._poolkit_slots,
    }
    if (finalize := getattr(factory, "__del__", None)) is not None:
        names["__del__"] = _both(finalize)
    bases = (mixin, factory) if healing is None else (healing, mixin, factory)
    cls = type(factory.__name__, bases, names)
    mixed[factory] = ref(cls)
    return cls


def _both(finalize: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a finalizer that runs the factory's own first."""

    def both(self: Any) -> None:
        finalize(self)
        ClientCursor.__del__(self)

    return both


class _Context(tuple[AdaptersMap, Any]):
    """What a transformer wants to know of its cursor, without asking its properties."""

    __slots__ = ()
    adapters = property(itemgetter(0))
    connection = property(itemgetter(1))


class PlainCursor(ClientCursor):
    """Does in one function what takes psycopg several.

    Dearest of all, psycopg copies the adapters of the connection for each cursor. Here the
    cursors of a connection share a copy, until somebody asks for those of one.
    """

    _adapters: AdaptersMap

    def __init__(self, connection: Any, *, row_factory: Any = None) -> None:
        lease = self._poolkit_lease = connection._lease_ref()
        self._poolkit_counted = False
        self._poolkit_turn = 0
        if lease is not None:
            self._poolkit_turn = lease.turn
            if lease.keeper is not None:
                lease.cursors += 1
                self._poolkit_counted = True
        self._conn = connection
        self._pgconn = connection.pgconn
        self._row_factory = row_factory or connection.row_factory
        self.format = _TEXT
        self.arraysize = 1
        self._closed = False
        self._last_query: Any = None
        self._reset()  # type: ignore[attr-defined]
        if connection._adapters_shown:
            self._own_adapters(connection.adapters)
        else:
            self._adapters = connection._baseline.adapters

    @property
    def adapters(self) -> AdaptersMap:
        """The adapters of this cursor alone, as psycopg has it."""
        if self._adapters._register_loader_callback is None:  # a shared map has none
            self._own_adapters(self._adapters)
        return self._adapters

    def _own_adapters(self, template: AdaptersMap) -> None:
        adapters = AdaptersMap(template)
        adapters._register_loader_callback = partial(self._loaders_changed, ref(self))  # type: ignore[attr-defined]
        self._adapters = adapters
        self._last_query = None  # so that the next statement is adapted by them

    def close(self) -> None:
        """Close the cursor, as psycopg does. The lease may end with its last one."""
        try:
            self._close()  # type: ignore[attr-defined]
        finally:
            self._poolkit_ended()
            if self._poolkit_counted:
                self._poolkit_counted = False
                self._poolkit_lease.cursor_closed()  # type: ignore[union-attr]

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        self._adapters = self.adapters  # who makes its parameters may register some
        super().executemany(*args, **kwargs)

    def _start_query(self, query: Any = None) -> Generator[Any, Any, None]:
        if (lease := self._poolkit_lease) is not None:
            if lease.released or self._poolkit_turn != lease.turn:
                raise refused()
            if query is not None:
                statements = lease.pool.statements
                if type(query) is str and query in statements.quick and lease.dirty is None:
                    lease.ran, lease.statement = True, query  # all that there is to note
                else:
                    statements.note(lease, query, self._conn)
        if self._closed:
            raise psycopg.InterfaceError("the cursor is closed")
        self._reset()  # type: ignore[attr-defined]
        if not self._last_query or self._last_query is not query:
            self._last_query = None
            # Who copies may register adapters meanwhile.
            adapters = self.adapters if query is None else self._adapters
            self._tx = Transformer(_Context((adapters, self._conn)))
        if not self._conn._autocommit:
            yield from self._conn._start_query()

    def _check_result_for_fetch(self) -> Any:
        lease = self._poolkit_lease
        if lease is not None and (lease.released or self._poolkit_turn != lease.turn):
            raise refused()
        if (result := self.pgresult) and result.status == _TUPLES:  # type: ignore[attr-defined]
            return result
        return super()._check_result_for_fetch()  # which says what is wrong


def check_factory(factory: object, *, prepare: bool = False) -> None:
    """Refuse a `cursor_factory` of which the cursors cannot be bound to leases, or prepared.

    Raises PoolConfigError.
    """
    if factory is None:
        return
    fits = isinstance(factory, type) and issubclass(factory, psycopg.Cursor)
    if not fits or hasattr(factory, "_declare_gen"):  # which wants a name
        given = factory.__name__ if isinstance(factory, type) else f"a {type(factory).__name__}"
        raise PoolConfigError(
            "['cursor_factory'] must be a class derived from psycopg.Cursor, for cursors without a "
            f"name; got {given}"
        )
    assert isinstance(factory, type)
    if prepare and issubclass(factory, ClientCursorMixin):
        raise PoolConfigError(
            f"['cursor_factory'] {factory.__name__} binds parameters in the client, and what is to "
            "be prepared is bound on the server: derive it from psycopg.Cursor"
        )
