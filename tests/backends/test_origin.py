"""Whose statement is it? Told from the caller, through wrappers and instrumentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection as default_connection
from django.db import migrations, transaction
from django.db.models import Count

from django_poolkit.backends import origin
from django_poolkit.backends.origin import foreign_statement
from tests.app.models import Item

pytestmark = [pytest.mark.core, pytest.mark.django_db(transaction=True)]
connection: Any = default_connection


def raw_cursor() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def in_a_wrapper() -> None:
    def wrapper(execute: Any, *args: Any) -> Any:
        return execute(*args)

    with connection.execute_wrapper(wrapper):
        Item.objects.count()


def savepoints() -> None:
    with transaction.atomic(), transaction.atomic():
        Item.objects.create(name="x")


def schema() -> None:
    with connection.schema_editor() as editor:
        editor.delete_model(User.groups.through)
        editor.create_model(User.groups.through)


def run_sql() -> None:
    operation = migrations.RunSQL("SELECT 1")
    with connection.schema_editor() as editor:
        operation.database_forwards("app", editor, None, None)  # type: ignore[arg-type]


@pytest.fixture
def lease() -> Iterator[Any]:
    """The lease of this thread's wrapper, freshly taken."""
    connection.close()
    connection.ensure_connection()
    yield connection._lease
    connection.close()


@pytest.mark.parametrize(
    "act",
    [
        lambda: Item.objects.create(name="x"),
        lambda: list(Item.objects.annotate(n=Count("id")).filter(name__contains="a")),
        lambda: list(Item.objects.iterator()),
        lambda: Item.objects.bulk_create([Item(name="a"), Item(name="b")]),
        lambda: Item.objects.all().delete(),
        lambda: list(User.objects.prefetch_related("groups")),
        lambda: connection.introspection.table_names(),
        savepoints,
    ],
)
def test_the_orm_is_not_foreign(lease: Any, act: Callable[[], Any]) -> None:
    act()
    assert lease.ran
    assert not lease.foreign


def test_half_of_the_way_up_from_a_plain_statement_is_not_walked(
    lease: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    by_django = origin._by_django

    def noted() -> Any:  # one frame further in
        monkeypatch.setattr(origin, "_BELOW_CURSOR", by_django_depth + 1)
        found.append(by_django())
        return found[-1]

    by_django_depth = origin._BELOW_CURSOR
    monkeypatch.setattr(origin, "_by_django", noted)
    Item.objects.count()

    assert [frame.f_code.co_qualname for frame in found] == ["CursorWrapper._execute"]


def test_a_cursor_of_the_project_that_takes_a_shorter_way_is_foreign(
    lease: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A COPY passes fewer frames: with the project's there are as many as below a statement."""
    told: list[bool] = []

    class Copying:
        def __init__(self, cursor: Any) -> None:
            self._cursor = cursor

        def __getattr__(self, name: str) -> Any:
            return getattr(self._cursor, name)

        def execute(self, statement: str, params: Any = None) -> Any:
            with self._cursor.copy("COPY (SELECT 1) TO STDOUT") as copy:
                list(copy)
            told.append(lease.foreign)
            return self._cursor.execute(statement, params)

    create = connection.create_cursor
    monkeypatch.setattr(connection, "create_cursor", lambda name=None: Copying(create(name)))
    Item.objects.count()
    assert told == [True]


@pytest.mark.parametrize(
    "act",
    [raw_cursor, run_sql, schema, lambda: list(Item.objects.raw("SELECT * FROM app_item"))],
)
def test_what_people_write_is(lease: Any, act: Callable[[], Any]) -> None:
    act()
    assert lease.foreign


def test_behind_a_wrapper_of_the_project_one_cannot_tell_so_it_counts_as_foreign(
    lease: Any,
) -> None:
    in_a_wrapper()
    assert lease.foreign


@pytest.mark.parametrize(
    ("module", "trusted", "foreign"),
    [
        ("myproject.views", (), True),
        ("myproject.views", ("myproject",), False),
        ("myproject", ("myproject",), False),
        ("myprojects.views", ("myproject",), True),
        ("django.contrib.postgres.operations", (), False),
        ("django.db.models.sql.query", (), True),
    ],
)
def test_trusted_packages_count_as_the_orm(
    module: str, trusted: tuple[str, ...], foreign: bool
) -> None:
    author = ModuleType(module)
    exec("def write(note): return note()", author.__dict__)
    foreign_now = foreign_statement(trusted)

    # Two frames stand between the question and the cursor, as in the pool.
    def note() -> bool:
        return foreign_now()

    note_globals = {"__name__": "django_poolkit.stand_in", "ask": note}
    exec("def cursor(): return ask()", note_globals)
    assert author.write(note_globals["cursor"]) is foreign
