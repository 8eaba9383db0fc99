"""Wrappers that are made after a model: what Django would make, and nothing in common to change."""

from __future__ import annotations

from collections import deque
from datetime import UTC
from types import FunctionType, ModuleType
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from django_poolkit.aio import bridged, making
from django_poolkit.backends.postgresql.base import DatabaseWrapper
from tests.aio.support import Pooled, Run

pytestmark = pytest.mark.core


PARTS = {"client", "creation", "features", "introspection", "ops", "validation"}
# Django's own share the one; those of the context, calls are to have (aio/carrying.py).
MEANT = {"settings_dict", "execute_wrappers", "queries_log"}
CONSTANT = (type(None), bool, int, float, str, tuple, FunctionType, ModuleType, type(UTC))


def made() -> Any:
    """Return the wrapper of a call."""
    return connections["default"]


amade = bridged(made)


def test_a_call_s_wrapper_is_what_django_makes(pooled: Pooled, run_on_each: Run) -> None:
    pooled()

    async def main() -> None:
        ours, djangos = await amade(), connections.create_connection("default")
        assert type(ours) is type(djangos)
        found_out = {"timezone", "timezone_name", "_seen", "wrap_database_errors"}
        assert vars(ours).keys() - found_out == vars(djangos).keys() - found_out
        for name, value in vars(djangos).items():
            if name == "_kept":
                continue
            mine = getattr(ours, name)
            assert type(mine) is type(value), name
            if name in PARTS:
                assert mine.connection is ours
            elif name not in {"_bridged", "_thread_sharing_lock"}:
                assert mine == value, name

    run_on_each(main)


def test_the_wrappers_of_two_calls_share_nothing_that_can_be_changed(
    pooled: Pooled, run_on_each: Run
) -> None:
    pooled()

    async def main() -> None:
        await amade()
        one, other = await amade(), await amade()
        assert one is not other
        for name, value in vars(one).items():
            if value is getattr(other, name) and name not in MEANT:
                assert isinstance(value, CONSTANT), name
        for name in PARTS:
            mine, theirs = vars(getattr(one, name)), vars(getattr(other, name))
            shared = [value for key, value in mine.items() if value is theirs.get(key)]
            assert all(isinstance(value, CONSTANT) for value in shared)

    run_on_each(main)


def test_what_is_put_on_a_call_s_wrapper_is_not_on_the_next(
    pooled: Pooled, run_on_each: Run
) -> None:
    pooled()

    def put() -> None:
        mine = made()
        mine.tenant, mine.features.tenant, mine.ops.tenant = "a", "a", "a"
        mine.savepoint_ids.append("s1")
        mine.run_on_commit.append(None)

    async def main() -> None:
        await bridged(put)()
        other = await amade()
        assert not any(hasattr(each, "tenant") for each in (other, other.features, other.ops))
        assert (other.savepoint_ids, other.run_on_commit) == ([], [])
        assert isinstance(other.queries_log, deque)
        assert other.queries_log.maxlen == DatabaseWrapper.queries_limit

    run_on_each(main)


def test_settings_that_change_are_those_of_the_next_call(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled()
    settings = connections.settings["default"]

    async def main() -> None:
        before = await amade()
        assert (before.timezone, before.timezone_name) == (UTC, "UTC")
        with override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin"):
            after = await amade()
            assert (after.timezone, after.timezone_name) == (None, "Europe/Berlin")
        pool_before, zone = before.pool, settings["TIME_ZONE"]
        assert pool_before is pool
        settings["TIME_ZONE"] = "Europe/Berlin"
        try:
            after = await amade()
            assert after.timezone_name == "Europe/Berlin"
            assert after.pool is not pool
        finally:
            after.close_pool()
            settings["TIME_ZONE"] = zone

    run_on_each(main)


def test_an_engine_of_somebody_s_own_begins_as_it_likes(
    pooled: Pooled, run_on_each: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled()
    begun: list[Any] = []

    class Theirs(DatabaseWrapper):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            begun.append(self)

    async def main() -> None:
        settings = connections.settings["default"]
        monkeypatch.setattr(making, "_models", {})
        monkeypatch.setattr(
            connections, "create_connection", making.making(lambda _: Theirs(settings, "default"))
        )
        one, other = await amade(), await amade()
        assert begun == [one, other]
        monkeypatch.undo()

    run_on_each(main)


def test_outside_of_the_bridge_django_makes_them(pooled: Pooled) -> None:
    pooled()
    assert not vars(connections.create_connection("default"))["_bridged"]
