"""What a real server says of its limits and timeouts is compared with the pools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.test import override_settings

from django_poolkit import registry
from django_poolkit.testing import Node
from tests.checks.sites import ENGINE, Site

ROLE = "of_the_checks"

Look = Callable[..., list[CheckMessage]]


@pytest.fixture(scope="module")
def role(primary: Node) -> Iterator[Callable[[str], None]]:
    """A role for these tests; return a function that alters it."""

    def run(sql: str) -> None:
        with psycopg.connect(
            host=primary.host, port=primary.port, user=primary.user, password=primary.password,
            dbname=primary.dbname, autocommit=True,
        ) as connection:  # fmt: skip
            connection.execute(sql)

    run(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE}'")
    yield lambda words: run(f"ALTER ROLE {ROLE} {words}")
    run(f"DROP ROLE {ROLE}")


@pytest.fixture
def look(
    site: Site,
    primary: Node,
    role: object,
    monkeypatch: pytest.MonkeyPatch,
    django_db_blocker: Any,
) -> Iterator[Look]:
    """Return a function that runs the checks of a database by the role of these tests."""

    def check(
        *pools: dict[str, Any], workers: str = "", deploy: bool = True, port: str = "",
        poolkit: dict[str, Any] | None = None, password: str = ROLE,
    ) -> list[CheckMessage]:  # fmt: skip
        entry = {
            "ENGINE": ENGINE, "NAME": primary.dbname, "HOST": primary.host,
            "PORT": port or str(primary.port), "USER": ROLE, "PASSWORD": password,
        }  # fmt: skip
        databases = {
            name: {**entry, "OPTIONS": {"pool": pool}}
            for name, pool in zip(("default", "other"), pools, strict=False)
        }
        monkeypatch.setenv("WEB_CONCURRENCY", workers)
        with (
            site.having(databases) as handler,
            monkeypatch.context() as patch,
            override_settings(POOLKIT={**settings.POOLKIT, **(poolkit or {})}),
        ):
            patch.setattr("django_poolkit.checks.catalogue.connections", handler)
            found = [
                message
                for message in checks.run_checks(
                    tags=["database"], include_deployment_checks=deploy, databases=["default"]
                )
                if str(message.id).startswith("poolkit.")
            ]
            stats = [pool.stats() for pool in registry.pools]
            assert all(each.used == 0 for each in stats)
            handler.close_all()
        return sorted(found, key=lambda message: str(message.id))

    with django_db_blocker.unblock():
        yield check
    registry.pools.close_all()


def of(name: str, messages: list[CheckMessage]) -> list[str]:
    return [message.msg for message in messages if message.id == f"poolkit.{name}"]


GUARDED = {"statement_timeout": "20s", "idle_in_transaction_session_timeout": "1min"}


def test_pools_that_fit_have_nothing_to_hear(look: Look) -> None:
    assert look({"max_size": 4, **GUARDED}, workers="4") == []


def test_more_than_the_server_gives_is_told_with_what_is_assumed(look: Look) -> None:
    [text] = of("W035", look({"max_size": 90}, {"max_size": 30}, workers="2", deploy=False))
    assert "DATABASES['default'], DATABASES['other'] may take 120 connections a process" in text
    assert "240 for 2 of them (WEB_CONCURRENCY is 2)" in text
    assert "max_connections, less what is reserved" in text
    [text] = of("W035", look({"max_size": 3_000}))
    assert "3000 for 1 of them (WEB_CONCURRENCY is not set)" in text
    assert of("W035", look({"max_size": 90}, workers="many")) == []


def test_aliases_that_share_a_pool_are_counted_once(look: Look) -> None:
    pool = {"max_size": 60, "mode": "transaction"}
    assert of("W035", look(pool, pool, deploy=False)) == []
    assert len(of("W035", look(pool, {**pool, "timeout": 4}, deploy=False))) == 1


def test_asyncpg_pools_are_counted(look: Look) -> None:
    beside = {"ASYNCPG": {"default": {"max_size": 80}}}
    [text] = of("W035", look({"max_size": 60}, poolkit=beside, deploy=False))
    assert "POOLKIT['ASYNCPG']['default'] may take 140" in text


def test_the_limit_of_the_role_counts(look: Look, role: Callable[[str], None]) -> None:
    role("CONNECTION LIMIT 5")
    try:
        [text] = of("W035", look({"max_size": 6}, deploy=False))
        assert "gives 5 (CONNECTION LIMIT of the role)" in text
        assert of("W035", look({"max_size": 5}, deploy=False)) == []
    finally:
        role("CONNECTION LIMIT -1")


def test_timeouts_that_nobody_keeps_are_missed(look: Look, role: Callable[[str], None]) -> None:
    found = look({"max_size": 2})
    assert [message.id for message in found] == ["poolkit.W036", "poolkit.W037"]
    assert found[0].msg.startswith("DATABASES['default']['OPTIONS']['pool']['statement_timeout']")
    assert look({"max_size": 2}, deploy=False) == []
    # The pool's own, and the role's.
    assert look({"max_size": 2, **GUARDED}) == []
    role("SET statement_timeout = '7s'")
    try:
        assert [message.id for message in look({"max_size": 3})] == ["poolkit.W037"]
    finally:
        role("RESET statement_timeout")


def test_a_server_that_cannot_be_asked_is_said_once(look: Look) -> None:
    found = look({"max_size": 2, "timeout": 0.5}, password="another")
    assert [message.id for message in found] == ["poolkit.I006"]
    assert "'default' could not be asked" in found[0].msg
    assert "another" not in found[0].msg


def test_a_pool_that_cannot_be_made_is_another_checks_matter(look: Look) -> None:
    assert look({"max_size": 3_000}, poolkit={"CONTROL": {"SERVICE": 3}}) == []


@pytest.mark.parametrize("pooler", ["pgbouncer-transaction", "pgbouncer-session", "rds-proxy"])
def test_a_pooler_that_is_declared_and_is_not_there_is_told_of(
    look: Look, role: Callable[[str], None], pooler: str
) -> None:
    role("SET TimeZone = 'UTC'")  # nothing is set on connect behind one
    try:
        [text] = of("I007", look({"max_size": 2, "pooler": pooler}, deploy=False))
        assert f"['pooler'] is {pooler!r}, and database 'default' leads to the server" in text
        assert look({"max_size": 2}, deploy=False) == []
    finally:
        role("RESET TimeZone")


def test_a_pooler_in_between_has_limits_of_its_own(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_poolkit.checks.server.may_be_pooler", lambda alias: True)
    assert look({"max_size": 3_000, **GUARDED}, deploy=False) == []
