"""OpenTelemetry: the metrics of its semantic conventions, one for one, and waits on spans.

The names are those of `db.client.connection.*`, the unit of time is the second. A pool's name is
the alias that opened it: addresses and database names stay out of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from django_poolkit import __version__
from django_poolkit.metrics.readings import Readings, readings
from django_poolkit.pools.events import Events
from django_poolkit.pools.stats import BUCKETS

_PREFIX: Final = "db.client.connection"
_POOL: Final = f"{_PREFIX}.pool.name"
_STATE: Final = f"{_PREFIX}.state"


@dataclass(frozen=True)
class _Observed:
    """An instrument that is asked for its figures, which are those of a family of ours."""

    name: str
    unit: str
    description: str
    family: str
    states: tuple[str, ...] = ()


_OBSERVED: Final = (
    _Observed(
        "count",
        "{connection}",
        "The number of connections that are in the state that the attribute says.",
        "poolkit_connections",
        ("idle", "used"),
    ),
    _Observed(
        "max",
        "{connection}",
        "The most connections that may be open.",
        "poolkit_connections_max",
    ),
    _Observed(
        "idle.max",
        "{connection}",
        "The most connections that may be idle.",
        "poolkit_connections_max",
    ),
    _Observed(
        "idle.min",
        "{connection}",
        "The fewest connections that are kept.",
        "poolkit_connections_min",
    ),
    _Observed(
        "pending_requests",
        "{request}",
        "The number of callers that wait for a connection.",
        "poolkit_waiters",
    ),
    _Observed(
        "timeouts",
        "{timeout}",
        "The number of callers that got no connection in time.",
        "poolkit_timeouts_total",
    ),
)
# Event, the fact that is recorded, name, description.
_RECORDED: Final = (
    ("connection_opened", "seconds", "create_time", "The time it took to create a connection."),
    ("lease_acquired", "waited", "wait_time", "The time it took to get a connection."),
    ("lease_released", "seconds", "use_time", "The time a connection was held."),
)


class Instruments:
    """The instruments of one meter. Pools are read when it asks; events are told as they come."""

    def __init__(self, meter: Meter, events: Events, source: Readings = readings) -> None:
        self._source = source
        for each in _OBSERVED:
            create = (
                meter.create_observable_counter
                if each.family.endswith("_total")
                else meter.create_observable_up_down_counter
            )
            create(
                f"{_PREFIX}.{each.name}",
                callbacks=[self._reader(each)],
                unit=each.unit,
                description=each.description,
            )
        self._histograms: dict[str, tuple[str, Histogram]] = {}
        for event, fact, name, description in _RECORDED:
            histogram = meter.create_histogram(
                f"{_PREFIX}.{name}",
                unit="s",
                description=description,
                explicit_bucket_boundaries_advisory=BUCKETS,
            )
            self._histograms[event] = (fact, histogram)
        events.subscribe(self._record, leases=True, waits=False)

    def _record(self, event: str, facts: Mapping[str, Any]) -> None:
        if event in self._histograms:
            fact, histogram = self._histograms[event]
            histogram.record(facts[fact], {_POOL: facts["pool"]})

    def _reader(self, each: _Observed) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(options: CallbackOptions) -> Iterator[Observation]:
            for family, found in self._source.take().items():
                if family.name != each.family:
                    continue
                for (pool, key), [number] in found.items():
                    if not each.states:
                        yield Observation(number, {_POOL: pool})
                    elif key in each.states:
                        yield Observation(number, {_POOL: pool, _STATE: key})

        return read


def note_wait(event: str, facts: Mapping[str, Any]) -> None:
    """Put a wait for a connection on the span under way, if one is recorded."""
    # Where nothing is traced the context is empty, which is told for less than what its span is.
    if event == "lease_waited" and (here := context.get_current()):
        span = trace.get_current_span(here)
        if span.is_recording():
            attributes = {_POOL: facts["pool"], f"{_PREFIX}.wait_time": facts["seconds"]}
            span.add_event(f"{_PREFIX}.wait", attributes)


class Telemetry:
    """Begins to measure as soon as somebody has said where the measurements go."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._once = threading.Lock()  # taken by the first, and never let go
        events.subscribe(note_wait)

    def start(self, pool: object = None) -> None:
        """Make the instruments, if a meter provider is set by now. Called before a pool opens."""
        provider = metrics.get_meter_provider()
        # Those that the API itself brings do nothing, and every lease would be told to them.
        idle = type(provider).__module__.startswith("opentelemetry.metrics")
        if not idle and self._once.acquire(blocking=False):
            Instruments(provider.get_meter("django_poolkit", __version__), self._events)
