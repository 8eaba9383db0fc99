"""`POOLKIT["LIFESPAN"]`: its defaults, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_poolkit.conf.lifespan import LifespanConfig, lifespan_config

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]


def config_of(section):
    with override_settings(POOLKIT={"LIFESPAN": section}):
        return lifespan_config()


def test_what_holds_where_nothing_is_set():
    assert config_of({}) == LifespanConfig(
        resources=(),
        pools="optional",
        start_timeout=20.0,
        resource_start_timeout=10.0,
        stop_timeout=15.0,
        drain_timeout=5.0,
        resource_stop_timeout=3.0,
        cut_after=None,
        killed_after=30.0,
    )


def test_what_is_set_holds():
    section = {
        "RESOURCES": ["shop.resources.redis", "shop.search.index"],
        "POOLS": "required",
        "START_TIMEOUT": 8,
        "RESOURCE_START_TIMEOUT": 2.5,
        "STOP_TIMEOUT": 9,
        "DRAIN_TIMEOUT": 0,
        "RESOURCE_STOP_TIMEOUT": 0.5,
        "CUT_AFTER": 4,
        "KILLED_AFTER": 40,
    }
    assert config_of(section) == LifespanConfig(
        resources=("shop.resources.redis", "shop.search.index"),
        pools="required",
        start_timeout=8.0,
        resource_start_timeout=2.5,
        stop_timeout=9.0,
        drain_timeout=0.0,
        resource_stop_timeout=0.5,
        cut_after=4.0,
        killed_after=40.0,
    )


TIMEOUTS = ("START_TIMEOUT", "RESOURCE_START_TIMEOUT", "STOP_TIMEOUT", "RESOURCE_STOP_TIMEOUT")


@pytest.mark.parametrize("key", TIMEOUTS)
@pytest.mark.parametrize("value", [0, -1, "5", None, True, float("inf"), float("nan")])
def test_a_timeout_is_a_number_of_seconds_above_0(key, value):
    with pytest.raises(
        ImproperlyConfigured, match=rf"\['{key}'\] must be a number of seconds, more"
    ):
        config_of({key: value})


@pytest.mark.parametrize("key", ["DRAIN_TIMEOUT", "CUT_AFTER"])
@pytest.mark.parametrize("value", [-0.1, "5", False, float("inf")])
def test_the_time_for_requests_may_be_0(key, value):
    with pytest.raises(ImproperlyConfigured, match=rf"\['{key}'\] must .* 0 or more"):
        config_of({key: value})
    assert getattr(config_of({key: 0}), key.lower()) == 0


def test_requests_need_not_be_cut():
    assert config_of({"CUT_AFTER": None}).cut_after is None


def test_draining_is_a_part_of_stopping():
    with pytest.raises(
        ImproperlyConfigured, match=r"\['STOP_TIMEOUT'\] must be above DRAIN_TIMEOUT"
    ):
        config_of({"STOP_TIMEOUT": 5, "DRAIN_TIMEOUT": 5})


@pytest.mark.parametrize("value", ["eager", True, None, ["optional"]])
def test_pools_are_one_of_three(value):
    with pytest.raises(ImproperlyConfigured, match=r"\['POOLS'\] must be one of 'optional', "):
        config_of({"POOLS": value})


@pytest.mark.parametrize(
    "value",
    ["shop.redis", None, {"shop.redis": {}}, ["redis"], [7], [".redis"], ["shop.a", "shop.a"]],
)
def test_resources_are_a_list_of_paths(value):
    with pytest.raises(ImproperlyConfigured, match=r"\['RESOURCES'\] must be a list of dotted"):
        config_of({"RESOURCES": value})


def test_an_unknown_key_is_refused_with_a_hint():
    with pytest.raises(ImproperlyConfigured, match=r"\['STOPTIMEOUT'\].*mean 'STOP_TIMEOUT'"):
        config_of({"STOPTIMEOUT": 5})


def test_a_bad_value_is_refused_at_start():
    program = (
        "from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['django_poolkit'],"
        " POOLKIT={'LIFESPAN': {'POOLS': 'eager'}})\n"
        "import django; django.setup()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ImproperlyConfigured: POOLKIT['LIFESPAN']['POOLS'] must be one of" in done.stderr
