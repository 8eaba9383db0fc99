"""Management commands read the primary, migrate no replica, and connect to none."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.core.management.commands.test import Command as RunsTests
from django.db import connections, router

from django_poolkit import connection_pools
from django_poolkit.backends.request import RequestScope, entered
from django_poolkit.routing import commands, scope, scopes, use_replica
from tests.app.models import Item
from tests.routing.conftest import alias_of, entry


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands run as they do where there are clusters."""
    monkeypatch.setattr(BaseCommand, "execute", BaseCommand.execute)
    commands.install()


class Command(BaseCommand):
    """Does what a test has it do."""

    requires_system_checks = ()
    todo: Any

    def handle(self, *args: Any, **options: Any) -> None:
        self.todo()


def run(todo: Any) -> None:
    command = Command()
    command.todo = todo
    call_command(command)


def test_a_command_reads_the_primary_and_its_jobs_do_not(routed):
    found = []

    def work() -> None:
        found.append(alias_of())
        for _ in range(2):
            with scope():
                found.append(alias_of())
                Item.objects.create(name="new")
                found.append(alias_of())
        with use_replica():
            found.append(alias_of())

    run(work)
    assert found == ["default", "replica", "default", "replica", "default", "replica"]
    assert scopes.current() is None
    assert alias_of() == "replica"


def test_a_command_that_fails_ends_as_well(routed):
    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run(fail)
    assert scopes.current() is None


def test_a_command_in_a_request_is_a_part_of_it(routed):
    def work() -> None:
        assert alias_of() == "default"
        Item.objects.create(name="new")

    with entered(RequestScope(method="GET")):
        assert alias_of() == "replica"
        run(work)
        assert alias_of() == "default"
    with entered(RequestScope(method="GET")):
        run(lambda: None)
        assert alias_of() == "replica"


def test_a_request_that_a_command_serves_is_none_of_its(routed):
    def serve() -> None:
        with entered(RequestScope(method="GET")):
            assert alias_of() == "replica"

    run(serve)


def test_what_runs_other_things_is_no_command(routed, monkeypatch):
    found = []
    monkeypatch.setattr(RunsTests, "handle", lambda *args, **options: found.append(alias_of()))
    call_command("test")
    assert found == ["replica"]


def test_installing_twice_wraps_once():
    before = BaseCommand.execute
    commands.install()
    assert BaseCommand.execute is before


@pytest.fixture
def unreachable(routed: Any) -> Iterator[None]:
    """The replica is nowhere."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = str(taken.getsockname()[1])
        connections["replica"].close()
        del connections["replica"]
        connections.settings["replica"] = {**entry(routed.replicas[0]), "PORT": port}
        yield


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("check", {}),
        ("makemigrations", {"check_changes": True, "dry_run": True, "verbosity": 0}),
        ("migrate", {"verbosity": 0}),
    ],
)
def test_commands_reach_no_replica(unreachable, routed, name, options):
    routed.primary.execute("DROP SCHEMA IF EXISTS apart CASCADE; CREATE SCHEMA apart")
    routed.primary.execute("ALTER DATABASE postgres SET search_path = apart")
    try:
        try:
            call_command(name, stdout=io.StringIO(), **options)
        except SystemExit:
            assert name == "makemigrations"  # the tests' app has none
    finally:
        connections["default"].close()
        routed.primary.execute("ALTER DATABASE postgres RESET search_path")
        routed.primary.execute("DROP SCHEMA apart CASCADE")
    with pytest.raises(KeyError):
        connection_pools["nowhere"]
    assert not hasattr(connections._connections, "replica") or not (  # type: ignore[attr-defined]
        connection_pools["replica"].stats().size
    )


def test_nothing_is_migrated_on_a_replica(routed):
    [ours] = router.routers
    assert ours.allow_migrate("replica", "shop") is False
    assert ours.allow_migrate("replica", "shop", model_name="order", hint=1) is False
    assert ours.allow_migrate("default", "shop") is None
    assert ours.allow_migrate("elsewhere", "shop") is None
