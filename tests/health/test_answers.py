"""A report becomes an answer: which status, which headers, and which body in which format."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from django_poolkit.health import answers
from django_poolkit.health.answers import Answer
from django_poolkit.health.negotiation import HEALTH_JSON, HTML, JSON, OFFERED, TEXT
from django_poolkit.health.report import Figures, Report, Result, Status

pytestmark = pytest.mark.core

CODES: dict[Status, int] = {"pass": 200, "warn": 200, "fail": 503}
FIGURES = Figures(size=4, max_size=8, used=3, idle=1, waiters=2, utilization=0.375)
HEALTHY = Result(name="db:default", status="pass", latency=0.00123456789, figures=FIGURES)
DOWN = Result(name="db:other", status="fail", reason="unreachable", latency=0.5)
REPLICA = Result(name="db:replica", status="warn", reason="lagging", latency=0.25, lag=12.5)
PROCESS = Result(name="process", status="pass")


def report(*results: Result, group: str = "db", age: float = 0.0, max_age: float = 1.0) -> Report:
    return Report(group=group, results=results, age=age, max_age=max_age)


def answer(report: Report, **changes: Any) -> Answer:
    facts = {"method": "GET", "accept": JSON, "details": True, "status_codes": CODES}
    return answers.of_report(report, **{**facts, **changes})


def data(report: Report, **changes: Any) -> Any:
    return json.loads(answer(report, **changes).body)


def header(answer: Answer, name: str) -> str | None:
    found = [value for key, value in answer.headers if key == name]
    assert len(found) < 2
    return found[0] if found else None


# -- status and headers


@pytest.mark.parametrize(
    ("results", "status"),
    [((), 200), ((HEALTHY,), 200), ((HEALTHY, REPLICA), 200), ((HEALTHY, DOWN, REPLICA), 503)],
)
@pytest.mark.parametrize("details", [False, True])
def test_only_a_failure_is_503(results: tuple[Result, ...], status: int, details: bool) -> None:
    assert answer(report(*results), details=details).status == status


def test_the_settings_say_which_status_stands_for_what() -> None:
    codes: dict[Status, int] = {"pass": 204, "warn": 429, "fail": 500}
    found = [answer(report(each), status_codes=codes).status for each in (PROCESS, REPLICA, DOWN)]
    assert found == [204, 429, 500]


@pytest.mark.parametrize("kind", OFFERED)
@pytest.mark.parametrize("details", [False, True])
def test_head_is_get_without_the_body(kind: str, details: bool) -> None:
    get = answer(report(HEALTHY), accept=kind, details=details)
    head = answer(report(HEALTHY), accept=kind, details=details, method="HEAD")
    assert header(get, "Content-Length") == str(len(get.body)) != "0"
    assert head == get._replace(body=b"")


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        (JSON, "application/json"),
        (HEALTH_JSON, "application/health+json"),
        (TEXT, "text/plain; charset=utf-8"),
        (HTML, "text/html; charset=utf-8"),
    ],
)
def test_it_says_what_it_is(kind: str, content_type: str) -> None:
    found = answer(report(HEALTHY), accept=kind)
    assert header(found, "Content-Type") == content_type
    assert header(found, "X-Content-Type-Options") == "nosniff"
    assert ("default-src 'none'" in (header(found, "Content-Security-Policy") or "")) == (
        kind == HTML
    )


@pytest.mark.parametrize(
    ("age", "max_age", "control", "shown"),
    [(0.0, 1.0, "max-age=1", "0"), (2.7, 5.9, "max-age=5", "2"), (0.2, 0.5, "max-age=0", "0")],
)
def test_it_says_for_how_long_it_holds(
    age: float, max_age: float, control: str, shown: str
) -> None:
    found = answer(report(HEALTHY, age=age, max_age=max_age), details=False)
    assert header(found, "Cache-Control") == control
    assert header(found, "Age") == shown


def test_details_are_kept_by_no_shared_cache() -> None:
    assert header(answer(report(HEALTHY)), "Cache-Control") == "private, max-age=1"
    for details in (False, True):
        found = answer(report(HEALTHY), details=details)
        assert header(found, "Vary") == "Accept, Authorization"
        assert header(found, "Set-Cookie") is None


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_group_that_does_not_exist(method: str) -> None:
    found = answers.not_found(method)
    assert found.status == 404
    assert found.body == (b"Not Found\n" if method == "GET" else b"")
    assert header(found, "Cache-Control") == "no-store"


def test_a_method_that_is_not_allowed() -> None:
    found = answers.not_allowed("POST")
    assert (found.status, header(found, "Allow")) == (405, "GET, HEAD")
    assert header(found, "Cache-Control") == "no-store"


# -- bodies


@pytest.mark.parametrize("result", [HEALTHY, REPLICA, DOWN])
@pytest.mark.parametrize(
    ("kind", "body"),
    [(JSON, '{{"status": "{}"}}\n'), (HEALTH_JSON, '{{"status": "{}"}}\n'), (TEXT, "{}\n")],
)
def test_without_details_there_is_the_status_alone(result: Result, kind: str, body: str) -> None:
    found = answer(report(result), accept=kind, details=False)
    assert found.body.decode() == body.format(result.status)


def test_the_page_without_details_has_the_status_alone() -> None:
    assert words(answer(report(DOWN, HEALTHY), accept=HTML, details=False)) == ["fail", "fail"]


def test_json_has_the_keys_of_the_recipe_next_to_ours() -> None:
    found = data(report(HEALTHY, age=0.25))
    assert found == {
        "status": "pass",
        "group": "db",
        "age": 0.25,
        "latency": 0.001235,
        "latency_ms": 1.235,
        "pool_size": 4,
        "pool_checked_out": 3,
        "checks": {
            "db:default": {
                "status": "pass",
                "reason": None,
                "latency": 0.001235,
                "latency_ms": 1.235,
                "lag": None,
                "pool_size": 4,
                "pool_checked_out": 3,
                "pool": {
                    "size": 4,
                    "max_size": 8,
                    "used": 3,
                    "idle": 1,
                    "waiters": 2,
                    "utilization": 0.375,
                },
            }
        },
    }


def test_json_at_the_top_is_the_slowest_and_the_sum() -> None:
    other = Result(name="db:b", status="pass", latency=0.5, figures=FIGURES)
    found = data(report(HEALTHY, other, DOWN, PROCESS))
    assert (found["latency"], found["pool_size"], found["pool_checked_out"]) == (0.5, 8, 6)
    assert found["checks"]["process"]["pool"] is None
    assert found["checks"]["db:other"]["reason"] == "unreachable"


def test_json_of_a_group_that_probes_nothing() -> None:
    found = data(report(PROCESS, group="live"))
    assert [found[key] for key in ("latency", "latency_ms", "pool_size")] == [None] * 3


def test_json_of_an_empty_group() -> None:
    found = data(report(group="live"))
    assert (found["status"], found["checks"]) == ("pass", {})


def test_health_json_keeps_to_the_draft() -> None:
    observed = time.monotonic() - 2.0
    down = Result(name="db:other", status="fail", reason="timeout", observed=observed)
    found = data(report(HEALTHY, down, REPLICA, PROCESS), accept=HEALTH_JSON)
    assert (found["status"], set(found)) == ("fail", {"status", "description", "checks"})
    checks = found["checks"]
    for name, entries in checks.items():
        # "{component}:{measurement}", and no colon in either
        assert name.count(":") == (0 if "observedValue" not in entries[0] else 1), name
        [entry] = entries
        assert entry["componentType"] in ("datastore", "system", "component")
        assert entry["status"] in ("pass", "warn", "fail")
    assert checks["process"][0]["componentType"] == "system"
    assert "output" not in checks["db/default"][0]
    assert checks["db/other"][0]["output"] == "timeout"
    time_taken = checks["db/default:responseTime"][0]
    assert (time_taken["observedValue"], time_taken["observedUnit"]) == (0.001235, "s")
    connections = checks["db/default:connections"][0]
    assert (connections["observedValue"], connections["pool"]["waiters"]) == (3, 2)
    utilization = checks["db/default:utilization"][0]
    assert (utilization["observedValue"], utilization["observedUnit"]) == (37.5, "percent")
    assert checks["db/replica:replicationLag"][0]["observedValue"] == 12.5
    assert "db/other:responseTime" not in checks
    seen = datetime.fromisoformat(checks["db/other"][0]["time"].replace("Z", "+00:00"))
    assert 1.9 < (datetime.now(UTC) - seen).total_seconds() < 10.0


def test_text_has_a_line_for_each_check() -> None:
    found = answer(report(HEALTHY, REPLICA, PROCESS), accept=TEXT).body.decode()
    assert found.splitlines() == [
        "warn",
        (
            "db:default pass latency=0.001235 size=4 max_size=8 used=3 idle=1 waiters=2 "
            "utilization=0.375"
        ),
        "db:replica warn reason=lagging latency=0.25 lag=12.5",
        "process pass",
    ]


def test_text_stays_one_line_a_check() -> None:
    odd = Result(name="odd\n\x1b[31mone", status="pass")
    assert answer(report(odd), accept=TEXT).body == b"pass\nodd??[31mone pass\n"


class Words(HTMLParser):
    """Collects the texts of a page, and the tags that bring something in."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip() and self.tags[-1][0] != "style":
            self.words.append(data.strip())


def words(answer: Answer) -> list[str]:
    parser = Words()
    parser.feed(answer.body.decode())
    for tag, attributes in parser.tags:
        assert tag not in ("script", "link", "img", "iframe", "form", "a", "b")
        assert not {"src", "href", "onclick", "onload"} & set(attributes)
    return parser.words


def test_the_page_has_a_row_for_each_check() -> None:
    found = words(answer(report(HEALTHY, REPLICA, age=0.3), accept=HTML))
    assert found[:2] == ["warn", "warn"]
    assert "db, as it was 0.3 s ago" in found
    row = found[found.index("db:default") :]
    assert row[:7] == ["db:default", "pass", "0.0012 s", "3", "1", "4/8", "2"]
    assert "lagging" in found
    assert "12.5000 s" in found


def test_the_page_escapes_names() -> None:
    odd = Result(name="<b onclick=x>&", status="pass")
    page = answer(report(odd, group="<script>"), accept=HTML)
    assert "<b onclick=x>&" in words(page)
    assert b"<script" not in page.body
