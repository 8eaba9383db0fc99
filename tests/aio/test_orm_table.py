"""The table of names: complete for the Django that is installed, put, and undone."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import django
import pytest
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.backends.db import SessionStore
from django.db.models.query import QuerySet, prefetch_related_objects

from django_poolkit.aio import names, orm
from django_poolkit.aio.placing import Placing
from django_poolkit.conf.async_orm import AsyncOrmConfig
from tests.aio.orm_support import on_loop
from tests.app.models import Item
from tests.docs_support import DOCS

pytestmark = pytest.mark.core

ROOT = Path(django.__file__).parent
PAGE = DOCS / "reference/async-orm.md"
MOVED = [name for name in orm.TABLE if name.there and name.part == "orm"]
CONFIG = AsyncOrmConfig(enabled=True, middleware=True)


def modules_that_hop() -> set[str]:
    """Return the modules of Django that have a thread run something."""
    found = set()
    for path in ROOT.rglob("*.py"):
        if re.search(r"^from asgiref\.sync import .*\bsync_to_async\b", path.read_text(), re.M):
            name = path.relative_to(ROOT).as_posix().removesuffix(".py").removesuffix("/__init__")
            found.add(f"django.{name.replace('/', '.')}")
    return found


def documented(heading: str) -> set[str]:
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `(django[\w.]+)`", section, re.MULTILINE))


def test_each_module_that_hops_is_moved_or_left_for_a_reason() -> None:
    there = modules_that_hop()
    moved = {name.module for name in orm.TABLE if name.attribute == "sync_to_async"}
    left = documented("What stays on threads")
    assert there - moved - left == set(), "this Django has a thread run what nobody has looked at"
    if django.VERSION >= (6, 1):  # those of before have some less
        assert left - there == {"django.contrib.auth.middleware"}


def test_the_page_has_the_whole_table() -> None:
    assert documented("What runs on the loop") == {name.module for name in orm.TABLE}


def given(module: str) -> set[str]:
    """Return what a module gives `sync_to_async`, as it is written there."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "sync_to_async":
            assert [keyword.arg for keyword in node.keywords] == []
            found |= {ast.unparse(argument) for argument in node.args}
        if isinstance(node, ast.FunctionDef):
            found |= {f"def {node.name}" for each in node.decorator_list
                      if ast.unparse(each) == "sync_to_async"}  # fmt: skip
    return found


@pytest.mark.parametrize(
    "name", [each for each in MOVED if each.attribute == "sync_to_async"], ids=str
)
def test_all_that_a_module_gives_a_thread_is_known(name: names.Name) -> None:
    others = {
        "django.db.models.query": {"next_slice", "prefetch_related_objects"},
        "django.contrib.sessions.backends.db": {"def sync_transaction"},
        "django.core.paginator": {"list"},
    }
    functions = given(name.module)
    assert functions
    methods = {each for each in functions if each.startswith("self.")}
    assert functions - methods == others.get(name.module, set())


def test_each_kind_of_call_is_placed() -> None:
    placing = Placing(())
    item = Item()
    raw: Any = Item.objects.raw("x")
    for function in (
        Item.objects.all().get, Item.objects.all()._fetch_all, raw._fetch_all,
        Item.objects.create, item.save, item.delete, item.refresh_from_db,
        ContentType.objects.get, prefetch_related_objects,
    ):  # fmt: skip
        assert placing.on_loop(function, (), {}), function
    assert placing.on_loop(list, ((1, 2),), {})
    # What may do anything stays where it is.
    assert not placing.on_loop(list, (iter(()),), {})
    assert not placing.on_loop(len, ((),), {})
    assert not placing.on_loop(lambda: None, (), {})
    assert not placing.on_loop(SessionStore().save, (), {})


def test_names_are_put_and_given_back() -> None:
    before = {str(name): meaning(name) for name in orm.TABLE if name.there}
    with on_loop(middleware=True):
        assert orm.installed()
        for name in orm.TABLE:
            if name.there:
                assert meaning(name) is not before[str(name)]
        orm.install(CONFIG)  # changes nothing, and leaves nothing to be undone
    assert not orm.installed()
    for name in orm.TABLE:
        if name.there:
            assert meaning(name) == before[str(name)]
    assert "asend" not in vars(importlib.import_module("django.core.signals").request_started)


def meaning(name: names.Name) -> object:
    found = importlib.import_module(name.module)
    for attribute in name.attribute.split("."):
        found = getattr(found, attribute)
    return found


def test_middleware_is_left_alone_where_it_is_not_asked_for() -> None:
    before = {str(n): meaning(n) for n in orm.TABLE if n.part == "middleware"}
    with on_loop():
        assert {str(n): meaning(n) for n in orm.TABLE if n.part == "middleware"} == before


def gone(attribute: str) -> names.Name:
    return names.Name(
        module="django.db.models.query", attribute=attribute, make=lambda it: it, reason="none"
    )


@pytest.mark.parametrize(
    "missing",
    ["no_such_name", "QuerySet.no_such_method", "NoSuchClass.method"],
)
def test_a_missing_name_refuses_all_of_them(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {str(name): meaning(name) for name in orm.TABLE if name.there}
    monkeypatch.setattr(orm, "TABLE", (*orm.TABLE, gone(missing)))
    with pytest.raises(names.NamesMissing, match=f"django.db.models.query.{missing}"):
        orm.install(CONFIG)
    assert not orm.installed()
    monkeypatch.undo()
    assert {str(name): meaning(name) for name in orm.TABLE if name.there} == before


@pytest.mark.parametrize(
    "missing",
    [
        "no.such.module:name",
        "django.contrib.sessions.backends.db:SessionStore.asave.no_such_function.using",
        "django.contrib.sessions.backends.db:SessionStore.asave.sync_transaction.no_such_variable",
    ],
)
def test_what_is_only_looked_at_has_to_be_there_too(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orm, "RELIED", (*orm.RELIED, missing))
    with pytest.raises(names.NamesMissing, match=missing.replace(":", ".")):
        orm.install(CONFIG)


def test_a_name_of_a_later_django_is_not_asked_of_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    later = names.Name(
        module="django.no_such_module", attribute="name", make=lambda it: it, reason="none",
        since=(99, 0),
    )  # fmt: skip
    monkeypatch.setattr(orm, "TABLE", (*orm.TABLE, later))
    with on_loop():
        assert orm.installed()


def test_the_error_of_a_missing_name_says_what_goes_on() -> None:
    assert "its async methods run on threads" in str(names.NamesMissing(["a.b"]))


def test_nothing_of_djangos_is_touched_but_what_is_listed() -> None:
    before = dict(vars(QuerySet))
    with on_loop():
        assert dict(vars(QuerySet)) == before
