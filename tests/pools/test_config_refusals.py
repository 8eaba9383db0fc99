"""What each option of a pool refuses, word for word: the sentences are what a user goes by."""

from __future__ import annotations

import math
from typing import Any

import pytest

from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.errors import PoolConfigError

PATH = "DATABASES['default']['OPTIONS']['pool']"


def refusal(options: dict[str, Any]) -> str:
    """Return what is said of `options`, behind the path, which it has to begin with."""
    with pytest.raises(PoolConfigError) as caught:
        PoolConfig.from_options(options, path=PATH)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value).removeprefix(PATH)


A_CHOICE = "must be 'session' or 'transaction'"
A_POLICY = "must be 'dirty' or 'request' or 'always'"
A_PART = "must be a number above 0, and 1 at most"
A_PATH = "must be a function or its dotted path, as 'shop.database.password'"
UNKNOWN_GUARD = "['keepalive_idle']: there is no such option. Did you mean 'keepalives_idle'?"
NO_SESSION = (
    "['verify_state'] asks for the state of one session, and ['pooler'] 'rds-proxy' has no such"
)
NO_ARGUMENT = "must be a function of no argument, or of one: where it connects to"


@pytest.mark.parametrize(
    ("key", "value", "what", "got"),
    [
        ("min_size", -1, "must be a whole number of at least 0", "-1 of type int"),
        ("max_size", 0, "must be a whole number of at least 1", "0 of type int"),
        ("prepared_max", True, "must be a whole number of at least 1", "True of type bool"),
        ("num_workers", "4", "must be a whole number of at least 1", "a value of type str"),
        ("timeout", -0.5, "must be seconds, 0 or more", "-0.5 of type float"),
        ("credentials_ttl", None, "must be seconds, 0 or more", "None of type NoneType"),
        ("max_idle", 0, "must be seconds, above 0", "0 of type int"),
        ("leak_after", 0, "must be seconds, above 0", "0 of type int"),
        ("check", 1, "must be callable, or absent", "1 of type int"),
        ("configure", "a.b", "must be callable, or absent", "a value of type str"),
        ("observe", 1, "must be True or False", "1 of type int"),
        ("retry_reads", None, "must be True or False", "None of type NoneType"),
        ("prepare", 1, "must be True, False or 'pooler'", "1 of type int"),
        ("mode", 3, A_CHOICE, "3 of type int"),
        ("mode", "xyz", A_CHOICE, "a value of type str"),
        ("mode", "sesion", A_CHOICE, "a value of type str. Did you mean 'session'?"),
        ("reset", "always!", A_POLICY, "a value of type str. Did you mean 'always'?"),
        ("atomic_lease", False, "must be 'lazy' or 'eager'", "False of type bool"),
        ("stacks", True, "must be 'all' or 'sampled' or 'none'", "True of type bool"),
        (
            "pooler",
            "odyssey",
            "must be 'pgbouncer-transaction' or 'pgbouncer-session' or 'rds-proxy'",
            "a value of type str",
        ),
        ("name", "", "must be a name, or absent", "a value of type str"),
        ("name", 5, "must be a name, or absent", "5 of type int"),
        ("trusted_modules", "one", "must be a list of names", "a value of type str"),
        ("harmless_functions", 5, "must be a list of names", "5 of type int"),
        ("trusted_modules", ["a", 1], "must hold strings only", "a value of type list"),
        ("shares", 5, "must be a dict of names and numbers", "5 of type int"),
        ("credentials", "hunter2", A_PATH, "a value of type str"),
        ("credentials", 7, "must be a function, or a dotted path", "7 of type int"),
        ("credentials", lambda one, two: "", NO_ARGUMENT, "a value of type function"),
        (
            "lock_timeout",
            30000,
            "must be written with its unit, as '30s' or '500ms'",
            "30000 of type int",
        ),
        ("keepalives", -1, "must be a whole number, as libpq takes it", "-1 of type int"),
    ],
)
def test_it_says_what_the_option_must_be_and_what_it_got(
    key: str, value: Any, what: str, got: str
) -> None:
    assert refusal({key: value}) == f"[{key!r}] {what}; got {got}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"max_size": None},
            "['max_size'] must be a whole number of at least 1; got 0 of type int",
        ),
        ({"max_size": 1, "min_size": 2}, "['max_size'] (1) is below ['min_size'] (2)"),
        ({"atomic_lease": "eager"}, "['atomic_lease'] 'eager' needs ['mode'] 'transaction'"),
        (
            {"observe": True, "mode": "transaction"},
            "['observe'] needs ['mode'] 'session': it tells what a change brings",
        ),
        ({"shares": {1: 0.5}}, "['shares'] must have names for keys; got 1 of type int"),
        ({"shares": {"": 0.5}}, "['shares'] must have names for keys; got a value of type str"),
        ({"shares": {"a": 0}}, f"['shares']['a'] {A_PART}; got 0 of type int"),
        ({"shares": {"a": -0.5}}, f"['shares']['a'] {A_PART}; got -0.5 of type float"),
        ({"shares": {"a": 1.01}}, f"['shares']['a'] {A_PART}; got 1.01 of type float"),
        ({"shares": {"a": math.nan}}, f"['shares']['a'] {A_PART}; got nan of type float"),
        ({"shares": {"a": True}}, f"['shares']['a'] {A_PART}; got True of type bool"),
        ({"shares": {"a": "1"}}, f"['shares']['a'] {A_PART}; got a value of type str"),
        ({"qwertz": 1}, "['qwertz']: there is no such option."),
        ({"maxsize": 1}, "['maxsize']: there is no such option. Did you mean 'max_size'?"),
        ({"prset": 1}, "['prset']: there is no such option. Did you mean 'preset'?"),
        ({"keepalive": 1, "keepalive_idle": 1}, UNKNOWN_GUARD),
        ({"reset_callback": print}, "['reset_callback']: there is no such option."),
        ({"pooler": "rds-proxy", "verify_state": True}, NO_SESSION),
    ],
)
def test_it_says_which_options_do_not_go_together_or_are_none(options: Any, said: str) -> None:
    assert refusal(options) == said


@pytest.mark.parametrize(
    "options",
    [
        {"keepalives": 0},
        {"max_idle": 0.001, "credentials_ttl": 0, "keepalive": 0},
        {"shares": {"reports": 1, "exports": 0.001}},
        {"shares": {}},
        {"credentials": "shop.database.password"},
        {"credentials": lambda server: ""},
        {"prepare": "pooler"},
        {"min_size": 3, "max_size": 3},
        {"atomic_lease": "eager", "mode": "transaction"},
        {"observe": True, "mode": "session"},
        {"stacks": "none", "leak_after": 0.1},
        {"pooler": "pgbouncer-session"},
        {"max_waiting": 0, "num_workers": 1, "prepared_max": 1},
    ],
)
def test_what_is_at_the_bound_is_taken_as_it_is(options: dict[str, Any]) -> None:
    config = PoolConfig.from_options(options)
    taken = {key: getattr(config, key, None) for key in options if key != "keepalives"}
    assert taken == {key: value for key, value in options.items() if key != "keepalives"}
    assert config.guards == ({"keepalives": 0} if "keepalives" in options else None)


@pytest.mark.parametrize(
    ("options", "reset"),
    [
        ({}, "request"),
        ({"mode": "transaction"}, "dirty"),
        ({"pooler": "pgbouncer-transaction"}, "dirty"),
        ({"pooler": "pgbouncer-session"}, "request"),
        ({"mode": "transaction", "reset": "always"}, "always"),
        # It says what is called at each return, and not when there is to be a reset.
        ({"mode": "transaction", "reset": print}, "request"),
    ],
)
def test_what_is_reset_follows_from_the_mode_where_nothing_is_said(
    options: Any, reset: str
) -> None:
    assert PoolConfig.from_options(options).reset == reset


def test_the_default_of_an_option_can_be_asked_for() -> None:
    assert PoolConfig.default("timeout") == 5.0
    assert PoolConfig.default("reset") == "request"


def test_where_no_place_is_given_it_is_called_pool() -> None:
    with pytest.raises(PoolConfigError, match=r"^pool\['max_size'\] must be"):
        PoolConfig.from_options({"max_size": 0})
