"""The mapping of client sessions, and what Django and a missing aiohttp have to do with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

import django_poolkit
from django_poolkit import PoolClosed, client_sessions, registry
from django_poolkit.http import sessions
from tests.http.support import MakeSession, said
from tests.http.upstream import Upstream


def test_it_maps_the_names_of_the_settings(make: MakeSession) -> None:
    session = make()
    assert django_poolkit.client_sessions is sessions.client_sessions
    assert (list(client_sessions), len(client_sessions)) == (["api"], 1)
    assert client_sessions["api"] is session
    with pytest.raises(KeyError, match=r"POOLKIT\['HTTP'\] has no client session 'nowhere'"):
        client_sessions["nowhere"]
    assert client_sessions.get("nowhere") is None
    assert "nowhere" not in client_sessions


def test_other_settings_are_another_session(make: MakeSession, upstream: Upstream) -> None:
    first = make(limit=5)
    assert first.sync.get(upstream.url()).status == 200
    second = make(limit=6)
    assert second is not first
    assert (first.ended, second.ended) == (True, False)
    assert second.stats().max_size == 6


def test_asking_for_one_opens_nothing(make: MakeSession) -> None:
    session = make(base_url="https://api.example.com/")
    assert (session.stats().size, session._opened) == (0, {})


def test_threads_that_race_for_one_get_the_same(make: MakeSession) -> None:
    from concurrent.futures import ThreadPoolExecutor

    make()
    for _ in range(20):
        registry.sessions.close_all(1.0)
        with ThreadPoolExecutor(8) as executor:
            found = list(executor.map(lambda _: client_sessions["api"], range(8)))
        assert len(set(map(id, found))) == 1


def test_a_resource_opens_and_closes_on_the_running_loop(
    make: MakeSession, upstream: Upstream
) -> None:
    make()

    async def main() -> None:
        async with sessions.resource("api") as session:
            assert session is client_sessions["api"]
            assert list(session._opened) == [asyncio.get_running_loop()]
            async with client_sessions["api"].get(upstream.url()) as response:
                assert response.status == 200
        assert session.ended
        with pytest.raises(PoolClosed):
            await session.get(upstream.url())

    asyncio.run(main())
    with pytest.raises(KeyError):
        asyncio.run(_enter("nowhere"))


async def _enter(name: str) -> None:
    async with sessions.resource(name):
        pass


def test_bad_settings_are_refused_as_django_starts() -> None:
    for values, message in (
        ({"MAX_BODY": -1}, "MAX_BODY"),
        ({"ssl": False}, "must not give up verification"),
        ({"limits": 1}, "Did you mean 'limit'"),
    ):
        with (
            override_settings(POOLKIT={"HTTP": {"good": {}, "bad": values}}),
            pytest.raises(ImproperlyConfigured, match=rf"POOLKIT\['HTTP'\]\['bad'\].*{message}"),
        ):
            sessions.verify()


def run(script: str) -> subprocess.CompletedProcess[str]:
    setup = """
        import sys
        from django.conf import settings
        settings.configure(
            INSTALLED_APPS=["django_poolkit"],
            POOLKIT={"HTTP": {"api": HTTP}, "CONTROL": {"ENABLED": False}},
        )
        import django
    """
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c",
         script.split("---")[0] + textwrap.dedent(setup) + textwrap.dedent(script.split("---")[1])],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_check_of_django_fails_for_settings_that_cannot_hold() -> None:
    done = run("HTTP = {'ssl': False}\n---\ndjango.setup()")
    assert done.returncode == 1
    assert "ImproperlyConfigured: POOLKIT['HTTP']['api']['ssl'] must not give up" in done.stderr


def test_without_aiohttp_the_error_says_what_to_install() -> None:
    done = run(
        """
HTTP = {"limit": 5}
import sys
sys.modules["aiohttp"] = None
---
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == "aiohttp" else find(name, *a)
        from django_poolkit.http import sessions
        sessions.find_spec = importlib.util.find_spec
        django.setup()
        from django_poolkit import client_sessions
        from django.core.exceptions import ImproperlyConfigured
        try:
            client_sessions["api"]
        except ImproperlyConfigured as error:
            print(error)
        """
    )
    assert (done.stdout, said(done.stderr)) == (
        "POOLKIT['HTTP'] needs aiohttp 3.14 or later: pip install django-poolkit[http]\n",
        "",
    )


def test_an_aiohttp_that_unpacks_without_a_bound_is_refused(
    make: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    for version in ("3.13.5", "3.9.0", "2.0"):
        monkeypatch.setattr("aiohttp.__version__", version)
        registry.sessions.close_all(1.0)
        for look in (sessions.verify, lambda: client_sessions["api"]):
            with pytest.raises(ImproperlyConfigured, match=rf"3\.14 or later.*This is {version}"):
                look()
    for version in ("3.14.0", "3.15.0a1", "4.0.0a2.dev0"):
        monkeypatch.setattr("aiohttp.__version__", version)
        registry.sessions.close_all(1.0)
        assert client_sessions["api"] is not None


def test_aiohttp_is_not_loaded_where_no_session_is_set() -> None:
    done = run(
        """
HTTP = {}
---
        from django.test import override_settings
        settings.POOLKIT = {"CONTROL": {"ENABLED": False}}
        django.setup()
        import django_poolkit
        assert len(django_poolkit.client_sessions) == 0
        print("aiohttp" in sys.modules)
        """
    )
    assert (done.stdout, said(done.stderr)) == ("False\n", "")


def test_the_end_of_a_process_is_silent_while_sessions_are_open() -> None:
    with Upstream() as upstream:
        done = run(
            f"""
HTTP = {{}}
---
        django.setup()
        import asyncio
        from django_poolkit import client_sessions
        async def main():
            async with client_sessions["api"].get({upstream.url()!r}) as response:
                await response.read()
        asyncio.run(main())
        # Of a loop that nobody closes, and of the one in the background.
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        client_sessions["api"].sync.get({upstream.url()!r})
        print(client_sessions["api"].stats().size)
        import warnings
        warnings.filterwarnings("ignore", "unclosed event loop")
            """
        )
        assert (done.stdout, said(done.stderr)) == ("2\n", "")
        assert done.returncode == 0
