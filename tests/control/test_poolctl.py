"""`manage.py poolctl` against servers whose pools are made up: what it asks, waits for and says.

The last test has a real pool, and `tests/servers` real servers.
"""

from __future__ import annotations

import ast
import json
import os
import re
import threading
import time
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError, connection, connections, transaction
from django.test import override_settings

from django_poolkit import connection_pools, registry
from django_poolkit.conf import control as conf
from django_poolkit.conf.control import control_config
from django_poolkit.control import (
    answers,
    client,
    conversation,
    orders,
    protocol,
    server,
    steer,
    visits,
)
from django_poolkit.control.answers import HANDLERS
from django_poolkit.control.client import ask_all
from django_poolkit.control.orders import Order
from django_poolkit.control.steer import LeaseId
from django_poolkit.management.commands import poolctl
from django_poolkit.management.commands.poolctl import Command
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call

ROOT = Path(__file__).parents[2]


class Worker:
    """A process with pools that do as they are told, except what a test makes them do."""

    def __init__(self, pid, **pools):
        self.pid = pid
        self.pools: dict[str, dict[str, Any]] = {}
        self.leases: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.draining = False
        self.seen: Any = None
        self.look = lambda: None
        for name, state in (pools or {"default": "open"}).items():
            self.pools[name] = {
                "name": name, "aliases": [name], "state": state, "pause_left": 0.0, "min_size": 0,
                "max_size": 4, "size": 0, "idle": 0, "connecting": 0, "waiters": 0,
            }  # fmt: skip

    def lease(self, key, pool="default", **facts):
        lease = {
            "id": f"{self.pid}/{pool}/{key}", "pool": pool, "key": key, "seconds": 83.0,
            "thread": "worker-3", "where": "GET shop.views.cart", "statement": "UPDATE",
            "status": "intrans", "pinned": None, "backend_pid": 99, "stack": [],
        }  # fmt: skip
        self.leases.append(lease | facts)
        return lease["id"]

    def names(self, arguments):
        wanted = arguments.get("databases")
        return [name for name in self.pools if wanted is None or name in wanted]

    def answer(self, arguments):
        pools = []
        for name in self.names(arguments):
            used = sum(lease["pool"] == name for lease in self.leases)
            pools.append({**self.pools[name], "used": used, "size": max(used, self.size(name))})
        return {"pid": self.pid, "draining": self.draining, "pools": pools}

    def size(self, name):
        return self.pools[name]["size"]

    def handlers(self):
        def order(name, act):
            def handle(arguments):
                self.asked.append((name, dict(arguments)))
                self.seen = self.look()
                act(arguments)
                answer = self.answer(arguments)
                return answer | ({"leases": self.leases} if name == "status" else {})

            return handle

        def state(word):
            return lambda arguments: [
                self.pools[name].update(state=word) for name in self.names(arguments)
            ]

        def resize(arguments):
            for name in self.names(arguments):
                sizes = {k: v for k, v in arguments.items() if k.endswith("_size")}
                self.pools[name].update(sizes)

        def kill(arguments):
            self.leases = [each for each in self.leases if each["key"] != arguments["key"]]

        acts = {
            "status": lambda arguments: None,
            "pause": state("paused"),
            "resume": state("open"),
            "recycle": lambda arguments: None,
            "resize": resize,
            "drain": lambda arguments: setattr(self, "draining", True),
            "undrain": lambda arguments: setattr(self, "draining", False),
            "kill_lease": kill,
        }
        return {name: order(name, act) for name, act in acts.items()}

    def times(self, command):
        return sum(name == command for name, _ in self.asked)


STEERING = {"pause", "resume", "recycle", "resize", "drain", "undrain", "kill_lease"}


@pytest.fixture
def live(serve, settings, place):
    """Return a function that has workers serve; `poolctl` looks for them where they are."""
    settings.POOLKIT = {"CONTROL": {"DIRECTORY": str(place), "STEERING": True}}

    def start(*workers, **changes):
        for worker in workers:
            serve(worker.handlers(), steers=STEERING, pid=worker.pid, **changes)
        return workers

    return start


def ctl(*arguments):
    """Run the command; return its exit code, what it printed, and its error."""
    out = StringIO()
    try:
        call_command("poolctl", *arguments, stdout=out)
    except CommandError as error:
        return error.returncode, out.getvalue(), str(error)
    return 0, out.getvalue(), ""


# -- pause


def test_a_pause_reaches_every_pool_and_says_so(live, config):
    one, two = live(Worker(20), Worker(300, default="open", other="open"))
    two.pools["default"]["waiters"] = 7
    code, text, error = ctl("pause", "--all")
    assert (code, error) == (0, "")
    for worker in (one, two):
        command, arguments = worker.asked[0]
        assert (command, arguments["seconds"]) == ("pause", 60.0)
        assert 50 < arguments["until"] - time.time() <= 60
    rows = [line.split() for line in text.splitlines() if "paused" in line]
    assert rows == [
        ["20", "default", "paused", "0", "4", "0", "0", "0", "0"],
        ["300", "default", "paused", "0", "4", "0", "0", "0", "7"],
        ["300", "other", "paused", "0", "4", "0", "0", "0", "0"],
    ]
    assert re.search(r"ends by itself at \d\d:\d\d:\d\d \S+, in (60|59).* s; `resume` ends", text)
    assert 59 < orders.pause_left(config, ["default"]) <= 60


def test_a_pause_of_some_databases_leaves_the_others(live, config, monkeypatch):
    monkeypatch.setattr("django_poolkit.control.servers.pooled_aliases", lambda: ["default", "b"])
    [one] = live(Worker(20, default="open", b="open", c="open"))
    code, _, _ = ctl("pause", "--database", "default", "--database", "b", "--for", "90")
    assert code == 0
    command, arguments = one.asked[0]
    assert (command, arguments["seconds"]) == ("pause", 90.0)
    assert arguments["databases"] == ["default", "b"]
    assert one.asked[1][1]["databases"] == ["default", "b"]
    assert one.pools["c"]["state"] == "open"
    assert orders.pause_left(config, ["b"]) > 89
    assert orders.pause_left(config, ["c"]) == 0


def test_the_order_stands_before_anybody_is_asked(live, config):
    [one] = live(Worker(20))
    one.look = lambda: orders.pause_left(config, ["default"]) > 0
    ctl("pause", "--all")
    assert one.seen is True
    ctl("resume", "--all")
    assert one.seen is False


def test_a_pause_returns_when_nothing_is_leased_any_more(live):
    one, two = live(Worker(20), Worker(300))
    one.lease(1), two.lease(2), two.lease(3)
    call = Call(ctl, "pause", "--all")
    wait_until(lambda: two.times("status") > 1)
    one.leases.clear()
    two.leases.pop()
    seen = two.times("status")
    wait_until(lambda: two.times("status") > seen + 1)
    assert call.is_alive()
    two.leases.clear()
    code, text, _ = call.result()
    assert code == 0
    assert "worker-3" not in text


def test_a_connect_under_way_is_waited_for_too(live):
    [one] = live(Worker(20))
    one.pools["default"]["connecting"] = 1
    code, _, error = ctl("pause", "--all", "--wait", "0")
    assert (code, error) == (1, "not everywhere yet: see the table.")


def test_what_keeps_a_pause_waiting_is_listed(live, config):
    one, _ = live(Worker(20), Worker(300))
    one.lease(1)
    one.lease(2, seconds=0.5, pinned="listen", statement=None, where=None, thread="t\x1b[2J")
    started = time.monotonic()
    code, text, error = ctl("pause", "--all", "--wait", "0.2")
    assert 0.2 <= time.monotonic() - started < 5.0
    assert code == 1
    assert error.startswith("not yet: 2 leases left, which `kill-lease` would end. The pause ends")
    *_, first, second = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line]
    assert first == [
        "20/default/1", "83.0 s", "intrans", "UPDATE", "-", "worker-3", "GET shop.views.cart",
    ]  # fmt: skip
    assert second == ["20/default/2", "500 ms", "intrans", "-", "listen", "t?[2J", "-"]
    # They stay paused.
    assert one.pools["default"]["state"] == "paused"
    assert orders.pause_left(config, ["default"]) > 0


def test_nobody_waits_for_longer_than_the_pause(live):
    [one] = live(Worker(20))
    one.lease(1)
    started = time.monotonic()
    assert ctl("pause", "--all", "--for", "0.3", "--wait", "30")[0] == 1
    assert time.monotonic() - started < 5.0


def test_a_worker_born_meanwhile_is_waited_for_too(live):
    one, late = Worker(20), Worker(300, default="paused")
    live(one)
    one.lease(1)
    late.lease(2)
    call = Call(ctl, "pause", "--all")
    wait_until(lambda: one.times("status") > 1)
    live(late)
    one.leases.clear()
    wait_until(lambda: late.times("status") > 2)
    assert call.is_alive()
    late.leases.clear()
    code, text, _ = call.result()
    assert code == 0
    assert re.search(r"^300\s+default\s+paused", text, re.MULTILINE)


def test_a_worker_that_ends_meanwhile_is_not(live, serve):
    one, two = Worker(20), Worker(300)
    live(one)
    gone = serve(two.handlers(), steers=STEERING, pid=300)
    two.lease(1)
    call = Call(ctl, "pause", "--all")
    wait_until(lambda: two.times("status") > 0)
    gone.stop()
    assert call.result()[0] == 0


def test_one_that_does_not_answer_for_a_while_is_waited_for(live, monkeypatch):
    one, two = live(Worker(20), Worker(300))
    monkeypatch.setattr(steer, "ask_all", partial(ask_all, timeout=0.2))
    two.look = lambda: time.sleep(0.6) if two.times("status") == 1 else None
    code, _, error = ctl("pause", "--all")
    assert (code, error) == (0, "")
    assert one.times("status") > 1


def test_a_pool_that_somebody_resumed_is_no_success(live):
    [one] = live(Worker(20))
    one.lease(1)
    call = Call(ctl, "pause", "--all", "--wait", "1")
    wait_until(lambda: one.times("status") > 0)
    one.pools["default"]["state"] = "open"
    one.leases.clear()
    assert call.result()[0] == 1


def test_ctrl_c_ends_the_waiting_and_not_the_pause(live, monkeypatch):
    [one] = live(Worker(20))
    one.lease(1)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    code, text, _ = ctl("pause", "--all")
    assert code == 1
    assert "20/default/1" in text
    assert one.pools["default"]["state"] == "paused"


# -- who is there, and who may


def test_where_nobody_lives_it_says_so_and_leaves_no_order(live, config, place):
    live()
    place.mkdir(mode=0o700)
    for command in ("pause", "resume", "recycle", "drain"):
        code, text, error = ctl(command, "--all")
        assert (code, text) == (3, "")
        assert error.startswith(f"No live process was found. Looked in {place}")
    assert orders.standing(config) == []


def test_a_dead_process_is_none(live, serve, place):
    live(Worker(20))
    gone = serve(Worker(300).handlers(), pid=300)
    gone._unlink = lambda: None  # as one that was killed
    gone.stop()
    assert len(list(place.iterdir())) == 2
    code, text, _ = ctl("drain", "--all")
    assert (code, "300" in text) == (0, False)
    assert len(list(place.iterdir())) == 1


def test_one_that_refuses_makes_it_refused(live, config):
    one = Worker(20)
    live(one)
    live(Worker(300), steering=False)
    code, text, error = ctl("pause", "--all")
    assert code == 2
    assert error.startswith("refused by 1 of 2 processes (300): POOLKIT['CONTROL']['STEERING'] is")
    assert "300  refused" in text
    assert re.search(r"^20\s+default\s+paused", text, re.MULTILINE)
    # As the others are paused, so are those to come.
    assert orders.pause_left(config, ["default"]) > 0


@pytest.mark.parametrize("steering", [True, False])
def test_where_all_refuse_no_order_is_left(live, config, settings, place, steering):
    settings.POOLKIT = {"CONTROL": {"DIRECTORY": str(place), "STEERING": steering}}
    live(Worker(20), steering=False)
    settings.POOLKIT["CONTROL"]["STEERING"] = steering
    code, text, error = ctl("pause", "--all")
    assert code == 2
    assert "ends by itself" not in text
    assert "restart the process" in error
    assert orders.standing(config) == []


def test_who_may_not_steer_leaves_and_withdraws_no_order(live, config, settings):
    live(Worker(20))
    settings.POOLKIT["CONTROL"]["STEERING"] = False
    assert ctl("pause", "--all")[0] == 0  # the process allows it
    assert orders.standing(config) == []
    orders.post(config.directory, Order(databases=None, until=time.time() + 9, posted=0))
    assert ctl("resume", "--all")[0] == 0
    assert len(orders.standing(config)) == 1


def test_single_processes_are_asked_alone_and_without_an_order(live, config):
    one, two = live(Worker(20), Worker(300))
    assert ctl("pause", "--pid", "300")[0] == 0
    assert one.asked == []
    assert two.pools["default"]["state"] == "paused"
    assert orders.standing(config) == []
    orders.post(config.directory, Order(databases=None, until=time.time() + 9, posted=0))
    assert ctl("resume", "--pid", "300")[0] == 0
    assert len(orders.standing(config)) == 1


def test_a_process_that_was_named_and_is_not_there_is_missed(live):
    live(Worker(20))
    code, text, error = ctl("drain", "--pid", "20", "--pid", "7", "--pid", "5")
    assert (code, error) == (1, "there is no live process 5, 7: see poolstatus.")
    assert "draining" in text
    code, text, error = ctl("drain", "--pid", "7")
    assert (code, text, error) == (3, "", "there is no live process 7: see poolstatus.")


@pytest.fixture
def silent(live, monkeypatch):
    """Process 20, which answers, and 300, which does not until the test is over."""
    monkeypatch.setattr(steer, "ask_all", partial(ask_all, timeout=0.2))
    over = threading.Event()
    live(Worker(20), Worker(300))[1].look = over.wait
    yield
    over.set()


@pytest.mark.usefixtures("silent")
def test_one_that_does_not_answer_is_named():
    code, text, error = ctl("drain", "--all")
    assert (code, error) == (1, "no answer from 1 of 2 processes (300): no answer within 0.2 s.")
    assert "300  no answer" in text
    assert re.search(r"^20\s+draining", text, re.MULTILINE)


def test_an_order_that_cannot_be_left_stops_everything(live, place):
    [one] = live(Worker(20))
    place.chmod(0o755)
    code, _, error = ctl("pause", "--all")
    assert code == 2
    assert error.startswith("no standing order could be left, so nothing was done: ")
    assert one.asked == []


def test_one_that_fails_is_named(live, serve):
    def fail(arguments):
        raise LookupError("s3cret")

    live(Worker(20))
    serve({"drain": fail}, steers=STEERING, pid=300)
    code, text, error = ctl("drain", "--all")
    assert (code, error) == (1, "failed in 1 of 2 processes (300): LookupError.")
    assert "300  failed" in text


# -- the others


def test_resume_ends_the_pause_and_the_order(live, config, monkeypatch):
    monkeypatch.setattr("django_poolkit.control.servers.pooled_aliases", lambda: ["default"])
    one, two = live(Worker(20), Worker(300))
    ctl("pause", "--all")
    code, text, error = ctl("resume", "--database", "default")
    assert (code, error) == (0, "")
    assert {w.pools["default"]["state"] for w in (one, two)} == {"open"}
    assert text.count("open") == 2
    assert orders.pause_left(config, ["default"]) == 0
    assert orders.pause_left(config, ["other"]) > 0
    assert ctl("resume", "--all")[0] == 0
    assert orders.standing(config) == []


def test_recycle_returns_at_once_or_when_the_old_leases_are_home(live):
    [one] = live(Worker(20))
    one.lease(1)
    assert ctl("recycle", "--all")[0] == 0
    assert one.asked == [("recycle", {})]

    code, text, error = ctl("recycle", "--all", "--wait", "0.1")
    assert (code, error) == (1, "not yet: 1 lease left.")
    assert "20/default/1" in text

    call = Call(ctl, "recycle", "--all", "--wait", "30")
    seen = one.times("status")
    wait_until(lambda: one.times("status") > seen + 2)
    one.leases[:] = []
    one.lease(2)  # which has a new connection
    assert call.result()[0] == 0


def test_resize_takes_one_size_or_both(live):
    [one] = live(Worker(20))
    assert ctl("resize", "--all", "--max-size", "2")[0] == 0
    assert ctl("resize", "--all", "--max-size", "3", "--min-size", "1")[0] == 0
    assert ctl("resize", "--all", "--min-size", "0")[0] == 0
    assert one.asked == [
        ("resize", {"max_size": 2}), ("resize", {"max_size": 3, "min_size": 1}),
        ("resize", {"min_size": 0}),
    ]  # fmt: skip
    one.pools["default"]["size"] = 4
    assert ctl("resize", "--all", "--max-size", "2", "--wait", "0.1")[0] == 1
    call = Call(ctl, "resize", "--all", "--max-size", "2", "--wait", "30")
    seen = one.times("status")
    wait_until(lambda: one.times("status") > seen)
    one.pools["default"]["size"] = 2
    assert call.result()[0] == 0


def test_drain_and_undrain(live):
    one, two = live(Worker(20), Worker(300))
    code, text, _ = ctl("drain", "--pid", "20")
    assert (code, one.draining, two.draining) == (0, True, False)
    assert text.split() == ["drain", "PID", "STATE", "20", "draining"]
    code, text, _ = ctl("undrain", "--all")
    assert (code, one.draining) == (0, False)
    assert re.findall(r"(\d+)\s+ready", text) == ["20", "300"]


def test_kill_lease_waits_until_it_is_gone(live):
    one, two = live(Worker(20), Worker(300))
    kept, killed = one.lease(1), one.lease(2)
    assert ctl("kill-lease", killed)[0] == 0
    assert ("kill_lease", {"pool": "default", "key": 2}) in one.asked
    assert [lease["id"] for lease in one.leases] == [kept]
    assert two.asked == []


def test_kill_lease_says_what_is_still_there(live, serve):
    one = Worker(20)
    name = one.lease(1)
    handlers = one.handlers()
    serve({**handlers, "kill_lease": handlers["recycle"]}, steers=STEERING, pid=20)
    live()
    code, text, error = ctl("kill-lease", name, "--wait", "0.1")
    assert (code, error) == (1, "not yet: 1 lease left.")
    assert name in text


def test_kill_lease_of_one_that_is_not_there(live):
    [one] = live(Worker(20))
    name = one.lease(1)
    code, _, error = ctl("kill-lease", name, "20/default/7", "21/default/1")
    assert code == 1
    assert error == "there is no lease 20/default/7, 21/default/1: see poolstatus."
    assert one.leases == []
    assert ctl("kill-lease", "21/default/1")[0] == 3


@pytest.mark.usefixtures("silent")
def test_of_a_process_that_does_not_answer_no_lease_is_said_not_to_be_there():
    code, _, error = ctl("kill-lease", "300/default/1")
    assert (code, error) == (1, "no answer from 1 of 1 process (300): no answer within 0.2 s.")


def test_a_lease_that_ends_by_itself_meanwhile_is_gone_too(live, serve):
    from django_poolkit.control.protocol import BadArguments

    [one] = [Worker(20)]
    name = one.lease(1)

    def kill(arguments):
        one.leases.clear()
        raise BadArguments("there is no such lease: it has ended, or never was")

    serve({**one.handlers(), "kill_lease": kill}, steers=STEERING, pid=20)
    live()
    assert ctl("kill-lease", name)[0] == 0


def test_killing_is_refused_as_all_steering(live):
    one = Worker(20)
    live(one, steering=False)
    code, _, error = ctl("kill-lease", one.lease(1))
    assert (code, error[:26]) == (2, "refused by 1 of 1 process ")
    assert len(one.leases) == 1


def test_a_pool_may_have_a_slash_in_its_name():
    assert LeaseId.parse("20/default/eu-1/7") == LeaseId(20, "default/eu-1", 7)
    assert str(LeaseId(20, "default/eu-1", 7)) == "20/default/eu-1/7"


# -- words


def test_as_json_it_is_one_document(live):
    one, _ = live(Worker(20), Worker(300))
    live(Worker(4000), steering=False)
    name = one.lease(1)
    code, text, _ = ctl("pause", "--all", "--wait", "0", "--format", "json")
    found = json.loads(text)
    assert found["code"] == code == 2
    assert found["command"] == "pause"
    assert abs(found["until"] - time.time() - 60) < 10
    assert [lease["id"] for lease in found["holding"]] == [name]
    first, _, last = found["processes"]
    assert first["pools"][0]["state"] == "paused"
    assert "aliases" not in first["pools"][0]
    assert (first["pid"], first["uid"], first["error"]) == (20, os.geteuid(), None)
    assert (last["error"], last["pools"]) == ("refused", [])
    assert found["missing"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pause"], r"pause what\? Name it by --database or --pid or --all"),
        (["drain"], r"drain what\? Name it by --pid or --all"),
        (["drain", "--database", "default"], "drain does not take --database"),
        (["resume", "--all", "--wait", "3", "--for", "3"], "does not take --for, --wait"),
        (["pause", "--all", "--pid", "3"], "--all goes without"),
        (["pause", "--all", "--max-size", "3"], "does not take --max-size"),
        (["pause", "20/default/1", "--all"], "pause does not take a lease"),
        (["pause", "--all", "--for", "0"], "--for must be above 0 and at most 3600"),
        (["pause", "--all", "--for", "3601"], "--for must be above 0"),
        (["pause", "--all", "--for", "nan"], "--for.*0 or more"),
        (["pause", "--all", "--wait", "-1"], "--wait.*0 or more"),
        (["pause", "--all", "--wait", "inf"], "--wait.*0 or more"),
        (["pause", "--all", "--wait", "soon"], "--wait"),
        (["pause", "--database", "nope"], "'nope' is no pooled alias of DATABASES; these are: def"),
        (["resize", "--all"], r"resize to what\?"),
        (["pause", "--all", "--min-size", "0"], "does not take --min-size"),
        (["kill-lease"], r"which lease\?"),
        (["kill-lease", "--pid", "3", "3/default/1"], "does not take --pid"),
        (["kill-lease", "nonsense"], "'nonsense' is no lease; poolstatus --leases"),
        (["kill-lease", "3//1"], "is no lease"),
        (["kill-lease", "-3/default/1"], "-3/default/1"),
        (["stop", "--all"], "invalid choice"),
        (["pause", "--all", "--wait", "soon"], "--wait: must be seconds, 0 or more, not soon"),
        ([], "required: command$"),
    ],
)
def test_what_makes_no_sense_is_refused(live, arguments, message):
    [one] = live(Worker(20))
    with pytest.raises(CommandError, match=message):
        call_command("poolctl", *arguments)
    assert one.asked == []


def test_on_a_command_line_it_is_refused_with_2(live, capsys):
    live()
    for arguments in (["pause"], ["stop"], ["pause", "--database", "nope"]):
        with pytest.raises(SystemExit) as caught:
            Command().run_from_argv(["manage.py", "poolctl", *arguments])
        assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("where", [1, 2, 3, 4])
def test_a_lease_may_stand_anywhere(live, where):
    [one] = live(Worker(20))
    arguments = ["kill-lease", "--wait", "3", "--format", "json"]
    arguments.insert({1: 1, 2: 3, 3: 5, 4: 5}[where], one.lease(1))
    assert ctl(*arguments)[0] == 0


def test_the_help_teaches():
    text = Command().create_parser("manage.py", "poolctl").format_help()
    assert "examples:\n  manage.py poolctl pause " in text
    for code in range(4):
        assert re.search(rf"^  {code}  \w", text, re.MULTILINE)
    for command in ("pause", "resume", "recycle", "resize", "drain", "undrain", "kill-lease"):
        assert re.search(rf"^  {command} ", text, re.MULTILINE)
        assert f"poolctl {command} " in text or command == "undrain"


# -- a real pool, in this very process


@pytest.fixture
def own(place, settings, transactional_db):
    """This process serves its own pools, and `poolctl` finds them."""
    connections.close_all()
    registry.pools.close_all()
    server.stop()
    settings.POOLKIT = {"CONTROL": {"DIRECTORY": str(place), "STEERING": True}}
    yield
    connections.close_all()
    registry.pools.close_all()
    server.stop()


@pytest.mark.django_db(transaction=True, available_apps=["django_poolkit", "tests.app"])
@pytest.mark.usefixtures("own")
def test_an_open_block_keeps_a_pause_waiting_until_it_is_killed():
    with pytest.raises(OperationalError), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        code, text, _ = ctl("pause", "--database", "default", "--wait", "0.1")
        assert code == 1
        [name] = re.findall(rf"^({os.getpid()}/default/\d+) .* intrans  SELECT", text, re.MULTILINE)
        code, text, error = ctl("kill-lease", name, "--wait", "0.1")
        # Its owner has to notice first: this very thread.
        assert (code, error) == (1, "not yet: 1 lease left.")
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    connection.close()

    code, text, _ = ctl("pause", "--database", "default")
    assert (code, "paused" in text) == (0, True)
    late = Call(connection_pools["default"].acquire, 30.0)
    wait_until(lambda: connection_pools["default"].stats().waiters == 1)
    assert ctl("resume", "--database", "default")[0] == 0
    lease = late.result()
    assert ctl("recycle", "--all", "--wait", "0.1")[0] == 1
    lease.release()
    assert ctl("resize", "--all", "--max-size", "3", "--wait", "5")[0] == 0
    stats = connection_pools["default"].stats()
    assert (stats.max_size, stats.closed["recycled"] >= 1) == (3, True)


# -- the pages


def page(name):
    return (ROOT / "docs/reference" / name).read_text()


def cells(text, title, column=0):
    """The names in a column of the tables below a heading, or above the first one."""
    section = f"\n## \n{text}".split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [row.split(" | ") for row in re.findall(r"^\| (`.*) \|$", section, re.MULTILINE)]
    return [name for row in rows for name in re.findall(r"`([\w-]+)`", row[column])]


def test_poolctl_md_has_every_command_with_what_it_takes():
    parser = Command().create_parser("manage.py", "poolctl")
    names = cells(page("poolctl.md"), "Commands")
    commands = [name for name in names if not name.startswith("--")]
    assert set(commands) == set(poolctl._TAKES)
    options = {name for name in names if name.startswith("--")}
    djangos = {"--version", "--verbosity", "--settings", "--pythonpath", "--traceback", "--help"}
    djangos |= {"--no-color", "--force-color", "--skip-checks"}
    assert options == {o for o in parser._option_string_actions if o[:2] == "--"} - djangos

    for line in page("poolctl.md").splitlines():
        if match := re.match(r"\| (`--[^|]*) \| ([^|]*) \|", line):
            named = set(re.findall(r"`([\w-]+)`", match[2]))
            takers = named if not match[2].startswith("all") else set(commands) - named
            for option in re.findall(r"`--([\w-]+)`", match[1]):
                dest = option.replace("-", "_")
                if dest != "format":
                    assert takers == {c for c, t in poolctl._TAKES.items() if dest in t}, option


def test_poolctl_md_has_every_key_of_the_document(live):
    live(Worker(20))
    found = json.loads(ctl("drain", "--all", "--format", "json")[1])
    assert set(cells(page("poolctl.md"), "JSON")) == set(found)
    assert f"{poolctl._PAUSE:g} if not given, at most {orders.LONGEST:g}" in page("poolctl.md")
    waits = {name: f"{seconds:g}" for name, seconds in poolctl._WAIT.items()}
    assert f"{waits['pause']} for `pause`, {waits['kill-lease']} for" in page("poolctl.md")


def test_control_md_has_every_setting_with_its_default():
    text = page("control.md")
    found = dict(re.findall(r"^\| `([A-Z]+)` \| `(\w+)` \|", text, re.MULTILINE))
    assert set(found) == set(conf._KEYS)
    given = {key: ast.literal_eval(default) for key, default in found.items()}
    with override_settings(POOLKIT={"CONTROL": given}):
        chosen = control_config()
    with override_settings(POOLKIT={}):
        assert control_config() == chosen
    assert f"at most {conf._LONGEST_DIRECTORY} bytes" in text


def test_control_md_has_every_command_and_every_error():
    text = page("control.md")
    assert set(cells(text, "Protocol")) >= set(HANDLERS)
    source = "".join(path.read_text() for path in (ROOT / "django_poolkit/control").glob("*.py"))
    raised = set(re.findall(r'(?:ProtocolError|failure)\(\s*"(\w+)"', source))
    raised |= set(re.findall(r'__init__\("(\w+)", message\)', source))
    raised |= set(re.findall(r'answer\(error="(\w+)"', source)) - {"gone"}
    section = text.split("\n### Errors\n")[1]
    listed = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert listed | {"no_answer", "stranger"} == raised
    assert "`no_answer`" in section
    assert "`stranger`" in section


def test_control_md_has_every_bound():
    text = page("control.md")
    for bound in (
        f"at most {protocol.LONGEST_REQUEST // 1024} KiB",
        f"within {conversation.REQUEST_TIME:g} s",
        f"at most {protocol.LONGEST_REPLY // 1024**2} MiB",
        f"within {conversation.REPLY_TIME:g} s. {visits.MOST_CLIENTS} clients",
        f"a new one within {server.TICK:g} s",
        f"none came within {client.TIMEOUT:g} s",
    ):
        assert bound in text, bound
    assert f"above {answers.LARGEST}" in page("poolctl.md")
