"""A function that supplies credentials: asked once, kept for a while, and never shown."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from django_poolkit.pools import credentials
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.credentials import Answer, Credentials, resolved
from django_poolkit.pools.errors import CredentialsError, PoolConfigError
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call

SECRET = "hunter2"
PLACE = {"host": "db", "port": 5432, "user": "shop", "dbname": "shop", "password": "old"}


class Clock:
    """A clock that stands until it is told to go on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(credentials, "monotonic", clock)
    return clock


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a hanging function waits for; open in the end, so that no thread is left."""
    gate = threading.Event()
    yield gate
    gate.set()


def supplied_in_this_module() -> str:
    return SECRET


def supplied_for(place: Any) -> dict[str, str]:
    return {"password": f"{SECRET}@{place['host']}:{place['port']}", "user": place["user"].upper()}


NOT_A_FUNCTION = SECRET


def counted(*answers: Any) -> tuple[Callable[[], Any], list[int]]:
    """Return a function that answers in turn, the last for ever, and the calls it has had."""
    calls: list[int] = []

    def supply() -> Any:
        calls.append(threading.get_ident())
        return answers[min(len(calls), len(answers)) - 1]

    return supply, calls


def get(source: Credentials, timeout: float = 10.0) -> Any:
    return source.get(PLACE, timeout).params


def test_an_answer_is_kept_for_its_time(clock: Clock) -> None:
    supply, calls = counted("one", "two")
    source = Credentials(supply, ttl=60.0)
    assert get(source) == get(source) == {"password": "one"}
    clock.now += 59.9
    get(source)
    assert len(calls) == 1
    clock.now += 0.2
    assert get(source) == {"password": "two"}
    assert len(calls) == 2


def test_an_answer_may_say_who_and_for_how_long(clock: Clock) -> None:
    supply, calls = counted({"user": "v-1", "password": "a", "ttl": 5}, {"password": "b"})
    source = Credentials(supply, ttl=60.0)
    assert get(source) == {"user": "v-1", "password": "a"}
    clock.now += 5.1
    assert get(source) == {"password": "b"}
    clock.now += 59.0
    get(source)
    assert len(calls) == 2


def test_a_time_of_nothing_is_for_those_who_wait(clock: Clock) -> None:
    supply, _ = counted("one", "two")
    source = Credentials(supply, ttl=0.0)
    assert [get(source), get(source)] == [{"password": "one"}, {"password": "two"}]


def test_it_is_called_in_no_thread_of_the_caller() -> None:
    supply, calls = counted(SECRET)
    get(Credentials(supply))
    assert calls != [threading.get_ident()]


def test_who_wants_to_know_where_is_told_without_the_password() -> None:
    seen: list[dict[str, Any]] = []

    def supply(place: Any) -> str:
        seen.append(dict(place))
        with pytest.raises(TypeError):
            place["host"] = "elsewhere"
        return SECRET

    Credentials(supply).get({**PLACE, "context": object(), "hostaddr": None}, 5.0)
    assert seen == [{"host": "db", "port": "5432", "user": "shop", "dbname": "shop"}]


@pytest.mark.parametrize("separator", [".", ":"])
def test_a_function_may_be_named_by_its_path(separator: str) -> None:
    assert get(Credentials(f"{__name__}{separator}supplied_in_this_module")) == {"password": SECRET}
    named = Credentials(f"{__name__}{separator}supplied_for")
    assert get(named) == {"password": "hunter2@db:5432", "user": "SHOP"}


@pytest.mark.parametrize("count", [8])
def test_several_at_once_call_once(gate: threading.Event, count: int) -> None:
    calls: list[int] = []

    def supply() -> str:
        calls.append(1)
        gate.wait(30.0)
        return SECRET

    source = Credentials(supply)
    waiting = [Call(get, source) for _ in range(count)]
    wait_until(lambda: calls)
    gate.set()
    assert [call.result() for call in waiting] == [{"password": SECRET}] * count
    assert calls == [1]


def test_one_that_hangs_is_waited_for_no_longer_than_allowed(gate: threading.Event) -> None:
    calls: list[int] = []

    def supply() -> str:
        calls.append(1)
        gate.wait(30.0)
        return SECRET

    source = Credentials(supply, origin="PASSWORD")
    for _ in range(3):
        with pytest.raises(CredentialsError, match=r"PASSWORD has given nothing for \d+\.\d s"):
            get(source, timeout=0.1)
    assert calls == [1], "the call under way was not waited for"
    gate.set()
    # It was late, not lost.
    assert get(source) == {"password": SECRET}
    assert calls == [1]


def test_one_that_never_comes_back_is_given_up(clock: Clock, gate: threading.Event) -> None:
    calls: list[int] = []

    def supply() -> str:
        calls.append(1)
        if len(calls) == 1:
            gate.wait(30.0)
        return f"{SECRET} {len(calls)}"

    source = Credentials(supply)
    with pytest.raises(CredentialsError):
        get(source, timeout=0.0)
    wait_until(lambda: calls)
    clock.now += 61.0
    assert get(source) == {"password": "hunter2 2"}


def test_what_is_refused_is_asked_for_again_once_in_a_while(clock: Clock) -> None:
    supply, calls = counted("old", "new", "newer")
    source = Credentials(supply)
    answer = source.get(PLACE, 5.0)
    assert source.refused(answer)
    assert source.refused(answer), "who comes second is to have what the first has asked for"
    new = source.get(PLACE, 5.0)
    assert new.params == {"password": "new"}
    assert not source.refused(new), "it was asked for just now"
    assert get(source) == {"password": "new"}
    clock.now += 2.0
    assert source.refused(new)
    assert get(source) == {"password": "newer"}
    assert len(calls) == 3


def test_what_was_forgotten_meanwhile_is_not_kept(gate: threading.Event) -> None:
    calls: list[int] = []

    def supply() -> str:
        calls.append(1)
        if len(calls) == 1:
            gate.wait(30.0)
            return "old"
        return "new"

    source = Credentials(supply)
    early = Call(get, source)
    wait_until(lambda: calls)
    source.forget()
    assert get(source) == {"password": "new"}
    gate.set()
    assert early.result() == {"password": "old"}
    assert get(source) == {"password": "new"}


def test_what_it_raises_reaches_all_and_is_not_kept() -> None:
    answers: list[Any] = [LookupError(SECRET), SystemExit(SECRET), SECRET]

    def supply() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    source = Credentials(supply)
    for kind in (LookupError, SystemExit):
        with pytest.raises(kind):
            get(source)
    assert get(source) == {"password": SECRET}


async def a_coroutine() -> str:
    return SECRET


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "returned NoneType, not a password as a str"),
        ("", "returned an empty text, not a password"),
        (b"hunter2", "returned bytes, not a password"),
        ({}, "returned NoneType as 'password'"),
        ({"password": None}, "returned NoneType as 'password'"),
        ({"password": SECRET, "user": 7}, "returned int as 'user', not a user as a str"),
        ({"password": SECRET, "ttl": "9"}, "returned str as 'ttl', not seconds"),
        ({"password": SECRET, "ttl": float("nan")}, "returned float as 'ttl', not seconds"),
        ({"password": SECRET, SECRET: 1}, "returned 1 entries beside 'password', 'user', 'ttl'"),
        (a_coroutine, "returned a coroutine: it must be a plain function"),
    ],
)
def test_what_is_no_password_is_refused(answer: Any, said: str) -> None:
    supply = answer if callable(answer) else lambda: answer
    with pytest.raises(CredentialsError) as caught:
        get(Credentials(supply, origin="DATABASES['default']['PASSWORD']"))
    assert str(caught.value).startswith(f"DATABASES['default']['PASSWORD'] {said}")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no_such_package.password", "cannot be imported (ModuleNotFoundError)"),
        (f"{__name__}.no_such_function", "cannot be imported (AttributeError)"),
        (f"{__name__}.NOT_A_FUNCTION", "is no function"),
    ],
)
def test_a_path_that_leads_nowhere_is_told(path: str, said: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        get(Credentials(path, origin="here"))
    assert str(caught.value) == f"here: {path!r} {said}"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "must be a function, or a dotted path"),
        ("hunter2", "must be a function or its dotted path"),
        ("hunter2!.x", "must be a function or its dotted path"),
        (lambda a, b: "", "must be a function of no argument, or of one"),
        (lambda *, key: "", "must be a function of no argument, or of one"),
    ],
)
def test_an_option_that_cannot_supply_anything_is_refused(value: Any, said: str) -> None:
    with pytest.raises(PoolConfigError) as caught:
        PoolConfig.from_options({"credentials": value}, path="pool")
    assert str(caught.value).startswith(f"pool['credentials'] {said}")
    assert SECRET not in str(caught.value)


def test_defaults_and_c_functions_want_no_argument() -> None:
    for source in (lambda a=1: a, lambda *args, **kwargs: 1, dict, partial(supplied_for, PLACE)):
        PoolConfig(credentials=source)


def test_nothing_of_it_is_shown() -> None:
    source = Credentials(partial(str, SECRET))
    answer = source.get(PLACE, 5.0)
    config = PoolConfig(credentials=partial(str, SECRET))
    assert answer.params == {"password": SECRET}
    assert SECRET not in f"{source!r} {answer!r} {config!r} {answer} {[answer]}"


def test_answers_compare_by_what_they_are() -> None:
    one = Answer({"password": SECRET}, 1.0)
    assert one == Answer({"password": SECRET}, 5.0)
    assert one != Answer({"password": SECRET, "user": "x"}, 1.0)
    assert one != SECRET


def test_beside_all_pools_it_is_asked_each_time() -> None:
    supply, calls = counted({"password": "a", "user": "u"}, "b")
    assert resolved({"host": "db", "password": supply}) == {
        "host": "db", "password": "a", "user": "u",
    }  # fmt: skip
    assert resolved({"host": "db", "password": supply})["password"] == "b"
    assert resolved({"host": "db", "password": SECRET}) == {"host": "db", "password": SECRET}
    assert len(calls) == 2


def test_a_forked_child_asks_for_itself(gate: threading.Event) -> None:
    began = threading.Event()
    parent = os.getpid()

    def supply() -> str:
        if os.getpid() == parent:
            began.set()
            gate.wait(30.0)
        return SECRET

    source = Credentials(supply)
    early = Call(get, source)
    assert began.wait(10.0)
    with source._lock:  # as if another thread of the parent were inside
        child = os.fork()
        if not child:
            try:
                found = get(source, timeout=10.0)
                os._exit(0 if found == {"password": SECRET} else 1)
            finally:
                os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    gate.set()
    assert early.result() == {"password": SECRET}
