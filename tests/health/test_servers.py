"""Real servers are asked for their health while a real PostgreSQL has every kind of trouble."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.faults import TCPProxy
from django_poolkit.testing.waiting import wait_until
from tests.health.serving import KINDS, PATIENCE, Server

POOL_SIZE = 3
ROLE, PASSWORD = "teller", "s3same%41p1ant@0pen"
# Each of these alone gives the password away, however it is written.
SECRETS = ("s3same", "p1ant", "0pen", ROLE, "127.0.0.1", "correct-horse", "site_db")
FORMATS = ["application/json", "application/health+json", "text/plain", "text/html"]


class Stage:
    """A cluster, the network between it and the sites, and what the sites are told of it."""

    def __init__(self, cluster: Cluster, proxy: TCPProxy) -> None:
        self.primary: Node = cluster.primary
        self.replica: Node = cluster.replicas[0]
        self.proxy = proxy
        self.primary.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
        self.primary.create_database("site_db")
        self.primary.wait_caught_up(self.replica)

    def databases(self) -> dict[str, Any]:
        """Return DATABASES for a site: the primary through the proxy, the replica twice."""

        def entry(name: str, host: str, port: int) -> dict[str, Any]:
            return {
                "ENGINE": "django_poolkit.backends.postgresql",
                "NAME": "site_db",
                "USER": ROLE,
                "PASSWORD": PASSWORD,
                "HOST": host,
                "PORT": str(port),
                "OPTIONS": {"pool": {"name": name, "max_size": POOL_SIZE, "timeout": PATIENCE}},
            }

        replica = (self.replica.host, self.replica.port)
        return {
            "default": entry("default", self.proxy.host, self.proxy.port),
            "replica": entry("replica", *replica),
            "misled": entry("misled", *replica),
        }

    def repair(self) -> None:
        """Undo whatever a test has done."""
        self.proxy.accept()
        self.proxy.resume()
        if self.primary.running:
            self.primary.resume()
        else:
            self.primary.start()
        self.primary.wait_ready()
        self.primary.execute(f"ALTER ROLE {ROLE} PASSWORD '{PASSWORD}'")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(replicas=1, settings={"max_connections": "30"}))
        primary = cluster.primary
        proxy = stack.enter_context(TCPProxy(primary.host, primary.port))
        yield Stage(cluster, proxy)


@pytest.fixture(scope="module", params=sorted(KINDS))
def server(request: pytest.FixtureRequest, stage: Stage) -> Iterator[Server]:
    health = {
        "REPLICAS": ["replica"],
        "GROUPS": {"ready": [], "shared": ["db:default"]},
        "STUCK_AFTER": 300.0,
    }
    server = Server(request.param, stage.databases(), health)
    try:
        server.wait_up()
        yield server
        # Whatever has happened, its log has no part of a password.
        assert [secret for secret in ("s3same", "p1ant", "0pen") if secret in server.log] == []
    finally:
        server.close()


@pytest.fixture
def site(server: Server, stage: Stage) -> Iterator[Server]:
    """The server with all well in every worker, and what a test has done undone."""
    server.wait_for("db/default", 200)
    outlast_other_workers(server)
    wait_until(lambda: every(server, "db/default", 200) and every(server, "ready", 200), PATIENCE)
    yield server
    print(server.log[-3000:])  # shown where the test has failed
    stage.repair()
    server.wait_for("db/default", 200)


def outlast_other_workers(site: Server) -> None:
    """Wait until no worker gives a result again that is older than the one just seen.

    Which worker answers is the kernel's choice: it may be the same one many times in a row.
    """
    if site.size > 1:
        time.sleep(1.05)


def every(site: Server, group: str, status: int) -> bool:
    """Tell whether every worker answers so: of several, each gets some of many probes."""
    return {reply.status for reply in site.many(group, 16 * site.size)} == {status}


def lives(site: Server) -> None:
    """Assert that the process answers for itself, at once, whatever the database does."""
    replies = [site.probe("live") for _ in range(10)]
    assert {reply.status for reply in replies} == {200}
    assert min(reply.seconds for reply in replies) < 0.05


def discreet(site: Server, group: str = "db/default") -> None:
    """Assert that no answer in any format says where the database is, with details or without."""
    for accept in FORMATS:
        for headers in ({}, {"Authorization": "Bearer correct-horse-battery"}):
            reply = site.ask(f"/health/{group}", Accept=accept, Host="x", **headers)
            found = [secret for secret in SECRETS if secret in reply.whole]
            assert found == [], reply


def fails(site: Server, reason: str) -> None:
    """Assert that the database fails for this reason: soon, discreetly, and alone."""
    site.wait_for("db/default", 503, reason)
    outlast_other_workers(site)
    wait_until(lambda: every(site, "db/default", 503), PATIENCE)
    # Each reply has a look of its own to wait for, once the last is no longer good.
    seconds = []
    for _ in range(3):
        reply = site.probe("db/default")
        assert (reply.status, reply.data) == (503, {"status": "fail"})
        seconds.append(reply.seconds)
        time.sleep(1.05)  # for as long as a result is given again
    assert min(seconds) < 1.0, seconds
    lives(site)
    discreet(site)
    assert site.probe("shared").status == 503
    # Not for a database that all processes share.
    assert site.probe("ready").status == 200


# -- what is wrong with the database


def test_all_is_well(site: Server) -> None:
    for group in ("live", "startup", "ready", "db/default", "db/replica", ""):
        reply = site.probe(group)
        assert (reply.status, reply.data) == (200, {"status": "pass"}), group
        assert reply.headers["cache-control"] == "max-age=1"
        assert "set-cookie" not in reply.headers
    assert site.probe("nonsense").status == 404
    discreet(site)


def test_a_server_that_is_stopped(site: Server, stage: Stage) -> None:
    stage.primary.stop()
    stage.proxy.refuse()
    fails(site, "unreachable")
    stage.proxy.accept()
    stage.primary.start()
    site.wait_for("db/default", 200)


@pytest.mark.parametrize("what", ["a server that is frozen", "a network that swallows"])
def test_a_server_that_does_not_answer(site: Server, stage: Stage, what: str) -> None:
    threads = site.workers()
    (stage.primary.pause if "server" in what else stage.proxy.stall)()
    fails(site, "timeout")
    site.many("db/default", 100)
    # What was asked for this while blocks nothing, and nothing is left behind.
    for pid, count in site.workers().items():
        assert count <= threads.get(pid, 0) + 8, f"{count} threads"
    (stage.primary.resume if "server" in what else stage.proxy.resume)()
    site.wait_for("db/default", 200)


def test_a_password_that_is_wrong(site: Server, stage: Stage) -> None:
    stage.primary.execute(f"ALTER ROLE {ROLE} PASSWORD 'another'")
    stage.primary.kill_backends()
    fails(site, "auth_failed")


def test_a_server_that_has_no_connection_left(site: Server, stage: Stage) -> None:
    taken: list[psycopg.Connection[Any]] = []

    def all_taken() -> bool:
        """Take what is left, and end what the site has; return whether it had nothing."""
        with pytest.raises(psycopg.OperationalError):
            while True:
                taken.append(stage.primary.connect(user=ROLE, password=PASSWORD))
        ours = [connection.info.backend_pid for connection in taken]
        ended = stage.primary.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = %s AND pid <> ALL (%s)",
            (ROLE, ours),
        )
        return not ended

    try:
        wait_until(all_taken, PATIENCE)  # the site may be faster to a connection that has ended
        assert len(taken) > 10
        fails(site, "saturated")
    finally:
        for connection in taken:
            connection.close()


def test_a_connection_that_was_terminated(site: Server, stage: Stage) -> None:
    """A probe that finds its own connection dead takes another, and passes."""
    for _ in range(5):
        time.sleep(1.05)  # for as long as a result is given again
        assert site.probe("db/default").status == 200
        stage.primary.kill_backends()
    assert site.probe("db/default").status == 200


def test_a_server_in_recovery(site: Server, stage: Stage) -> None:
    found = site.check("db/replica", "db:replica")
    assert (found["status"], found["reason"]) == ("pass", None)
    assert found["lag"] is not None
    assert 0.0 <= found["lag"] < 60.0
    found = site.check("db/misled", "db:misled")
    assert (found["status"], found["reason"]) == ("fail", "read_only")
    assert site.probe("db/misled").status == 503
    assert site.probe("db").status == 503  # the worst of all
    discreet(site, "db")


# -- what is wrong with the pool


@pytest.fixture
def full(site: Server) -> Iterator[Callable[[], None]]:
    """Users hold all connections of every worker, and more of them wait."""
    replies = [site.start("/hold/?seconds=4") for _ in range(site.size * (POOL_SIZE + 2))]

    def saturated() -> bool:
        # Of two workers only one may have got them all.
        reason: object = site.check("db/default", "db:default")["reason"]
        return reason == "saturated"

    wait_until(saturated, PATIENCE, lambda: str(site.details("db/default")))
    yield lambda: None
    assert {reply.result(PATIENCE).status for reply in replies} == {200}


@pytest.mark.usefixtures("full")
def test_a_busy_pool_of_a_healthy_database(site: Server) -> None:
    """It warns, which is no outage, and the probes do not queue behind the users."""
    before = site.check("db/default", "db:default")
    replies = site.many("db/default", 50)
    assert {reply.status for reply in replies} == {200}
    assert min(reply.seconds for reply in replies) < 1.0
    after = site.check("db/default", "db:default")
    if site.size == 1:
        assert (after["status"], after["pool"]["used"]) == ("warn", POOL_SIZE)
        assert after["pool"]["waiters"] <= before["pool"]["waiters"] == 2
    lives(site)


def opened(site: Server) -> None:
    """Have every worker open its pool, by which it can be steered."""

    def all_seen() -> bool:
        replies = [site.start("/hold/?seconds=0.01") for _ in range(4 * site.size)]
        assert {reply.result(PATIENCE).status for reply in replies} == {200}
        return len(list((site.home / "c").glob("*.sock"))) == site.size

    wait_until(all_seen, PATIENCE)


def test_a_process_that_drains(site: Server) -> None:
    opened(site)
    site.order("drain")
    try:
        began = time.monotonic()
        wait_until(lambda: every(site, "ready", 503), 5.0)
        assert time.monotonic() - began < 2.0
        outlast_other_workers(site)
        found = site.details("ready")["checks"].values()
        assert "draining" in {each["reason"] for each in found}
        lives(site)
        assert site.probe("db/default").status == 200
        # Those who are still sent here are served.
        assert site.start("/hold/?seconds=0.01").result(PATIENCE).status == 200
    finally:
        site.order("undrain")
    wait_until(lambda: every(site, "ready", 200), 5.0)


def test_a_pool_that_is_paused(site: Server) -> None:
    opened(site)
    site.order("pause", seconds=60.0)
    try:
        site.wait_for("db/default", 503, "paused")
        wait_until(lambda: every(site, "ready", 503), 5.0)
        lives(site)
    finally:
        site.order("resume")
    wait_until(lambda: every(site, "ready", 200), 5.0)
    site.wait_for("db/default", 200)


# -- whoever asks, and however often


def test_many_probes_are_one_look(site: Server, stage: Stage) -> None:
    """However many ask: one question a period of the cache, in each worker."""
    asked, began = stage.proxy.round_trips, time.monotonic()
    count = 0
    while time.monotonic() - began < 3.0:
        count += len(site.many("db/default", 50))
    periods = time.monotonic() - began + 1.0
    assert count > 100
    # And what it takes to connect, to a worker that had no connection left.
    assert 1 <= stage.proxy.round_trips - asked <= (periods + 4) * site.size


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_what_a_load_balancer_sends(site: Server, method: str) -> None:
    for headers in (
        {"Host": "10.42.0.17:8000"},
        {"Host": ""},
        {},
        {"Host": "shop.example", "Cookie": "sessionid=nonsense", "Accept": "*"},
        {"Host": "x", "Accept": "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"},
        {"Host": "x", "Accept": ";;q=,\xff", "Authorization": "Bearer \xff\xfe"},
    ):
        reply = site.ask("/health/ready", method, **headers)
        if reply.status == 400 and not headers.get("Host"):
            continue  # a server may insist on it before an application is asked
        assert reply.status == (405 if method == "POST" else 200), (headers, reply)
        if method == "GET":
            assert reply.headers["content-type"] == "application/json"
    # While the site itself sends such a client elsewhere.
    assert site.ask("/process/", Host="shop.example").status == 301
