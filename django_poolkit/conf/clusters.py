"""`POOLKIT["CLUSTERS"]`: which aliases are one database: a primary, and replicas of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.conf.choosing import CHOICE, Choice, choice_at
from django_poolkit.conf.databases import ENGINES
from django_poolkit.conf.hosts import hosts_of, weight_at
from django_poolkit.conf.limits import (
    ALL_DOWN,
    MAX_LAG,
    MAX_LAG_BYTES,
    OLD_PRIMARY,
    WATCH,
    AllDown,
    OldPrimary,
    all_down_at,
    max_lag_at,
    max_lag_bytes_at,
    old_primary_at,
    watch_at,
)
from django_poolkit.conf.poolkit import bad_value_at, mapping, refuse_unknown, section
from django_poolkit.conf.rules import (
    ON_PRIMARY,
    STALE_WRITE,
    AtomicRequests,
    Position,
    StaleWrite,
    atomic_requests_at,
    labels_at,
    position_at,
    stale_write_at,
)

_KEYS: Final = (
    "primary", "replicas", "models", "on_primary", "stale_write", "atomic_requests", "position",
    "watch", "max_lag", "max_lag_bytes", "all_down", "choice", "old_primary",
)  # fmt: skip
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Cluster:
    """A primary and its replicas, each by its alias in `DATABASES`."""

    name: str
    primary: str
    """The alias that is written to."""
    replicas: tuple[str, ...] = ()
    """The aliases that are read from. None of them: everything is read from the primary."""
    models: tuple[str, ...] = ()
    """Whose models it has: labels of apps (`shop`) and of models (`shop.order`)."""
    on_primary: tuple[str, ...] = ON_PRIMARY
    """Which of them are read from the primary: labels, too."""
    stale_write: StaleWrite = STALE_WRITE
    """What happens when an object that a replica has given is saved with all its fields."""
    atomic_requests: AtomicRequests = "primary"
    """What is read in the transaction that `ATOMIC_REQUESTS` opens for a view by a safe method."""
    position: Position = "lsn"
    """How it is told whether a replica has what was written: by the position in the write-ahead
    log, or by the time that has passed, where servers do not say or mean one."""
    watch: bool = WATCH
    """Whether a thread of each process looks how its servers are."""
    max_lag: float | None = MAX_LAG
    """Seconds that a replica may be behind and be read, None for any number."""
    max_lag_bytes: float | None = MAX_LAG_BYTES
    """The same in bytes of the primary's log."""
    all_down: AllDown = ALL_DOWN
    """What is read where no replica may be."""
    old_primary: OldPrimary = OLD_PRIMARY
    """What becomes of a server in the primary's place that another one has replaced."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """The share of each of its replicas beside the others, 1.0 where nothing is said."""
    choice: Choice = CHOICE
    """By what one of several replicas is chosen."""


# What was read last: the setting, its section, and what came of them. Replaced as a whole.
_read: tuple[Mapping[str, Any], object, Mapping[str, Cluster]] | None = None


def clusters_config() -> Mapping[str, Cluster]:
    """Return the clusters by name; the same object as long as the setting is the same.

    Raises ImproperlyConfigured with the path of the first value that cannot be honoured.
    """
    global _read
    whole = getattr(settings, "POOLKIT", _NONE)
    # Every query asks: a section that is the same object is not read again.
    if _read is not None and _read[0] is whole and _read[1] is whole.get("CLUSTERS"):
        return _read[2]
    found = MappingProxyType(_clusters(section("CLUSTERS", None)))
    _read = (whole, whole.get("CLUSTERS"), found)
    return found


def verify_clusters() -> None:
    """Check the section against `DATABASES`. Opens nothing.

    Raises ImproperlyConfigured for the first alias that cannot have the part it is given.
    """
    for cluster in clusters_config().values():
        path = _path(cluster.name)
        _verify_member(cluster.primary, f"{path}['primary']")
        _verify_primary(cluster.primary, f"{path}['primary']")
        for index, alias in enumerate(cluster.replicas):
            _verify_member(alias, f"{path}['replicas'][{index}]")


def _clusters(value: Mapping[str, Any]) -> dict[str, Cluster]:
    found: dict[str, Cluster] = {}
    taken: dict[str, str] = {}
    for name, entry in value.items():
        if not isinstance(name, str) or not name:
            raise bad_value_at("POOLKIT['CLUSTERS']", name, "must have names for keys")
        cluster = found[name] = _cluster(name, entry)
        for alias in (cluster.primary, *cluster.replicas):
            if alias in taken:
                raise ImproperlyConfigured(
                    f"{_path(name)} has the alias {alias!r}, and so has {taken[alias]}: an alias "
                    "has one role in one cluster."
                )
            taken[alias] = _path(name)
    _refuse_shared_models(found)
    return found


def _refuse_shared_models(clusters: Mapping[str, Cluster]) -> None:
    taken: dict[str, str] = {}
    for cluster in clusters.values():
        path = f"{_path(cluster.name)}['models']"
        for label in cluster.models:
            if label in taken:
                what = f"has {label!r}, which {taken[label]} has already"
                raise bad_value_at(path, label, what)
            taken[label] = path


def _cluster(name: str, entry: object) -> Cluster:
    path = _path(name)
    values = mapping(entry, path)
    refuse_unknown(values, _KEYS, path)
    # A cluster that is called like its primary need not name it again.
    primary = values.get("primary", name)
    if not isinstance(primary, str) or not primary:
        raise bad_value_at(f"{path}['primary']", primary, "must be an alias of DATABASES")
    replicas = values.get("replicas", ())
    what = "must be a list of aliases of DATABASES, each of them once, or a dict of their weights"
    weights: dict[str, float] = {}
    if isinstance(replicas, Mapping):
        weights = {a: weight_at(f"{path}['replicas'][{a!r}]", w) for a, w in replicas.items()}
        replicas = list(replicas)
    if not isinstance(replicas, (list, tuple)):
        raise bad_value_at(f"{path}['replicas']", replicas, what)
    for index, alias in enumerate(replicas):
        if not isinstance(alias, str) or not alias or replicas.count(alias) > 1:
            raise bad_value_at(f"{path}['replicas'][{index}]", alias, what)
    return Cluster(
        name,
        primary,
        tuple(replicas),
        labels_at(f"{path}['models']", values.get("models", ())),
        labels_at(f"{path}['on_primary']", values.get("on_primary", ON_PRIMARY)),
        stale_write_at(f"{path}['stale_write']", values.get("stale_write", STALE_WRITE)),
        atomic_requests=atomic_requests_at(
            f"{path}['atomic_requests']", values.get("atomic_requests", "primary")
        ),
        position=position_at(f"{path}['position']", values.get("position", "lsn")),
        watch=watch_at(f"{path}['watch']", values.get("watch", WATCH)),
        max_lag=max_lag_at(f"{path}['max_lag']", values.get("max_lag", MAX_LAG)),
        max_lag_bytes=max_lag_bytes_at(
            f"{path}['max_lag_bytes']", values.get("max_lag_bytes", MAX_LAG_BYTES)
        ),
        all_down=all_down_at(f"{path}['all_down']", values.get("all_down", ALL_DOWN)),
        weights=MappingProxyType(weights),
        choice=choice_at(f"{path}['choice']", values.get("choice", CHOICE)),
        old_primary=old_primary_at(
            f"{path}['old_primary']", values.get("old_primary", OLD_PRIMARY)
        ),
    )


def _verify_member(alias: str, path: str) -> None:
    if alias not in settings.DATABASES:
        known = ", ".join(map(repr, settings.DATABASES))
        raise ImproperlyConfigured(
            f"{path} is {alias!r}, which is no alias of DATABASES. There are: {known}."
        )
    engine = settings.DATABASES[alias].get("ENGINE", "")
    if engine.startswith("django.db.backends."):
        raise ImproperlyConfigured(
            f"{path} is {alias!r}, whose ENGINE is {engine!r}: what is written there is not seen. "
            f"Set DATABASES[{alias!r}]['ENGINE'] to {ENGINES[0]!r}."
        )


def _verify_primary(alias: str, path: str) -> None:
    database = settings.DATABASES[alias]
    if hosts_of(alias, database) is not None:
        raise ImproperlyConfigured(
            f"{path} is {alias!r}, which has OPTIONS['hosts']: a primary is one server. Name an "
            "alias that leads to it alone."
        )
    if database.get("OPTIONS", {}).get("pool", True) in (None, False):
        raise ImproperlyConfigured(
            f"{path} is {alias!r}, which is not pooled: what is written there is not seen. Remove "
            f"DATABASES[{alias!r}]['OPTIONS']['pool'], or set it to True."
        )


def _path(name: str) -> str:
    return f"POOLKIT['CLUSTERS'][{name!r}]"
