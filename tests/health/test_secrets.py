"""No answer, in any format and in any state, says what is secret: all that is planted is sought."""

from __future__ import annotations

import io
import itertools
import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from psycopg import OperationalError

from django_poolkit import health, registry
from django_poolkit.health import declared
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy, silent_server
from tests.health.drive import WAYS, Site

pytestmark = [
    pytest.mark.usefixtures("transactional_db"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

# In a URL or a DSN it would break at each sign; each part of it gives it away.
PASSWORD = "s3same%41p1ant@0pen"
TOKEN = "n0tforyoureyes-token"
PARTS = ("s3same", "p1ant", "0pen", "n0tfor", "wh3re", "wh0is", "wh1ch", "h1dden", "Traceback")
ADDRESS = {"NAME": "wh1ch_db", "USER": "wh0is_it", "PASSWORD": PASSWORD}
FORMATS = ["", "application/json", "application/health+json", "text/plain", "text/html"]
# A machine that is busy takes its time, and what is to be seen is why a check fails.
PATIENT = {"TOKEN": TOKEN, "CACHE": 60.0, "TIMEOUT": 20.0}
Serve = Callable[..., Site]


@pytest.fixture
def alias() -> Iterator[Callable[..., str]]:
    """Return a function that makes an alias that is full of secrets."""
    names: list[str] = []

    def alias(**changes: Any) -> str:
        name = f"a{secrets.token_hex(4)}"
        options = {"pool": {"name": name, "timeout": 0.2}, **changes.pop("OPTIONS", {})}
        entry = {**connections.settings["default"], **ADDRESS, "OPTIONS": options, **changes}
        connections.settings[name] = entry
        names.append(name)
        return name

    yield alias
    registry.pools.close_all()
    for name in names:
        if hasattr(connections._connections, name):  # type: ignore[attr-defined]
            del connections[name]
        del connections.settings[name]


@pytest.fixture
def own_checks() -> Iterator[None]:
    """Forget the checks that a test declares."""
    before = dict(declared._declared)
    yield
    declared._declared.clear()
    declared._declared.update(before)


def sought(site: Site, group: str, status: int, reason: str | None) -> None:
    """Ask for a group in every format, with details and without, and search all that is said."""
    for accept, token in itertools.product(FORMATS, ("", TOKEN, "n0tforyoureyes-wrong")):
        headers = {"accept": accept} if accept else {}
        if token:
            headers["authorization"] = f"Bearer {token}"
        answered = site.get(f"/health/{group}", **headers)
        whole = f"{answered.headers} {answered.body.decode()}"
        assert answered.status == status, whole
        assert [part for part in PARTS if part in whole] == []
        if token != TOKEN:
            # Not even what there is: the reason, the name of a check, a figure.
            assert not {"db:", "db/", "reason", "size"} & set(whole.split()), whole
            assert group.partition("/")[2] not in whole or not group.partition("/")[2]
        elif reason is not None:
            assert reason in whole


def everything(
    serve: Serve,
    group: str,
    status: int,
    reason: str | None,
    caplog: pytest.LogCaptureFixture,
    **health_settings: Any,
) -> None:
    """Seek in the answers of every way, in those of the command, and in the log."""
    with caplog.at_level(logging.DEBUG):
        for way in WAYS:
            site = serve(way, poolkit={**PATIENT, **health_settings})
            sought(site, group, status, reason)
            site.close()
        kind, _, name = group.partition("/")
        if kind == "db":
            for form in ("table", "json"):
                out = io.StringIO()
                with pytest.raises(SystemExit):
                    call_command("poolcheck", "--database", name, "--format", form, stdout=out)
                assert reason is not None
                assert reason in out.getvalue()
                assert [part for part in PARTS if part in out.getvalue()] == []
    assert [part for part in ("s3same", "p1ant", "0pen", "n0tfor") if part in caplog.text] == []


# -- a database


@pytest.mark.parametrize(
    "changes",
    [
        {"HOST": "wh3re.invalid"},
        {"HOST": "127.0.0.1", "PORT": "1"},
        {"HOST": "/nonexistent/wh3re"},
    ],
    ids=["no such host", "refused", "no such socket"],
)
def test_a_database_that_is_not_there(
    changes: dict[str, Any],
    alias: Callable[..., str],
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    everything(serve, f"db/{alias(**changes)}", 503, "unreachable", caplog)


def test_a_password_that_is_wrong(
    alias: Callable[..., str], serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    everything(serve, f"db/{alias()}", 503, "auth_failed", caplog)


def test_a_database_that_does_not_exist(
    alias: Callable[..., str], serve: Serve, primary: Node, caplog: pytest.LogCaptureFixture
) -> None:
    name = alias(USER=primary.user, PASSWORD=primary.password)
    everything(serve, f"db/{name}", 503, "config_error", caplog)


@pytest.mark.parametrize(
    "options",
    [{"h1dden_option": "h1dden"}, {"sslmode": "h1dden"}, {"options": "-c h1dden=h1dden -x"}],
    ids=["an option", "a value", "a server's option"],
)
def test_settings_that_cannot_be_honoured(
    options: dict[str, str],
    alias: Callable[..., str],
    serve: Serve,
    primary: Node,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = alias(USER=primary.user, PASSWORD=primary.password, NAME="postgres", OPTIONS=options)
    site = serve(WAYS[0], poolkit=PATIENT)
    shown = site.get(f"/health/db/{name}", authorization=f"Bearer {TOKEN}").body.decode()
    assert any(reason in shown for reason in ("config_error", "unknown", "unreachable"))
    site.close()
    reason = next(each for each in ("config_error", "unknown", "unreachable") if each in shown)
    everything(serve, f"db/{name}", 503, reason, caplog)


def test_a_database_that_does_not_answer(
    alias: Callable[..., str], serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with silent_server() as server:
        name = alias(HOST=server.host, PORT=str(server.port))
        everything(serve, f"db/{name}", 503, "timeout", caplog, TIMEOUT=0.3)


def test_a_function_that_brings_the_password_and_fails(
    alias: Callable[..., str], serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def password() -> str:
        raise OSError(f"vault says {PASSWORD}")

    name = alias(PASSWORD=password)
    site = serve(WAYS[0], poolkit=PATIENT)
    with caplog.at_level(logging.DEBUG):
        sought(site, f"db/{name}", 503, None)
    assert "event=probe_failed" in caplog.text
    assert "s3same" not in caplog.text


def test_a_database_that_is_well(
    alias: Callable[..., str], serve: Serve, primary: Node, caplog: pytest.LogCaptureFixture
) -> None:
    # Of these secrets all are in use; the superuser's name is no secret of ours.
    proxy = TCPProxy(primary.host, primary.port)
    with proxy:
        entry = {"HOST": proxy.host, "PORT": str(proxy.port), "NAME": "postgres"}
        name = alias(USER=primary.user, PASSWORD=primary.password, **entry)
        site = serve("asgi+wrapper", poolkit=PATIENT)
        for accept in FORMATS:
            answered = site.get(
                f"/health/db/{name}", accept=accept, authorization=f"Bearer {TOKEN}"
            )
            assert answered.status == 200
            whole = f"{answered.headers} {answered.body.decode()}"
            for secret in (primary.password, str(proxy.port), "127.0.0.1", TOKEN, primary.user):
                assert secret not in whole


# -- what is not a database


def test_a_check_that_raises(
    own_checks: None, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    @health.check("vault", groups=("own",))
    def vault() -> None:
        raise OperationalError(f"postgres://wh0is_it:{PASSWORD}@wh3re/wh1ch_db")

    everything(serve, "own", 503, "unknown", caplog)


def test_a_check_that_says_too_much(
    own_checks: None, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    @health.check("vault", groups=("own",))
    def vault() -> object:
        return f"fail: {PASSWORD}"

    everything(serve, "own", 503, "config_error", caplog)


def test_a_client_session(serve: Serve, caplog: pytest.LogCaptureFixture, settings: Any) -> None:
    supplier = {"HEALTH_URL": f"http://127.0.0.1:1/h1dden?key={PASSWORD}"}
    supplier |= {"headers": {"X-Key": PASSWORD}}  # type: ignore[dict-item]
    with caplog.at_level(logging.DEBUG):
        for way in WAYS:
            site = serve(
                way,
                settings={
                    "POOLKIT": {
                        **settings.POOLKIT,
                        "HTTP": {"supplier": supplier},
                        "HEALTH": {
                            **PATIENT,
                            **({} if "urls" in way else {"PATH": "/health/"}),
                        },
                    }
                },
            )
            sought(site, "http/supplier", 503, "unreachable")
            site.close()
    assert "s3same" not in caplog.text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("debug", [False, True])
def test_what_is_asked_is_not_repeated(way: str, debug: bool, serve: Serve) -> None:
    site = serve(way, settings={"DEBUG": debug})
    for method in ("GET", "POST"):
        answered = site.get(
            "/health/h1dden/p1ant?s3same=1", method=method, cookie="0pen=1", accept="wh0is/it"
        )
        assert answered.status in (404, 405)
        whole = f"{answered.headers} {answered.body.decode()}"
        assert [part for part in PARTS if part in whole] == []
