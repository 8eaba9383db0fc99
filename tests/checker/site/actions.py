"""What views and jobs do in the database: plain uses of the ORM, as a site has them."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.expressions import ArraySubquery
from django.db import models, transaction
from django.db.models import F, Func, Subquery

from tests.checker.site.models import Counter, Entry, Mirror


def append(target: str, element: int, *, together: bool) -> None:
    """Append to a list: in a transaction, or as one statement by itself."""
    if together:
        with transaction.atomic():
            Entry.objects.create(target=target, element=element)
    else:
        Entry.objects.create(target=target, element=element)


def bump(target: str) -> int:
    """Raise a counter; return what it is then."""
    with transaction.atomic():
        counter = Counter.objects.select_for_update().get(target=target)
        Counter.objects.filter(pk=counter.pk).update(value=F("value") + 1)
        return int(counter.value) + 1


def look(targets: list[str]) -> list[dict[str, Any]]:
    """Return what is found in each place, one query after the other, and which server said so."""
    found = []
    for target in targets:
        if target.startswith("counter"):
            value: Any = Subquery(Counter.objects.filter(target=target).values("value"))
        else:
            value = ArraySubquery(Entry.objects.filter(target=target).values("element"))
        where = Func(function="inet_server_port", output_field=models.IntegerField())
        row = Mirror.objects.annotate(value=value, port=where).values("value", "port").get(pk=1)
        found.append({"target": target, "found": row["value"] or 0, "port": row["port"]})
        if not target.startswith("counter"):
            found[-1]["found"] = row["value"] or []
    return found
