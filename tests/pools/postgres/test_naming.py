"""Names of connections on the server."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_poolkit.pools.postgres import naming

pytestmark = pytest.mark.core


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80))
def test_a_name_fits_and_is_read_again(service):
    name = naming.application_name(service)
    assert len(name.encode()) <= naming.LONGEST
    owner = naming.parse(name)
    assert owner is not None
    assert (owner.pid, owner.host) == (os.getpid(), naming.host_mark())
    assert service.startswith(owner.service)
    if len(service.encode()) <= 30:
        assert owner.service == service


@pytest.mark.parametrize(
    "name", ["", "psql", "pk:", "pk:1", "pk:1:0123456", "pk:x:01234567:a", "pk:1:0123456G:a"]
)
def test_another_name_is_none_of_ours(name):
    assert naming.parse(name) is None


def test_a_pool_that_serves_nobody_in_particular_names_nothing(make_pool):
    with make_pool(max_size=1).acquire() as connection:
        assert connection.info.parameter_status("application_name") == ""


def test_the_users_own_name_wins(make_pool, monkeypatch):
    named = make_pool(max_size=1, kwargs={"application_name": "mine"})
    named.service = "shop"
    with named.acquire() as connection:
        assert connection.info.parameter_status("application_name") == "mine"
    monkeypatch.setenv("PGAPPNAME", "from the environment")
    pool = make_pool(max_size=1)
    pool.service = "shop"
    with pool.acquire() as connection:
        assert connection.info.parameter_status("application_name") == "from the environment"


def test_it_survives_a_reset(make_pool):
    pool = make_pool(max_size=1)
    pool.service = "shop"
    for _ in range(2):
        with pool.acquire() as connection:
            assert connection.info.parameter_status("application_name") == (
                f"pk:{os.getpid()}:{naming.host_mark()}:shop"
            )
            connection.execute("SET application_name TO 'other'")
    assert pool.stats().resets == 2
