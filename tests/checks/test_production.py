"""Each check of the settings says what is wrong, and is silent where it is right."""

from __future__ import annotations

import importlib.metadata
import io
from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from django_poolkit.checks import registered
from django_poolkit.pools.sizing import size_without_deadlock
from tests.checks.sites import ENGINE, Site, database

ASGI: dict[str, Any] = {"ASGI_APPLICATION": "shop.asgi.application"}
API = {"api": {"base_url": "https://api.example.com/", "total": 20.0}}
TRANSACTION = {"mode": "transaction"}


def one(pool: Any = None, **entry: Any) -> dict[str, Any]:
    return {"databases": {"default": database(pool, **entry)}}


def two(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {"databases": {"default": first, "other": second}}


def http(**options: Any) -> dict[str, Any]:
    return {"poolkit": {"HTTP": {"api": {"base_url": "https://api.example.com/", **options}}}}


def lifespan(**section: Any) -> dict[str, Any]:
    return {"poolkit": {"LIFESPAN": section}}


def asyncpg(entry: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return {
        "databases": {"default": entry or database()},
        "poolkit": {"ASYNCPG": {"default": options}},
    }


def behind(**options: Any) -> dict[str, Any]:
    """An alias that is set up for a pooler that lends by transaction."""
    return database(options or None, DISABLE_SERVER_SIDE_CURSORS=True, PORT="6432")


# By id: what is wrong, a word of the message, and what is right.
CASES: list[tuple[str, dict[str, Any], str, list[dict[str, Any]]]] = [
    ("E008", lifespan(DRAIN_TIMEOUTS=3), "Did you mean 'DRAIN_TIMEOUT'", [lifespan()]),
    ("E008", {"poolkit": {"CONTROLL": {}}}, "Did you mean 'CONTROL'", []),
    ("E008", http(MAX_BODDY=1), "['HTTP']['api']['MAX_BODDY']", [http(MAX_BODY=1)]),
    ("E008", asyncpg(MAX_LIVE=1), "['ASYNCPG']['default']['MAX_LIVE']", [asyncpg()]),
    ("E008", one({"max_sise": 3}), "Did you mean 'max_size'", [one({"max_size": 3})]),
    ("E008", one(CONN_MAX_AGE=60), "['CONN_MAX_AGE'] to 0", []),
    ("W012", one(False), "nothing bounds the connections", [one(True), one()]),
    ("W013", one({"max_size": 98}), "['pool']['max_size'] is 98", [one({"max_size": 97})]),
    ("W013", asyncpg(max_size=200), "['ASYNCPG']['default']['max_size'] is 200", []),
    ("W014", one({"max_lifetime": 86_401}), "more than a day", [one({"max_lifetime": 86_400})]),
    ("W014", asyncpg(MAX_LIFETIME=1e6), "['MAX_LIFETIME'] is 1e+06 s", [asyncpg()]),
    ("W015", one({"timeout": 30}), "['timeout'] is 30 s", [one({"timeout": 29.9})]),
    ("W015", one({"preset": "api"}), "['timeout'] (of its preset 'api') is 30 s",
     [one({"preset": "api", "timeout": 6}), one({"preset": "medium"})]),
    ("W013", one({"preset": "high"}), "['max_size'] (of its preset 'high') is 150",
     [one({"preset": "high", "max_size": 60})]),
    ("W015", asyncpg(TIMEOUT=60), "['TIMEOUT'] is 60 s", [asyncpg(TIMEOUT=6)]),
    ("W016", one({"lock_timeout": "30s", "statement_timeout": "30000ms"}),
     "['lock_timeout'] (30 s)", [one({"lock_timeout": "5s", "statement_timeout": "0.5min"}),
                                 one({"lock_timeout": "5s"}), one({"statement_timeout": "0"})]),
    ("W016", one({"statement_timeout": "2min", "transaction_timeout": "60s"}),
     "['statement_timeout'] (120 s)", []),
    ("W017", one({"idle_session_timeout": "10min"}), "(600 s)",
     [one({"idle_session_timeout": "11min"}), one({"idle_session_timeout": "1h", "max_idle": 60}),
      one({"idle_session_timeout": "5min", "min_size": 2, "keepalive": 60})]),
    ("W017", one({"idle_session_timeout": "15min", "min_size": 2}), "(3600 s)", []),
    ("W018", http(total=None), "for ever", [http(total=30.0), http()]),
    ("W018", http(total=31), "['total'] is 31 s", []),
    ("W019", {"poolkit": {"HEALTH": {"TIMEOUT": 1}}}, "['TIMEOUT'] is 1 s",
     [{"poolkit": {"HEALTH": {"TIMEOUT": 0.9}}}]),
    ("W020", one(False, CONN_MAX_AGE=None) | ASGI, "['CONN_MAX_AGE'] is None",
     [one(False, CONN_MAX_AGE=60), one(False) | ASGI]),
    ("W021", two(database(), database()), "['default'] and DATABASES['other'] are equal",
     [two(database(), database(NAME="other")), two(database(), database({"max_size": 3})),
      two(database(TRANSACTION), database(TRANSACTION)),
      two(database(), database(TEST={"MIRROR": "default"}))]),
    ("W021", two(database(TRANSACTION, ATOMIC_REQUESTS=True),
                 database(TRANSACTION, ATOMIC_REQUESTS=True)), "holds 2", []),
    ("W022", one(ATOMIC_REQUESTS=True) | http(), "in an open transaction",
     [one(ATOMIC_REQUESTS=True), http()]),
    ("W023", one({"idle_in_transaction_session_timeout": "10s"}, ATOMIC_REQUESTS=True) | http(),
     "(10 s) is below what a request of api", [
         one({"idle_in_transaction_session_timeout": "31s"}, ATOMIC_REQUESTS=True) | http(),
         one({"idle_in_transaction_session_timeout": "10s"}) | http()]),
    ("W025", one(PORT="6432"), "the port of PgBouncer",
     [one(PORT=6432, DISABLE_SERVER_SIDE_CURSORS=True), one(PORT=5432),
      one({"pooler": "pgbouncer-transaction"}, PORT=6432),
      one({"pooler": "pgbouncer-session"}, PORT=6432)]),
    ("E008", one({"pooler": "pgbouncer-transaction"}, DISABLE_SERVER_SIDE_CURSORS=False),
     "['DISABLE_SERVER_SIDE_CURSORS'] is False", [one({"pooler": "pgbouncer-transaction"})]),
    ("W026", {"databases": {"default": behind(statement_timeout="5s")}}, "['statement_timeout']",
     [{"databases": {"default": behind(tcp_user_timeout=5)}}, one({"statement_timeout": "5s"})]),
    ("W026", {"databases": {"default": {**behind(), "OPTIONS": {"assume_role": "shop"}}}},
     "['assume_role']",
     [one({"pooler": "pgbouncer-transaction"}, OPTIONS={"assume_role": "shop"})]),
    ("W039", one({"pooler": "pgbouncer-transaction"},
                 OPTIONS={"options": "-c search_path=shop -c TimeZone=UTC"}),
     "['options'] has search_path, and", [
         one({"pooler": "pgbouncer-transaction"}, OPTIONS={"options": "-c timezone=UTC"}),
         one({"pooler": "pgbouncer-transaction", "statement_timeout": "5s"}),
         one({"pooler": "pgbouncer-session"}, OPTIONS={"options": "-c search_path=shop"})]),
    ("W039", one({"pooler": "rds-proxy"}, OPTIONS={"options": "-c TimeZone=UTC"}), "has TimeZone",
     []),
    ("W027", asyncpg(database({"pooler": "pgbouncer-transaction"})),
     "['pooler'] is 'pgbouncer-transaction'", [
         asyncpg(database({"pooler": "pgbouncer-transaction"}), statement_cache_size=0),
         asyncpg(database({"pooler": "pgbouncer-session"}))]),
    ("W027", {"databases": {"default": behind(prepare="pooler")}}, "['prepare'] is 'pooler'",
     [{"databases": {"default": behind(prepare=True)}}, one({"prepare": "pooler"})]),
    ("W027", asyncpg(behind()), "['statement_cache_size'] is not 0",
     [asyncpg(behind(), statement_cache_size=0), asyncpg()]),
    ("W028", one(HOST="db.example.com"), "['sslmode'] is not set, so 'prefer'",
     [one(HOST="db.example.com", OPTIONS={"sslmode": "verify-full"}),
      one(HOST="db.example.com", OPTIONS={"sslrootcert": "system"}),
      one(HOST="db.example.com", OPTIONS={"service": "shop"}),
      one(HOST="db.example.com") | {"environment": {"PGSSLMODE": "verify-full"}},
      one(HOST="/run/postgresql"), one(HOST=""), one(HOST="@abstract"), one(HOST="127.0.0.1"),
      one(HOST="::1")]),
    ("W028", one(False, HOST="10.0.0.7", OPTIONS={"sslmode": "require"}), "is require", []),
    ("W028", one(OPTIONS={"hosts": [{"HOST": "localhost"}, {"HOST": "10.0.0.8"}]}), "pose", []),
    ("W029", http(base_url="http://api.example.com/"), "['base_url'] begins with http://",
     [http(base_url="http://127.0.0.1:8000/"), http()]),
    ("W029", http(HEALTH_URL="http://10.0.0.9/up"), "['HEALTH_URL']", []),
    ("W033", lifespan(STOP_TIMEOUT=30), "STOP_TIMEOUT (30), and is killed",
     [lifespan(STOP_TIMEOUT=29), lifespan(STOP_TIMEOUT=30, KILLED_AFTER=40)]),
    ("W033", lifespan(CUT_AFTER=15), "CUT_AFTER (15) and STOP_TIMEOUT (15)",
     [lifespan(CUT_AFTER=10)]),
    ("W034", lifespan(RESOURCES=["shop.search"], START_TIMEOUT=5), "['RESOURCE_START_TIMEOUT']",
     [lifespan(START_TIMEOUT=5), lifespan(RESOURCES=["shop.search"], START_TIMEOUT=10)]),
    ("W034", lifespan(RESOURCES=["shop.search"], RESOURCE_STOP_TIMEOUT=11),
     "['RESOURCE_STOP_TIMEOUT'] (11 s) is above STOP_TIMEOUT less DRAIN_TIMEOUT (10 s)", []),
    ("I004", ASGI, "['max_waiting'] is 0", [one({"max_waiting": 20}) | ASGI, {}]),
    ("I004", asyncpg() | one({"max_waiting": 20}) | ASGI, "['MAX_WAITING'] is 0", []),
    ("I005", http(), "['mode'] is 'session'", [one(TRANSACTION) | http(), {}]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wrong", "word", "right"), CASES)
def test_what_is_wrong_is_said_and_what_is_right_is_not(
    site: Site, name: str, wrong: dict[str, Any], word: str, right: list[dict[str, Any]]
) -> None:
    found = [message for message in site.look(**wrong) if message.id == f"poolkit.{name}"]
    assert len(found) == 1
    assert word in found[0].msg
    assert str(found[0].hint).endswith(f"See docs/reference/checks.md#poolkit{name.lower()}.")
    for changes in right:
        assert f"poolkit.{name}" not in site.ids(**changes), changes


@pytest.mark.parametrize("at_once", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 9, 10, 17, 18])
def test_aliases_that_share_are_told_by_the_published_bound(
    site: Site, at_once: int, size: int
) -> None:
    """HikariCP's threads x (connections at once - 1) + 1, as `pools.sizing` has it."""
    entries = {f"alias{number}": database({"max_size": size}) for number in range(at_once)}
    databases = {"default": database(NAME="other"), **entries}
    [text] = [each.msg for each in site.look(databases=databases) if each.id == "poolkit.W021"]
    first = next(n for n in range(1, 30) if size_without_deadlock(n, at_once) > size)
    words = f"from {first} such threads on" if first > 1 else "and one such thread it may wait"
    assert f"one pool of {size}: " in text
    assert f"holds {at_once} of its connections, {words}" in text


def test_levels_are_those_of_their_letters(site: Site) -> None:
    levels = {"E": checks.ERROR, "W": checks.WARNING, "I": checks.INFO}
    for name, wrong, _, _ in CASES:
        for message in site.look(**wrong):
            if message.id == f"poolkit.{name}":
                assert message.level == levels[name[0]]


def test_a_good_site_has_nothing_to_hear(site: Site) -> None:
    pool = {
        "mode": "transaction",
        "max_waiting": 40,
        "statement_timeout": "20s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "60s",
    }
    entry = database(pool, HOST="db.example.com", OPTIONS={"sslmode": "verify-full"})
    assert site.ids(databases={"default": entry}, poolkit={"HTTP": API}, **ASGI) == []


def test_what_is_for_a_deployment_is_silent_without(site: Site) -> None:
    entry = database({"max_size": 200}, HOST="db.example.com")
    changes: dict[str, Any] = {
        "databases": {"default": entry},
        "poolkit": {"LIFESPAN": {"STOP_TIMEOUT": 60}},
    }
    assert site.ids(deploy=False, **changes, **ASGI) == []
    deployed = ["I004", "W013", "W028", "W033"]
    assert site.ids(**changes, **ASGI) == [f"poolkit.{name}" for name in deployed]


@pytest.mark.parametrize(
    "entry",
    [{"ENGINE": "django.db.backends.postgresql", "NAME": "a", "HOST": "db", "CONN_MAX_AGE": 60,
      "OPTIONS": {"pool": {"timeout": 90, "max_lifetime": 1e6}}},
     {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "ATOMIC_REQUESTS": True},
     {"ENGINE": "nowhere.at_all", "NAME": "a"}, {}],
)  # fmt: skip
def test_other_engines_are_left_alone(site: Site, entry: dict[str, Any]) -> None:
    changes: dict[str, Any] = two(entry, dict(entry)) | http()
    assert site.ids(**changes, **ASGI) == []


def test_every_unreadable_setting_is_named_at_once(site: Site) -> None:
    found = site.look(
        databases={"default": database({"sise": 1}), "other": database({"max_size": 0})},
        poolkit={"LIFESPAN": {"POOLS": 3}, "CONTROL": {"ENABLED": 3}, "HTTP": {"a": {"B": 1}}},
    )
    assert [message.id for message in found] == ["poolkit.E008"] * 5


def test_no_secret_is_shown(site: Site) -> None:
    secret = "hunter2hunter2hunter2"
    found = site.look(
        databases={"default": database(secret, PASSWORD=secret),
                   "other": database({"max_size": secret}, PASSWORD=secret, HOST="db")},
        poolkit={"HTTP": {"api": {"base_url": f"http://me:{secret}@example.com/"}},
                 "CONTROL": {"SERVICE": secret * 3}},
    )  # fmt: skip
    assert len(found) > 3
    assert not any(secret in f"{message}{message.hint}" for message in found)


# -- neighbours


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        "django_poolkit.checks.neighbours.version",
        lambda name: versions.get(name.replace("-", "_")) or real(name),
    )


PROMETHEUS = {"ENGINE": "django_prometheus.db.backends.postgresql", "NAME": "shop"}


@pytest.mark.parametrize(
    ("version", "pool", "told"),
    [("2.4.0", True, True), ("2.4.1", {"max_size": 3}, True), ("2.4.0", False, False),
     ("2.5.0", True, False), ("2.5", True, False), ("2.10", True, False), ("odd", True, False)],
)  # fmt: skip
def test_django_prometheus_on_a_pool(
    site: Site, monkeypatch: pytest.MonkeyPatch, version: str, pool: Any, told: bool
) -> None:
    install(monkeypatch, django_prometheus=version)
    databases = {"default": {**PROMETHEUS, "OPTIONS": {"pool": pool}}}
    assert ("poolkit.W030" in site.ids(databases=databases, deploy=False)) is told
    ours = {"default": database(ENGINE=ENGINE)}
    assert "poolkit.W030" not in site.ids(databases=ours)


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("25.1.0", False),
        ("25.2.0", True),
        ("26.0.0", True),
        ("26.1.0", False),
        ("26.1", False),
        ("27.0.1", False),
    ],
)
def test_gunicorn_that_swallows_cancellations(
    site: Site, monkeypatch: pytest.MonkeyPatch, version: str, told: bool
) -> None:
    install(monkeypatch, gunicorn=version)
    assert ("poolkit.W031" in site.ids(**ASGI)) is told
    assert "poolkit.W031" not in site.ids()


def test_neighbours_that_are_not_there(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("django_poolkit.checks.neighbours.version", missing)
    databases = {"default": {**PROMETHEUS, "OPTIONS": {"pool": True}}}
    assert not {"poolkit.W030", "poolkit.W031"} & set(site.ids(databases=databases, **ASGI))


def test_metrics_that_no_scrape_would_see(site: Site, tmp_path: Any) -> None:
    assert "poolkit.W032" not in site.ids()
    # prometheus_client was imported as Django started, without the variable.
    assert "poolkit.W032" in site.ids(environment={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})


# -- as users see them


def test_the_command_shows_them(site: Site) -> None:
    said = io.StringIO()
    with site.having({"default": database({"timeout": 60})}):
        call_command("check", stderr=said, stdout=io.StringIO())
        assert "(poolkit.W015) DATABASES['default']['OPTIONS']['pool']['timeout']" in (
            said.getvalue()
        )
        assert "See docs/reference/checks.md#poolkitw015." in said.getvalue()
        with pytest.raises(SystemCheckError, match=r"poolkit\.W015"):
            call_command("check", "--fail-level", "WARNING")
    wrong = site.having({"default": database({"max_sise": 60})})
    with wrong, pytest.raises(SystemCheckError, match=r"poolkit\.E008"):
        call_command("check")


def test_each_is_registered_once() -> None:
    looks: list[object] = [*registered.ALWAYS, *registered.DEPLOYED]
    looks += [*registered.OF_DATABASES, *registered.OF_DEPLOYED_DATABASES]
    assert len(set(looks)) == len(looks)
    ours = [
        each
        for each in checks.registry.registry.get_checks(include_deployment_checks=True)
        if registered.TAG in each.tags
    ]
    assert len(ours) == len(looks) + 3
