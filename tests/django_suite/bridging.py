"""Django's tests with its async methods on the loop, or as a whole in the bridge."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any

from asgiref.sync import AsyncToSync

calls = 0
"""How many functions ran in the bridge."""


def turn_on(*, whole_tests: bool) -> None:
    """Have it so from now on in this process, and those that it forks."""
    from django_poolkit.aio import orm
    from django_poolkit.aio.calls import Call
    from django_poolkit.conf.async_orm import AsyncOrmConfig

    orm.install(AsyncOrmConfig(enabled=True, middleware=True))
    real = Call.run

    async def run(self: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        global calls
        calls += 1
        return await real(self, function, *args, **kwargs)

    Call.run = run  # type: ignore[method-assign]
    if whole_tests:
        _bridge_tests()


def _bridge_tests() -> None:
    """Have setUp(), the test and tearDown() be one call in the bridge."""
    from django_poolkit.aio import inward
    from django_poolkit.aio.calls import Call
    from django_poolkit.pools.bridge.driver import bridging

    real = unittest.TestCase.run

    def run(self: Any, result: Any = None) -> Any:
        # A coroutine is made a function by Django; and some tests run tests.
        if bridging() or isinstance(getattr(self, self._testMethodName), AsyncToSync):
            return real(self, result)
        # As `async_to_sync()` does, but on this thread: with the transactions of the class.
        with inward._lent(inward._of_thread()):
            return asyncio.run(Call().run(real, self, result))

    unittest.TestCase.run = run  # type: ignore[method-assign]
