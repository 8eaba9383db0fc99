"""What a commit leaves in its scope, through Django's `atomic()`, in both modes."""

from __future__ import annotations

import contextvars
import os
import socket
import threading
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, connections, transaction

from django_poolkit.pools.postgres import commit
from django_poolkit.routing import outgoing as outgoing_module
from django_poolkit.routing import scope
from django_poolkit.routing.outgoing import outgoing
from django_poolkit.routing.scopes import Scope
from tests.app.models import Item
from tests.routing.conftest import entry


@pytest.fixture(params=["session", "transaction"])
def mode(request, routed, monkeypatch):
    """The primary in one mode and in the other."""
    monkeypatch.setattr(outgoing_module, "BUDGET", 10.0)
    connections["default"].close()
    del connections["default"]
    options = {"pool": {"max_size": 4, "mode": request.param}}
    connections.settings["default"] = entry(routed.primary, OPTIONS=options)
    return request.param


@pytest.fixture
def deferred(routed):
    routed.primary.execute(
        "ALTER TABLE app_item ADD CONSTRAINT lonely UNIQUE (name) DEFERRABLE INITIALLY DEFERRED"
    )
    yield
    connection.close()
    routed.primary.execute("ALTER TABLE app_item DROP CONSTRAINT lonely")


def end_of(here: Scope) -> int:
    """Return where the floor of a scope is."""
    position = here.floors["default"].position
    assert position is not None
    return position.lsn


def test_each_commit_raises_the_floor(mode):
    with scope() as here:
        found = []
        for n in range(3):
            with transaction.atomic():
                Item.objects.create(name=f"item {n}")
            found.append(end_of(here))
        assert found == sorted(set(found))
        assert len(found) == 3
        assert here.unplaced == set()


def test_a_savepoint_is_a_part_of_its_block(mode):
    with scope() as here:
        with transaction.atomic():
            with transaction.atomic():
                Item.objects.create(name="new")
            assert here.floors == {}
        assert here.floors["default"].position is not None


def test_a_block_that_only_reads_after_one_that_wrote_leaves_it(mode):
    with scope() as here:
        with transaction.atomic():
            Item.objects.create(name="new")
        before = here.floors["default"]
        with transaction.atomic():
            Item.objects.using("default").count()
        assert here.floors["default"] is before


def test_an_error_of_the_commit_is_as_ever(mode, deferred):
    Item.objects.create(name="one")
    with scope() as here:
        with pytest.raises(IntegrityError, match="lonely"), transaction.atomic():
            Item.objects.create(name="one")
        assert here.floors == {}
        assert Item.objects.count() == 1
        with transaction.atomic():
            Item.objects.create(name="two")
        assert here.floors["default"].position is not None


def cut() -> None:
    raw: Any = connection.connection
    with socket.socket(fileno=os.dup(raw.fileno())) as endpoint:
        endpoint.shutdown(socket.SHUT_RDWR)


def test_a_connection_lost_in_the_commit_leaves_a_time_pin(mode):
    with scope() as here:
        with transaction.atomic():
            Item.objects.create(name="first")  # so that nothing has to be asked before
        with pytest.raises(OperationalError), transaction.atomic():
            Item.objects.create(name="new")
            cut()
        connection.close()
        assert here.floors["default"].position is None
        assert outgoing(here)["default"].position is None


def test_without_autocommit_it_is_told_as_well(mode):
    with scope() as here:
        transaction.set_autocommit(False)
        try:
            Item.objects.create(name="new")
            transaction.commit()
            assert here.floors["default"].position is not None
            Item.objects.create(name="newer")
            before = here.floors["default"]
            transaction.rollback()
            assert here.floors["default"] is before
        finally:
            transaction.set_autocommit(True)
            connection.close()


def test_a_transaction_begun_by_a_text_is_asked_for_at_the_end(mode):
    with scope() as here:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO app_item (name, created) VALUES ('new', now())")
            cursor.execute("COMMIT")
        assert here.unplaced == {"default"}
        assert outgoing(here)["default"].position is not None
        assert here.unplaced == set()
        connection.close()


def test_threads_of_one_scope_raise_one_floor(mode):
    with scope() as here:

        def work(n: int) -> None:
            try:
                with transaction.atomic():
                    Item.objects.create(name=f"item {n}")
            finally:
                connections.close_all()

        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(work, n))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        last = end_of(here)
        with transaction.atomic():
            Item.objects.create(name="last")
        assert end_of(here) > last


def test_outside_of_a_scope_nothing_is_asked(mode, monkeypatch):
    monkeypatch.setattr(commit, "_committed", None)  # which would be called
    with transaction.atomic():
        Item.objects.create(name="new")
    assert Item.objects.using("default").count() == 1
