"""COMMIT, and where it ended in the write-ahead log, in one round trip."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import psycopg
import pytest

from django_poolkit.pools.postgres import commit
from django_poolkit.pools.postgres.commit import Commit
from django_poolkit.pools.postgres.wal import lsn_of, without_page_header
from django_poolkit.testing.waiting import wait_until

MEGABYTE = 1024 * 1024


class Listener:
    """Wants to know where each commit ended."""

    def __init__(self, asked: commit.Asked = "position") -> None:
        self.knows_writes: bool | None = None
        self.asked = asked
        self.commits: list[Commit] = []

    def ask(self, lease: Any) -> commit.Asked:
        return self.asked

    def tell(self, lease: Any, commit: Commit) -> None:
        self.commits.append(commit)


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def pool(make_pool, listener):
    pool = make_pool(max_size=2, kwargs={"autocommit": True})
    pool.statements.commits = listener
    with pool.lease() as connection:
        connection.execute(
            "DROP TABLE IF EXISTS child; DROP TABLE IF EXISTS row;"
            "CREATE TABLE row (id int PRIMARY KEY, n int);"
            "CREATE TABLE child (id int REFERENCES row DEFERRABLE INITIALLY DEFERRED);"
            "INSERT INTO row VALUES (1, 0)"
        )
    return pool


@pytest.fixture
def connection(pool):
    with pool.lease() as connection:
        connection.autocommit = False
        yield connection


def end_of_log(connection: Any) -> int:
    connection.rollback()
    row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
    connection.rollback()
    return lsn_of(row[0])


def test_a_commit_tells_where_it_ended(connection, listener, primary):
    before = end_of_log(connection)
    connection.execute("UPDATE row SET n = n + 1")
    connection.commit()
    after = end_of_log(connection)
    [told] = listener.commits
    assert told.wrote
    assert told.refused is None
    assert before < told.position.lsn
    assert without_page_header(after, MEGABYTE) >= told.position.lsn
    assert told.position.timeline == 1
    system = primary.execute("SELECT system_identifier FROM pg_control_system()")
    assert str(told.position.system) in str(system)
    assert connection.execute("SELECT n FROM row").fetchone() == (1,)


def texts_sent(connection: Any, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list that gets what is sent from now on, below cursors."""
    sent: list[bytes] = []
    before = commit._send

    def send(connection: Any, text: bytes, results: Any) -> Any:
        sent.append(text)
        return before(connection, text, results)

    monkeypatch.setattr(commit, "_send", send)
    return sent


def test_it_takes_one_round_trip(connection, monkeypatch):
    sent = texts_sent(connection, monkeypatch)
    for _ in range(3):
        connection.execute("UPDATE row SET n = n + 1")
        connection.commit()
    # Once for all, whether the server can be asked; then one text each.
    assert len(sent) == 4
    assert b"has_function_privilege" in sent[0]
    assert all(b"; COMMIT; " in text for text in sent[1:])
    assert b"pg_control_system" in sent[1]
    assert b"pg_control_system" not in sent[2]


def test_positions_grow(connection, listener):
    for _ in range(5):
        connection.execute("UPDATE row SET n = n + 1")
        connection.commit()
    found = [told.position.lsn for told in listener.commits]
    assert sorted(set(found)) == found
    assert len(found) == 5


@pytest.mark.parametrize(
    "statement",
    ["UPDATE row SET n = n WHERE false", "DELETE FROM row WHERE n > 1000", "SELECT to_json(1)"],
)
def test_what_has_written_nothing_is_not_told_of(connection, listener, statement):
    connection.execute(statement)
    connection.commit()
    assert listener.commits == []
    assert connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_what_was_rolled_back_is_not_told_of(connection, listener):
    connection.execute("UPDATE row SET n = 5")
    connection.rollback()
    connection.execute("SELECT 1")
    connection.commit()
    assert listener.commits == []


def test_a_lock_of_a_row_counts_as_a_write(connection, listener):
    connection.execute("UPDATE row SET n = n WHERE false")  # something that may write
    connection.execute("SELECT * FROM row FOR UPDATE")
    connection.commit()
    assert [told.wrote for told in listener.commits] == [True]


def test_an_error_of_the_commit_is_the_callers(connection, listener):
    connection.execute("INSERT INTO child VALUES (99)")
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as caught:
        connection.commit()
    assert caught.value.diag.constraint_name == "child_id_fkey"
    assert listener.commits == []
    assert connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert connection.execute("SELECT count(*) FROM child").fetchone() == (0,)


def test_a_transaction_that_has_failed_is_rolled_back_as_ever(connection, listener):
    connection.execute("UPDATE row SET n = 7")
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1/0")
    connection.commit()  # which is a rollback, as in PostgreSQL
    assert listener.commits == []
    assert connection.execute("SELECT n FROM row").fetchone() == (0,)


def test_a_server_that_does_not_tell_costs_no_error(connection, listener, monkeypatch):
    monkeypatch.setattr(commit, "_POSITION_OF_SERVER", b"SELECT nowhere()")
    connection.execute("UPDATE row SET n = 3")
    connection.commit()
    assert listener.commits == [Commit(True, None, "42883")]
    assert connection.execute("SELECT n FROM row").fetchone() == (3,)


def test_one_that_cannot_say_who_has_written_is_not_asked(connection, listener, monkeypatch):
    listener.knows_writes = False
    sent = texts_sent(connection, monkeypatch)
    connection.execute("UPDATE row SET n = n WHERE false")
    connection.commit()
    assert [told.wrote for told in listener.commits] == [True]
    assert sent[0].startswith(b"COMMIT; ")


def test_without_a_right_nobody_is_asked_who_has_written(connection, listener, primary):
    primary.execute(
        "REVOKE EXECUTE ON FUNCTION pg_current_xact_id_if_assigned() FROM PUBLIC;"
        "CREATE ROLE barred; GRANT ALL ON row TO barred"
    )
    try:
        connection.execute("SET ROLE barred")
        connection.execute("UPDATE row SET n = 4")
        connection.commit()
        assert listener.knows_writes is False
        assert [told.wrote for told in listener.commits] == [True]
        connection.execute("RESET ROLE")
        assert connection.execute("SELECT n FROM row").fetchone() == (4,)
        connection.commit()
    finally:
        primary.execute(
            "GRANT EXECUTE ON FUNCTION pg_current_xact_id_if_assigned() TO PUBLIC;"
            "DROP OWNED BY barred; DROP ROLE barred"
        )


def test_only_whether_it_has_written_can_be_asked(connection, listener, monkeypatch):
    listener.asked = "writes"
    sent = texts_sent(connection, monkeypatch)
    connection.execute("UPDATE row SET n = n + 1")
    connection.commit()
    connection.execute("UPDATE row SET n = n WHERE false")
    connection.commit()
    assert listener.commits == [Commit(True)]
    assert not any(b"wal" in text for text in sent)


def test_nothing_is_sent_where_nobody_asks(connection, listener, monkeypatch):
    listener.asked = "nothing"
    sent = texts_sent(connection, monkeypatch)
    connection.execute("UPDATE row SET n = 6")
    connection.commit()
    assert (sent, listener.commits) == ([], [])
    assert connection.execute("SELECT n FROM row").fetchone() == (6,)


def test_a_connection_that_is_lost_before_the_commit_says_so(connection, listener):
    listener.knows_writes = True
    connection.execute("UPDATE row SET n = n + 1")
    shut(connection)
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    assert listener.commits == [Commit(None)]


def test_one_that_is_lost_before_it_is_sent_has_committed_nothing(connection, listener):
    connection.execute("UPDATE row SET n = n + 1")
    shut(connection)
    with pytest.raises(psycopg.OperationalError):
        connection.commit()  # has to ask first whether it can be told
    assert listener.commits == []


def shut(connection: Any) -> None:
    """Cut the connection, as a network does."""
    with socket.socket(fileno=os.dup(connection.fileno())) as raw:
        raw.shutdown(socket.SHUT_RDWR)


def test_one_that_is_lost_behind_the_commit_is_no_error(connection, listener, monkeypatch):
    monkeypatch.setattr(
        commit, "_POSITION_OF_SERVER", b"SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(9)"
    )
    connection.execute("UPDATE row SET n = 8")
    connection.commit()
    [told] = listener.commits
    assert (told.wrote, told.position) == (True, None)


def test_a_cancelled_look_behind_the_commit_is_no_error(connection, listener, monkeypatch, params):
    monkeypatch.setattr(commit, "_POSITION_OF_SERVER", b"SELECT pg_sleep(60)")
    pid = connection.info.backend_pid
    connection.execute("UPDATE row SET n = 9")

    def cancel() -> None:
        with psycopg.connect(**params, autocommit=True) as other:
            asleep = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
            wait_until(lambda: bool(other.execute(asleep, [pid]).fetchall()))
            other.execute("SELECT pg_cancel_backend(%s)", [pid])

    thread = threading.Thread(target=cancel)
    thread.start()
    connection.commit()
    thread.join()
    assert listener.commits == [Commit(True, None, "57014")]
    assert connection.execute("SELECT n FROM row").fetchone() == (9,)


def test_a_savepoint_and_a_pipeline_are_as_ever(pool, listener):
    with pool.lease() as connection:
        with connection.transaction(), connection.transaction():
            connection.execute("UPDATE row SET n = n + 1")
        with connection.pipeline():
            connection.execute("UPDATE row SET n = n + 1")
        assert connection.execute("SELECT n FROM row").fetchone() == (2,)
    assert listener.commits == []


def test_what_nobody_will_be_told_of_is_told_as_it_begins(pool, listener):
    lone: list[str | None] = []
    pool.statements.alone = lambda lease: lone.append(lease.statement)
    with pool.lease() as connection:
        connection.execute("UPDATE row SET n = 1 WHERE false")
        with connection.transaction():
            connection.execute("UPDATE row SET n = 2 WHERE false")
        connection.execute("BEGIN")
        connection.execute("UPDATE row SET n = 3 WHERE false")
        connection.execute("COMMIT")
        connection.autocommit = False
        connection.execute("UPDATE row SET n = 4 WHERE false")
        connection.commit()
    assert [text.split()[5] for text in lone if text and text.startswith("UPDATE")] == [
        "1",
        "2",
        "3",
    ]


@pytest.mark.parametrize(
    ("lsn", "end"),
    [
        (0x4000028, 0x4000000),  # the long header of a segment's first page
        (0x4002018, 0x4002000),  # the header of any other
        (0x4002028, 0x4002028),  # what ends 40 bytes into a page that is not the first
        (0x4000100, 0x4000100),
        (0x4000000, 0x4000000),
    ],
)
def test_the_head_of_a_page_is_left_out(lsn, end):
    assert without_page_header(lsn, MEGABYTE) == end


def test_a_position_is_a_number():
    assert lsn_of("16/B374D848") == 0x16B374D848
    with pytest.raises(ValueError, match="no position"):
        lsn_of("nowhere")
