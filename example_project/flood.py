"""Thousands of requests at once on one process with an event loop, and what came of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from django_poolkit.testing import Node
from example_project import flood_report
from example_project.clients import Crowd
from example_project.limits import raise_file_limit
from example_project.measures import Measures
from example_project.processes import listen, url_of
from example_project.sampling import Sampler
from example_project.sending import Report, send
from example_project.serving import one_process, take_peak, upstream
from example_project.vitals import Watch
from example_project.waves import (
    CONNECTIONS,
    SUPPLIER_CONNECTIONS,
    UPSTREAM_SECONDS,
    Outcome,
    Wave,
    waves,
)

CLIENT_PATIENCE = 300.0
"""So that it is the site which gives up, if anybody."""
_LINE_EVERY = 3.5


def prepare(options: argparse.Namespace) -> None:
    """Let the processes of a flood have as many files open as it takes.

    Raises:
        LimitTooLow: they may not.
    """
    if options.flood:
        clients = max(wave.clients for wave in waves(options.flood, options.beside))
        # The site has a connection to each client, and its own to the supplier and the database.
        raise_file_limit(clients + SUPPLIER_CONNECTIONS + CONNECTIONS)


def show(
    options: argparse.Namespace,
    node: Node,
    environment: Mapping[str, str],
    home: Path,
    console: Console,
) -> bool:
    """Let the waves come, say what came of them, and return whether it is what is promised."""
    planned = waves(options.flood, options.beside)
    print(flood_report.announcement(planned[0], options.seconds), flush=True)
    found = []
    with upstream(home, UPSTREAM_SECONDS) as supplier:
        ground = Ground(
            node=node,
            database=environment["SHOP_DB_NAME"],
            supplier=supplier,
            variables={**environment, "SHOP_UPSTREAM_URL": supplier},
            home=home,
        )
        for wave in planned:
            print(f"{wave.clients:,} requests in flight, {wave.title}", flush=True)
            found.append(run(ground, wave, options.seconds, _say))
    console.print("", flood_report.table(found))
    print(flood_report.legend(found) + "What is promised:")
    judged = flood_report.verdicts(found[0])
    for verdict in judged:
        print(f"  {'ok  ' if verdict.kept else 'FAIL'}  {verdict.sentence}", flush=True)
    if options.json is not None:
        values = {outcome.wave.key: outcome.as_json() for outcome in found}
        options.json.write_text(json.dumps({"waves": values}, indent=1) + "\n")
    return all(verdict.kept for verdict in judged)


def _say(line: str) -> None:
    print(line, flush=True)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a site stands on that a wave goes against."""

    node: Node
    database: str
    supplier: str
    """The URL of its API."""
    variables: Mapping[str, str]
    home: Path
    """Where the logs are."""


def run(ground: Ground, wave: Wave, seconds: float, say: Callable[[str], None]) -> Outcome:
    """Serve a site in one process, and send the wave. Blocks until its last client is done."""
    variables = {**ground.variables, **wave.variables}
    log = ground.home / f"flood-{wave.key}.log"
    clients_log = ground.home / f"flood-{wave.key}-clients.log"
    with listen() as listener, one_process(listener, wave.application, variables, log) as site:
        url = url_of(listener)
        # The first requests import, and connect; they do not count.
        send(Crowd(url, wave.page, CONNECTIONS, 0.0, 1.0, CLIENT_PATIENCE), clients_log)
        take_peak(ground.supplier)
        counted = Measures()
        with Watch(site.pid) as watch, Sampler(ground.node, ground.database, counted):
            crowd = Crowd(url, wave.page, wave.clients, wave.ramp, seconds, CLIENT_PATIENCE)
            report = send(crowd, clients_log, _teller(watch, counted, say))
        return Outcome(
            wave,
            report,
            connections=counted.peak_connections,
            at_supplier=take_peak(ground.supplier),
            threads_before=watch.before.threads,
            threads=watch.threads,
            files=watch.files,
            memory=watch.memory,
            cpu=watch.cpu,
        )


def _teller(
    watch: Watch, counted: Measures, say: Callable[[str], None]
) -> Callable[[Report], None]:
    """Return a function that says how it goes, every few seconds and at the end."""
    said = 0.0

    def heard(report: Report) -> None:
        nonlocal said
        if report["over"] or report["seconds"] >= said + _LINE_EVERY:
            said = report["seconds"]
            say(flood_report.progress(report, watch, counted))

    return heard
