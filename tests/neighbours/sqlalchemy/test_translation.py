"""SQLAlchemy's options of a pool in our words, and what has no counterpart."""

from __future__ import annotations

from typing import Any

import pytest

from django_poolkit.contrib.sqlalchemy import from_sqlalchemy
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.errors import PoolConfigError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"pool_size": 20, "max_overflow": 5}, {"max_size": 25}),
        ({"pool_size": 20}, {"max_size": 30}),  # as much as SQLAlchemy would have opened
        ({"max_overflow": 0}, {"max_size": 5}),
        ({"pool_timeout": 3}, {"timeout": 3}),
        ({"pool_recycle": 1800}, {"max_lifetime": 1800}),
        ({"pool_recycle": -1, "pool_pre_ping": True}, {}),
        (
            {"connect_args": {"connect_timeout": 3, "keepalives_idle": 10}},
            {"connect_timeout": 3, "keepalives_idle": 10},
        ),
        (
            {"connect_args": {"options": "-c statement_timeout=30000 -clock_timeout=5s"}},
            {"statement_timeout": "30000ms", "lock_timeout": "5s"},
        ),
        (
            {"connect_args": {"options": " --idle-in-transaction-session-timeout=0"}},
            {"idle_in_transaction_session_timeout": "0"},
        ),
        (
            {"connect_args": {"server_settings": {"statement_timeout": 500}}},
            {"statement_timeout": "500ms"},
        ),
    ],
)
def test_what_is_given_is_translated(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert from_sqlalchemy(**given) == expected
    PoolConfig.from_options(expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pool_size": 0}, "pool_size=0 stands for a pool without a bound"),
        ({"max_overflow": -1}, "max_overflow=-1 stands for a pool without a bound"),
        ({"pool_size": "5"}, "pool_size must be a whole number; got a value of type str"),
        ({"pool_size": -2}, "pool_size must be a whole number of at least 1; got -2"),
        ({"max_overflow": -2}, "max_overflow must be"),
        ({"pool_recycle": 0}, "pool_recycle must be seconds above 0, or -1; got 0 of type int"),
        ({"pool_timeout": True}, "pool_timeout must be a number of seconds; got True"),
        ({"pool_timeout": -1}, r"from_sqlalchemy\(\)\['timeout'\] must be seconds"),
        ({"pool_pre_ping": 1}, "pool_pre_ping must be True or False"),
        ({"connect_args": "x"}, "connect_args must be a dict"),
        ({"connect_args": {"password": "secret"}}, r"'password'\].*DATABASES\[…\]\['PASSWORD'\]"),
        ({"connect_args": {"sslmode": "secret"}}, r"'sslmode'\].*\['OPTIONS'\], beside 'pool'"),
        ({"connect_args": {"options": "-c search_path=secret"}}, "sets search_path, which"),
        ({"connect_args": {"options": "secret"}}, "has more in it than"),
        ({"connect_args": {"options": 1}}, r"connect_args\['options'\] must be a string"),
        ({"connect_args": {"server_settings": {"jit": "secret"}}}, "sets jit, which"),
        ({"connect_args": {"server_settings": []}}, "must be a dict"),
    ],
)
def test_what_has_no_counterpart_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(PoolConfigError, match=said) as caught:
        from_sqlalchemy(**given)
    assert "secret" not in str(caught.value)
