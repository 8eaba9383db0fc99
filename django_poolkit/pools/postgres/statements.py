"""What is taken note of as a statement begins: what it may leave behind, and whose it is."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Container
from types import FrameType
from typing import Any, Final, cast

import psycopg

from django_poolkit.pools.acting_functions import acts
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.observe import Recorder, Watch
from django_poolkit.pools.poolers import traits
from django_poolkit.pools.postgres import behind, reset
from django_poolkit.pools.postgres.commit import Listener
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.cursor import text_of
from django_poolkit.pools.rds_proxy import CURSOR, Proxied, condition
from django_poolkit.pools.session_state import CACHE_SIZE, CACHED_LENGTH, StatementRules

# Statements that write nothing. Those of _OPAQUE may write behind a name, and _MAKES after all.
_READS: Final = re.compile(
    r"[\s(]*(select|show|explain|fetch|move|declare|close|values|table|set|reset|listen|unlisten"
    r"|begin|start|savepoint|release|rollback|commit|end|abort|discard|deallocate|lock"
    r"|with(?!.*\b(insert|update|delete|merge)\b))\b",
    re.IGNORECASE | re.DOTALL,
)
_MAKES: Final = re.compile(
    r"[\s(]*((select|with)\b.*\binto|explain\b.*\banaly[sz]e)\b", re.IGNORECASE | re.DOTALL
)
# Takes locks of rows, which are written down there, and gives the transaction a number.
_LOCKS_ROWS: Final = re.compile(r"\bfor\s+(no\s+key\s+update|update|share|key\s+share)\b")
_NEW_TYPES: Final = re.compile(r"\s*create\s+(extension|type)\b", re.IGNORECASE)
# What gives a sequence its present value, in the statement itself.
_DRAWS: Final = re.compile(r"\b(nextval|setval|insert)\b", re.IGNORECASE)
# What locks in one server alone. What unlocks does no harm.
_LOCKS: Final = re.compile(r"\bpg_(try_)?advisory_(xact_)?lock", re.IGNORECASE)
_SHIPPED: Final = StatementRules()
"""The rules where no function of a project's is known to be harmless."""
_OPAQUE: Final = ("function", "call", "do", "execute", "unparsed")


def everything_is_foreign() -> bool:
    """Tell of each statement that no ORM wrote it: a bare pool knows none."""
    return True


def everyone_is_outside(frame: FrameType) -> bool:
    """Tell of each caller that it may do anything with a connection."""
    return True


def _reads(text: str) -> bool:
    """Return whether a statement writes nothing, as far as its text shows."""
    if _READS.match(text) is None:
        return False
    end = text.find(";")
    if end >= 0 and text[end + 1 :].strip():
        return False  # of several in one text the first says nothing of the others
    lowered = text.lower()  # which is quick, and the expression is not
    if (" for " in lowered or "\nfor " in lowered) and _LOCKS_ROWS.search(lowered):
        return False
    return not (("into" in lowered or "analy" in lowered) and _MAKES.match(text))


def _refuse_stray_currval(lease: Lease, text: str | None) -> None:
    """Refuse what would silently answer with a number that somebody else has drawn."""
    if lease.keeper is None or lease.pinned is not None or _DRAWS.search(text or ""):
        return
    lease.ran = False
    raise psycopg.errors.ObjectNotInPrerequisiteState(
        "currval() and lastval() read what this session drew before, and in transaction mode this "
        "lease has drawn nothing: use RETURNING, or put both statements into one atomic() block, "
        "or into `with connection.pinned()`"
    )


def _commits_itself(connection: PoolConnection) -> bool:
    """Return whether what runs now is committed by other means than the connection's `commit()`."""
    return bool(
        connection._autocommit  # also where a text has begun a transaction, which a text will end
        or connection._num_transactions
        or connection._pipeline
        or connection._tpc
    )


class Statements:
    """Enters into a lease what its statements do. Called by the one thread that uses it."""

    def __init__(self, config: PoolConfig, recorder: Recorder | None = None) -> None:
        self.loses = traits(config.pooler).loses
        """Whether a pooler in between loses session state, so that it has to be refused."""
        self.recorder = recorder
        """Where it is observed what transaction mode would do, None where it is not."""
        self.proxied = Proxied() if recorder or config.pooler == "rds-proxy" else None
        """Counts what would have RDS Proxy hold a client on one session, None where nobody asks."""
        policy = self._policy = config.reset
        self._rules = StatementRules(config.harmless_functions)
        # Texts that do no more than read. Shared by threads: one call each adds, finds, or empties.
        self._plain: set[str] = set()
        self.quick: Container[str] = self._plain if policy != "request" and not recorder else ()
        """Texts of which nothing is to be noted but that they ran."""
        self.foreign: Callable[[], bool] = everything_is_foreign
        """Called as a statement begins: whether it is not the ORM's own."""
        self.outside: Callable[[FrameType], bool] = everyone_is_outside
        """Called with the frame that takes hold of a connection: whether it is not trusted."""
        self.writing: Callable[[Lease], None] | None = None
        """Called as a statement begins that may write. What it raises, the statement raises."""
        self.locking: Callable[[Lease], None] | None = None
        """The same for one that takes an advisory lock."""
        self.acting: Callable[[Lease], None] | None = None
        """The same for one that does more than read by a function that PostgreSQL ships."""
        self.alone: Callable[[Lease], None] | None = None
        """Called as a statement begins that may write, and whose commit nobody will be told of; and
        once more as a cursor of its lease is closed, when it has ended."""
        self.commits: Listener | None = None
        """Is told of commits of what may have written. None where nobody wants to know."""

    def note(self, lease: Lease, query: Any, connection: PoolConnection) -> None:
        """Take note of a statement about to run under `lease`.

        Raises psycopg's ObjectNotInPrerequisiteState, as PostgreSQL would in a new session, for
        `currval()` in the first statement of a lease that lasts no longer than a statement; and
        NotSupportedError for session state that a pooler in between would lose.
        """
        first, lease.ran = not lease.ran, True
        if not lease.foreign and self._policy == "request":
            lease.foreign = self.foreign()
        text = query if isinstance(query, str) else text_of(query, connection)
        lease.statement = text
        if self.recorder is not None and lease.keeper is not None:
            residue = self._rules.residue(text) if text is not None else "unparsed"
            cast(Watch, lease.keeper).statement(lease, residue, sys._getframe(1))
        if self.proxied is not None and text is not None:
            self.proxied.statement(text, self._rules.residue(text), sys._getframe(1))
        told = lease.committed and not (self.writing or self.alone)
        if lease.dirty is not None and told and not self.loses:
            # Nothing is left to be learnt but this.
            lease.prepares = lease.prepares or text is None or "prepare" in text.lower()
            return
        if text in self._plain:
            return
        residue = self._rules.residue(text) if text is not None else "unparsed"
        reads = text is not None and _reads(text)
        if text is not None and self.locking is not None and _LOCKS.search(text):
            self.locking(lease)
        elif residue is None and reads:
            if not acts(text):  # type: ignore[arg-type]
                self._remember(text)
            elif self.acting is not None:
                self.acting(lease)
            return
        if residue is not None:
            self._mark(lease, residue, text, connection, first)
        if _NEW_TYPES.match(text or ""):
            lease.new_types = True
        if residue in _OPAQUE or not reads:
            if self.writing is not None:
                self.writing(lease)
            if self.alone is not None and _commits_itself(connection):
                lease._lone = True
                self.alone(lease)
            if connection._autocommit and reset.at_rest(connection):
                lease.committed = True
            else:
                lease.wrote = True

    def _mark(
        self, lease: Lease, residue: str, text: str | None, connection: PoolConnection, first: bool
    ) -> None:
        """Have a lease held, and reset, for what its statement may leave behind; or refuse that."""
        if self.loses:
            if (kept := behind.kept(residue, text, lease, connection)) is not None:
                lease.mark_dirty(kept)
            return
        if residue == "sequence" and first and self.recorder is None:
            _refuse_stray_currval(lease, text)
        lease.mark_dirty(residue)
        if text is None or "prepare" in text.lower():
            lease.prepares = True

    def lone_ended(self, lease: Lease) -> None:
        """Take note that what `alone` was called for may have been committed by now."""
        lease._lone = False
        if self.alone is not None:
            self.alone(lease)

    def declares(self, *, held: bool) -> None:
        """Take note of a cursor of the server that is about to be declared.

        Raises psycopg's NotSupportedError for one that outlives its transaction, where a pooler in
        between would lose it.
        """
        if held and self.loses:
            behind.refuse_held_cursor()
        if self.proxied is not None:
            self.proxied.add(CURSOR, sys._getframe(1))

    def only_reads(self, query: Any) -> bool:
        """Return whether a statement does no more than read, as far as its text shows.

        One that takes a lock does more, and so does one that leaves session state behind.
        """
        if query in self._plain:
            return True
        return (
            isinstance(query, str)
            and self._rules.residue(query) is None
            and _reads(query)
            and not _LOCKS.search(query)
        )

    def may_repeat(self, query: Any) -> bool:
        """Return whether a statement may be run twice, as far as its text shows.

        It only reads, and calls no function but those that PostgreSQL ships and that only answer:
        one of the project's may be harmless to the session, and write.
        """
        return self.only_reads(query) and _SHIPPED.residue(query) is None and not acts(query)

    def forget(self) -> None:
        """Start anew in a forked child with what is counted."""
        for counter in (self.recorder, self.proxied):
            if counter is not None:
                counter.forget()

    def _remember(self, text: str | None) -> None:
        if text is None or len(text) > CACHED_LENGTH:
            return
        if self.proxied is not None and condition(text, None) is not None:
            return  # it is to be counted each time
        if len(self._plain) >= CACHE_SIZE:
            self._plain.clear()
        self._plain.add(text)

    def raw_access(self, lease: Lease, frame: FrameType) -> None:
        """Take note that `frame` takes hold of the connection under `lease`."""
        if not self.outside(frame):
            return
        if self.recorder is None:
            lease.pin("raw")
            lease.mark_dirty("raw")
        elif lease.keeper is not None:
            cast(Watch, lease.keeper).touched(lease, frame)
