"""Checks of a project: how they are declared, what they may say, and where they run."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from functools import wraps
from importlib import import_module, reload

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from django_poolkit import connection_pools, health
from django_poolkit.conf.lifespan import LifespanConfig
from django_poolkit.health.declared import Declared, declared
from django_poolkit.health.report import Figures, Result
from django_poolkit.lifespan import course

pytestmark = pytest.mark.core


def found(*paths):
    return declared(paths)


def result_of(function, seconds=2.0):
    return Declared(name="own", call=function).look(seconds)


# -- declaring


def test_a_function_becomes_a_check_by_its_name_and_stays_what_it_is():
    @health.check
    def disk():
        return "warn"

    assert disk() == "warn"
    check = found()["disk"]
    assert (check.groups, check.timeout, check.cache) == (("ready",), None, None)
    assert check.look(1.0).status == "warn"


def test_options_are_taken():
    @health.check("disk.data", groups=["shop", "live"], timeout=2, cache=0)
    def anything():
        pass

    check = found()["disk.data"]
    assert (check.name, check.groups, check.timeout, check.cache) == (
        "disk.data", ("shop", "live"), 2.0, 0.0,
    )  # fmt: skip


def test_a_name_may_have_its_keyword():
    @health.check(name="disk.data", groups=["shop"])
    def anything():
        pass

    assert found()["disk.data"].groups == ("shop",)
    with pytest.raises(TypeError, match="multiple values for argument 'name'"):
        health.check("one", name="other")(anything)  # type: ignore[call-overload]


def test_what_needs_arguments_is_refused():
    class Made:
        def __init__(self, path):
            pass

    class Called:
        def __call__(self, path):
            pass

    class NotCalled:
        pass

    for wrong in (lambda path: True, Made, Called, NotCalled):
        with pytest.raises(TypeError, match=r"^check 'disk' is called without arguments: "):
            health.check("disk")(wrong)
    assert found() == {}


def test_a_function_that_is_given_its_arguments_is_not():
    def disk(path):
        return path == "/"

    @health.check
    @wraps(disk)
    def given(path="/"):
        return disk(path)

    health.check("time")(time.monotonic)
    assert found()["disk"].look(1.0).status == "pass"


def test_a_class_is_made_once_and_called_each_time():
    @health.check
    class Disk:
        made = 0

        def __init__(self):
            type(self).made += 1
            self.calls = 0

        def __call__(self):
            self.calls += 1
            return self.calls == 2

    check = found()["Disk"]
    assert [check.look(1.0).status for _ in range(3)] == ["fail", "pass", "fail"]
    assert Disk.made == 1


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("a:b", {}, "the name of a check"),
        ("process", {}, "none of process, db"),
        ("", {}, "the name of a check"),
        ("x" * 41, {}, "the name of a check"),
        ("x", {"groups": "ready"}, "groups must be a list"),
        ("x", {"groups": ["Ready"]}, "groups must be a list"),
        ("x", {"groups": ["db"]}, "have no other members"),
        ("x", {"timeout": 0}, "timeout must be above 0"),
        ("x", {"timeout": "1"}, "timeout must be above 0"),
        ("x", {"timeout": math.nan}, "timeout must be above 0"),
        ("x", {"cache": -1}, "cache must be 0 or above"),
        ("x", {"cache": math.inf}, "cache must be 0 or above"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(name, options, match):
    with pytest.raises(ValueError, match=match):
        health.check(name, **options)(lambda: None)
    assert found() == {}


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="a function without arguments"):
        health.check("x")(7)  # type: ignore[type-var]


def test_two_checks_cannot_have_one_name():
    @health.check("disk")
    def one():
        pass

    with pytest.raises(ValueError, match=r"two checks are called 'disk': .*one and .*two"):

        @health.check("disk")
        def two():
            pass


# -- named in the settings


@pytest.fixture
def named():
    """The module, as one that nobody has loaded."""
    sys.modules.pop("tests.health.named", None)
    yield
    sys.modules.pop("tests.health.named", None)


@pytest.mark.usefixtures("named")
def test_a_module_is_loaded_with_all_that_it_declares():
    assert list(found("tests.health.named")) == ["disk"]
    reload(import_module("tests.health.named"))
    assert list(found("tests.health.named")) == ["disk"]


@pytest.mark.usefixtures("named")
def test_a_function_may_be_named_declared_or_not():
    paths = "tests.health.named.plain", "tests.health.named.disk"
    for _ in range(2):
        assert set(found(*paths)) == {"plain", "disk"}
    assert found(*paths)["plain"].look(1.0).status == "warn"


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("tests.health.nowhere", "cannot be imported: ImportError"),
        ("nowhere.at_all", "cannot be imported: ModuleNotFoundError, there is no 'nowhere'"),
        ("tests.health.named.nothing", "cannot be imported: ImportError"),
        ("tests.health.named.not_a_check", "cannot be one: a check is a function .*; got a dict$"),
    ],
)
def test_what_leads_to_no_check_is_refused(path, match):
    with pytest.raises(ImproperlyConfigured, match=match):
        found(path)


def test_a_module_that_lacks_what_it_imports_is_not_taken_for_one_that_is_missing(
    tmp_path, monkeypatch
):
    (tmp_path / "torn_checks.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImproperlyConfigured, match="imported: ModuleNotFoundError") as caught:
        found("torn_checks.disk")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert caught.value.__cause__.name == "no_such_library"


# -- what it says


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        (None, "pass", None), (True, "pass", None), (False, "fail", "unknown"),
        ("pass", "pass", None), ("warn", "warn", "unknown"), ("fail", "fail", "unknown"),
        ("everything is fine", "fail", "config_error"), (0, "fail", "config_error"),
        ({}, "fail", "config_error"),
    ],
)  # fmt: skip
def test_what_is_returned_becomes_a_result(said, status, reason):
    result = result_of(lambda: said)
    assert (result.name, result.status, result.reason) == ("own", status, reason)


def test_a_result_is_taken_under_the_checks_own_name():
    figures = Figures(size=1, max_size=2, used=1, idle=0, waiters=0, utilization=0.5)
    said = Result(name="s3cret", status="warn", reason="lagging", lag=3.0, figures=figures)
    result = result_of(lambda: said)
    assert (result.name, result.status, result.reason, result.lag, result.figures) == (
        "own", "warn", "lagging", 3.0, figures,
    )  # fmt: skip


@pytest.mark.parametrize(
    "facts",
    [
        {"status": "s3cret"},
        {"status": "fail", "reason": "s3cret"},
        {"status": "fail", "latency": "s3cret"},
        {"status": "fail", "lag": math.nan},
        {"status": "fail", "figures": {"s3cret": 1}},
    ],
)
def test_a_result_cannot_bring_words_of_its_own_into_an_answer(facts, caplog):
    result = result_of(lambda: Result(name="own", **facts))
    assert result == Result(name="own", status="fail", reason="config_error")
    assert "event=bad_result type=Result" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_timeout_of_its_own_is_one():
    def late():
        raise TimeoutError("s3cret")

    assert result_of(late) == Result(name="own", status="fail", reason="timeout")


# -- coroutines


def test_a_coroutine_runs_in_the_checks_thread_where_there_is_no_lifespan():
    seen = []

    async def own():
        await asyncio.sleep(0)
        seen.append(threading.current_thread())

    assert result_of(own).status == "pass"
    assert seen == [threading.current_thread()]


def test_a_coroutine_is_cancelled_when_its_time_is_up():
    ended = []

    async def own():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    started = time.monotonic()
    assert result_of(own, 0.1).reason == "timeout"
    assert time.monotonic() - started < 1.0
    assert ended == [True]


def test_with_a_lifespan_a_coroutine_runs_on_its_loop_and_is_cancelled_there():
    seen, ended = [], []

    @health.check
    async def own():
        seen.append(asyncio.get_running_loop())

    @health.check("slow", timeout=0.2)
    async def slow():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(asyncio.get_running_loop())
            over.set()

    over = asyncio.Event()

    async def main():
        span = await course.begin(LifespanConfig(), [])
        try:
            report = await health.areport("ready")
            await asyncio.wait_for(over.wait(), 5.0)
            return {each.name: each.reason for each in report.results}
        finally:
            await course.end(span)

    loop_before = []

    async def around():
        loop_before.append(asyncio.get_running_loop())
        return await main()

    try:
        assert asyncio.run(around()) == {"process": None, "own": None, "slow": "timeout"}
    finally:
        course.forget()
    assert seen == ended == loop_before


# -- what it leaves behind


@pytest.mark.django_db(transaction=True)
def test_what_a_check_has_leased_comes_home(monkeypatch):
    connection.close()
    pool = connection_pools["default"]
    before = pool.stats().used

    @health.check
    def rows():
        connection.ensure_connection()
        assert pool.stats().used == before + 1

    assert health.report("ready").status == "pass"
    assert pool.stats().used == before
