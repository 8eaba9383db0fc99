"""The lifespan on real servers, from their start to their end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from django_poolkit.testing import Node
from tests.lifespan import stories
from tests.lifespan.serving import Farm, farming
from tests.lifespan.stories import Stories, Story, connections_of, size_of

ASGI = ("uvicorn", "uvicorn-2", "granian", "gunicorn-uvicorn", "gunicorn-asgi")
# What a server exits with that was told lifespan.startup.failed. The parents of workers hide it.
CODES = {"uvicorn": 3, "uvicorn-2": 0, "granian": 1, "gunicorn-uvicorn": 3, "gunicorn-asgi": 3}


@pytest.fixture(scope="module")
def farm(primary: Node) -> Iterator[Farm]:
    with farming(primary) as farm:
        yield farm


@pytest.fixture(scope="module")
def lives(farm: Farm) -> Iterator[Stories]:
    lives = Stories(partial(stories.live, farm), ASGI)
    yield lives
    lives.close()


@pytest.fixture(params=ASGI)
def lived(request: pytest.FixtureRequest, lives: Stories) -> Story:
    return lives[request.param]


def test_each_worker_starts_once_and_stops_once(lived: Story) -> None:
    server = lived.server
    assert len(lived.workers) == size_of(server.kind)
    for pid in lived.workers:
        events = server.events(pid)
        for once in ("open a", "open group", "open z", "closing a", "close a", "farewell"):
            assert events.count(once) == 1, events
    assert server.events().count("opening a") == len(lived.workers)


def test_resources_open_in_their_order_and_close_in_reverse(lived: Story) -> None:
    for pid in lived.workers:
        events = lived.server.events(pid)
        opened = [event for event in events if event.startswith("open ")]
        in_time = [event for event in opened if event != "open late"]
        assert in_time == [
            f"open {name}" for name in stories.PLAN if name not in ("late", "farewell")
        ]
        closed = [each for each in events if each.startswith("clos") or each == "farewell"]
        assert closed == stories.REVERSE


def test_a_close_that_hangs_or_fails_is_told_of_and_changes_nothing(lived: Story) -> None:
    log = lived.server.log
    times = len(lived.workers)
    assert log.count("resource=hangs event=close_timeout") == times
    assert log.count("resource=fails event=close_failed error=ConnectionError") == times
    assert log.count("django_poolkit.lifespan event=stopped") == times
    assert "s3same" not in log
    # Uvicorn raises the signal again that ended it.
    assert lived.code == (-15 if lived.server.kind == "uvicorn" else 0)


def test_a_request_in_flight_is_answered_before_anything_closes(lived: Story) -> None:
    reply = lived.replies["in flight"]
    assert lived.server.body(reply)["open"] is True
    pid = reply.pid
    events = lived.server.events(pid)
    assert events.index("slow ends") < events.index("closing z")


def test_an_optional_resource_is_tried_again_while_the_server_serves(lived: Story) -> None:
    state, text = lived.replies["degraded"]["late"]
    assert (state, text) in (("failed", "ConnectionError"), ("pending", ""))
    assert lived.replies["degraded"]["pool:default"] == ["ready", ""]
    assert lived.server.events().count("open late") >= 1


def test_what_a_request_does_to_the_state_stays_its_own(lived: Story) -> None:
    states = lived.replies["states"]
    assert all({"a", "z", "group", "pool:default"} <= set(state) for state in states)
    assert not any("left" in state for state in states)


def test_views_and_websockets_find_what_is_open(lived: Story) -> None:
    said = lived.replies
    assert said["/query/"]["backend"] > 0
    assert said["/aquery/"]["backend"] > 0
    assert said["/resource/?name=a"].items() >= {"name": "a", "open": True}.items()
    assert said["/aresource/?name=a"].items() >= {"name": "a", "open": True}.items()
    assert said["websocket"] == "HELLO"


def test_nothing_is_left_of_it(lived: Story, primary: Node) -> None:
    assert connections_of(primary, lived.workers) == []
    assert lived.server.sockets == []
    log = lived.server.log
    for complaint in ("never retrieved", "was destroyed", "never awaited", "unclosed", "leaked"):
        assert complaint not in log, log


# -- starts that come to nothing


@pytest.fixture(scope="module")
def failures(farm: Farm) -> Iterator[Stories]:
    failures = Stories(partial(stories.fail, farm), ASGI)
    yield failures
    failures.close()


@pytest.mark.parametrize("kind", ASGI)
def test_a_failed_start_closes_what_was_open_and_ends_the_process(
    failures: Stories, kind: str
) -> None:
    story = failures[kind]
    events, log = story.server.events(), story.server.log
    starts = events.count("opening b")
    assert events.count("close a") == events.count("open a") == starts
    assert not [event for event in events if event.endswith(" c")]
    assert not story.server.path.exists() or kind.startswith("gunicorn")
    assert story.code == CODES[kind]
    assert "resource 'b': could not be opened: ConnectionError" in log
    assert "s3same" not in log
    assert "no route" not in log


@pytest.fixture(scope="module")
def hung(farm: Farm) -> Iterator[Stories]:
    hung = Stories(partial(stories.hang, farm), ASGI)
    yield hung
    hung.close()


@pytest.mark.parametrize("kind", ASGI)
def test_a_start_that_hangs_is_ended_by_its_budget(hung: Stories, kind: str) -> None:
    story = hung[kind]
    events = story.server.events()
    assert events.count("close a") == events.count("open a") == events.count("opening b")
    assert "resource 'b': not open within 1." in story.server.log
    assert story.code == CODES[kind]
    pid = story.server.journal[0].pid
    ends = [entry.at for entry in story.server.journal if entry.pid == pid]
    assert ends[-1] - story.server.at("opening b") < 2.5


@pytest.fixture(scope="module")
def interrupted(farm: Farm) -> Iterator[Stories]:
    interrupted = Stories(partial(stories.interrupted, farm), ASGI)
    yield interrupted
    interrupted.close()


@pytest.mark.parametrize("kind", ASGI)
def test_a_server_that_is_told_to_end_as_it_starts_closes_what_it_opened(
    interrupted: Stories, kind: str
) -> None:
    story = interrupted[kind]
    events = story.server.events()
    assert events.count("close a") == events.count("open a") >= 1
    assert events.count("close b") == events.count("open b")


# -- requests without an end

# What makes a server give up on a request after a second. Others can only kill the worker.
CUTS = {
    "uvicorn": ("--timeout-graceful-shutdown", "1"),
    "gunicorn-uvicorn": ("--worker-class", "tests.lifespan.site.worker.Worker"),
}


@pytest.fixture(scope="module")
def cut(farm: Farm) -> Iterator[Stories]:
    cut = Stories(lambda kind: stories.cut(farm, kind, *CUTS[kind]), tuple(CUTS))
    yield cut
    cut.close()


@pytest.mark.parametrize("kind", CUTS)
def test_what_does_not_end_is_cut_and_cleans_up_before_anything_closes(
    cut: Stories, kind: str
) -> None:
    story = cut[kind]
    events, log = story.server.events(), story.server.log
    assert events.index("cleaned up, open True") < events.index("closing a"), log
    assert events.index("stream ends") < events.index("closing a")
    assert "close a" in events
    assert "event=cut requests=1 left=0" in log  # the stubborn one
    assert story.seconds < 15
