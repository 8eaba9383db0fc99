"""The parts of the program: what each is called with, and where its JSON has the figures."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks.figures import Reading

HELD = "CONN_MAX_AGE=None"


@dataclass(frozen=True)
class Part:
    """One program: `python -m tests.benchmarks.NAME`."""

    name: str
    title: str
    sentence: str
    readings: tuple[Reading, ...]
    short: tuple[str, ...] = ()
    """Its arguments in the short form: some minutes at most."""
    long: tuple[str, ...] = ()
    """And in the long one, for figures that are to be quoted."""

    @property
    def module(self) -> str:
        """Return what Python is to run."""
        return f"tests.benchmarks.{self.name}"

    def arguments(self, *, long: bool) -> tuple[str, ...]:
        """Return what it is called with, beside `--json`."""
        return self.long if long else self.short


def _lease(name: str, title: str, sentence: str) -> Part:
    return Part(
        name,
        title,
        sentence,
        (
            Reading(
                title="a query", unit="µs", key="us", at="cost", by=(), base="held",
                spread=("least", "most"), better="less",
            ),
            Reading(
                title="100 tasks on 10 connections", unit="queries/s", key="per second",
                at="fairness", by=(), base="theirs", better="more",
            ),
            Reading(title="the longest wait", unit="ms", key="longest wait", at="fairness", by=(),
                    better="less", drawn=False),
            Reading(title="Jain's index of fairness", unit="1.0 is fair", key="jain",
                    at="fairness", by=(), drawn=False),
        ),
        short=("--rounds", "10"),
        long=("--rounds", "60", "--seconds", "10"),
    )  # fmt: skip


MICRO = (
    Part(
        "micro", "A lease by itself",
        "Acquire and release, without and with a statement, clean and dirty, alone and by threads "
        "that share 8 connections.",
        (
            Reading(title="alone", unit="µs", key="us", base="psycopg_pool", better="less"),
            Reading(title="by many", unit="a second", key="rate", base="psycopg_pool",
                    better="more"),
            Reading(title="fairness", unit="Jain's index, the least of the rounds", key="jain",
                    drawn=False),
            Reading(title="the longest that a thread waited", unit="ms", key="longest",
                    drawn=False),
        ),
        short=("--rounds", "6"), long=("--rounds", "40"),
    ),
    Part(
        "pool", "The pool by itself",
        "Acquire and release, alone and with many threads, beside psycopg_pool; requests of "
        "Django; the first request after a kill.",
        (
            Reading(title="one cycle", unit="µs", key="median", spread=("low", "high"),
                    who="contender", where={"unit": "µs"}, base="django_poolkit"),
            Reading(title="with threads", unit="cycles/s", key="median", spread=("low", "high"),
                    who="contender", where={"unit": "per s"}, base="django_poolkit"),
            Reading(title="after a kill", unit="s", key="median", spread=("low", "high"),
                    who="contender", where={"unit": "s"}, base="django_poolkit"),
        ),
        short=("--rounds", "2", "--bound", "5"), long=("--rounds", "15"),
    ),
    Part(
        "statement", "A statement",
        "What giving back a connection after each statement costs.",
        (
            Reading(title="CPU of the client", unit="µs", key="cpu", base="held connection"),
            Reading(title="time", unit="µs", key="wall", base="held connection"),
        ),
        short=("--rounds", "30"), long=("--rounds", "250"),
    ),
    Part(
        "peers", "A request, by all pools for Django",
        "What a request costs the client with no query, one and three, each pool in an environment "
        "of its own.",
        (
            Reading(title="CPU of the client", unit="µs", key="cpu", base=HELD,
                    where={"unit": "µs"}, better="less"),
            Reading(title="time", unit="µs", key="wall", base=HELD, where={"unit": "µs"},
                    drawn=False),
            Reading(title="the first request after a kill", unit="ms", key="wall",
                    where={"unit": "ms"}),
            Reading(title="the first request after a kill: how many failed", unit="requests",
                    key="failures", where={"unit": "ms"}),
        ),
        short=("--rounds", "5", "--scale", "0.2", "--kills", "2", "--bound", "5"), long=(),
    ),
    _lease("alease", "A lease in a task", "One pool for threads and tasks, beside psycopg's."),
    _lease("asyncpg", "A lease of asyncpg's", "The pool of asyncpg's connections beside its own."),
    Part(
        "async_orm", "The async ORM",
        "Django's async ORM on the event loop, in sync code, and with threads.",
        (
            Reading(title="CPU of a query", unit="µs", key="cpu", at="queries", by=(),
                    base="Django's, under ASGI"),
            Reading(title="CPU of a request, of many at once", unit="µs", key="cpu", at="crowds",
                    by=("tasks",), base="Django's, under ASGI"),
            Reading(title="many at once", unit="requests/s", key="requests/s", at="crowds",
                    by=("tasks",), base="Django's, under ASGI"),
            Reading(title="threads", unit="the most alive", key="threads", at="crowds",
                    by=("tasks",)),
        ),
        short=("--rounds", "8"), long=("--rounds", "60"),
    ),
)  # fmt: skip

PREPARED = Part(
    "prepared", "Prepared statements",
    "The same queries with and without, by kind; when it pays on a new connection; what the server "
    "holds for it.",
    (
        Reading(title="time", unit="µs", key="wall", at="kinds", base="plain"),
        Reading(title="CPU of the client", unit="µs", key="cpu", at="kinds", base="plain",
                drawn=False),
        Reading(title="CPU of the server's process", unit="µs", key="server", at="kinds",
                base="plain"),
        Reading(title="runs on a new connection, the server's CPU of each", unit="µs", key="server",
                at="first", by=("runs",), base="plain"),
        Reading(title="runs on a new connection, the time of each", unit="µs", key="wall",
                at="first", by=("runs",), base="plain", drawn=False),
        Reading(title="held by the server for one", unit="KiB", key="kib", at="held", drawn=False),
    ),
    short=("--rounds", "15"), long=("--rounds", "60"),
)  # fmt: skip

PROFILE = Part(
    "layers", "Where the CPU of a request goes",
    "A request with one query in one thread, profiled, by layer.",
    (
        Reading(title="CPU of the client, by layer", unit="µs", key="us", by=("layer",),
                drawn=False),
    ),
    long=("--rounds", "60"),
)  # fmt: skip

_WEB = tuple(
    Reading(
        title=f"under {server}: {title}", unit=unit, key=key, by=("page",), times=times,
        base=base if key in ("throughput", "cpu") else "", where={"server": server}, better=better,
        drawn=key in ("throughput", "cpu"),
    )
    for server, base in (("gunicorn", HELD), ("uvicorn", "Django's pool"))
    for title, unit, key, times, better in (
        ("answered", "requests/s", "throughput", 1.0, "more"),
        ("CPU of the server for a request", "ms", "cpu", 1000.0, "less"),
        ("p50", "ms", "p50", 1000.0, ""),
        ("p99", "ms", "p99", 1000.0, "less"),
        ("memory", "MiB", "memory", 1 / 2**20, ""),
        ("threads", "the most alive", "threads", 1.0, ""),
        ("connections", "the most that the server saw", "connections", 1.0, ""),
        ("failed", "requests", "failed", 1.0, "less"),
    )
)  # fmt: skip

SERVED = (
    Part("web", "Web, in the manner of TechEmpower",
         "One row, 20 queries, fortunes, 5 updates, and plain text as the ceiling.",
         _WEB, short=("--short",), long=("--long",)),
    Part(
        "async_http", "Async views over HTTP",
        "Django's own async ORM, and ours in threads and on the event loop, on uvicorn.",
        (
            Reading(title="CPU of the server for a request", unit="ms", key="cpu", times=1000.0,
                    by=("view", "clients"), base="Django's own"),
            Reading(title="answered", unit="requests/s", key="throughput", by=("view", "clients"),
                    base="Django's own"),
            Reading(title="p99", unit="ms", key="p99", times=1000.0, by=("view", "clients"),
                    drawn=False),
            Reading(title="failed", unit="requests", key="failed", by=("view", "clients"),
                    drawn=False),
        ),
        short=("--clients", "200", "--seconds", "1", "--views", "no query", "three queries"),
        long=("--rounds", "3"),
    ),
    Part(
        "held", "Held too long",
        "Two queries around a call of 0.1 s, with a pool of 20.",
        (
            Reading(title="finished", unit="requests/s", key="throughput", by=("clients",),
                    base="Django's pool", better="more"),
            Reading(title="p99", unit="ms", key="p99", times=1000.0, by=("clients",),
                    better="less"),
            Reading(title="failed", unit="requests", key="failed", by=("clients",), better="less",
                    drawn=False),
            Reading(title="connections", unit="the most that the server saw", key="connections",
                    by=("clients",), drawn=False),
        ),
        short=("--clients", "200", "1000", "5000", "10000", "--seconds", "3"), long=("--long",),
    ),
)  # fmt: skip

TROUBLE = (
    Part(
        "failure", "Failure",
        "Threads make requests all the while: what a fault costs them, and how long.",
        (
            Reading(title="until the first success", unit="s after the fault", key="first",
                    better="less"),
            Reading(title="until all threads succeeded", unit="s after the fault", key="all",
                    better="less", drawn=False),
            Reading(title="failed", unit="requests", key="failed", better="less"),
            Reading(title="the longest wait", unit="s", key="longest", better="less", drawn=False),
        ),
        short=("--rounds", "1", "--bound", "8"), long=("--rounds", "3", "--long"),
    ),
    Part(
        "soak", "Soak",
        "Hours of faults by chance: what grows, what leaks, whether the sums hold.",
        (Reading(title="at a quiet moment", unit="count", key="value", who="when", at="counts",
                 base="early"),),
        short=("--minutes", "1"), long=("--minutes", "60"),
    ),
    Part(
        "scale", "Scale",
        "What acquire, release and stats() cost as there is more of everything; and how many "
        "processes get by on the connections of one server.",
        (
            Reading(title="time", unit="µs", key="us", by=("of", "count")),
            Reading(title="memory of one", unit="KiB", key="kib", by=("of", "count")),
            Reading(title="threads of one", unit="threads", key="threads", by=("of", "count")),
            Reading(title="by all workers", unit="leases/s", key="leases", by=("of", "count")),
            Reading(title="acquires in vain", unit="%", key="vain", by=("of", "count")),
            Reading(title="the p99 of their waits", unit="s", key="p99", by=("of", "count")),
            Reading(title="connections it takes", unit="connections", key="connections",
                    by=("of", "count")),
        ),
        short=("--short",), long=(),
    ),
)  # fmt: skip

BESIDE = (
    Part(
        "http", "Client sessions", "What sharing an aiohttp session saves.",
        (
            Reading(title="p50", unit="ms", key="p50", by=("upstream",), base="shared"),
            Reading(title="p95", unit="ms", key="p95", by=("upstream",), base="shared"),
            Reading(title="sockets", unit="connections", key="sockets", by=("upstream",)),
        ),
        long=("--rounds", "20"),
    ),
    Part(
        "health", "Health answers", "What a crowd of probes costs a site whose pool is full.",
        (Reading(title="statements of users, with probes and without", unit="statements/s",
                 lists=("without", "with"), base="without"),),
        short=("--rounds", "2", "--seconds", "3"),
    ),
    Part(
        "status", "Looking on", "What it costs a busy site that its pools are looked at.",
        (Reading(title="requests, with status calls and without", unit="requests/s",
                 lists=("without", "with"), base="without"),),
        short=("--rounds", "2", "--calls", "200", "--seconds", "3"),
    ),
    Part(
        "routing", "Asking the router", "What the router answers, and when it is told of a write.",
        (Reading(title="a question", unit="µs", key="median", who="question", by=(),
                 base="ten lines"),),
        long=("--rounds", "500"),
    ),
    Part(
        "routing_share", "Reads that replicas take over", "By how far the replica is behind.",
        (
            Reading(title="read from the replica", unit="% of the pages", key="share",
                    times=100.0, by=("lag",), who="way"),
            Reading(title="stale", unit="pages; there must be none", key="stale", by=("lag",),
                    who="way"),
        ),
        short=("--seconds", "5"),
    ),
    Part(
        "routing_writes", "Knowing where a write has ended", "On a real primary and replica.",
        (Reading(title="a unit of work", unit="µs", key="median", who="work", by=()),),
    ),
    Part(
        "session_state", "Reading a statement", "What a verdict on a statement costs.",
        (Reading(title="a verdict", unit="ns", key="ns"),),
    ),
)  # fmt: skip

PARTS = (*MICRO, PREPARED, PROFILE, *SERVED, *TROUBLE, *BESIDE)
BY_NAME = {part.name: part for part in PARTS}
