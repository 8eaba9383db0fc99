"""A value read by asyncpg is the value that Django's field gives, type by type."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest
from django.contrib.postgres.fields import ArrayField
from django.db import connection, connections, models
from django.test import override_settings

from django_poolkit import asyncpg_pools, registry

pytestmark = pytest.mark.django_db(transaction=True)

MOMENT = dt.datetime(2026, 3, 29, 1, 30, 5, 123456, tzinfo=dt.UTC)
VALUES: dict[str, tuple[models.Field[Any, Any], Any]] = {
    "json": (models.JSONField(), {"a": [1, 2.5, None, "ä"], "b": {"c": True}}),
    "json_text": (models.JSONField(), "a text"),
    "json_null": (models.JSONField(null=True), None),
    "uuid": (models.UUIDField(), uuid.UUID("0189f7ea-ae2c-7809-8aeb-b819cf5e9e7f")),
    "moment": (models.DateTimeField(), MOMENT),
    "long_ago": (models.DateTimeField(), dt.datetime(1, 1, 2, tzinfo=dt.UTC)),
    "day": (models.DateField(), dt.date(2024, 2, 29)),
    "time": (models.TimeField(), dt.time(23, 59, 59, 999999)),
    "duration": (models.DurationField(), dt.timedelta(days=-3, microseconds=7)),
    "decimal": (models.DecimalField(max_digits=20, decimal_places=4), Decimal("-1234567.8900")),
    "float": (models.FloatField(), 0.1),
    "integer": (models.BigIntegerField(), -(2**63)),
    "boolean": (models.BooleanField(), True),
    "text": (models.TextField(), "O'Brien \\ ☃"),
    "binary": (models.BinaryField(), b"\x00\xff"),
    "address": (models.GenericIPAddressField(), "2001:db8::1"),
    "integers": (ArrayField(models.IntegerField()), [1, None, 3]),
    "nested": (ArrayField(ArrayField(models.TextField())), [["a", "b"], ["c", "d"]]),
    "uuids": (ArrayField(models.UUIDField()), [uuid.UUID(int=7)]),
    "jsons": (ArrayField(models.JSONField()), [{"a": 1}, {"b": [2]}]),
    "moments": (ArrayField(models.DateTimeField()), [MOMENT]),
    "decimals": (ArrayField(models.DecimalField(max_digits=9, decimal_places=2)),
                 [Decimal("1.50"), Decimal("0.00")]),
}  # fmt: skip


class Sample(models.Model):
    """A column of each type, of a table that each test makes."""

    objects: ClassVar[Any] = models.Manager()

    class Meta:
        app_label = "asyncpg_values"


for _name, (_field, _value) in VALUES.items():
    _field.null = True
    Sample.add_to_class(_name, _field)


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """Make the table, and leave no pool."""
    with connection.schema_editor() as editor:
        editor.create_model(Sample)
    yield
    with connection.schema_editor() as editor:
        editor.delete_model(Sample)
    connection.close()
    registry.asyncpg.close_all()


def read(name: str, pk: int) -> Any:
    async def main() -> Any:
        async with asyncpg_pools["default"].lease() as leased:
            return await leased.fetchval(
                f'SELECT "{name}" FROM {Sample._meta.db_table} WHERE id = $1', pk
            )

    return asyncio.run(main())


def write(name: str, value: Any) -> int:
    async def main() -> Any:
        async with asyncpg_pools["default"].lease() as leased:
            table = Sample._meta.db_table
            statement = f'INSERT INTO {table} ("{name}") VALUES ($1) RETURNING id'
            return await leased.fetchval(statement, value)

    return int(asyncio.run(main()))


def type_of(value: Any) -> Any:
    """asyncpg's UUID is a faster one of Python's, and equal to it; a view is of bytes."""
    if isinstance(value, uuid.UUID):
        return uuid.UUID
    return bytes if isinstance(value, memoryview) else type(value)


def test_each_type_is_read_as_the_orm_reads_it(subtests: pytest.Subtests) -> None:
    row = Sample.objects.create(**{name: value for name, (_, value) in VALUES.items()})
    row.refresh_from_db()
    for name in VALUES:
        with subtests.test(name):
            expected, found = getattr(row, name), read(name, row.pk)
            assert found == expected
            assert type_of(found) is type_of(expected)
            if isinstance(expected, dt.datetime):
                assert found.utcoffset() == expected.utcoffset()


def test_each_type_that_is_written_is_read_by_the_orm(subtests: pytest.Subtests) -> None:
    for name, (_, value) in VALUES.items():
        if value is not None:
            with subtests.test(name):
                found = getattr(Sample.objects.get(pk=write(name, value)), name)
                assert (bytes(found) if isinstance(found, memoryview) else found) == value


@pytest.mark.parametrize(
    "overrides", [{"TIME_ZONE": "Europe/Berlin"}, {"USE_TZ": False, "TIME_ZONE": "Europe/Berlin"}]
)
def test_times_are_in_the_zone_of_the_alias(overrides: dict[str, Any]) -> None:
    zone = ZoneInfo("Europe/Berlin")
    naive = not overrides.get("USE_TZ", True)
    moment = MOMENT.astimezone(zone).replace(tzinfo=None) if naive else MOMENT.astimezone(zone)
    entry = connection.settings_dict
    before = entry["TIME_ZONE"]
    with override_settings(**overrides):
        entry["TIME_ZONE"] = None if naive else "Europe/Berlin"
        for name in ("timezone", "timezone_name"):
            connections["default"].__dict__.pop(name, None)
        connection.close()
        try:
            row = Sample.objects.create(moment=moment, moments=[moment])
            row.refresh_from_db()
            for name in ("moment", "moments"):
                expected, found = getattr(row, name), read(name, row.pk)
                assert found == expected
                (one,) = found if isinstance(found, list) else [found]
                assert one.utcoffset() == moment.utcoffset()
            pk = write("moment", moment)
            assert Sample.objects.get(pk=pk).moment == moment
        finally:
            entry["TIME_ZONE"] = before
            for name in ("timezone", "timezone_name"):
                connections["default"].__dict__.pop(name, None)
            connection.close()
            connection.close_pool()  # type: ignore[attr-defined]  # those of the other zone, too
