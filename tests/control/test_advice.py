"""What is advised, from the answers of processes that the tests make up."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from django.test import override_settings

from django_poolkit.control import advising, supposed
from django_poolkit.control.advice import CHANGE, FINE, NOTHING, Advice, advise
from django_poolkit.control.collect import NO_PROCESS, Problem, Report
from django_poolkit.control.measured import FEWEST, GIVEN, LATELY, SINCE_START, measure
from django_poolkit.control.servers import Server, Share
from django_poolkit.control.supposed import AdviceError, Question
from django_poolkit.control.tables import draw
from django_poolkit.pools import queueing
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.sizing import rules
from tests.control.statuses import histogram, lease, pool, status


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have few callers simulated: here it is not the model that is looked at."""
    monkeypatch.setattr(queueing, "LEAST", 4_000)
    monkeypatch.setattr(queueing, "MOST", 8_000)


def process(
    pid: int = 1,
    *,
    rate: float = 100.0,
    size: int = 8,
    leases: int = 6000,
    age: float = 60.0,
    command: str = "gunicorn",
    waits: dict[str, int] | None = None,
    held: list[float] | None = None,
    **values: Any,
) -> dict[str, Any]:
    """A process whose leases of the last minute lasted for 10 to 50 ms, 20 ms on average."""
    use = histogram(ms25=leases // 2, ms50=leases - leases // 2)
    facts = pool(acquired=leases, max_size=size, use=use, wait=histogram(**waits or {}), **values)
    facts["use"]["sum"] = facts["recent"]["use"]["sum"] = 0.02 * leases
    facts["recent"]["asked"] = [[55.0, rate], [5.0, rate]]
    found = [lease(key, seconds=seconds) for key, seconds in enumerate(held or ())]
    return status(pid, facts, command=command, age=age, leases=found)


def server(*shares: Share, most: int | None = 100) -> Server:
    reached: dict[str, Any] = {"max_connections": most, "reserved": 3, "connections": 9}
    errors = {} if most else {"default": "refused"}
    return Server(
        aliases=("default",), errors=errors, may_open=20, shares=shares, **(reached if most else {})
    )


def ask(
    *processes: dict[str, Any],
    question: Question | None = None,
    servers: tuple[Server, ...] | None = None,
    problems: tuple[Problem, ...] = (),
    aliases: tuple[str, ...] = (),
) -> Advice:
    report = Report(
        time=1_700_000_000.0,
        processes=processes,
        totals=(),
        servers=(server(),) if servers is None else servers,
        verdicts=(),
        problems=problems,
    )
    return advise(report, question or Question(), aliases)


def shown(advice: Advice) -> str:
    return draw(advising.tables(advice), color=False)


# -- what was measured


def test_the_last_minute_counts_with_its_stretches() -> None:
    [kind] = measure([process(rate=80.0)])
    assert (kind.source, kind.command, kind.pids, kind.max_size) == (LATELY, "gunicorn", (1,), 8)
    assert kind.load is not None
    assert kind.load.asked == ((55.0, 80.0), (5.0, 80.0))
    assert kind.load.use.mean == pytest.approx(0.02)
    assert kind.use_p99 == 0.05


def test_where_the_last_minute_is_quiet_the_whole_life_counts() -> None:
    quiet = process(age=600.0, timeouts=60)
    quiet["pools"][0]["recent"]["use"]["counts"] = list(histogram(ms25=FEWEST - 1).counts)
    [kind] = measure([quiet])
    assert kind.source == SINCE_START
    assert kind.load is not None
    assert kind.load.asked == ((600.0, (6000 + 60) / 600.0),)  # in vain is asked for as well


def test_the_whole_life_can_be_asked_for() -> None:
    [kind] = measure([process(age=1200.0)], since_start=True)
    assert (kind.source, kind.average) == (SINCE_START, 5.0)


def test_of_too_few_leases_nothing_is_told() -> None:
    [kind] = measure([process(leases=FEWEST - 1)])
    assert kind.load is None


def test_who_did_not_queue_is_among_the_waits() -> None:
    seen = process(waited=60, waits={"ms100": 60})
    [kind] = measure([seen], since_start=True)
    assert kind.waits is not None
    assert kind.waits.count == 6000
    assert kind.waits.queued == pytest.approx(0.01)
    assert (kind.waits.p50, kind.waits.p99) == (0.0005, 0.0005)


def test_processes_of_one_command_are_one_kind_and_the_busiest_is_what_counts() -> None:
    web, tasks = measure(
        [process(1, rate=20.0), process(2, rate=60.0), process(3, rate=1.0, command="celery")]
    )
    assert (web.pids, tasks.command) == ((1, 2), "celery")
    assert web.load is not None
    assert (web.load.rate, web.average) == (60.0, 40.0)


def test_leases_older_than_what_was_looked_at_are_held() -> None:
    [kind] = measure([process(held=[1.0, 59.0, 61.0, 9000.0])])
    assert kind.load is not None
    assert kind.load.held == 2


def test_only_pools_of_postgresql_are_advised_on() -> None:
    assert measure([status(1, pool(kind="http"), pool(kind="asyncpg"), leases=[])]) == []


# -- what is advised


def test_a_pool_that_keeps_the_target_fits() -> None:
    found = ask(process(rate=100.0, size=5))
    [one] = found.pools
    assert (one.word, found.exit_code) == ("fits", FINE)
    assert one.now is not None
    assert one.now.p99 <= 0.05
    assert one.bears_now >= 1.0


def test_a_pool_that_misses_it_is_too_small() -> None:
    found = ask(process(rate=100.0, size=2))
    [one] = found.pools
    assert (one.word, found.exit_code) == ("small", CHANGE)
    assert one.advised is not None
    [then] = [each for each in one.predictions if each.size == one.advised]
    assert one.now is not None
    assert then.p99 <= 0.05 < one.now.p99
    assert one.bears_now < 1.0 <= one.bears_then
    assert f"max_size 2 is too small: write {one.advised}" in shown(found)


def test_a_pool_that_is_far_larger_is_no_fault() -> None:
    found = ask(process(rate=100.0, size=60))
    assert (found.pools[0].word, found.exit_code) == ("large", FINE)
    assert "would do" in shown(found)


def test_one_that_is_larger_than_need_be_is_where_its_server_has_too_little() -> None:
    both = process(1, size=60), process(2, size=60)
    found = ask(*both)
    [place] = found.servers
    assert (found.pools[0].word, place.over, found.exit_code) == ("large", True, CHANGE)
    assert place.plan is not None
    assert place.plan.word == "fits"  # with the advised size
    text = shown(found)
    assert "As they are, the pools may open 120, which do not fit." in text
    assert text.rstrip().endswith("a change is advised: default")
    # Of which nothing is known cannot be changed; the others make room for it.
    unknown = process(3, size=100, leases=3, command="celery")
    assert ask(both[0], unknown).changed == ["default"]


def test_a_pool_that_no_size_helps() -> None:
    found = ask(process(rate=100_000.0))
    assert (found.pools[0].word, found.exit_code) == ("too_much", CHANGE)
    assert "Not even 1000 connections keep the target" in shown(found)


def test_the_present_size_is_always_among_those_shown() -> None:
    for size in (1, 4, 500):
        sizes = [each.size for each in ask(process(size=size)).pools[0].predictions]
        assert size in sizes
        assert sizes == sorted(sizes)
        assert len(sizes) <= 9


def test_a_harder_target_takes_more_connections() -> None:
    soft, hard = (
        ask(process(), question=Question(target=target)).pools[0].advised for target in (0.1, 0.001)
    )
    assert soft is not None
    assert hard is not None
    assert soft < hard


def test_what_the_model_does_not_explain_is_said() -> None:
    slow = process(rate=50.0, waits={"ms500": 6000}, waited=6000)
    slow["pools"][0]["recent"]["wait"] = slow["pools"][0]["recent"]["wait"] | {
        "counts": list(histogram(ms500=6000).counts)
    }
    text = shown(ask(slow))
    assert "p99 up to 500 ms" in text
    assert "That is more than the model explains" in text
    assert "more than the model explains" not in shown(ask(process(rate=50.0)))


def test_what_the_model_fears_and_nobody_waited_is_said() -> None:
    # As visitors are who ask for their next page when they have the one before.
    few = process(rate=95.0, size=2, waits={"ms5": 60}, waited=60)
    assert "far less than the model expects" in shown(ask(few))
    with_threads = shown(ask(few, question=Question(threads=3)))
    assert "far less than the model expects" not in with_threads
    assert "far less than the model expects" not in shown(ask(process(rate=50.0)))


def test_connections_that_are_held_are_told() -> None:
    found = ask(process(held=[100.0, 100.0, 100.0]))
    assert "3 connections are held all the time" in shown(found)
    free = ask(process()).pools[0].advised
    assert free is not None
    assert found.pools[0].advised == free + 3


# -- what if


def test_twice_the_load_takes_more() -> None:
    once, twice = (
        ask(process(rate=200.0), question=Question(times=times)).pools[0] for times in (1.0, 2.0)
    )
    assert once.load is not None
    assert twice.load is not None
    assert twice.load.rate == pytest.approx(2 * once.load.rate)
    assert once.advised is not None
    assert twice.advised is not None
    assert twice.advised > once.advised
    assert (once.comparable, twice.comparable) == (True, False)


def test_more_workers_share_what_is_measured_on_each_host() -> None:
    question = Question(workers=8, hosts=3)
    [one] = ask(process(1, rate=60.0), process(2, rate=20.0), question=question).pools
    assert one.processes == 24
    assert one.load is not None
    assert one.load.rate == pytest.approx(10.0)


def test_a_rate_of_requests_is_that_of_all_processes() -> None:
    question = Question(requests_per_second=600.0, workers=3, hosts=2)
    [one] = ask(process(rate=5.0), question=question).pools
    assert one.load is not None
    assert (one.load.rate, one.kind.source) == (100.0, GIVEN)
    assert one.load.use.mean == pytest.approx(0.02)  # as measured


def test_before_anything_runs_a_load_can_be_supposed() -> None:
    gone = Problem(code=NO_PROCESS, text="No live process was found.")
    question = Question(requests_per_second=100.0, use=0.02, workers=4)
    found = ask(question=question, problems=(gone,))
    assert found.exit_code == FINE
    assert "No live process" not in shown(found)
    assert "Supposed, by each process" in shown(found)


def test_without_a_process_and_without_a_supposition_there_is_nothing_to_say() -> None:
    gone = Problem(code=NO_PROCESS, text="No live process was found.\nLooked there.")
    found = ask(problems=(gone,))
    assert found.exit_code == NOTHING
    assert "No live process was found.\n  Looked there.\n  To plan before anything runs" in shown(
        found
    )


def test_before_anything_is_measured_there_is_nothing_to_say() -> None:
    found = ask(process(leases=3))
    assert found.exit_code == NOTHING
    text = shown(found)
    assert "Nothing is measured yet: no kind of processes has had 100 leases" in text
    assert "Pool default of gunicorn: too few leases" in text


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question(requests_per_second=5.0), "say by --use-seconds"),
        (Question(use=0.02), "say by --requests-per-second"),
    ],
)
def test_half_a_supposition_is_refused(question: Question, said: str) -> None:
    with pytest.raises(AdviceError, match=said):
        ask(question=question)


def test_in_transaction_mode_a_request_may_lease_often() -> None:
    seen, question = process(mode="transaction"), Question(requests_per_second=10.0)
    with pytest.raises(AdviceError, match="say by --leases-per-request"):
        ask(seen, question=question)
    question = Question(requests_per_second=10.0, leases_per_request=7.0)
    [one] = ask(seen, question=question).pools
    assert one.load is not None
    assert one.load.rate == 70.0


def test_a_supposition_is_about_one_kind_of_processes() -> None:
    both = process(1), process(2, command="celery")
    with pytest.raises(AdviceError, match="'default' in 'gunicorn', 'default' in 'celery'"):
        ask(*both, question=Question(workers=2))
    [one] = ask(*both, question=Question(workers=2, command="celery")).pools
    assert (one.kind.command, one.processes) == ("celery", 2)


def test_one_that_hardly_does_anything_is_in_nobodys_way() -> None:
    [one] = ask(
        process(1), process(2, command="shell", leases=2), question=Question(workers=2)
    ).pools
    assert one.kind.command == "gunicorn"


def test_without_an_alias_it_cannot_be_told_which_is_meant(monkeypatch: Any) -> None:
    monkeypatch.setattr(supposed, "pooled_aliases", lambda: ["default", "other"])
    question = Question(requests_per_second=5.0, use=0.02)
    with pytest.raises(AdviceError, match="say by --database"):
        ask(question=question)
    assert ask(question=question, aliases=("default",)).pools[0].kind.pool == "default"


# -- the server


def test_the_budget_counts_who_is_there() -> None:
    others = Share(whose="others", connections=4), Share(whose="here", connections=2)
    mine = Share(whose="process", connections=8, may_open=8)
    elsewhere = Share(whose="elsewhere", connections=10, hosts=1)
    shares = (*others, mine, elsewhere)
    [one] = ask(process(), servers=(server(*shares),)).servers
    assert one.budget is not None
    assert (one.budget.others, one.budget.room) == (16, 100 - 3 - 16 - 5)
    # The other hosts are among those that are planned with.
    [planned] = ask(
        process(), servers=(server(*shares),), question=Question(hosts=2, spare=1)
    ).servers
    assert planned.budget is not None
    assert (planned.budget.others, planned.budget.room) == (6, 100 - 3 - 6 - 1)


def test_pools_that_nothing_is_advised_on_are_in_the_budget_all_the_same() -> None:
    both = process(1, size=8), process(2, size=30, leases=3, command="celery")
    [one] = ask(*both, question=Question(command="gunicorn")).servers
    assert one.now == 38
    assert one.plan is not None
    assert 30 < one.plan.needed <= 38


def test_five_hundred_workers_are_told_of_pgbouncer() -> None:
    found = ask(process(rate=1000.0, size=60), question=Question(workers=500))
    assert found.exit_code == CHANGE
    text = shown(found)
    assert "never get a connection" in text
    assert "default_pool_size = " in text
    assert "pool_mode = transaction" in text


def test_what_fits_is_told_when_it_is_time_for_pgbouncer() -> None:
    found = ask(process(rate=100.0, size=5))
    plan = found.servers[0].plan
    assert plan is not None
    assert plan.beyond is not None
    text = shown(found)
    assert f"So do up to {plan.hosts_that_fit} hosts with as much to do. From one more on" in text
    assert f"default_pool_size = {plan.beyond.pool_size}" in text
    assert "and in OPTIONS['pool']: 'pooler': 'pgbouncer-transaction'" in text
    document = found.as_dict()["servers"][0]["plan"]
    assert document["beyond"]["settings"] == plan.beyond.settings
    assert document["pooler"] is None
    # With all that fit, and with one more.
    hosts = plan.hosts_that_fit
    most, more = (ask(process(rate=100.0, size=5), question=Question(hosts=n))
                  for n in (hosts, hosts + 1))  # fmt: skip
    words = [each.servers[0].plan and each.servers[0].plan.word for each in (most, more)]
    assert words == ["fits", "pooler"]
    assert f"Of the {hosts + 1} hosts {hosts} would." in shown(more)


def test_where_no_pooler_will_do_that_is_told_before() -> None:
    text = shown(ask(process(rate=2500.0, size=60)))
    assert "So do up to 1 host with as much to do. One more is more work than connections." in text


def test_of_several_aliases_it_is_told_what_pgbouncer_counts() -> None:
    seen = process(rate=100.0, size=5, aliases=["default", "other"])
    both = Server(
        aliases=("default", "other"), errors={}, may_open=20, shares=(), max_connections=100,
        reserved=3, connections=9,
    )  # fmt: skip
    assert "counts for each database and role" in shown(ask(seen, servers=(both,)))
    assert "counts for each database and role" not in shown(ask(seen))


def test_asyncpg_pools_come_with_each_host() -> None:
    seen = process(rate=100.0, size=5)
    seen["pools"].append({**seen["pools"][0], "kind": "asyncpg", "max_size": 20})
    [one] = ask(seen, question=Question(hosts=2)).servers
    assert one.budget is not None
    assert (one.budget.others, one.budget.beside) == (40, 20)


def test_more_connections_can_be_supposed() -> None:
    question = Question(workers=500, max_connections=2000)
    found = ask(process(rate=1000.0), question=question)
    assert (found.servers[0].plan or pytest.fail("no plan")).word == "fits"


def test_a_server_that_is_not_reached_leaves_its_budget_open() -> None:
    found = ask(process(), servers=(server(most=None),))
    assert found.servers[0].budget is None
    assert found.exit_code == FINE
    assert "its budget is not known (refused); --max-connections supposes one" in shown(found)


def test_what_else_is_wrong_is_passed_on() -> None:
    silent = Problem(code=1, pid=7, text="does not answer: no answer within 3 s")
    assert "pid 7: does not answer" in shown(ask(process(), problems=(silent,)))


# -- as text, and as a document


def test_the_chart_doubles_with_each_mark_and_shows_the_target() -> None:
    bar = advising._bar
    assert bar(0.0, 0.05, 5.0) == "         |"
    assert bar(0.0002, 0.05, 5.0) == "#        |"
    assert bar(0.0004, 0.05, 5.0) == "##       |"
    assert bar(5.0, 0.05, 5.0) == "#########|#######"
    assert bar(0.001, 0.0, 5.0) == "|###"


def test_published_rules_are_shown_beside() -> None:
    text = draw(advising.tables(ask(process()), rules(8)), color=False)
    assert "8 * 2 + 1" in text
    assert "they know nothing of your load" in text


def test_the_document_has_everything_and_no_more_than_json() -> None:
    found = ask(process(rate=1000.0, size=60), question=Question(workers=500))
    document = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (document["version"], document["status"], document["exit_code"]) == (1, "change", 1)
    [one], [place] = document["pools"], document["servers"]
    assert one["load"]["offered"] == pytest.approx(one["load"]["rate"] * one["load"]["use_mean"])
    assert one["kind"]["pool"] == "default"
    assert {"size", "p50", "p99", "timeouts"} <= set(one["predictions"][0])
    assert (place["budget"]["usable"], place["budget"]["room"]) == (97, 92)
    assert place["plan"]["pooler"]["settings"]["pool_mode"] == "transaction"


@override_settings(POOLKIT={})
def test_the_timeout_is_the_one_that_is_set() -> None:
    assert ask(process()).pools[0].timeout == supposed.config_of("default").timeout
    assert supposed.config_of("nowhere/host").timeout == 5.0


def test_of_callers_who_wait_for_ever_there_is_advice_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endless = PoolConfig(timeout=math.inf)
    monkeypatch.setattr(supposed, "config_of", lambda alias: endless)
    busy = process(rate=1000.0, size=60, held=[61.0, 9000.0])
    found = ask(busy, question=Question(workers=500))
    document = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert document["pools"][0]["timeout"] == 86_400.0
    small = ask(process(size=2, held=[61.0, 9000.0]))  # all are held: who comes waits in vain
    json.dumps(small.as_dict(), allow_nan=False)
    assert small.pools[0].word == "small"
