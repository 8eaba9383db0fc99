"""GeoDjango on leases, where there are GDAL and a server with PostGIS."""

from __future__ import annotations

import ctypes.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.testing import Cluster, Node
from tests.neighbours.census import grown
from tests.neighbours.support import drive

_LIBRARIES = ("gdal", "geos_c")
_SHARED = Path("/usr/share/postgresql")
_PROGRAMS = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """Return the folder of the newest server of Debian's that has PostGIS."""
    if not all(map(ctypes.util.find_library, _LIBRARIES)):
        return None
    majors = [
        int(place.parent.parent.name)
        for place in _SHARED.glob("*/extension/postgis.control")
        if re.fullmatch(r"\d+", place.parent.parent.name)
    ]
    folders = [_PROGRAMS / str(major) / "bin" for major in sorted(majors, reverse=True)]
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@pytest.fixture(scope="module")
def server() -> Iterator[Node]:
    """A server of its own: the one of the other tests has no PostGIS."""
    folder = programs()
    if folder is None:
        pytest.skip("needs GDAL and a server with PostGIS, as Debian has them")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("POOLKIT_PG_BIN", str(folder))
        with Cluster() as cluster:
            yield cluster.primary


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_places_are_found_on_leases(server: Node, mode: str) -> None:
    name = f"gis_{mode}"
    server.create_database(name)
    database: dict[str, Any] = {
        **server.django_settings(),
        "NAME": name,
        "ENGINE": "django_poolkit.backends.postgis",
        "OPTIONS": {"pool": {"mode": mode, "max_size": 2, "timeout": 30.0}},
    }
    found = drive("tests.neighbours.gis.drive", "GIS", {"database": database})
    assert found["after a reset"] == [9.0, 9.0]
    assert found["resets"] > 0
    assert found["pins"] == {}
    assert found["used"] == 0
    assert found["said"] == []  # by the check of what functions leave
    assert grown(found["few"], found["many"]) == {}
