"""The supplier: how long it takes, and how many it says have waited at once."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from django_poolkit.testing.waiting import wait_until
from example_project.serving import take_connections, take_peak, upstream


def ask(url: str) -> dict[str, int]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        values: dict[str, int] = json.load(answer)
    return values


def test_it_takes_the_seconds_it_was_given(tmp_path):
    with upstream(tmp_path, 0.3) as url:
        started = time.monotonic()
        answer = ask(f"{url}?sku=p00001")

    assert time.monotonic() - started >= 0.3
    assert set(answer) == {"days"}
    assert 2 <= answer["days"] < 10


def test_it_counts_how_many_wait_at_once_and_serves_them_all(tmp_path):
    with upstream(tmp_path, 0.5) as url, ThreadPoolExecutor(20) as threads:
        answers = [threads.submit(ask, f"{url}?sku={number}") for number in range(20)]
        peaks: list[int] = []

        def all_were_there() -> bool:
            peaks.append(take_peak(url))
            return max(peaks) == 20

        # It is asked more than once: each answer is for the time since the one before.
        wait_until(all_were_there, 30, lambda: f"{peaks}")
        assert all(answer.result() for answer in answers)
        take_peak(url)

        assert take_peak(url) == 0


def test_it_keeps_a_connection_and_counts_those_that_ask(tmp_path):
    with upstream(tmp_path, 0.01) as url:
        address = urllib.parse.urlsplit(url)
        for connections in (1, 2):
            kept = [http.client.HTTPConnection(address.netloc) for _ in range(connections)]
            for connection in kept * 3:
                connection.request("GET", "/?sku=1")
                assert set(json.load(connection.getresponse())) == {"days"}
            for connection in kept:
                connection.close()
            # Those that only ask for the counts are not in them.
            assert take_peak(url) == 1
            assert take_connections(url) == connections
        assert take_connections(url) == 0


def test_one_after_the_other_is_one_at_once(tmp_path):
    with upstream(tmp_path, 0.01) as url:
        for number in range(5):
            ask(f"{url}?sku={number}")

        assert take_peak(url) == 1
