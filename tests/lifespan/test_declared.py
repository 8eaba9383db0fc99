"""Resources of a project: what the decorator takes, and what it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, assert_type

import pytest
from django.test import override_settings

from django_poolkit import lifespan
from django_poolkit.lifespan import Declared
from tests.lifespan import named
from tests.lifespan.support import looped, span_of

pytestmark = pytest.mark.core


def opened(resource: Declared[Any]) -> Any:
    """Return what a resource is open as."""
    found: list[Any] = []

    @looped
    async def main() -> None:
        span = span_of()
        await span.open(resource)
        found.extend(span.values().values())
        await span.close(5.0)

    main()
    return found[0]


def test_a_generator_is_one_by_its_own_name() -> None:
    @lifespan.resource
    async def redis() -> AsyncIterator[str]:
        yield "value"

    assert (redis.name, redis.required, redis.start_timeout, redis.stop_timeout) == (
        "redis", True, None, None,
    )  # fmt: skip
    assert opened(redis) == "value"


def test_options_stand_in_parentheses() -> None:
    @lifespan.resource(name="cache", required=False, start_timeout=2, stop_timeout=0.5)
    async def redis() -> AsyncIterator[str]:
        yield "value"

    assert (redis.name, redis.required, redis.start_timeout, redis.stop_timeout) == (
        "cache", False, 2, 0.5,
    )  # fmt: skip


def test_a_function_that_returns_a_manager_is_one() -> None:
    @lifespan.resource
    @asynccontextmanager
    async def redis() -> AsyncIterator[str]:
        yield "value"

    assert redis.name == "redis"
    assert opened(redis) == "value"


def test_a_class_that_is_a_manager_is_one() -> None:
    class Redis:
        async def __aenter__(self) -> str:
            return "value"

        async def __aexit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            return None

    assert opened(lifespan.resource(name="redis")(Redis)) == "value"


async def coroutine() -> str:
    return "redis"


def generator() -> Iterator[str]:
    yield "redis"


@pytest.mark.parametrize("function", [coroutine, generator, "redis", 7])
def test_another_kind_of_function_is_refused_at_once(function: Any) -> None:
    with pytest.raises(TypeError, match="a resource is an async generator function with one yield"):
        lifespan.resource(function)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start_timeout": -1}, "resource 'redis': start_timeout must be above 0; got -1"),
        ({"start_timeout": 0}, "start_timeout must be above 0; got 0"),
        ({"stop_timeout": "5"}, "stop_timeout must be above 0; got '5'"),
        ({"stop_timeout": True}, "stop_timeout must be above 0; got True"),
        ({"required": "no"}, "resource 'redis': required must be True or False"),
        ({"name": "pool:default"}, "must be an identifier; got 'pool:default'"),
        ({"name": 7}, "must be an identifier; got 7"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused(options: Any, said: str) -> None:
    async def redis() -> AsyncIterator[str]:
        yield "value"

    with pytest.raises(ValueError, match=said):
        lifespan.resource(**options)(redis)


def test_an_option_that_does_not_exist_is_refused() -> None:
    options: Any = {"timeout": 5}
    with pytest.raises(TypeError, match="timeout"):
        lifespan.resource(**options)(named.plain)


def test_a_name_is_taken_once() -> None:
    @lifespan.resource(name="twice")
    async def one() -> AsyncIterator[None]:
        yield

    with pytest.raises(ValueError, match=r"two resources are called 'twice': .*one and .*other"):

        @lifespan.resource(name="twice")
        async def other() -> AsyncIterator[None]:
            yield


def test_the_same_function_may_be_declared_again() -> None:
    """As where its module is loaded again."""
    first = lifespan.resource(named.plain)
    second = lifespan.resource(named.plain)
    assert lifespan.resources["plain"] is second
    assert first is not second


def test_resources_are_known_by_their_names() -> None:
    made = lifespan.resource(named.plain)
    assert lifespan.resources["plain"] is made
    assert list(lifespan.resources) == ["plain"]
    assert len(lifespan.resources) == 1
    with pytest.raises(KeyError, match=r"there is no resource 'redis'\. Known are: plain"):
        lifespan.resources["redis"]


def test_those_of_the_settings_are_known_as_well() -> None:
    with override_settings(POOLKIT={"LIFESPAN": {"RESOURCES": ["tests.lifespan.named.plain"]}}):
        assert lifespan.resources["plain"] is lifespan.resources["plain"]
        assert lifespan.resources["plain"].name == "plain"


def test_no_resource_at_all() -> None:
    with pytest.raises(KeyError, match=r"'redis'\. Known are: none is declared"):
        lifespan.resources["redis"]


def test_what_it_is_open_as_is_typed() -> None:
    """mypy is what looks at this."""

    @lifespan.resource
    async def one() -> AsyncIterator[int]:
        yield 1

    @lifespan.resource(required=False)
    @asynccontextmanager
    async def two() -> AsyncIterator[str]:
        yield ""

    async def main() -> None:
        assert_type(one.get(), int)
        assert_type(await two.aget(), str)

    assert main is not None
