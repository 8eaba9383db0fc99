"""The differences that are as they have to be. What is not listed here must pass.

Only one kind of reason is taken: that the test asserts an implementation detail of Django's own
backend, which no project can rely on with a pool. "We do not support that" is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.django_suite.variants import MODES, WAYS, Mode, Way

KIND = "asserts an implementation detail of the stock backend"


@dataclass(frozen=True)
class Known:
    """A difference that is known, and why it is none to be mended."""

    test: str
    """Its id."""
    detail: str
    """Which implementation detail it asserts."""
    modes: tuple[Mode, ...] = MODES
    django: tuple[str, ...] = ()
    """In which series of Django; empty: in all."""
    ways: tuple[Way, ...] = WAYS
    kind: str = KIND
    """What kind of reason it is."""

    @property
    def reason(self) -> str:
        """The whole reason."""
        return f"{self.kind}: {self.detail}"

    def applies(self, mode: Mode | None, series: str, way: Way = "threads") -> bool:
        """Tell whether it is expected in this mode on this Django, run in this way."""
        here = mode in self.modes and way in self.ways
        return here and (not self.django or series in self.django)


_HEALTH = "backends.base.test_base.ConnectionHealthChecksTests."
_OUTLIVES = "a connection that outlives its request (CONN_MAX_AGE=None), which a pool refuses"

KNOWN: tuple[Known, ...] = (
    Known(f"{_HEALTH}test_health_checks_disabled", _OUTLIVES),
    Known(f"{_HEALTH}test_health_checks_enabled", _OUTLIVES),
    Known(f"{_HEALTH}test_health_checks_enabled_errors_occurred", _OUTLIVES),
    Known(f"{_HEALTH}test_set_autocommit_health_checks_enabled", _OUTLIVES),
    Known(
        "servers.tests.LiveServerTestCloseConnectionTest.test_closes_connections",
        "that CONN_MAX_AGE=None, which a pool refuses, can be set on a connection in use",
    ),
)

_LOOP: Final = "asyncio.run(), which Python refuses where a loop runs, and the bridge is on one"

IN_BRIDGE: tuple[Known, ...] = tuple(
    Known(f"async.tests.ViewTests.{name}", _LOOP, ways=("bridge",), kind="cannot be in the bridge")
    for name in (
        "test_http_method_not_allowed_responds_correctly",
        "test_options_handler_responds_correctly",
    )
)
"""The tests that do as a whole what no coroutine may, where each is run in the bridge."""

UNSTEADY: Final = {
    # Fails while a receiver of an earlier test that failed is alive: until garbage is collected.
    "delete.tests.FastDeleteTests.test_fast_delete_instance_set_pk_none",
}
"""Tests that may pass with ours alone, as what they depend on has nothing to do with a backend."""
