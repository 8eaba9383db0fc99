"""Pools whose password a function knows, on a server that asks for it by SCRAM."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.errors import PoolTimeout
from django_poolkit.pools.postgres.prober import ProbeFailed
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import assert_adds_up, fill, idle_pids, queue_up

pytestmark = pytest.mark.usefixtures("quiet")

FIRST, SECOND = "hunter2-the-first", "hunter2-the-second"


class Vault:
    """What knows the password of a role, and is asked for it."""

    def __init__(self, node: Node, role: str) -> None:
        self.node, self.role = node, role
        self.calls = 0
        self.answer: Any = FIRST
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def __call__(self) -> Any:
        self.calls += 1
        self.asked.set()
        self.gate.wait(60.0)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer

    def rotate(self, *, known: bool = True) -> None:
        """Change the password on the server, and here if it is to be known."""
        self.node.execute(f"ALTER ROLE {self.role} PASSWORD '{SECOND}'")
        if known:
            self.answer = SECOND


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Hold every line of the log against the secrets."""
    with caplog.at_level(logging.DEBUG):
        yield
    assert "hunter2" not in caplog.text


@pytest.fixture
def vault(primary: Node, app: str) -> Iterator[Vault]:
    role = app.replace("-", "_")
    primary.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{FIRST}'")
    found = Vault(primary, role)
    yield found
    found.gate.set()
    wait_until(lambda: not primary.sessions(app))
    primary.execute(f"DROP ROLE {role}")


@pytest.fixture
def supplied(
    params: dict[str, Any], vault: Vault, app: str
) -> Iterator[Callable[..., ConnectionPool]]:
    """Return a function that makes pools of the vault's role."""
    pools = []
    place = {key: value for key, value in params.items() if key != "password"}

    def make(**options: Any) -> ConnectionPool:
        kwargs = place | {"user": vault.role, "application_name": app} | options.pop("kwargs", {})
        pool = ConnectionPool(
            kwargs=kwargs, **{"credentials": vault, "timeout": 10.0, "max_size": 4, **options}
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


def refusal(pool: ConnectionPool, timeout: float = 0.5) -> str:
    """Return what an acquire says that fails; nothing may be left of it."""
    with pytest.raises(PoolTimeout) as caught:
        pool.acquire(timeout=timeout)
    stats = pool.stats()
    assert (stats.used, stats.idle) == (0, 0)
    text = f"{caught.value} {caught.value!r} {stats!r} {pool!r}"
    assert "hunter2" not in text
    return text


def test_several_connects_ask_once(
    supplied: Callable[..., ConnectionPool], vault: Vault, primary: Node, app: str
) -> None:
    vault.gate.clear()
    pool = supplied(num_workers=3)
    waiting = [queue_up(pool, pool.acquire) for _ in range(3)]
    assert vault.asked.wait(10.0)
    vault.gate.set()
    for call in waiting:
        call.result().release()
    assert vault.calls == 1
    assert_adds_up(pool, primary, app)


def test_it_is_asked_by_nobody_who_holds_anything(
    supplied: Callable[..., ConnectionPool], vault: Vault
) -> None:
    seen: list[tuple[int, int]] = []

    def answer() -> str:
        stats = pool.stats()  # takes the lock of the pool
        seen.append((stats.used, stats.connecting))
        return FIRST

    vault.answer = answer
    pool = supplied()
    pool.acquire().release()
    pool.recycle()
    pool.acquire().release()
    assert seen == [(0, 1), (0, 1)]


def test_it_is_not_asked_for_a_connection_that_is_there(
    supplied: Callable[..., ConnectionPool], vault: Vault
) -> None:
    pool = supplied(credentials_ttl=0.0)
    for _ in range(5):
        pool.acquire().release()
    assert (vault.calls, pool.stats().connects) == (1, 1)


def test_after_a_rotation_new_connections_have_the_new_one(
    supplied: Callable[..., ConnectionPool], vault: Vault, primary: Node, app: str
) -> None:
    pool = supplied()
    [old] = fill(pool, 1)
    vault.rotate()
    leases = [pool.acquire(), pool.acquire()]
    # The old one lives on, and the refusal of what was kept cost nobody anything.
    assert old in [lease.connection.info.backend_pid for lease in leases]
    assert (vault.calls, pool.stats().connect_errors) == (2, 0)
    for lease in leases:
        lease.release()
    pool.recycle()
    assert old not in fill(pool, 2)
    assert vault.calls == 3
    assert_adds_up(pool, primary, app)


def test_a_refusal_is_met_by_many_and_asked_about_once(
    supplied: Callable[..., ConnectionPool], vault: Vault
) -> None:
    pool = supplied(num_workers=3, max_size=3)
    fill(pool, 1)
    vault.rotate()
    held = pool.acquire()
    for call in [queue_up(pool, pool.acquire) for _ in range(2)]:
        call.result().release()
    held.release()
    assert vault.calls == 2


def test_a_vault_that_is_late_is_asked_again(
    supplied: Callable[..., ConnectionPool], vault: Vault, primary: Node, app: str
) -> None:
    pool = supplied(timeout=0.6, reconnect_cap=0.2)
    fill(pool, 1)
    vault.rotate(known=False)
    pool.recycle()
    assert "[28P01]" in refusal(pool)
    # At first, for the recycled pool, and because the server refused: not at each attempt.
    assert vault.calls == 3
    vault.answer = SECOND
    wait_until(lambda: not pool.stats().connecting)
    pool.acquire(timeout=10.0).release()
    assert_adds_up(pool, primary, app)


def test_what_is_to_be_kept_out_of_errors_is_told(
    supplied: Callable[..., ConnectionPool], vault: Vault
) -> None:
    secrets: list[str] = []
    pool = supplied()
    pool._connect(secrets).close()
    vault.rotate()
    pool._connect(secrets).close()
    # The second connect was refused with the first, and tried with the new one.
    assert [secret for secret in secrets if secret] == [FIRST, FIRST, SECOND]


def test_a_user_may_come_with_it(supplied: Callable[..., ConnectionPool], vault: Vault) -> None:
    vault.answer = {"user": vault.role, "password": FIRST, "ttl": 60}
    pool = supplied(kwargs={"user": "nobody_at_all"})
    with pool.lease() as connection:
        assert connection.execute("SELECT current_user").fetchone() == (vault.role,)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (LookupError("hunter2"), "LookupError raised in __call__, test_supplied.py:"),
        (SystemExit("hunter2"), "SystemExit raised in __call__, test_supplied.py:"),
        (None, "CredentialsError: ['credentials'] returned NoneType, not a password as a str"),
        (b"hunter2", "CredentialsError: ['credentials'] returned bytes, not a password as a str"),
        ({"pasword": "hunter2"}, "CredentialsError: ['credentials'] returned 1 entries beside"),
    ],
    ids=["raises", "exits", "none", "bytes", "misspelt"],
)
def test_one_that_gives_none_is_named_and_nothing_leaks(
    supplied: Callable[..., ConnectionPool],
    vault: Vault,
    primary: Node,
    app: str,
    answer: Any,
    said: str,
) -> None:
    vault.answer = answer
    pool = supplied()
    assert said in refusal(pool)
    assert primary.sessions(app) == []
    vault.answer = FIRST
    pool.acquire(timeout=10.0).release()
    assert_adds_up(pool, primary, app)


def test_one_that_hangs_hinders_nobody_who_has_a_connection(
    supplied: Callable[..., ConnectionPool], vault: Vault, primary: Node, app: str
) -> None:
    pool = supplied(credentials_ttl=0.0, max_size=2, kwargs={"connect_timeout": 2})
    [pid] = fill(pool, 1)
    held = pool.acquire()
    vault.gate.clear()
    with pytest.raises(PoolTimeout):
        pool.acquire(timeout=0.2)
    assert pool.stats().connecting == 1
    held.release()
    pool.acquire(timeout=0.2).release()
    assert idle_pids(pool) == [pid]
    # The connect's own deadline ends it.
    text = "CredentialsError: ['credentials'] has given nothing for"
    wait_until(lambda: text in (pool.stats().last_connect_error or ""), 10.0)
    vault.gate.set()
    held = pool.acquire()
    pool.acquire(timeout=10.0).release()
    held.release()
    assert_adds_up(pool, primary, app)


def test_a_probe_beside_the_pool_asks_it_within_its_own_time(
    supplied: Callable[..., ConnectionPool], vault: Vault
) -> None:
    pool = supplied()
    assert pool.prober.ask(5.0).seconds < 5.0
    assert vault.calls == 1
    vault.rotate()
    pool.recycle()
    vault.gate.clear()
    with pytest.raises(ProbeFailed) as caught:
        pool.prober.ask(0.3)
    assert "has given nothing for" in str(caught.value)
    vault.gate.set()
    pool.prober.ask(5.0)
    assert pool.stats().size == 0


def test_who_wants_to_know_where_is_told(
    supplied: Callable[..., ConnectionPool], vault: Vault, params: dict[str, Any]
) -> None:
    seen: list[dict[str, str]] = []

    def token(place: Any) -> str:
        seen.append(dict(place))
        return FIRST

    supplied(credentials=token).acquire().release()
    wanted = {"host": params["host"], "port": str(params["port"]), "dbname": params["dbname"]}
    assert seen == [{**wanted, "user": vault.role}]
