"""Which checks a group has for members, and what the process itself knows."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from django.test.utils import override_script_prefix

from django_poolkit import health, registry
from django_poolkit.checks.health import check_health
from django_poolkit.conf.health import health_config
from django_poolkit.conf.lifespan import LifespanConfig
from django_poolkit.health import groups
from django_poolkit.lifespan import course
from django_poolkit.lifespan.base import Resource
from tests.pools.support import make_stats

pytestmark = pytest.mark.core


@pytest.fixture
def configure():
    """Return a function that sets the section for the rest of the test."""
    layers = []

    def configure(section=None, **more):
        layers.append(override_settings(POOLKIT={"HEALTH": section or {}, **more}))
        layers[-1].enable()

    yield configure
    for layer in reversed(layers):
        layer.disable()


def members(group):
    """Return the names of what is known without looking, and of the checks."""
    found = groups.members(group, health_config())
    return [each.name for each in found.told], [each.name for each in found.checks]


def disk():
    return True


# -- members


def test_what_is_there_without_settings(configure):
    configure(HTTP={"api": {}, "mail": {}})
    assert members("live") == ([], [])
    assert members("startup") == (["process"], [])
    assert members("ready") == (["process"], [])
    assert members("db") == ([], ["db:default"])
    assert members("db/default") == ([], ["db:default"])
    assert members("http") == ([], ["http:api", "http:mail"])
    assert members("http/mail") == ([], ["http:mail"])


@pytest.mark.parametrize(
    "group", ["", "shop", "db/", "db/nowhere", "http/nowhere", "ready/x", "READY", "db/default/x"]
)
def test_what_is_not_there_is_not_known(group, configure):
    configure()
    assert not health.known(group)
    with pytest.raises(KeyError):
        health.report(group)
    with pytest.raises(KeyError):
        asyncio.run(health.areport(group))


@pytest.mark.parametrize("group", [None, 7, b"ready"])
def test_no_other_kind_of_thing_is_a_group(group):
    assert not health.known(group)


def test_groups_have_the_members_that_are_set_and_those_that_join(configure):
    health.check("disk", groups=["ready", "shop"])(disk)
    health.check("other", groups=["stock"])(disk)
    configure({"GROUPS": {"shop": ["db:default", "disk"], "empty": [], "whole": ["process"]}})
    assert members("ready") == (["process"], ["disk"])
    assert members("shop") == ([], ["db:default", "disk"])
    assert members("stock") == ([], ["other"])
    assert members("empty") == ([], [])
    assert members("whole") == (["process"], [])
    assert all(map(health.known, ("shop", "stock", "empty", "whole")))
    assert health.report("empty").status == "pass"


def test_the_database_is_no_member_of_readiness_unless_it_is_asked_for(configure):
    configure({"GROUPS": {"ready": ["db:default", "process"]}})
    assert members("ready") == (["process"], ["db:default"])


def test_a_member_that_does_not_exist_fails_and_the_others_are_looked_at(configure, caplog):
    health.check("disk")(disk)
    configure({"GROUPS": {"ready": ["disc"]}})
    report = health.report("ready")
    assert [(each.name, each.status, each.reason) for each in report.results] == [
        ("process", "pass", None), ("disc", "fail", "config_error"), ("disk", "pass", None),
    ]  # fmt: skip
    assert report.status == "fail"
    assert "check=disc event=no_such_check group=ready" in caplog.text


def test_checks_that_cannot_be_loaded_fail_what_they_may_be_members_of(configure, caplog):
    configure({"CHECKS": ["nowhere.at_all"], "GROUPS": {"shop": ["disk"]}})
    for group in ("ready", "shop"):
        report = health.report(group)
        assert (report.status, report.results[-1].name) == ("fail", "checks")
    for group in ("live", "startup"):
        assert health.report(group).status == "pass"
    assert "event=checks_not_loaded" in caplog.text


def test_names_are_those_of_all_checks(configure):
    health.check("disk")(disk)
    configure(HTTP={"api": {}})
    assert health.names() == ["db:default", "http:api", "disk"]


# -- asking


def test_a_report_holds_for_as_long_as_the_shortest_of_its_members(configure):
    health.check("disk", cache=0.25)(disk)
    health.check("other", groups=["shop"])(disk)
    configure({"CACHE": 2.0})
    assert health.report("ready").max_age == 0.25
    assert health.report("shop").max_age == 2.0
    assert health.report("live").max_age == 2.0


def test_a_report_is_as_old_as_the_oldest_of_its_results(configure):
    calls: list[None] = []

    @health.check("disk", cache=60)
    def disk():
        calls.append(None)

    configure()
    first = health.report("ready")
    second = health.report("ready")
    assert len(calls) == 1
    assert first.age < second.age < 5.0


def test_to_look_asks_for_these_checks_anew(configure):
    calls: list[None] = []

    @health.check("disk", cache=60)
    def disk():
        calls.append(None)

    configure()
    for _ in range(2):
        report = health.look(["disk"])
        assert (report.group, [each.name for each in report.results]) == ("", ["disk"])
    assert len(calls) == 2
    with pytest.raises(KeyError):
        health.look(["disk", "nothing"])


def test_the_settings_of_the_moment_hold(configure):
    calls: list[None] = []

    @health.check("disk")
    def disk():
        calls.append(None)

    configure({"CACHE": 60})
    health.report("ready")
    health.report("ready")
    assert len(calls) == 1
    configure({"CACHE": 0})
    health.report("ready")
    health.report("ready")
    assert len(calls) == 3


# -- the process


def told(group):
    return {each.name: (each.status, each.reason) for each in health.report(group).results}


def test_a_draining_process_is_not_ready_and_lives(configure):
    configure()
    registry.process.drain()
    try:
        assert told("ready") == {"process": ("fail", "draining")}
        assert told("startup") == {"process": ("pass", None)}
        assert health.report("live").status == "pass"
    finally:
        registry.process.undrain()
    assert told("ready") == {"process": ("pass", None)}


def test_a_process_with_a_paused_pool_is_not_ready(configure, monkeypatch):
    class Paused:
        def stats(self):
            return make_stats(state="paused")

    configure()
    with monkeypatch.context() as patch:
        patch.setattr(registry, "pools", [Paused()])
        assert told("ready") == {"process": ("fail", "paused")}
        assert told("startup") == {"process": ("pass", None)}


class Openings:
    """Resources that open, fail or hang as a test wants."""

    def __init__(self):
        self.go_on = asyncio.Event()
        self.begun = asyncio.Semaphore(0)
        self.works = False

    def resource(self, name, *, required):
        @asynccontextmanager
        async def enter():
            self.begun.release()
            await self.go_on.wait()
            if not self.works:
                raise OSError("s3cret")
            yield name

        return Resource(name=name, enter=enter, required=required)


def test_resources_are_a_part_of_readiness_and_required_ones_of_the_start(configure):
    configure()

    async def main():
        openings = Openings()
        needed, extra = (
            openings.resource(name, required=name == "needed") for name in ("needed", "extra")
        )
        starting = asyncio.create_task(course.begin(LifespanConfig(), [extra, needed]))
        seen = []
        for _ in range(2):
            await openings.begun.acquire()
        seen.append((told("startup"), told("ready")))
        openings.works = True
        openings.go_on.set()
        span = await starting
        seen.append((told("startup"), told("ready")))
        await course.end(span)
        seen.append((told("startup"), told("ready")))
        return seen

    try:
        before, during, after = asyncio.run(main())
    finally:
        course.forget()
    process, waits = ("pass", None), ("fail", "starting")
    assert before == (
        {"process": process, "resource:needed": waits},
        {"process": process, "resource:extra": ("warn", "starting"), "resource:needed": waits},
    )
    assert during == (
        {"process": process, "resource:needed": process},
        {"process": process, "resource:extra": process, "resource:needed": process},
    )
    assert after[0] == {"process": ("fail", "closed"), "resource:needed": ("fail", "closed")}
    assert after[1]["process"] == ("fail", "closed")
    assert told("ready") == {"process": process}


def test_an_optional_resource_that_failed_is_warned_of(configure):
    configure()

    async def main():
        openings = Openings()
        openings.go_on.set()
        span = await course.begin(LifespanConfig(), [openings.resource("extra", required=False)])
        try:
            return told("ready"), told("startup")
        finally:
            await course.end(span)

    try:
        ready, startup = asyncio.run(main())
    finally:
        course.forget()
    process = ("pass", None)
    assert ready == {"process": process, "resource:extra": ("warn", "unknown")}
    assert startup == {"process": process}


# -- system checks


def messages():
    return [(each.id, each.msg) for each in check_health()]


def test_nothing_is_wrong_with_the_defaults(configure):
    health.check("disk", timeout=0.5)(disk)
    configure({"GROUPS": {"ready": [], "shop": ["disk", "db:default", "process"]}})
    assert messages() == []


def test_a_section_that_cannot_be_read_is_an_error(configure):
    configure({"CACHE": -1})
    [(name, text)] = messages()
    assert name == "poolkit.E001"
    assert "['CACHE'] must be a number of seconds" in text


def test_checks_that_cannot_be_loaded_are_an_error(configure):
    configure({"CHECKS": ["nowhere.at_all"]})
    [(name, text)] = messages()
    assert name == "poolkit.E002"
    assert "'nowhere.at_all', which cannot be imported" in text


def test_an_unknown_member_is_an_error_and_what_there_is_is_told(configure):
    health.check("disk")(disk)
    configure({"GROUPS": {"shop": ["disc"]}})
    [found] = check_health()
    assert found.id == "poolkit.E003"
    assert "['GROUPS']['shop'] has 'disc' for a member" in found.msg
    assert found.hint == "There are: db:default, disk."


def test_an_empty_group_is_warned_of(configure):
    configure({"GROUPS": {"shop": [], "live": [], "stock": []}})
    health.check("disk", groups=["stock"])(disk)
    [(name, text)] = messages()
    assert name == "poolkit.W001"
    assert "The group 'shop'" in text


def test_liveness_that_hangs_on_others_is_warned_of(configure):
    health.check("disk")(disk)
    configure({"GROUPS": {"live": ["db:default", "disk"]}})
    [(name, text)] = messages()
    assert name == "poolkit.W002"
    assert "'db:default'" in text


def test_a_check_that_may_take_longer_than_all_the_others_is_warned_of(configure):
    health.check("disk", timeout=3)(disk)
    configure()
    [(name, text)] = messages()
    assert name == "poolkit.W003"
    assert "'disk' may take 3 s" in text


@override_settings(ROOT_URLCONF="tests.health.drive")  # which has the view below /health/
def test_a_view_that_is_answered_before_it_is_reached_is_warned_of(configure):
    configure({"PATH": "/health/", "PERMISSION": "auth.view_user"})
    [(name, text)] = messages()
    assert name == "poolkit.W004"
    assert "below POOLKIT['HEALTH']['PATH'] ('/health/')" in text
    with override_script_prefix("/mounted/"):
        assert [name for name, _ in messages()] == ["poolkit.W004"]


@override_settings(ROOT_URLCONF="tests.health.drive")
@pytest.mark.parametrize(
    "section",
    [
        {"PATH": "/health/"}, {"PERMISSION": "auth.view_user"},
        {"PATH": "/healthy/", "PERMISSION": "auth.view_user"},
    ],
)  # fmt: skip
def test_a_view_that_is_reached_or_asks_for_nobody_is_not(configure, section):
    configure(section)
    assert messages() == []


@override_settings(ROOT_URLCONF="tests.urls")
def test_nor_is_one_that_is_not_there(configure):
    configure({"PATH": "/health/", "PERMISSION": "auth.view_user"})
    assert messages() == []


def test_manage_py_check_says_so(configure):
    configure({"GROUPS": {"shop": ["disc"]}})
    with pytest.raises(SystemCheckError, match=r"poolkit\.E003"):
        call_command("check")


@pytest.fixture(autouse=True)
def quiet_logs(caplog):
    caplog.set_level(logging.WARNING)
