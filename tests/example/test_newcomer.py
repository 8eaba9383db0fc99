"""A newcomer's walk: the tutorial and three how-tos, typed as they stand, from the wheel.

Departures, all of them: the port, which may be taken; timeouts of pools where an answer is waited
for, as the machine may be busy; the Python that runs the tests, for `python3`; and the how-tos'
`shop` is the tutorial's `first`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.testing.waiting import wait_until
from tests.docs_support import DOCS, ROOT
from tests.example.fresh import OURS, environment
from tests.example.newcomer import (
    PATIENCE,
    Newcomer,
    Page,
    Shell,
    environment_of,
    evaluated,
    write_scripts,
)

pytestmark = pytest.mark.timeout(900)
SETTINGS, URLS, WSGI = "first/settings.py", "first/urls.py", "first/wsgi.py"
LONG = 20.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout, alone in a folder."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def newcomer(wheel: Path, tmp_path: Path) -> Iterator[Callable[..., Newcomer]]:
    """Return a function that brings somebody with an empty folder, who may fetch packages."""
    come: list[Newcomer] = []

    def arrive(*, fetches: bool) -> Newcomer:
        python = tmp_path / "first-site" / ".venv" / "bin" / "python"
        pip = {"PIP_FIND_LINKS": str(wheel), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if not fetches:
            pip |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}
        come.append(Newcomer(tmp_path, environment_of(python, pip)))
        return come[-1]

    yield arrive
    for each in come:
        each.leave()


@pytest.mark.parametrize(
    "fetches", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["offline", "fresh"]
)
def test_a_newcomer_gets_where_the_pages_lead(
    newcomer: Callable[..., Newcomer], fetches: bool
) -> None:
    me = newcomer(fetches=fetches)
    page = Page(DOCS / "tutorial/first-site.md")
    make_project(me, page, fetches=fetches)
    server = write_settings(me, page)
    site = visit_in_crowds(me, page)
    server = restart_and_ask(me, page, site, server)
    page.skip("10. The same, larger")
    watch(me, site, Page(DOCS / "how-to/watch-on-the-dashboard.md"))
    assert site.interrupt() == 0
    deploy(me, Page(DOCS / "how-to/deploy-under-gunicorn.md"))
    move_out(me, Page(DOCS / "how-to/move-from-djangos-pool.md"))
    assert server.interrupt() == 0


# -- the tutorial


def make_project(me: Newcomer, page: Page, *, fetches: bool) -> None:
    folder, install = page.take("1. A project", "console", "console")
    if fetches:
        me.type(folder)
    else:  # its last line would make an environment that sees nothing
        *lines, last = me.lines(folder)
        assert lines == ["mkdir first-site", "cd first-site"]
        assert last == f"{sys.executable} -m venv .venv"
        me.folder /= "first-site"
        me.folder.mkdir()
        write_scripts(environment(me.folder / ".venv", without=[OURS]))
    me.type(install)
    assert (me.folder / SETTINGS).exists()
    where = "import django_poolkit, sys; print(django_poolkit.__file__, sys.prefix)"
    found = subprocess.check_output(["python", "-c", where], env=me.environ, cwd=me.folder)
    installed, prefix = found.decode().split()
    assert installed.startswith(f"{prefix}/"), "not the wheel"


def write_settings(me: Newcomer, page: Page) -> Shell:
    app, command, databases, migrate = page.take(
        "2. A server", "python", "console", "python", "console"
    )
    me.put_first(SETTINGS, app)
    server = me.start(command)
    text = server.wait_for("\n}\n")
    printed = json.loads(text.partition("DATABASES = ")[2])
    ours = evaluated(databases)
    assert set(printed["default"]) == set(ours["default"]) - {"OPTIONS"}, "not what is printed"
    assert ours["default"]["OPTIONS"]["pool"].pop("timeout") == 3
    options = {"pool": ours["default"]["OPTIONS"]["pool"] | {"timeout": LONG}}
    me.add(SETTINGS, f"DATABASES = {{'default': {printed['default'] | {'OPTIONS': options}!r}}}")
    assert "Applying auth.0001_initial" in me.type(migrate)
    middleware, wsgi = page.take("3. The end of a request", "python", "python")
    me.put_first(SETTINGS, middleware)
    # The line in place of Django's, and what follows it is there already.
    ours_is, _, rest = wsgi.text.partition("\n")
    text = (me.folder / WSGI).read_text()
    assert rest.strip() in text
    me.put(WSGI, text.replace("from django.core.wsgi import get_wsgi_application", ours_is))
    return server


def visit_in_crowds(me: Newcomer, page: Page) -> Shell:
    urls, run = page.take("4. A page that is slow", "python", "console")
    me.put(URLS, urls.text)
    site = me.start(run)
    site.wait_for("Quit the server")
    forty, shown = page.take("5. Forty visitors", "console", "text")
    crowd, pool = me.lines(forty)
    answers = re.findall(r"\{.*?\}", me.enter(crowd))
    assert len(answers) == 40
    assert len({json.loads(answer)["backend"] for answer in answers}) == 4
    stats, promised = json.loads(me.enter(pool)), json.loads(shown.text)
    assert set(stats) == set(promised)
    for name in ("size", "max_size", "acquired", "timeouts"):
        assert stats[name] == promised[name], stats
    assert stats["waited"] > 0

    [statuses] = page.take("6. Too many visitors", "console")
    change(me, site, "DATABASES['default']['OPTIONS']['pool']['timeout'] = 0.5")
    found = me.type(statuses).split()
    assert len(found) == 40
    assert "503" in found
    assert set(found) <= {"200", "503"}

    word, shown = page.take("7. One word", "python", "text")
    # The word is for those who have little time; how much they need is the machine's.
    assert evaluated(word)["timeout"] == 0.5
    change(me, site, word.text.replace("0.5", str(LONG)))
    assert me.type(statuses).split() == ["200"] * 40
    stats, promised = json.loads(me.enter(pool)), json.loads(shown.text)
    assert (stats["size"], stats["timeouts"]) == (promised["size"], promised["timeouts"])
    assert 2 * 40 <= stats["acquired"] <= promised["acquired"] + 2
    return site


def restart_and_ask(me: Newcomer, page: Page, site: Shell, server: Shell) -> Shell:
    [ask] = page.take("8. A restart", "console")
    assert server.interrupt() == 0
    server = again(me, server)
    assert json.loads(me.type(ask))["backend"] > 0

    health, asked, check = page.take("9. Is it well?", "python", "console", "console")
    change(me, site, health.text)
    ready, database = me.lines(asked)
    for line in (ready, database):
        assert re.match(r"HTTP/1.1 200 OK\r?\n", answer := me.enter(line))
        assert answer.strip().endswith('{"status": "pass"}')
    assert "pass" in me.type(check)
    assert server.interrupt() == 0
    wait_until(lambda: " 503 " in me.enter(database).partition("\n")[0], PATIENCE, interval=0.2)
    assert " 200 " in me.enter(ready).partition("\n")[0]
    assert "unreachable" in me.type(check, fails=True)
    return again(me, server)


# -- the how-tos


def watch(me: Newcomer, site: Shell, page: Page) -> None:
    apps, urls = page.take("Turn it on", "python", "python")
    me.put_first(SETTINGS, apps)
    me.add(URLS, f"before = urlpatterns\n{urls.text}\nurlpatterns += before")
    me.enter("python manage.py migrate")
    who = {"DJANGO_SUPERUSER_PASSWORD": "as new as I", "DJANGO_SUPERUSER_EMAIL": "a@example.com"}
    me.environ |= who
    me.enter("python manage.py createsuperuser --noinput --username ada")
    assert "no issues" in me.enter("python manage.py check --database default")
    reload(me, site)
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar := CookieJar()))

    def read(path: str, data: dict[str, str] | None = None) -> str:
        sent = None if data is None else urllib.parse.urlencode(data).encode()
        with browser.open(f"{me.url}{path}", sent, timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
            return text

    read("admin/login/")
    token = {cookie.name: cookie.value for cookie in jar}["csrftoken"]
    form = {"username": "ada", "password": who["DJANGO_SUPERUSER_PASSWORD"], "next": "/admin/"}
    index = read("admin/login/", {**form, "csrfmiddlewaretoken": str(token)})
    assert 'href="/admin/poolkit_dashboard/pools/"' in index
    shown = read("admin/poolkit_dashboard/pools/")
    assert "Utilization of default" in shown
    [ask] = page.take("As JSON", "text")
    session = {cookie.name: cookie.value for cookie in jar}["sessionid"]
    line = me.lines(ask)[0].replace("…", str(session))
    figures: dict[str, Any] = json.loads(
        me.enter(line.replace("https://first.example.com/", me.url).replace("curl", "curl -s"))
    )
    assert [pool["name"] for pool in figures["pools"]] == ["default"]
    assert [each["command"] for each in figures["processes"]] == ["manage.py runserver"]
    page.skip("Who may what", "One request: a panel for debug toolbar")


def deploy(me: Newcomer, page: Page) -> None:
    install, command = page.take("WSGI", "console", "console")
    me.type(install)
    site = me.start(command)
    site.wait_for("Booting worker", times=4)
    asked = f"curl -s --retry 20 --retry-connrefused {me.url}slow/"
    assert "backend" in me.enter(asked)
    status = me.enter("python manage.py poolstatus --leases")
    assert re.search(r"^\d+ +gunicorn +default +transaction ", status, re.MULTILINE), status
    assert site.interrupt() == 0


def move_out(me: Newcomer, page: Page) -> None:
    [check, *_] = page.take("Check it", "console", "python", "text")
    me.add(SETTINGS, "DATABASES['default']['OPTIONS']['pool']['max_sise'] = 8")
    assert "Did you mean 'max_size'?" in me.type(check, fails=True)
    # "Write django.db.backends.postgresql again, take out the options that only exist here."
    me.add(SETTINGS, "DATABASES['default']['ENGINE'] = 'django.db.backends.postgresql'")
    refused = me.type(check, fails=True)
    assert "['pool']" in refused or "'mode'" in refused, refused
    me.add(SETTINGS, "DATABASES['default']['OPTIONS'] = {'pool': {'max_size': 4}}")
    me.add(SETTINGS, "INSTALLED_APPS = [a for a in INSTALLED_APPS if 'poolkit' not in a]")
    me.add(SETTINGS, "MIDDLEWARE = [m for m in MIDDLEWARE if 'poolkit' not in m]")
    wsgi = (me.folder / WSGI).read_text()
    me.put(WSGI, wsgi.replace("django_poolkit.wsgi", "django.core.wsgi"))
    me.put(URLS, "from django.urls import path\n\nurlpatterns = []\n")
    assert "no issues" in me.type(check)


# -- small steps


def again(me: Newcomer, server: Shell) -> Shell:
    """Start the server with the same command; its settings are as they were."""
    before = server.said().partition("DATABASES")[2].partition("\n}\n")[0]
    server = me.run(server.line)
    assert server.wait_for("\n}\n").partition("DATABASES")[2].partition("\n}\n")[0] == before
    return server


def change(me: Newcomer, site: Shell, line: str) -> None:
    """Write something below the settings, and wait until runserver has started anew."""
    me.add(SETTINGS, line)
    reload(me, site)


def reload(me: Newcomer, site: Shell) -> None:
    """Wait until runserver has seen the files change, and is there again."""
    seen, served = "changed, reloading", "Quit the server"
    before = site.said()

    def noticed() -> bool:
        # What changes before its first look is what it takes for the first state.
        (me.folder / SETTINGS).touch()
        return site.said().count(seen) > before.count(seen)

    wait_until(noticed, PATIENCE, site.said, interval=0.5)
    site.wait_for(served, before.count(served) + 1)
