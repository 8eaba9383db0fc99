"""What is open on one event loop: resources in the order of their opening."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Final

from django_poolkit.conf.lifespan import LifespanConfig
from django_poolkit.lifespan.base import Resource, ResourceError
from django_poolkit.lifespan.keeper import Keeper, Status
from django_poolkit.lifespan.notice import Notice

# Seconds that a start waits for an optional resource, before it goes on without.
_PATIENCE: Final = 1.0
# Seconds by which a task may be late that has to end an attempt to open.
_SLACK: Final = 0.25
# Seconds that each resource has for its close, whatever became of those before.
_RESERVE: Final = 0.25


class Span:
    """The resources of the running event loop."""

    def __init__(
        self,
        config: LifespanConfig,
        *,
        state: MutableMapping[str, Any] | None = None,
        loop_ends: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config = config
        self.loop: Final = asyncio.get_running_loop()
        self.closed = False
        self.notice: Notice | None = None
        """Who hears of signals while this is open."""
        self._state = {} if state is None else state
        self._loop_ends = loop_ends
        self._keepers: dict[str, Keeper] = {}

    # -- seen from outside

    def keeper(self, name: str) -> Keeper | None:
        """Return who keeps a resource, None where nobody ever began to open it here."""
        return self._keepers.get(name)

    def status(self) -> dict[str, Status]:
        """Return how each resource is, in the order of their opening."""
        return {name: keeper.status for name, keeper in self._keepers.items()}

    def values(self) -> dict[str, Any]:
        """Return what is ready, by name; what is open as nothing has no value."""
        keepers = self._keepers.values()
        return {each.name: each.value for each in keepers if each.value is not None}

    # -- on the loop

    async def open_all(self, resources: Iterable[Resource[Any]]) -> None:
        """Open resources one after the other, within the whole budget.

        Raises ResourceError for the first required one that cannot be opened. What is open by
        then stays so.
        """
        deadline = self.loop.time() + self.config.start_timeout
        for resource in resources:
            await self.open(resource, left=deadline - self.loop.time())

    async def open(self, resource: Resource[Any], *, left: float | None = None) -> Keeper:
        """Open one resource, if need be in less than its own budget.

        Raises ResourceError where it is required and cannot be opened.
        """
        if (before := self._keepers.get(resource.name)) is not None:
            before.cancel()  # it may be about to try again
        timeout = resource.start_timeout or self.config.resource_start_timeout
        first = timeout if left is None else min(timeout, left)
        keeper = self._keepers[resource.name] = Keeper(
            resource,
            timeout,
            first_timeout=first,
            changed=self._publish,
            loop_ends=self._loop_ends,
        )
        patience = first + _SLACK if resource.required else min(first, _PATIENCE)
        status = await keeper.settled(patience)
        if resource.required and status.state != "ready":
            raise ResourceError(_why_not(keeper))
        return keeper

    async def close(self, seconds: float) -> None:
        """Close everything in reverse order, within `seconds` and a moment for each that hangs.

        None has to wait for what hangs beyond its own budget, nor so long that the others go
        without.
        """
        self.closed = True
        deadline = self.loop.time() + seconds
        left = list(self._keepers.values())
        try:
            while left:
                keeper = left.pop()
                own = keeper.resource.stop_timeout or self.config.resource_stop_timeout
                rest = deadline - self.loop.time()
                share = max(rest - len(left) * _RESERVE, _RESERVE)
                await keeper.stop(min(own, share))
        except asyncio.CancelledError:
            for keeper in left:
                keeper.cancel()
            raise

    def _publish(self, keeper: Keeper) -> None:
        if self._keepers.get(keeper.name, keeper) is not keeper:
            return  # another has taken its place
        if keeper.value is not None:
            self._state[keeper.name] = keeper.value
        else:
            self._state.pop(keeper.name, None)


def _why_not(keeper: Keeper) -> str:
    text = keeper.status.text or "it does not end its attempt to open"
    start = f"resource {keeper.name!r}: "
    return text if text.startswith(start) else f"{start}could not be opened: {text}"
