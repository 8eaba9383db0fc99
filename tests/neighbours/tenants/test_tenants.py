"""django-tenants on leases: no tenant ever sees another's rows, whichever wrapper is in front."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.support import drive

OURS_IN_FRONT = "tests.neighbours.tenants.engine"
THEIRS_IN_FRONT = "django_tenants.postgresql_backend"
VISITS = 8 * 24 // 2
"""Of each tenant."""

Found = dict[str, Any]


@dataclass(frozen=True)
class Site:
    """Whose wrapper is in front, the pool's mode, and whether a tenant is SET for each cursor."""

    engine: str
    mode: str
    limit_set_calls: bool

    def __str__(self) -> str:
        front = "ours" if self.engine == OURS_IN_FRONT else "theirs"
        return f"{front}-{self.mode}-{'once' if self.limit_set_calls else 'each'}"


SITES = [
    Site(OURS_IN_FRONT, "session", True),
    Site(OURS_IN_FRONT, "transaction", False),
    Site(OURS_IN_FRONT, "transaction", True),
    Site(THEIRS_IN_FRONT, "session", False),
    Site(THEIRS_IN_FRONT, "transaction", True),
]


@pytest.fixture(scope="module", params=SITES, ids=str)
def site(request: pytest.FixtureRequest) -> Site:
    """One way to put the two together."""
    chosen: Site = request.param
    return chosen


@pytest.fixture(scope="module")
def found(primary: Node, site: Site) -> Iterator[Found]:
    """What came of it when two tenants were visited by turns, on a database of their own."""
    name = f"tenants_{site}".replace("-", "_")
    primary.create_database(name)
    pool = {"mode": site.mode, "max_size": 2, "timeout": 30.0}
    database = {**primary.django_settings(), "NAME": name, "ENGINE": site.engine}
    given: dict[str, Any] = {
        "database": {**database, "OPTIONS": {"pool": pool}},
        "limit_set_calls": site.limit_set_calls,
    }
    if site.engine == THEIRS_IN_FRONT:
        given["below"] = "django_poolkit.backends.postgresql"
    yield drive("tests.neighbours.tenants.drive", "TENANTS", given)
    primary.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_no_tenant_sees_or_writes_anothers_rows(found: Found) -> None:
    assert found["requests"] == {"red saw red": VISITS, "blue saw blue": VISITS}
    for tenant in ("red", "blue"):
        assert found["rows"][tenant] == {
            f"{tenant}: first": 1, f"{tenant}: together": VISITS, f"{tenant}: alone": VISITS,
        }  # fmt: skip
    assert found["rows"]["public"] == {"public: astray": 1}


def test_a_request_is_pinned_by_its_tenant_and_gives_back_in_the_end(
    found: Found, site: Site
) -> None:
    assert found["used"] == 0
    assert set(found["pins"]) == ({"set"} if site.mode == "transaction" else set())


def test_a_worker_stays_with_its_tenant_over_close_and_pinned(found: Found) -> None:
    assert found["worker"] == {
        "at first": ["red"],
        "after close()": ["red"],
        "pinned": ["red"],
        "after pinned()": ["red"],
        "after the end of a request": ["red"],
    }


def test_all_tenants_share_one_pool(found: Found) -> None:
    assert found["connections"] <= 2
