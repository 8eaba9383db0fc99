"""`DATABASES[alias]["OPTIONS"]["hosts"]`: one alias that leads to several servers.

`[{"HOST": "10.0.0.2", "weight": 3}, {"HOST": "10.0.0.3"}]`, or a dict that names them. What an
entry does not say is as it is for the alias.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from django_poolkit.conf.poolkit import bad_value_at, mapping, refuse_unknown

# Django's own keys that say where a server is and who one is there. Not NAME: a replica has the
# database of its primary, and a test run that changes the alias's must not be led elsewhere.
_DJANGOS: Final = ("HOST", "PORT", "USER", "PASSWORD")
_KEYS: Final = (*_DJANGOS, "weight")
# It is a part of a pool's name, so of labels and of command lines.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One server of an alias."""

    key: str
    """Its name: the user's, or its number, from `1` on."""
    weight: float = 1.0
    """Its share of the reads, compared with the others."""
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What its entry in `DATABASES` would have other than the alias's. May hold a password."""


def hosts_of(alias: str, database: Mapping[str, Any]) -> Mapping[str, Host] | None:
    """Return the hosts of one alias by key, None where it leads to one server.

    `database` is the alias's entry in `DATABASES`. Raises ImproperlyConfigured with the path of
    the first value that cannot be honoured.
    """
    options = database.get("OPTIONS", {})
    if "hosts" not in options:
        return None
    path = f"DATABASES[{alias!r}]['OPTIONS']['hosts']"
    entries = _entries(options["hosts"], path)
    hosts: dict[str, Host] = {}
    places: dict[tuple[Any, str], str] = {}
    for key, (at, entry) in entries.items():
        host = hosts[key] = _host(key, entry, at)
        place = _place(database, host)
        if place in places:
            what = f"leads to the same server as {places[place]}; for a larger share give 'weight'"
            raise bad_value_at(at, entry, what)
        places[place] = at
    if options.get("pool", True) in (None, False):
        raise bad_value_at(path, options["hosts"], "is for a pooled alias, and its pool is off")
    return MappingProxyType(hosts)


def at_host(database: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """Return the entry in `DATABASES` that one host would have as an alias of its own."""
    options = {key: value for key, value in database["OPTIONS"].items() if key != "hosts"}
    return {**database, **host.settings, "OPTIONS": options}


def _entries(value: object, path: str) -> dict[str, tuple[str, object]]:
    what = "must be a list of hosts, as [{'HOST': '10.0.0.2'}], or a dict of them by name"
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or not _NAME.fullmatch(key):
                name = "must have names of at most 40 letters, digits, dots, hyphens, underscores"
                raise bad_value_at(path, key, name)
        found = {key: (f"{path}[{key!r}]", entry) for key, entry in value.items()}
    elif isinstance(value, (list, tuple)):
        found = {str(n): (f"{path}[{n - 1}]", entry) for n, entry in enumerate(value, 1)}
    else:
        raise bad_value_at(path, value, what)
    if not found:
        raise bad_value_at(path, value, what)
    return found


def _host(key: str, entry: object, path: str) -> Host:
    values = mapping(entry, path)
    refuse_unknown(values, _KEYS, path)
    host = values.get("HOST", "")
    # libpq would take a list, and choose by itself.
    if not isinstance(host, str) or "," in host:
        raise bad_value_at(f"{path}['HOST']", host, "must be the name or address of one server")
    port = values.get("PORT", "")
    if isinstance(port, bool) or not re.fullmatch(r"\d{0,5}", str(port)):
        raise bad_value_at(f"{path}['PORT']", port, "must be a port, as 5432")
    if not host and not port:
        raise bad_value_at(path, entry, "must have a HOST or a PORT, or it leads nowhere")
    weight = weight_at(f"{path}['weight']", values.get("weight", 1))
    settings = {name: values[name] for name in _DJANGOS if name in values}
    return Host(key=key, weight=weight, settings=MappingProxyType(settings))


def weight_at(path: str, value: object) -> float:
    """Return the weight at a path of the settings. Raises ImproperlyConfigured for what is none."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
    if not 0 < number < math.inf:
        raise bad_value_at(path, value, "must be a number above 0")
    return float(number)


def _place(database: Mapping[str, Any], host: Host) -> tuple[Any, str]:
    where = {**database, **host.settings}
    return where.get("HOST", ""), str(where.get("PORT", ""))
