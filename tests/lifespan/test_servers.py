"""The lifespan on real servers, from their start to their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.lifespan import stories
from tests.lifespan.serving import Farm, farming
from tests.lifespan.stories import Stories, Story, connections_of, size_of

# What a server exits with that was told lifespan.startup.failed. Parents of workers may hide it.
CODES = {
    "uvicorn": 3,
    "uvicorn-2": 0,
    "granian": 1,
    "gunicorn-uvicorn": 3,
    "gunicorn-asgi": 3,
    "hypercorn": 0,
}
ASGI = tuple(CODES)
# Hypercorn goes through what differs from server to server.
BUSY = ASGI[:-1]
# What makes a server give up on a request after a second, or us where no server does.
CUTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "uvicorn": (("--timeout-graceful-shutdown", "1"), {}),
    "uvicorn-2": (("--timeout-graceful-shutdown", "1"), {}),
    "gunicorn-uvicorn": (("--worker-class", "tests.lifespan.site.worker.Worker"), {}),
    "gunicorn-asgi": ((), {"CUT_AFTER": 1.0}),
    "granian": ((), {"CUT_AFTER": 1.0}),
}
WITHOUT = ("daphne", "gunicorn-wsgi")
# Two workers, which are recycled after some requests; granian's when it is told to.
REPLACED = {
    "uvicorn-2": ("--limit-max-requests", "25"),
    "gunicorn-uvicorn": ("--workers", "2", "--max-requests", "25"),
    "gunicorn-asgi": ("--workers", "2", "--max-requests", "25"),
    "granian": ("--workers", "2", "--respawn-failed-workers", "--respawn-interval", "0.1"),
}
COMPLAINTS = ("never retrieved", "was destroyed", "never awaited", "unclosed", "leaked")

Told = Callable[[str, str], Story]


@pytest.fixture(scope="module")
def farm(primary: Node) -> Iterator[Farm]:
    with farming(primary) as farm:
        yield farm


@pytest.fixture(scope="module")
def told(farm: Farm, primary: Node) -> Iterator[Told]:
    """Return a function that returns a story, by its name and the kind of server."""
    tellers: dict[str, tuple[Callable[[str], Story], tuple[str, ...]]] = {
        # The long ones first.
        "replace": (
            lambda kind: stories.replace(farm, primary, kind, 2, *REPLACED[kind]),
            tuple(REPLACED),
        ),
        "live": (lambda kind: stories.live(farm, kind), ASGI),
        "fail": (lambda kind: stories.fail(farm, kind), ASGI),
        "hang": (lambda kind: stories.hang(farm, kind), BUSY),
        "interrupted": (lambda kind: stories.interrupted(farm, kind), BUSY),
        "cut": (lambda kind: stories.cut(farm, kind, *CUTS[kind]), tuple(CUTS)),
        "without": (lambda kind: stories.without(farm, kind), WITHOUT),
    }
    every = Stories(tellers.values())
    yield lambda name, kind: every.story(tellers[name][0], kind)
    every.close()


# -- a whole life


@pytest.fixture(params=ASGI)
def lived(request: pytest.FixtureRequest, told: Told) -> Story:
    return told("live", request.param)


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
    assert lived.seconds < 15  # what the stop may take
    # Uvicorn raises the signal again that ended it.
    assert lived.code == (-15 if lived.server.kind == "uvicorn" else 0)


def test_a_request_in_flight_is_answered_before_anything_closes(lived: Story) -> None:
    for view, reply in zip(stories.SLOW, lived.replies["in flight"], strict=True):
        assert lived.server.body(reply)["open"] is True
        events = lived.server.events(reply.pid)
        assert events.index(f"{view} ends") < events.index("closing z")


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
    assert not [complaint for complaint in COMPLAINTS if complaint in log], log


# -- starts that come to nothing


@pytest.mark.parametrize("kind", ASGI)
def test_a_failed_start_closes_what_was_open_and_ends_the_process(told: Told, kind: str) -> None:
    story = told("fail", kind)
    events, log = story.server.events(), story.server.log
    starts = events.count("opening b")
    assert events.count("close a") == events.count("open a") == starts >= 1
    assert not [event for event in events if event.endswith(" c")]
    assert story.code == CODES[kind]
    assert story.server.client.get("/pid/").status == 0
    assert "resource 'b': could not be opened: ConnectionError" in log
    assert "s3same" not in log
    assert "no route" not in log


@pytest.mark.parametrize("kind", BUSY)
def test_a_start_that_hangs_is_ended_by_its_budget(told: Told, kind: str) -> None:
    story = told("hang", kind)
    events = story.server.events()
    assert events.count("close a") == events.count("open a") == events.count("opening b")
    assert "resource 'b': not open within 1." in story.server.log
    assert story.code == CODES[kind]
    pid = story.server.journal[0].pid
    ends = [entry.at for entry in story.server.journal if entry.pid == pid]
    assert ends[-1] - story.server.at("opening b") < 2.5


@pytest.mark.parametrize("kind", BUSY)
def test_a_server_that_is_told_to_end_as_it_starts_closes_what_it_opened(
    told: Told, kind: str
) -> None:
    story = told("interrupted", kind)
    events = story.server.events()
    assert events.count("close a") == events.count("open a") >= 1
    assert events.count("close b") == events.count("open b")
    assert story.seconds < 15  # what the start may take is more


# -- requests without an end


@pytest.mark.parametrize("kind", CUTS)
def test_what_does_not_end_is_cut_and_cleans_up_before_anything_closes(
    told: Told, kind: str
) -> None:
    story = told("cut", kind)
    server, log = story.server, story.server.log
    ends = {"cleaned up, open True", "stream ends", "websocket ends"}
    assert ends <= set(server.events())
    for events in (server.events(pid) for pid in {entry.pid for entry in server.journal}):
        assert not ends & set(events[events.index("closing a") :])
        assert events[-1] == "close a"
    assert "event=cut requests=1\n" in log  # the stubborn one
    assert "event=left" not in log
    assert story.seconds < 15


# -- no lifespan


@pytest.mark.parametrize("kind", WITHOUT)
def test_without_a_lifespan_everything_works_and_opens_at_its_first_use(
    told: Told, kind: str, primary: Node
) -> None:
    story = told("without", kind)
    said, events, log = story.replies, story.server.events(), story.server.log
    for target in stories.VIEWS[:2]:
        assert all(answer["backend"] > 0 for answer in said[target])
    for target in stories.VIEWS[2:]:
        assert all((answer["name"], answer["open"]) == ("a", True) for answer in said[target])
    assert said["/state/"]["state"] is None
    assert said["/status/"]["status"] == {}
    assert said["failed"].status == 500
    assert "ResourceError: resource 'b': could not be opened: ConnectionError" in log
    assert "s3same" not in log
    # Threads share one. Coroutines have one for each loop: daphne's is that of all requests.
    assert events.count("open a") == (2 if kind == "daphne" else 1 + 3 + 1)
    assert events.count("close a") == events.count("open a")
    assert events.count("close group") == events.count("open group") == 1
    assert connections_of(primary, story.workers) == []
    assert not [complaint for complaint in COMPLAINTS if complaint in log], log


@pytest.mark.parametrize("kind", WITHOUT)
def test_wsgi_answers_what_is_in_flight_and_daphne_cuts_it(told: Told, kind: str) -> None:
    reply = told("without", kind).replies["in flight"]
    assert reply.status == (200 if kind == "gunicorn-wsgi" else 0)


# -- workers that come and go


def nothing_is_left(story: Story) -> None:
    assert story.replies["sockets"] == story.replies["living"]
    assert story.replies["connections"] == []
    assert story.server.sockets == []
    events = story.server.events()
    assert events.count("close a") == events.count("open a") - 1  # the killed one's


@pytest.mark.parametrize("kind", REPLACED)
def test_workers_that_were_killed_or_recycled_leave_nothing_behind(told: Told, kind: str) -> None:
    nothing_is_left(told("replace", kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", REPLACED)
def test_twenty_recycled_workers_leave_nothing_behind(kind: str, farm: Farm, primary: Node) -> None:
    nothing_is_left(stories.replace(farm, primary, kind, 20, *REPLACED[kind]))
