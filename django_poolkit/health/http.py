"""The check of one client session: its figures, and a request where the settings name one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from django.core.exceptions import ImproperlyConfigured

from django_poolkit import registry
from django_poolkit.conf.health import health_config
from django_poolkit.conf.http import http_config
from django_poolkit.health import judging
from django_poolkit.health.report import Reason, Result
from django_poolkit.http.background import NoThread, background
from django_poolkit.http.sessions import client_sessions
from django_poolkit.pools.errors import PoolClosed
from django_poolkit.pools.stats import PoolStats

if TYPE_CHECKING:
    from django_poolkit.http.shared import SharedClientSession

logger = logging.getLogger("django_poolkit.health")

# The part of the time of a look that the request has: the rest is for what comes after.
_SHARE: Final = 0.85
# An upstream that answers by such a status is not well.
_BAD: Final = 400


@dataclass(frozen=True, kw_only=True)
class HttpCheck:
    """`http:<name>`."""

    session: str
    timeout: float | None = None
    cache: float | None = None
    # The class of the last error, so that an outage is told of once.
    _told: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def name(self) -> str:
        """What it is called."""
        return f"http:{self.session}"

    def look(self, seconds: float) -> Result:
        """Look at its figures, then ask the upstream, unless others wait for it already."""
        config = http_config(self.session)
        stats = self._stats()
        verdict = None if stats is None else judging.of_state(stats)
        if stats is not None and verdict is None:
            verdict = judging.of_pool(stats, stuck_after=health_config().stuck_after)
        if (verdict is not None and verdict != judging.PASS) or config.health_url is None:
            return judging.result(self.name, verdict or judging.PASS, stats)
        reason = self._ask(config.health_url, seconds * _SHARE)
        verdict = judging.PASS if reason is None else ("fail", reason)
        return judging.result(self.name, verdict, self._stats())

    def close(self) -> None:
        """Nothing is kept but what the client session itself keeps."""

    def _stats(self) -> PoolStats | None:
        """Return the figures, None where nobody has asked for the client session yet."""
        found = next((each for each in registry.sessions if each.name == self.name), None)
        return None if found is None else found.stats()

    def _ask(self, url: str, seconds: float) -> Reason | None:
        """Send a request; return what is wrong with the upstream, None where nothing is."""
        try:
            session = client_sessions[self.session]
            status = background.run(lambda: _status_of(session, url, seconds))
        except TimeoutError:
            return "timeout"
        except PoolClosed:
            return "closed"
        except (ImproperlyConfigured, NoThread) as error:  # no aiohttp, too
            return self._say("config_error", type(error).__name__)
        except Exception as error:
            from django_poolkit.http.errors import RequestRefused

            mistaken = (RequestRefused, ValueError)
            reason: Reason = "config_error" if isinstance(error, mistaken) else "unreachable"
            return self._say(reason, type(error).__name__)
        if status >= _BAD:
            return self._say("unreachable", f"status {status}")
        self._told.clear()
        return None

    def _say(self, reason: Reason, what: str) -> Reason:
        if what not in self._told:
            logger.warning(
                "check=%s event=probe_failed reason=%s error=%s", self.name, reason, what
            )
        self._told[:] = [what]
        return reason


async def _status_of(session: SharedClientSession, url: str, seconds: float) -> int:
    async with asyncio.timeout(seconds), session.probe(url) as response:
        # Of the body nothing is read: who leaves early closes the connection.
        return response.status
