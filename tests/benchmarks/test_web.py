"""The program of sites in the manner of TechEmpower: it runs, and its pages do what they should."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.testing import Cluster
from tests.benchmarks import peers, web, web_servers
from tests.benchmarks.failure import BOUNCER
from tests.benchmarks.peers import HELD, Unavailable
from tests.benchmarks.web_client import of_wrk
from tests.benchmarks.web_servers import GUNICORN, UVICORN, Site

WRK = """Running 2s test @ http://127.0.0.1:1/db/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    12.30ms   10.00ms  99.00ms   70.00%
    Req/Sec     1.00k    10.00     1.10k    70.00%
  Latency Distribution
     50%  850.00us
     75%   14.00ms
     90%   30.00ms
     99%    1.25s
  2000 requests in 2.00s, 1.00MB read
  Socket errors: connect 1, read 2, write 0, timeout 3
  Non-2xx or 3xx responses: 500
Requests/sec:   1000.00
Transfer/sec:      0.50MB
"""


def read(site: Site, test: str) -> str:
    with urllib.request.urlopen(f"{site.url}{site.kind}/{test}/", timeout=60.0) as answer:
        return str(answer.read().decode())


def numbers(cluster: Cluster, site: Site) -> dict[int, int]:
    with cluster.primary.connect(dbname=site.database) as connection:
        return dict(connection.execute("SELECT id, number FROM world").fetchall())


def visit(cluster: Cluster, site: Site) -> None:
    """Look whether each page does what the rules ask for."""
    before = numbers(cluster, site)
    assert read(site, "plaintext") == "Hello, World!"
    one = json.loads(read(site, "db"))
    assert before[one["id"]] == one["randomNumber"]
    many = json.loads(read(site, "queries"))
    assert len(many) == 20
    assert all(before[each["id"]] == each["randomNumber"] for each in many)
    page = read(site, "fortunes")
    assert page.count("<tr>") == 14
    assert page.index("Additional fortune added") < page.index("fortune 1 &lt;b&gt;")
    written = {each["id"]: each["randomNumber"] for each in json.loads(read(site, "updates"))}
    assert len(written) == 5
    assert numbers(cluster, site) == before | written


def test_the_pages_do_what_the_rules_ask_for(tmp_path: Path) -> None:
    known = {(each.server, each.contestant.name): each for each in web_servers.entries(30.0)}
    chosen = (
        (GUNICORN, web_servers.PREPARED), (GUNICORN, web_servers.RAW), (UVICORN, web_servers.LOOP),
        (UVICORN, "no pool"), (UVICORN, web_servers.ARAW),
    )  # fmt: skip
    web_servers.tools(tmp_path / "tools")
    with Cluster() as cluster, ExitStack() as stack:
        web_servers.fill(cluster.primary)
        for number, key in enumerate(chosen):
            serving = web_servers.serve(known[key], number, cluster.primary, tmp_path, fetch=False)
            visit(cluster, stack.enter_context(serving))


def test_it_measures_sites_in_turns(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--json", "--tests", "db", "--rounds", "1", "--seconds", "0.3", "--clients", "4"]
    arguments += ["--servers", UVICORN, "--only", "ours", "--no-fetch"]
    assert web.main(arguments) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    expected = [
        (f"{each.server}: db", each.contestant.name)
        for each in web_servers.entries(30.0)
        if each.server == UVICORN and each.contestant.name.startswith("ours")
    ]
    assert [(row["test"], row["contestant"]) for row in rows] == expected
    assert len(expected) == 3
    for row in rows:
        assert (row["failed"], row["rounds"]) == (0, 1)
        assert row["requests"] >= 4
        assert row["throughput"] > 0
        assert 0 < row["p50"] <= row["p99"]
        assert row["cpu"] >= 0
        assert row["memory"] > 2**20
        assert 0 < row["connections"] <= peers.SIZE
    assert f"{UVICORN}, db, round 1 of 1" in printed.err
    options = web.parsed(arguments)
    assert web.answered(options, rows)
    assert not web.answered(options, rows[1:])
    assert not web.answered(options, [{**row, "failed": 1} for row in rows])
    assert web.show(rows).startswith(f"{UVICORN}: db\n")


def test_all_contestants_have_a_site_and_who_cannot_be_had_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entries = web_servers.entries(30.0)
    sync = {each.contestant.name for each in entries if each.server == GUNICORN}
    assert {HELD, BOUNCER, "no pool", "django-pg-real-pool", "ours, session"} <= sync
    assert {web_servers.RAW, web_servers.PREPARED} <= sync
    rest = {each.contestant.name for each in entries if each.server == UVICORN}
    assert {web_servers.NATIVE.name, web_servers.ARAW, web_servers.LOOP_PREPARED} <= rest
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    [fetched] = [each for each in entries if each.contestant.package == "django-pg-real-pool"]
    with Cluster() as cluster, pytest.raises(Unavailable, match="not installed"):
        serving = web_servers.serve(fetched, 0, cluster.primary, tmp_path, fetch=False)
        serving.__enter__()
    with pytest.raises(Unavailable, match="not installed"):
        web_servers.lent(web_servers.NATIVE, tmp_path, fetch=False)


def test_plain_text_is_asked_of_few_in_the_short_form() -> None:
    entries = web_servers.entries(30.0)
    few = {each.contestant.name for each in entries if each.ceiling}
    assert {
        each.contestant.name for each in entries if each.contestant.name.startswith("ours")
    } <= few
    assert "Django's pool" not in few
    short = web.parsed(["--short"])
    assert (short.rounds, short.seconds, short.warm) == (3, 1.0, 0.5)
    assert web.parsed([]).warm == web.parsed([]).seconds


def test_who_is_interrupted_says_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*arguments: Any) -> Iterator[list[dict[str, Any]]]:
        yield [{"test": f"{UVICORN}: db", "contestant": web_servers.LOOP, "failed": 0}]
        raise KeyboardInterrupt

    monkeypatch.setattr(web, "measure", measure)
    assert web.main(["--json", "--no-fetch"]) == 1
    [row] = json.loads(capsys.readouterr().out)
    assert row["contestant"] == web_servers.LOOP


def test_what_wrk_says_is_read() -> None:
    load = of_wrk(WRK)
    assert (load.requests, load.failed) == (2006, 506)
    assert (load.throughput, load.p50, load.p99) == (750.0, 0.00085, 1.25)
    with pytest.raises(ValueError, match="wrk has printed nothing like"):
        of_wrk("")


def test_its_help_says_how_to_read_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        web.parsed(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for word in (*web.TESTS, *web.SERVERS, "to held", "wrk", "exit code", "--long"):
        assert word in text


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--clients", "1001"]])
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        web.parsed(arguments)
