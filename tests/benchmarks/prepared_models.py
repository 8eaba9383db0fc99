"""The tables of `tests.benchmarks.prepared`: sales of shops in cities of countries of regions."""

from __future__ import annotations

from django.db import models


class Region(models.Model):
    """A few of them."""

    name = models.CharField(max_length=50)

    class Meta:
        app_label = "prepared"


class Country(models.Model):
    """Some in each region."""

    name = models.CharField(max_length=50)
    region = models.ForeignKey(Region, models.CASCADE)

    class Meta:
        app_label = "prepared"


class City(models.Model):
    """Some in each country."""

    name = models.CharField(max_length=50)
    country = models.ForeignKey(Country, models.CASCADE)

    class Meta:
        app_label = "prepared"


class Shop(models.Model):
    """Some in each city."""

    name = models.CharField(max_length=50)
    city = models.ForeignKey(City, models.CASCADE)

    class Meta:
        app_label = "prepared"


class Sale(models.Model):
    """Many, and hardly any of them `returned`."""

    shop = models.ForeignKey(Shop, models.CASCADE)
    amount = models.IntegerField()
    state = models.CharField(max_length=10, db_index=True)

    class Meta:
        app_label = "prepared"


MODELS: list[type[models.Model]] = [Region, Country, City, Shop, Sale]
COUNTS = {"region": 5, "country": 25, "city": 125, "shop": 625, "sale": 20_000}


def fill() -> None:
    """Make the tables, and have them filled and analysed."""
    from django.db import connections

    default = connections["default"]
    with default.schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)
    one_of = "1 + g % {}"
    parents = {"country": "region", "city": "country", "shop": "city"}
    with default.cursor() as cursor:
        for name, count in COUNTS.items():
            if name == "sale":
                columns = "shop_id, amount, state"
                values = f"{one_of.format(COUNTS['shop'])}, g % 100,"
                values += " CASE WHEN g % 1000 = 0 THEN 'returned' ELSE 'sold' END"
            else:
                parent = parents.get(name)
                columns = "name" + (f", {parent}_id" if parent else "")
                values = f"'{name} ' || g"
                values += f", {one_of.format(COUNTS[parent])}" if parent else ""
            cursor.execute(
                f"INSERT INTO prepared_{name} ({columns})"
                f" SELECT {values} FROM generate_series(1, {count}) g"
            )
        cursor.execute("ANALYZE")
