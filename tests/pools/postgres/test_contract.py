"""The private names of other libraries, in one list."""

from __future__ import annotations

import ast
from pathlib import Path

import psycopg
import psycopg_pool
import pytest
from psycopg.adapt import AdaptersMap

import django_poolkit.pools.postgres as package
from django_poolkit.pools.postgres import contract
from django_poolkit.pools.postgres.connection import PoolConnection

pytestmark = pytest.mark.core


def test_this_environment_fits():
    assert contract.missing() == []
    contract.verify()


@pytest.mark.parametrize("name", [*contract.METHODS, *contract.INHERITED])
def test_a_method_that_is_gone_is_noticed(monkeypatch, name):
    for owner in psycopg_pool.ConnectionPool.__mro__:
        if name in vars(owner):
            monkeypatch.delattr(owner, name)
    assert f"ConnectionPool.{name}" in contract.missing()


@pytest.mark.parametrize("name", contract.MODULE)
def test_a_name_of_the_module_that_is_gone_is_noticed(monkeypatch, name):
    monkeypatch.delattr(f"psycopg_pool.pool.{name}")
    assert f"psycopg_pool.pool.{name}" in contract.missing()


def test_a_name_of_a_cursor_that_is_gone_is_noticed(monkeypatch):
    monkeypatch.delattr("psycopg._cursor_base.BaseCursor._start_query")
    assert "BaseCursor._start_query" in contract.missing()


def test_an_attribute_of_a_connection_that_is_gone_is_noticed(monkeypatch):
    monkeypatch.setattr(contract, "CONNECTION", (*contract.CONNECTION, "_no_such_thing"))
    assert contract.missing() == ["Connection._no_such_thing"]


def test_another_version_is_refused_with_a_sentence(monkeypatch):
    monkeypatch.delattr(psycopg_pool.ConnectionPool, "_resolve_kwargs", raising=False)
    for owner in psycopg_pool.ConnectionPool.__mro__:
        if "_resolve_kwargs" in vars(owner):
            monkeypatch.delattr(owner, "_resolve_kwargs")
    with pytest.raises(ImportError) as caught:
        contract.verify()
    text = str(caught.value)
    assert f"psycopg {psycopg.__version__} with psycopg_pool {psycopg_pool.__version__}" in text
    assert "ConnectionPool._resolve_kwargs not found" in text
    assert "Install psycopg>=3.3,<3.4" in text


def test_a_living_connection_has_what_is_relied_on(make_pool):
    """`missing()` reads the names in the code of `__init__`; here they are on an object."""
    pool = make_pool(max_size=1)
    with pool.acquire() as connection:
        for name in contract.CONNECTION:
            assert hasattr(connection, name), name
    for name in ("_dumpers", "_dumpers_by_oid", "_loaders"):
        assert hasattr(AdaptersMap(), name)


def test_the_list_is_complete():
    """Every private name that the package uses of a connection is either ours or listed."""
    ours = {*vars(PoolConnection), *PoolConnection.__annotations__, "_pool"}
    listed = {*contract.CONNECTION, *contract.CONNECTION_METHODS, "_expire_at", "_created_at"}
    used = set()
    for path in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in ("connection", "conn", "c", "other")
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
            ):
                used.add(node.attr)
    assert used - ours - listed == set()
