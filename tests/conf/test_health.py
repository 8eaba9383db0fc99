"""`POOLKIT["HEALTH"]`: its defaults, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_poolkit.conf.health import HealthConfig, health_config

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef"


def config_of(section, **more):
    with override_settings(POOLKIT={"HEALTH": section, **more}):
        return health_config()


def refused(section, match, **more):
    with pytest.raises(ImproperlyConfigured, match=match):
        config_of(section, **more)


def test_what_holds_where_nothing_is_set():
    assert config_of({}) == HealthConfig(
        path=None,
        cache=1.0,
        timeout=0.8,
        stuck_after=30.0,
        replicas=(),
        lag_warn=10.0,
        lag_fail=None,
        groups={},
        checks=(),
        status_codes={"pass": 200, "warn": 200, "fail": 503},
        token=(),
        permission=None,
        trusted_networks=(),
    )


def test_what_is_set_holds():
    def tokens():
        return TOKEN

    section = {
        "PATH": "/-/health/",
        "CACHE": 0,
        "TIMEOUT": 2,
        "STUCK_AFTER": 5,
        "REPLICAS": ["default"],
        "LAG_WARN": 3,
        "LAG_FAIL": 60,
        "GROUPS": {"ready": ["db:default", "disk"], "shop": ["http:api", "disk", "disk"]},
        "CHECKS": ["shop.health"],
        "STATUS_CODES": {"warn": 503},
        "TOKEN": [TOKEN, tokens],
        "PERMISSION": "auth.view_user",
        "TRUSTED_NETWORKS": ["10.0.0.0/8", "::1"],
    }
    assert config_of(section, HTTP={"api": {}}) == HealthConfig(
        path="/-/health/",
        cache=0.0,
        timeout=2.0,
        stuck_after=5.0,
        replicas=("default",),
        lag_warn=3.0,
        lag_fail=60.0,
        groups={"ready": ("db:default", "disk"), "shop": ("http:api", "disk")},
        checks=("shop.health",),
        status_codes={"pass": 200, "warn": 503, "fail": 503},
        token=(TOKEN, tokens),
        permission="auth.view_user",
        trusted_networks=(ip_network("10.0.0.0/8"), ip_network("::1")),
    )


def test_one_token_needs_no_list():
    assert config_of({"TOKEN": TOKEN}).token == (TOKEN,)
    assert config_of({"TOKEN": None}).token == ()


def test_a_token_is_not_shown():
    config = config_of({"TOKEN": TOKEN})
    assert TOKEN not in repr(config)
    with pytest.raises(ImproperlyConfigured) as caught:
        config_of({"TOKEN": "short-s3cret"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdeé", 7, [], [TOKEN, 7]]
)
def test_a_token_is_long_and_can_stand_in_a_header(value):
    refused({"TOKEN": value}, r"\['TOKEN'\] must be a token of at least 16")


@pytest.mark.parametrize("value", ["health/", "/health", "/", "//", "/a b/", "/a/../?/", 7, ""])
def test_a_path_has_slashes_at_both_ends(value):
    refused({"PATH": value}, r"\['PATH'\] must begin and end with a slash")


@pytest.mark.parametrize("key", ["CACHE", "TIMEOUT", "STUCK_AFTER", "LAG_WARN", "LAG_FAIL"])
@pytest.mark.parametrize("value", [-1, "5", True, float("inf"), float("nan")])
def test_a_time_is_a_number_of_seconds(key, value):
    refused({key: value}, rf"\['{key}'\] must be a number of seconds")


@pytest.mark.parametrize(("key", "value"), [("TIMEOUT", 0.01), ("STUCK_AFTER", 0), ("LAG_FAIL", 0)])
def test_some_times_cannot_be_0(key, value):
    refused({key: value}, rf"\['{key}'\] must be a number of seconds")


def test_a_replica_fails_later_than_it_is_warned_of():
    refused({"LAG_WARN": 5, "LAG_FAIL": 4}, r"\['LAG_FAIL'\] must not be below LAG_WARN \(5\)")
    refused({"LAG_FAIL": 9}, r"\['LAG_FAIL'\] must not be below LAG_WARN \(10\)")
    assert config_of({"LAG_WARN": 5, "LAG_FAIL": 5}).lag_fail == 5


@pytest.mark.parametrize("value", ["default", ["default", "default"], None])
def test_replicas_are_a_list(value):
    refused({"REPLICAS": value}, r"\['REPLICAS'\] must be a list of aliases of DATABASES")


@pytest.mark.parametrize("entry", ["nowhere", 7, None, ["default"]])
def test_replicas_are_aliases(entry):
    value = ["default", entry]
    refused({"REPLICAS": value}, r"\['REPLICAS'\]\[1\] must be an alias of DATABASES")


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ([], r"\['GROUPS'\] must be a dict"),
        ({"Ready": []}, r"\['GROUPS'\]\['Ready'\] must be named by at most 40 small letters"),
        ({"a/b": []}, r"\['GROUPS'\]\['a/b'\] must be named by"),
        ({7: []}, r"\['GROUPS'\]\[7\] must be named by"),
        ({"db": []}, r"\['GROUPS'\]\['db'\] cannot be set"),
        ({"http": []}, r"\['GROUPS'\]\['http'\] cannot be set"),
        ({"shop": "disk"}, r"\['GROUPS'\]\['shop'\] must be a list of checks"),
        ({"shop": [7]}, r"\['GROUPS'\]\['shop'\] must be a list of checks"),
        ({"shop": [""]}, r"\['GROUPS'\]\['shop'\] must be a list of checks"),
        ({"shop": ["db:nowhere"]}, r"'db:nowhere' for a member, but DATABASES has no 'nowhere'"),
        ({"shop": ["http:api"]}, r"'http:api' for a member, but POOLKIT\['HTTP'\] has no 'api'"),
        (
            {"shop": ["cache:default"]},
            r"there are no checks 'cache', only 'db', 'http' and 'asyncpg'",
        ),
    ],
)
def test_a_group_has_members_that_can_be_there(groups, match):
    refused({"GROUPS": groups}, match)


@pytest.mark.parametrize("value", ["shop.health", ["a.b", "a.b"], None])
def test_checks_are_a_list(value):
    refused({"CHECKS": value}, r"\['CHECKS'\] must be a list of dotted paths")


@pytest.mark.parametrize("entry", ["disk", "disk.", 7, None])
def test_checks_are_dotted_paths(entry):
    value = ["shop.health", entry]
    refused({"CHECKS": value}, r"\['CHECKS'\]\[1\] must be a dotted path, as 'shop.health.disk'")


@pytest.mark.parametrize(
    ("codes", "match"),
    [
        ({"pass": 503}, r"\['STATUS_CODES'\]\['pass'\] must be an HTTP status from 200 to 299"),
        ({"fail": 200}, r"\['STATUS_CODES'\]\['fail'\] must be an HTTP status from 400 to 599"),
        ({"warn": 302.0}, r"\['STATUS_CODES'\]\['warn'\] must be an HTTP status from 200"),
        ({"warn": True}, r"\['STATUS_CODES'\]\['warn'\] must be"),
        ({"down": 503}, r"\['STATUS_CODES'\]: there is no 'down'"),
        ([503], r"\['STATUS_CODES'\] must be a dict"),
    ],
)
def test_a_status_code_fits_its_status(codes, match):
    refused({"STATUS_CODES": codes}, match)


@pytest.mark.parametrize("value", ["view_user", "", 7, "auth.view user", "a.b.c"])
def test_a_permission_is_one_of_djangos(value):
    refused({"PERMISSION": value}, r"\['PERMISSION'\] must be a permission")


@pytest.mark.parametrize("value", ["10.0.0.0/8", None, ["::1", "::1"]])
def test_networks_are_a_list(value):
    refused({"TRUSTED_NETWORKS": value}, r"\['TRUSTED_NETWORKS'\] must be a list of networks")


@pytest.mark.parametrize("entry", [7, "10.0.0.1/8", "localhost", None])
def test_networks_are_addresses(entry):
    match = r"\['TRUSTED_NETWORKS'\]\[1\] must be a network, as '10.0.0.0/8', with no bit set"
    refused({"TRUSTED_NETWORKS": ["::1", entry]}, match)


def test_an_unknown_key_is_refused_with_a_hint():
    refused({"TIME_OUT": 5}, r"\['TIME_OUT'\].*mean 'TIMEOUT'")


def test_a_bad_value_is_refused_at_start():
    program = (
        "from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['django_poolkit'],"
        " POOLKIT={'HEALTH': {'PATH': 'health'}})\n"
        "import django; django.setup()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ImproperlyConfigured: POOLKIT['HEALTH']['PATH'] must begin" in done.stderr
