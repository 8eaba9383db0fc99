"""What processes say of their connections, against what a real server counts."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connection, connections

from django_poolkit import registry
from django_poolkit.control import answers, servers
from django_poolkit.control.servers import Server, Share
from django_poolkit.pools.postgres import activity, naming
from django_poolkit.pools.postgres.activity import Activity, Sessions
from django_poolkit.testing import Node
from django_poolkit.testing.faults import silent_server
from django_poolkit.testing.waiting import wait_until
from tests.control.statuses import pool, status

HERE = naming.host_mark()
ELSEWHERE = "ffffffff"


@pytest.fixture(autouse=True)
def own_pools(
    django_db_modify_db_settings: None,
    django_db_blocker: Any,
    primary: Node,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Begin and end without a pool of this process, on a database that is there anyway."""
    monkeypatch.setitem(connections.settings["default"], "NAME", primary.dbname)
    with django_db_blocker.unblock():
        connections.close_all()
        registry.pools.close_all()
        yield
        connections.close_all()
        registry.pools.close_all()


@pytest.fixture
def connect(params: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    """Return a function that makes connections of a name, as other processes do."""
    with ExitStack() as stack:

        def connect(name: str, *, autocommit: bool = True) -> Any:
            made = psycopg.connect(**params, application_name=name, autocommit=autocommit)
            return stack.enter_context(made)

        yield connect


@contextmanager
def alias(name: str, **changes: Any) -> Iterator[str]:
    """Have another alias in DATABASES: the default one with changes."""
    base = connections.settings["default"]
    connections.settings[name] = {**base, "OPTIONS": {**base["OPTIONS"]}, **changes}
    try:
        yield name
    finally:
        del connections.settings[name]
        if hasattr(connections._connections, name):  # type: ignore[attr-defined]
            delattr(connections._connections, name)  # type: ignore[attr-defined]


def check(*processes: Any, aliases: tuple[str, ...] = ("default",)) -> Server:
    [server] = servers.check(aliases, processes)
    return server


def shares(server: Server, whose: str) -> list[Share]:
    return [share for share in server.shares if share.whose == whose]


# -- what is counted


def test_a_process_and_the_server_say_the_same(primary: Node) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    server = check(answers.status({}))
    [share] = shares(server, "process")
    assert (share.pids, share.may_open) == ((os.getpid(),), 8)
    assert share.open == share.connections == share.idle_in_transaction == 1
    assert 0 < share.longest < 10
    connection.rollback()
    connection.set_autocommit(True)
    [share] = shares(check(answers.status({})), "process")
    assert (share.connections, share.idle_in_transaction, share.longest) == (1, 0, 0)


def test_all_others_are_told_apart(connect: Callable[..., Any]) -> None:
    before = check(status(101)).connections
    assert before is not None
    for pid, host in ((101, HERE), (102, HERE), (102, HERE), (103, HERE), (101, ELSEWHERE)):
        connect(f"pk:{pid}:{host}:shop")
    connect(f"pk:7:{ELSEWHERE}:shop", autocommit=False).execute("SELECT 1")
    connect("psql")
    server = check(status(101, pool(max_size=4, size=1, idle=1)))
    assert server.connections == before + 7
    [process] = shares(server, "process")
    assert (process.pids, process.connections) == ((101,), 1)
    [here] = shares(server, "here")
    assert (here.pids, here.connections, here.may_open) == ((102, 103), 3, None)
    [elsewhere] = shares(server, "elsewhere")
    assert (elsewhere.pids, elsewhere.hosts, elsewhere.connections) == ((7, 101), 1, 2)
    assert elsewhere.idle_in_transaction == 1
    [others] = shares(server, "others")
    assert others.connections == before + 1
    assert others.pids == ()


def test_a_process_in_another_container_is_known_by_its_host(connect: Callable[..., Any]) -> None:
    connect(f"pk:101:{ELSEWHERE}:shop")
    server = check(status(101, pool(idle=1), host=ELSEWHERE))
    assert [share.connections for share in shares(server, "process")] == [1]
    assert not shares(server, "elsewhere")


def test_a_process_that_does_not_go_there_is_no_share_of_it() -> None:
    assert not shares(check(status(101, pool("other"))), "process")


def test_only_pools_of_postgresql_take_connections_of_it() -> None:
    assert check(status(101, pool(max_size=3), pool(max_size=50, kind="http"))).may_open == 3


def test_a_pool_of_asyncpg_takes_connections_of_the_same_server() -> None:
    raw = pool("asyncpg:default", kind="asyncpg", aliases=("default",), max_size=5, size=2, idle=2)
    server = check(status(101, pool(max_size=3, size=1, idle=1), raw))
    [share] = shares(server, "process")
    assert (server.may_open, share.may_open, share.open) == (8, 8, 3)


# -- the budget


def test_the_connection_that_asks_how_a_server_is_counts_beside_its_pool() -> None:
    probed = registry.connection_pools["default"]
    probed.prober.ask(5.0)
    says = status(os.getpid(), probed.stats().as_dict())
    # A connection of an earlier test may take its time to end.
    wait_until(lambda: len(check(says).shares) == 1, 30.0, lambda: str(check(says).shares))
    [share] = check(says).shares
    assert (share.may_open, share.open, share.connections) == (probed.max_size + 1, 1, 1)


def test_the_budget_is_what_all_may_open_and_the_others_have(connect: Callable[..., Any]) -> None:
    free = check(status(101))
    assert free.usable is not None
    assert free.connections is not None
    left = free.usable - free.connections
    processes = [status(101, pool(max_size=left - 3)), status(102, pool(max_size=2))]
    server = check(*processes)
    assert (server.may_open, server.short) == (left - 1, 0)
    connect(f"pk:9:{ELSEWHERE}:shop")
    connect("psql")
    assert check(*processes).short == 1
    # What the processes themselves have open is in what they may open.
    connect(f"pk:101:{HERE}:shop")
    assert check(*processes).short == 1


def test_reserved_connections_are_nobodys(primary: Node) -> None:
    server = check()
    [[most, reserved]] = primary.execute(
        "SELECT current_setting('max_connections')::int,"
        " current_setting('superuser_reserved_connections')::int"
    )
    assert (server.max_connections, server.usable) == (most, most - reserved)


# -- servers and aliases


def test_two_addresses_of_one_server_are_one_budget(primary: Node) -> None:
    with alias("report", HOST=str(primary.socket_directory)):
        server = check(
            status(101, pool(max_size=3), pool("report", max_size=4)),
            aliases=("default", "report"),
        )
    assert server.aliases == ("default", "report")
    assert server.may_open == 7


def test_an_alias_that_was_not_asked_for_counts_in_the_budget_and_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    real = activity.ask

    def ask(params: Any) -> Activity:
        asked.append(params["dbname"])
        return real(params)

    monkeypatch.setattr(activity, "ask", ask)
    with alias("report", NAME="nowhere"):
        server = check(status(101, pool(max_size=3), pool("report", max_size=4)))
    assert (server.may_open, server.errors) == (7, {})
    assert "nowhere" not in asked
    assert len(asked) == 1


def test_one_alias_of_a_server_may_fail_alone() -> None:
    with alias("report", NAME="nowhere"):
        server = check(status(101), aliases=("default", "report"))
    assert list(server.errors) == ["report"]
    assert "[3D000]" in server.errors["report"]
    assert server.connections is not None


def test_a_server_that_is_down_still_has_the_processes_say() -> None:
    with alias("report", PORT="1"):
        server = check(status(101, pool("report", max_size=3, idle=2)), aliases=("report",))
    assert (server.connections, server.usable, server.short) == (None, None, 0)
    assert server.may_open == 3
    [share] = server.shares
    assert (share.open, share.connections, share.idle_in_transaction) == (2, None, None)


def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    real = activity.ask
    monkeypatch.setattr(servers, "DEADLINE", 0.3)
    monkeypatch.setattr(
        activity, "ask", lambda params: let_go.wait(60) if "hangs" in str(params) else real(params)
    )
    try:
        with alias("report", NAME="hangs"), alias("other", HOST="hangs", NAME="hangs"):
            found = servers.check(("default", "report", "other"), [])
    finally:
        let_go.set()
    texts = {name: text for server in found for name, text in server.errors.items()}
    assert texts == dict.fromkeys(("report", "other"), "no answer within 0.3 s")
    assert len(found) == 2


def test_a_server_is_asked_by_one_connection_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, most = Counter[int](), Counter[int]()
    real = activity.ask

    def ask(params: Any) -> Activity:
        port = int(params["port"])
        now[port] += 1
        most[port] = max(most[port], now[port])
        try:
            return real(params)
        finally:
            now[port] -= 1

    monkeypatch.setattr(activity, "ask", ask)
    with alias("one"), alias("two"), alias("three"):
        check(aliases=("default", "one", "two", "three"))
    assert set(most.values()) == {1}


def test_what_one_role_may_not_see_another_may(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(params: Any) -> Activity:
        state = 2 if params["dbname"] == "sees" else None
        found = Sessions(
            application_name=f"pk:101:{HERE}:x", connections=3, idle_in_transaction=state, longest=1
        )
        return Activity(server="one", max_connections=10, reserved=1, sessions=(found,))

    monkeypatch.setattr(activity, "ask", ask)
    [blind] = check(status(101, pool())).shares
    assert blind.idle_in_transaction is None
    with alias("report", NAME="sees"):
        [share] = check(status(101, pool()), aliases=("default", "report")).shares
    assert (share.connections, share.idle_in_transaction) == (3, 2)


def test_to_look_makes_no_pool_and_asks_only_what_is_pooled() -> None:
    unpooled = {"OPTIONS": {"pool": False}}
    with (
        alias("plain", **unpooled),
        alias("lite", ENGINE="django.db.backends.sqlite3", NAME=":memory:", OPTIONS={}),
        silent_server() as silent,
        alias("silent", HOST=silent.host, PORT=str(silent.port), **unpooled),
    ):
        assert servers.pooled_aliases() == ["default"]
        check()
    assert len(registry.pools) == 0
