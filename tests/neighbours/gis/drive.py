"""Places on a map, on leases: `python -m tests.neighbours.gis.drive`.

Prints as JSON what was found there, and what it cost the pool.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any

import django
from django.conf import settings

given: dict[str, Any] = json.loads(os.environ["GIS"])
settings.configure(
    SECRET_KEY="tests only",
    USE_TZ=True,
    DATABASES={"default": given["database"]},
    INSTALLED_APPS=["django.contrib.gis", "django_poolkit"],
)
django.setup()

from django.contrib.gis.db import models  # noqa: E402
from django.contrib.gis.db.backends.postgis.adapter import PostGISAdapter  # noqa: E402
from django.contrib.gis.db.models.functions import Distance  # noqa: E402
from django.contrib.gis.geos import Point  # noqa: E402
from django.core.checks import run_checks  # noqa: E402
from django.db import connection as default_connection  # noqa: E402
from django.db import transaction  # noqa: E402

from tests.neighbours.census import census  # noqa: E402

connection: Any = default_connection
HOME = Point(0, 0, srid=4326)
THREADS = 3
REQUESTS = 40
"""By each thread."""


class Place(models.Model):
    """Somewhere."""

    at = models.PointField()

    class Meta:
        app_label = "gis"


objects: Any = Place._default_manager


def request(number: int) -> None:
    """Look for what is near, and write, in all the ways that take a connection."""
    near = objects.filter(at__dwithin=(HOME, 3)).annotate(far=Distance("at", HOME))
    assert [place.at.coords for place in near.order_by("pk")] == [(n, n) for n in range(3)]
    with transaction.atomic():
        place = objects.select_for_update().get(pk=5)
        place.at = Point(number, 50, srid=4326)
        place.save()
    for place in objects.filter(pk=1).iterator(chunk_size=1):
        assert place.at.equals(HOME)
    with connection.cursor() as cursor:
        cursor.execute(
            # Which the backend tells each new connection how to write.
            "SELECT ST_AsText(at) FROM gis_place WHERE ST_DWithin(at, %s, 0.5)",
            [PostGISAdapter(HOME)],
        )
        assert cursor.fetchone() == ("POINT(0 0)",)
    connection.close()


def crowd(requests: int) -> None:
    """Have threads serve requests at the same time."""
    everybody = threading.Barrier(THREADS)
    errors: list[BaseException] = []

    def work() -> None:
        everybody.wait()
        try:
            for number in range(requests):
                request(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def main() -> None:
    """Run it all."""
    connection.prepare_database()  # creates the extension
    with connection.schema_editor() as editor:
        editor.create_model(Place)
    objects.bulk_create(Place(pk=n + 1, at=Point(n, n, srid=4326)) for n in range(5))
    connection.close()
    crowd(5)
    few, before = census(), connection.pool.stats().pins
    crowd(REQUESTS)
    many = census()
    pins = {str(why): n - before.get(why, 0) for why, n in connection.pool.stats().pins.items()}
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout TO '1min'")
    connection.close()  # and so a reset, which takes no adapter away
    objects.create(pk=6, at=Point(9, 9, srid=4326))
    request(1)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    connection.close()
    found = {
        "few": few,
        "many": many,
        "pins": pins,
        "resets": connection.pool.stats().resets,
        "after a reset": objects.get(pk=6).at.coords,
    }
    connection.close()
    said = [str(message) for message in run_checks(tags=["database"], databases=["default"])]
    print(json.dumps({**found, "said": said, "used": connection.pool.stats().used}))


if __name__ == "__main__":
    main()
