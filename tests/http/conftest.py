"""Real servers on loopback, and client sessions that begin and end with the test."""

from __future__ import annotations

import gc
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from django.conf import settings
from django.test import override_settings

from django_poolkit import client_sessions, registry
from django_poolkit.http.background import NAME, background
from django_poolkit.http.shared import SharedClientSession
from tests.http.support import MakeSession
from tests.http.upstream import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A server without TLS."""
    with Upstream() as server:
        yield server


@pytest.fixture
def other() -> Iterator[Upstream]:
    """One more, which is another origin."""
    with Upstream() as server:
        yield server


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """An authority of our own, which nobody else knows."""
    return trustme.CA()


@pytest.fixture
def cafile(authority: trustme.CA, tmp_path: Path) -> Path:
    """The file that says whom to trust."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[Upstream]:
    """A server that proves to be `localhost` and 127.0.0.1."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    with Upstream(context) as server:
        yield server


@pytest.fixture
def make() -> Iterator[MakeSession]:
    """Return a function that makes a client session; it is closed after the test."""
    overrides: list[Any] = []

    def make(**options: Any) -> SharedClientSession:
        # What others than this session need stays as it is.
        override = override_settings(POOLKIT={**settings.POOLKIT, "HTTP": {"api": options}})
        override.enable()
        overrides.append(override)
        return client_sessions["api"]

    yield make
    for override in reversed(overrides):
        override.disable()
    registry.sessions.close_all(5.0)
    registry.sessions.reopen()
    background.stop(5.0)
    assert NAME not in [thread.name for thread in threading.enumerate()]
    gc.collect()  # a warning of a finalizer belongs to this test


@pytest.fixture
def session(make: MakeSession) -> SharedClientSession:
    """A client session as it is without any setting."""
    return make()
