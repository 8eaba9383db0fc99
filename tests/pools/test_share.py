"""A share named by hand: where it holds, and which of several."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from django_poolkit import share
from django_poolkit.pools.share import current


def test_the_innermost_counts():
    with share("reports"):
        assert current() == "reports"
        with share("mails"):
            assert current() == "mails"
        assert current() == "reports"
    assert current() is None


def test_functions_can_be_decorated():
    @share("reports")
    def work() -> str | None:
        return current()

    @share("mails")
    async def task() -> str | None:
        await asyncio.sleep(0)
        return current()

    assert work() == "reports"
    assert inspect.iscoroutinefunction(task)
    found: Any = asyncio.run(task())
    assert found == "mails"
    assert current() is None


def test_a_generator_is_refused():
    with pytest.raises(TypeError, match=r"generator .*rows"):

        @share("reports")
        def rows() -> Any:
            yield 1


@pytest.mark.parametrize("name", ["", None, 5])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="share"):
        share(name)
