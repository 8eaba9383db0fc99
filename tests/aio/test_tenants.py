"""django-tenants: a tenant that a middleware's thread has set is that of all calls on the loop."""

from __future__ import annotations

from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.support import drive

OURS_IN_FRONT = "tests.neighbours.tenants.engine"
THEIRS_IN_FRONT = "django_tenants.postgresql_backend"
VISITS = 24 // 2
"""Of each tenant."""


@pytest.mark.parametrize(
    ("engine", "mode"),
    [(OURS_IN_FRONT, "transaction"), (THEIRS_IN_FRONT, "transaction"), (OURS_IN_FRONT, "session")],
)
def test_no_tenant_sees_or_writes_anothers_rows(primary: Node, engine: str, mode: str) -> None:
    name = f"bridged_tenants_{mode}_{len(engine)}"
    primary.create_database(name)
    pool = {"mode": mode, "max_size": 2, "timeout": 20.0}
    database = {**primary.django_settings(), "NAME": name, "ENGINE": engine}
    given: dict[str, Any] = {"database": {**database, "OPTIONS": {"pool": pool}}}
    if engine == THEIRS_IN_FRONT:
        given["below"] = "django_poolkit.backends.postgresql"
    try:
        found = drive("tests.aio.tenants_drive", "TENANTS", given)
    finally:
        primary.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert found["requests"] == {"red saw red": VISITS, "blue saw blue": VISITS}
    for tenant in ("red", "blue"):
        assert found["rows"][tenant] == {
            f"{tenant}: first": 1, f"{tenant}: together": VISITS, f"{tenant}: alone": VISITS,
        }  # fmt: skip
    assert found["rows"]["public"] == {"public: astray": 1}
    assert found["used"] == 0
