"""What a pool can be told, and what it refuses."""

from __future__ import annotations

import dataclasses
import math

import pytest

from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.errors import PoolConfigError, PoolError

pytestmark = pytest.mark.core


def refusal(options):
    with pytest.raises(PoolConfigError) as caught:
        PoolConfig.from_options(options, path="DATABASES['default']['OPTIONS']['pool']")
    text = str(caught.value)
    assert text.startswith("DATABASES['default']['OPTIONS']['pool']")
    assert text.count("DATABASES") == 1
    return text


def test_the_defaults_are_those_that_are_promised():
    config = PoolConfig()
    promised = {
        "mode": "session", "min_size": 0, "max_size": 10, "timeout": 5.0, "max_waiting": 0,
        "max_lifetime": 3600.0, "max_idle": 600.0, "reconnect_cap": 2.0, "bypass": 0.5,
        "probe_timeout": 1.0, "num_workers": 3, "leak_after": None, "prepare": False,
        "reset": "request", "trusted_modules": (), "keepalive": 0.0,
    }  # fmt: skip
    assert {key: getattr(config, key) for key in promised} == promised


def test_no_options_are_the_defaults():
    assert PoolConfig.from_options({}) == PoolConfig()


def test_a_config_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PoolConfig().max_size = 3  # type: ignore[misc]


def test_the_mapping_that_was_read_is_left_as_it_was():
    options = {"max_size": 4, "reset": print, "statement_timeout": "3s", "trusted_modules": ["a"]}
    before = dict(options)
    PoolConfig.from_options(options)
    assert options == before


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("maxsize", "max_size"),
        ("max_wait", "max_waiting"),
        ("statment_timeout", "statement_timeout"),
    ],
)
def test_an_unknown_option_is_named_with_the_one_that_was_meant(key, meant):
    text = refusal({key: 4})
    assert f"[{key!r}]: there is no such option" in text
    assert f"Did you mean {meant!r}?" in text


def test_an_option_like_no_other_gets_no_guess():
    assert "Did you mean" not in refusal({"zzzzzzzz": 4})


@pytest.mark.parametrize("key", ["guards", "reset_callback"])
def test_names_of_the_inside_are_no_options(key):
    assert "no such option" in refusal({key: None})


@pytest.mark.parametrize("key", ["min_size", "max_size", "max_waiting", "num_workers"])
@pytest.mark.parametrize("value", [-1, 1.5, "4", True, [4]])
def test_a_count_is_a_whole_number(key, value):
    text = refusal({key: value})
    assert f"[{key!r}] must be a whole number of at least" in text
    assert f"of type {type(value).__name__}" in text


@pytest.mark.parametrize("key", ["max_size", "num_workers"])
def test_some_counts_are_not_zero(key):
    assert "of at least 1; got 0" in refusal({key: 0, "min_size": 0})


def test_a_count_is_not_absent():
    assert "must be a whole number" in refusal({"min_size": None})


@pytest.mark.parametrize(
    "key",
    [
        "timeout", "max_lifetime", "max_idle", "reconnect_timeout", "reconnect_cap", "bypass",
        "probe_timeout", "keepalive", "leak_after",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [-1, -0.001, math.nan, "5", True, b"5"])
def test_a_duration_is_seconds(key, value):
    text = refusal({key: value})
    assert f"[{key!r}] must be seconds" in text
    assert f"of type {type(value).__name__}" in text


@pytest.mark.parametrize(
    "key", ["max_lifetime", "max_idle", "reconnect_cap", "probe_timeout", "leak_after"]
)
def test_some_durations_are_not_zero(key):
    assert "must be seconds, above 0" in refusal({key: 0})


@pytest.mark.parametrize("key", ["timeout", "reconnect_timeout", "bypass", "keepalive"])
def test_others_may_be_zero(key):
    assert getattr(PoolConfig.from_options({key: 0}), key) == 0


def test_a_minimum_above_the_maximum_is_refused_with_both():
    assert "['max_size'] (4) is below ['min_size'] (5)" in refusal({"min_size": 5, "max_size": 4})


def test_a_minimum_above_the_default_maximum_is_refused():
    assert "['max_size'] (10) is below ['min_size'] (11)" in refusal({"min_size": 11})


def test_max_size_none_means_a_fixed_size():
    config = PoolConfig.from_options({"min_size": 4, "max_size": None})
    assert (config.min_size, config.max_size) == (4, 4)


def test_a_fixed_size_of_nothing_is_refused():
    assert "['max_size'] must be a whole number of at least 1" in refusal({"max_size": None})


@pytest.mark.parametrize("key", ["reconnect_failed", "check", "configure"])
def test_a_callback_is_callable(key):
    assert f"[{key!r}] must be callable" in refusal({key: "module.function"})
    assert getattr(PoolConfig.from_options({key: print}), key) is print
    assert getattr(PoolConfig.from_options({key: None}), key) is None


@pytest.mark.parametrize("key", ["prepare", "close_returns"])
@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_a_flag_is_true_or_false(key, value):
    choices = "True, False or 'pooler'" if key == "prepare" else "True or False"
    assert f"[{key!r}] must be {choices}" in refusal({key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("mode", "sesion"), ("mode", None), ("reset", "never"), ("reset", ["always"])],
)
def test_a_choice_is_one_of_those_named(key, value):
    text = refusal({key: value})
    assert f"[{key!r}] must be '" in text
    assert " or '" in text or key == "mode"


def test_a_choice_that_is_nearly_right_names_the_one_that_is_meant():
    assert refusal({"mode": "transactions"}).endswith("Did you mean 'transaction'?")
    assert refusal({"pooler": "pgbouncer_session"}).endswith("Did you mean 'pgbouncer-session'?")
    assert "Did you mean" not in refusal({"mode": "hunter2"})


@pytest.mark.parametrize("policy", ["dirty", "request", "always"])
def test_reset_takes_a_policy(policy):
    config = PoolConfig.from_options({"reset": policy})
    assert (config.reset, config.reset_callback) == (policy, None)


def test_reset_takes_the_function_of_psycopg_pool_too():
    config = PoolConfig.from_options({"reset": print})
    assert (config.reset, config.reset_callback) == ("request", print)


@pytest.mark.parametrize("key", ["trusted_modules", "harmless_functions"])
@pytest.mark.parametrize("value", ["one_name", 5, None, [1], [None]])
def test_a_list_of_names_is_one(key, value):
    assert f"[{key!r}] must" in refusal({key: value})


def test_lists_of_names_become_values():
    config = PoolConfig.from_options({"trusted_modules": ["a"], "harmless_functions": ["f", "f"]})
    assert config.trusted_modules == ("a",)
    assert config.harmless_functions == {"f"}


@pytest.mark.parametrize("name", ["", 5, b"x"])
def test_a_name_is_text(name):
    assert "['name'] must be a name" in refusal({"name": name})


@pytest.mark.parametrize("value", [30000, "30000", "30 seconds", "soon", -1, "-1s", "", None, 1.5])
def test_a_guard_of_the_server_is_written_with_its_unit(value):
    assert "['statement_timeout'] must be written with its unit, as '30s'" in refusal(
        {"statement_timeout": value}
    )


@pytest.mark.parametrize("value", ["30s", "500ms", "1.5min", "0", "2 h", "100us", "1d"])
def test_units_of_the_server(value):
    assert PoolConfig.from_options({"lock_timeout": value}).guards == {"lock_timeout": value}


@pytest.mark.parametrize("value", ["10", -1, True, 1.5, None])
def test_a_guard_of_libpq_is_a_whole_number(value):
    assert "['keepalives_idle'] must be a whole number" in refusal({"keepalives_idle": value})


def test_guards_are_kept_apart():
    config = PoolConfig.from_options(
        {"tcp_user_timeout": 5, "idle_session_timeout": "5s", "max_size": 3}
    )
    assert config.guards == {"tcp_user_timeout": 5, "idle_session_timeout": "5s"}
    assert config.max_size == 3


@pytest.mark.parametrize(
    "options",
    [
        {"max_size": "postgres://me:hunter2@db/x"},
        {"timeout": {"password": "hunter2"}},
        {"configure": "hunter2"},
        {"mode": "hunter2"},
        {"trusted_modules": "hunter2"},
        {"name": ["hunter2"]},
        {"statement_timeout": "hunter2"},
        {"keepalives": "hunter2"},
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(options):
    assert "hunter2" not in refusal(options)


def test_a_direct_mistake_is_refused_too():
    with pytest.raises(
        PoolConfigError, match=r"^\['max_size'\] \(1\) is below \['min_size'\] \(2\)$"
    ):
        PoolConfig(min_size=2, max_size=1)


def test_a_refusal_is_a_value_error_of_the_pool():
    with pytest.raises(PoolConfigError) as caught:
        PoolConfig(max_size=0)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, PoolError)
    assert caught.value.__cause__ is None
