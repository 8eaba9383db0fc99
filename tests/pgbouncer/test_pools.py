"""Pools behind a real PgBouncer: what reaches the server, what is refused, what is never lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from django_poolkit.pools.errors import PoolWarning
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.commit import Asked, Commit
from django_poolkit.pools.postgres.connect import SessionDefaults
from django_poolkit.pools.postgres.errors import PoolTimeout
from django_poolkit.pools.postgres.poolers import REFUSAL, UNTRACKED
from django_poolkit.testing import Node
from django_poolkit.testing.pgbouncer import PgBouncer

ZONE = SessionDefaults({"TimeZone": "Asia/Tokyo"}, {"TimeZone": "TIME_ZONE"})
TRACKS = (1, 22)
Make = Callable[..., ConnectionPool]


@pytest.fixture
def altered(primary: Node, role: str, bouncer: PgBouncer) -> Iterator[Callable[[str], None]]:
    """Return a function that gives the role of the poolers a setting."""

    def alter(words: str) -> None:
        primary.execute(f"ALTER ROLE {role} {words}")
        bouncer.console("RECONNECT")  # or sessions that are there would not know of it

    yield alter
    alter("RESET ALL")


class TestWhatArrives:
    @pytest.mark.parametrize("options", ["refused", "ignored"])
    def test_the_time_zone_holds_on_each_session(
        self, lends: Any, behind: Make, options: str, recwarn: pytest.WarningsRecorder
    ) -> None:
        """1.18 refuses start-up options, or drops them where it is told to ignore them."""
        settings = {"ignore_startup_parameters": "options"} if options == "ignored" else {}
        through = lends(default_pool_size=2, **settings)
        tokyo, plain = behind(through, max_size=2, defaults=ZONE), behind(through, max_size=1)
        ask = "SELECT pg_backend_pid(), current_setting('TimeZone')"
        met: set[int] = set()
        with tokyo.lease() as one, tokyo.lease() as two, plain.lease() as other:
            for holder, asker in ((one, two), (two, one)):
                # Who holds one session in a transaction leaves the other one to everybody else.
                with holder.transaction():
                    found = [*holder.execute(ask).fetchall(), *asker.execute(ask).fetchall()]
                    for number, zone in found:
                        met.add(number)
                        assert zone == "Asia/Tokyo"
                    assert other.execute(ask).fetchone()[1] != "Asia/Tokyo"
        assert len(met) == 2
        assert tokyo.stats().connects == 2
        assert not [w for w in recwarn if issubclass(w.category, PoolWarning)]

    def test_a_guard_that_the_role_has_is_let_be(
        self, behind: Make, altered: Any, role: str
    ) -> None:
        altered("SET statement_timeout = '7s'")
        as_role = {"user": role, "password": role}
        pool = behind(max_size=1, kwargs=as_role, statement_timeout="7000ms", defaults=ZONE)
        with pool.lease() as connection:
            assert connection.execute("SHOW statement_timeout").fetchone() == ("7s",)
            assert connection.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)

    def test_a_guard_that_it_has_not_is_refused(self, behind: Make, role: str) -> None:
        as_role = {"user": role, "password": role}
        pool = behind(kwargs=as_role, statement_timeout="7s")
        with pytest.raises(PoolTimeout) as caught:
            pool.acquire(timeout=0.5)
        assert (
            "PoolConfigError: start-up option statement_timeout: the server has another value"
            in (str(caught.value))
        )
        assert "ALTER ROLE … SET statement_timeout = …" in str(caught.value)

    def test_a_role_is_never_taken_on_in_silence(
        self, behind: Make, altered: Any, role: str
    ) -> None:
        as_role = {"user": role, "password": role}
        reads = SessionDefaults({"role": "pg_read_all_data"}, {"role": "['assume_role']"})
        with pytest.raises(PoolTimeout, match=r"\['assume_role'\]: the server has another value"):
            behind(kwargs=as_role, defaults=reads).acquire(timeout=0.5)
        altered("SET role = 'pg_read_all_data'")
        with behind(kwargs=as_role, defaults=reads, max_size=1).lease() as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("pg_read_all_data",)

    def test_one_that_nobody_has_declared_is_told_of_once(self, behind: Make) -> None:
        pool = behind(pooler=None, max_size=2)
        with (
            pytest.warns(PoolWarning, match="a pooler stands in between, and the option") as caught,
            pool.lease(),
            pool.lease(),
        ):
            pass
        assert len(caught) == 1

    def test_without_one_its_declaration_does_no_harm(self, make_pool: Make) -> None:
        pool = make_pool(pooler="pgbouncer-transaction", defaults=ZONE, max_size=1)
        with pool.lease() as connection:
            assert connection.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)


REFUSED = {
    "SET work_mem = '5MB'": "SET LOCAL",
    "SET SESSION search_path = public": "SET LOCAL",
    "RESET ALL": "SET LOCAL",
    "SELECT set_config('app.tenant', '7', false)": "SET LOCAL",
    "SET TIME ZONE 'UTC'; SET work_mem = '5MB'": "SET LOCAL",
    "SELECT set_config('TimeZone', 'UTC', false), set_config('a.b', '', false)": "SET LOCAL",
    "LISTEN news": "notification",
    "PREPARE p AS SELECT 1": "the option 'prepare'",
    "EXECUTE p": "the option 'prepare'",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1": "without HOLD",
    "CREATE TEMP TABLE t (n int)": "ON COMMIT DROP",
    "LOAD 'auto_explain'": "session_preload_libraries",
    "SELECT pg_advisory_lock(1)": "pg_advisory_xact_lock()",
    "SELECT pg_try_advisory_lock(1)": "pg_advisory_xact_lock()",
    "DISCARD ALL": "leave it out",
    "SELECT lastval()": "RETURNING",
}
PASSED = (
    "SET LOCAL work_mem = '5MB'",
    "SELECT set_config('app.tenant', '7', true)",
    "CREATE TEMP TABLE t (n int) ON COMMIT DROP",
    "SELECT pg_advisory_xact_lock(1)",
    "DECLARE c CURSOR FOR SELECT 1",
    "DO $$ BEGIN PERFORM 1; END $$",
    "SELECT 1",
)


class TestStateOfTheSession:
    @pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a transaction"])
    @pytest.mark.parametrize("text", REFUSED)
    def test_it_is_refused_before_it_is_sent(self, behind: Make, text: str, inside: bool) -> None:
        inside = inside and "lastval" not in text  # it reads what its transaction has drawn
        pool = behind(max_size=1)
        with pool.lease() as connection:
            with pytest.raises(psycopg.NotSupportedError) as caught:
                if inside:
                    with connection.transaction():
                        connection.execute(text)
                else:
                    connection.execute(text)
            assert REFUSED[text] in str(caught.value)
            assert "an alias that leads to the server itself" in str(caught.value)
            connection.execute("SELECT 1")
        stats = pool.stats()
        assert (stats.connects, stats.idle, stats.resets, stats.closed) == (1, 1, 0, {})

    @pytest.mark.parametrize("text", PASSED)
    def test_what_ends_with_the_transaction_is_let_pass(self, behind: Make, text: str) -> None:
        pool = behind(max_size=1)
        with pool.lease() as connection, connection.transaction():
            connection.execute(text)
        assert pool.stats().closed == {}

    def test_a_sequence_is_read_in_the_transaction_that_drew(self, behind: Make) -> None:
        with behind(max_size=1).lease() as connection, connection.transaction():
            connection.execute("CREATE SEQUENCE drawn")
            connection.execute("SELECT nextval('drawn')")
            assert connection.execute("SELECT currval('drawn')").fetchone() == (1,)
            connection.execute("DROP SEQUENCE drawn")

    @pytest.mark.parametrize(
        "text",
        [
            "SET TIME ZONE 'Europe/Rome'",
            "set session TimeZone to 'Europe/Rome'",
            "SELECT set_config('TimeZone', 'Europe/Rome', false)",  # as Django does
        ],
    )
    def test_what_it_tracks_ends_with_the_client(self, behind: Make, text: str) -> None:
        pool = behind(max_size=1, defaults=ZONE)
        with pool.lease() as connection:
            connection.execute(text)
            assert connection.execute("SHOW TimeZone").fetchone() == ("Europe/Rome",)
        assert pool.stats().closed == {"pooler": 1}
        with pool.lease() as connection:
            assert connection.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)

    def test_a_transaction_left_open_is_rolled_back(self, behind: Make) -> None:
        pool = behind(max_size=1)
        for begin in ("BEGIN", "SELECT 1"):
            lease = pool.acquire()
            lease.connection.autocommit = begin == "BEGIN"
            lease.connection.execute(begin)
            lease.connection.execute("CREATE TABLE never (n int)")
            lease.release()
        assert pool.stats().closed == {"pooler": 1}
        with pool.lease() as connection:
            assert connection.execute("SELECT to_regclass('never')").fetchone() == (None,)

    def test_a_cursor_that_outlives_its_transaction_is_refused(self, behind: Make) -> None:
        with behind(max_size=1).lease() as connection:
            with (
                connection.cursor("held", withhold=True) as cursor,
                pytest.raises(psycopg.NotSupportedError, match="iterate inside of atomic"),
            ):
                cursor.execute("SELECT 1")
            with connection.transaction(), connection.cursor("brief") as cursor:
                assert cursor.execute("SELECT 1").fetchall() == [(1,)]

    def test_tasks_are_told_the_same(self, behind: Make) -> None:
        async def work(pool: ConnectionPool) -> None:
            async with pool.alease() as connection:
                with pytest.raises(psycopg.NotSupportedError, match="SET LOCAL"):
                    await connection.execute("SET work_mem = '5MB'")
                await connection.execute("SELECT 1")

        pool = behind(max_size=1)
        asyncio.run(work(pool))
        assert pool.stats().closed == {}


class TestServers:
    """Which server a connection leads to may be another after each transaction."""

    def test_none_is_remembered_by_a_connection(self, behind: Make) -> None:
        pool = behind(max_size=1)
        told: list[Commit] = []
        pool.statements.commits = Positions(told)
        for _ in range(2):
            with pool.lease() as connection:
                connection.autocommit = False
                connection.execute("CREATE TABLE kept (n int)")
                connection.execute("DROP TABLE kept")
                connection.commit()
                assert connection._server is None
        first, second = (commit.position for commit in told)
        assert first is not None
        assert second is not None
        assert first.reached_by(second)
        assert first.system == second.system

    def test_no_reading_is_still_good(self, behind: Make, make_pool: Make) -> None:
        reader = behind().positions
        assert reader.still(reader.read(5.0)) is False
        reader = make_pool().positions
        assert reader.still(reader.read(5.0)) is True


class Positions:
    """Asks for the position of each commit."""

    knows_writes: bool | None = None

    def __init__(self, told: list[Commit]) -> None:
        self._told = told

    def ask(self, lease: Lease) -> Asked:
        """Return that the position is wanted."""
        return "position"

    def tell(self, lease: Lease, commit: Commit) -> None:
        """Take down what has been committed."""
        self._told.append(commit)


class TestPrepared:
    def test_one_that_keeps_no_track_is_refused(self, bouncer: PgBouncer, behind: Make) -> None:
        if bouncer.version >= TRACKS:
            pytest.skip("this PgBouncer keeps track")
        with pytest.raises(PoolTimeout) as caught:
            behind(prepare=True).acquire(timeout=0.5)
        assert f"NotSupportedError: {UNTRACKED}" in str(caught.value)
        assert not bouncer_has_prepared(behind)

    def test_one_that_does_is_let_pass(self, bouncer: PgBouncer, behind: Make) -> None:
        if bouncer.version < TRACKS:
            pytest.skip("needs PgBouncer 1.22")
        with behind(prepare=True, max_size=1).lease() as connection:
            for number in range(7):
                connection.execute("SELECT %s::int", [number])
        assert bouncer_has_prepared(behind)

    def test_nor_one_that_nobody_has_declared(self, bouncer: PgBouncer, behind: Make) -> None:
        if bouncer.version >= TRACKS:
            pytest.skip("this PgBouncer keeps track")
        with pytest.raises(PoolTimeout) as caught:
            behind(pooler=None, prepare=True).acquire(timeout=0.5)
        assert f"NotSupportedError: {REFUSAL}" in str(caught.value)

    def test_nothing_is_prepared_without_the_option(self, behind: Make) -> None:
        pool = behind(max_size=1)
        with pool.lease() as connection:
            for number in range(12):
                connection.execute("SELECT %s::int", [number])
        assert not bouncer_has_prepared(behind)

    def test_with_a_session_for_each_client_it_goes_by_itself(
        self, lends: Any, behind: Make
    ) -> None:
        through = lends(pool_mode="session")
        pool = behind(through, pooler="pgbouncer-session", prepare=True, max_size=1)
        with pool.lease() as connection:
            for number in range(7):
                connection.execute("SELECT %s::int", [number])
            found = connection.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False)
            assert found.fetchone()[0] >= 1


def bouncer_has_prepared(behind: Make) -> bool:
    """Return whether a session of the server has a prepared statement with a name."""
    with behind(max_size=2).lease() as connection:
        found = connection.execute("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
        return bool(found.fetchone()[0])


class TestBySession:
    @pytest.fixture
    def session(self, lends: Any) -> PgBouncer:
        through: PgBouncer = lends(pool_mode="session")
        return through

    def test_defaults_are_set_and_survive_a_reset(
        self, session: PgBouncer, behind: Make, recwarn: pytest.WarningsRecorder
    ) -> None:
        pool = behind(
            session, pooler="pgbouncer-session", max_size=1, defaults=ZONE, reset="always",
            statement_timeout="7s",
        )  # fmt: skip
        for _ in range(3):
            with pool.lease() as connection:
                found = [
                    connection.execute(f"SHOW {name}").fetchone()[0]
                    for name in ("TimeZone", "statement_timeout", "work_mem")
                ]
                assert found[:2] == ["Asia/Tokyo", "7s"]
                assert found[2] != "5MB"
                connection.execute("SET work_mem = '5MB'; SET TIME ZONE 'UTC'")
        assert pool.stats().connects == 1
        assert pool.stats().resets == 3
        assert not [w for w in recwarn if issubclass(w.category, PoolWarning)]


class TestManyClients:
    def test_more_clients_than_sessions(self, bouncer: PgBouncer, behind: Make) -> None:
        """Eight threads, each on a connection of its own, share the two sessions of PgBouncer."""
        pool = behind(max_size=8, defaults=ZONE)
        with pool.lease() as connection:
            connection.execute("CREATE TABLE hits (n int)")
            connection.execute("INSERT INTO hits VALUES (0)")
        wrong: list[object] = []
        met: set[int] = set()

        def work() -> None:
            try:
                for _ in range(25):
                    with pool.lease() as connection, connection.transaction():
                        connection.execute("UPDATE hits SET n = n + 1")
                        row = connection.execute(
                            "SELECT pg_backend_pid(), current_setting('TimeZone')"
                        ).fetchone()
                        met.add(row[0])
                        if row[1] != "Asia/Tokyo":
                            wrong.append(row)
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wrong == []
        with pool.lease() as connection:
            assert connection.execute("SELECT n FROM hits").fetchone() == (200,)
            connection.execute("DROP TABLE hits")
        assert len(met) <= 2
