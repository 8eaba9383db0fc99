"""What a visitor carries from one request to the next: cookies, headers, and a cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from http.cookies import SimpleCookie
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.db import transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory
from django.urls import path

from django_poolkit.middleware import PoolkitMiddleware
from django_poolkit.routing import scopes
from django_poolkit.routing.floors import Floor, Position
from django_poolkit.routing.token import seal, unseal
from django_poolkit.testing.routing import record_routing
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.routing.conftest import alias_of, looped

pytestmark = pytest.mark.core

OURS = "django_poolkit.middleware.PoolkitMiddleware"


def where(request: HttpRequest) -> HttpResponse:
    return HttpResponse(alias_of(), headers=headers_of(request))


def write(request: HttpRequest) -> HttpResponse:
    # The commit says where it ended. Otherwise that is asked, in a time that may be too short here.
    with transaction.atomic():
        Item.objects.create(name="new")
    return HttpResponse("written", headers=headers_of(request))


async def async_where(request: HttpRequest) -> HttpResponse:
    return HttpResponse(await sync_to_async(alias_of)())


async def async_write(request: HttpRequest) -> HttpResponse:
    await Item.objects.acreate(name="new")
    return HttpResponse("written")


def fails(request: HttpRequest) -> HttpResponse:
    Item.objects.create(name="new")
    raise RuntimeError


def streamed(request: HttpRequest) -> StreamingHttpResponse:
    Item.objects.create(name="new")
    return StreamingHttpResponse(iter([b"written"]))


def headers_of(request: HttpRequest) -> dict[str, str]:
    name, _, value = request.GET.get("with", "").partition(":")
    return {name: value} if name else {}


urlpatterns = [
    path("where/", where),
    path("write/", write),
    path("async-where/", async_where),
    path("async-write/", async_write),
    path("fails/", fails),
    path("streamed/", streamed),
]


@pytest.fixture
def site(paused: Any, settings: Any) -> Iterator[Any]:
    """These views, with our middleware, and no replica that gets anything new."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [OURS]
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    configure(settings)
    yield paused
    caches["default"].clear()


def configure(settings: Any, **routing: Any) -> None:
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"WAIT": 0.01, **routing}}


def catch_up(site: Any, settings: Any) -> None:
    """Have all replicas get what there is, and requests wait until that is known."""
    configure(settings, WAIT=20.0)
    for node in site.replicas:
        node.resume_replay()
        site.primary.wait_caught_up(node)


def carried(cookies: SimpleCookie) -> dict[str, str]:
    """Return the tokens among cookies."""
    return {
        name: morsel.value
        for name, morsel in cookies.items()
        if name.startswith("poolkit_floor") and morsel.value
    }


def get(url: str, cookies: dict[str, str] | None = None, **extra: Any) -> Any:
    """Ask for something with these cookies, in no jar."""
    client = Client()
    for name, value in (cookies or {}).items():
        client.cookies[name] = value
    return client.get(url, **extra)


def values(response: Any) -> dict[str, str]:
    return {name: morsel.value for name, morsel in response.cookies.items()}


# -- a visitor


def test_the_next_request_of_who_has_written_reads_no_older_state(site):
    visitor = Client()
    assert visitor.get("/where/").content == b"replica"
    assert not visitor.cookies
    visitor.post("/write/")
    assert visitor.get("/where/").content == b"default"
    assert Client().get("/where/").content == b"replica"  # another visitor


@looped
async def test_the_same_for_an_asynchronous_site(site):
    visitor = AsyncClient()
    assert (await visitor.get("/async-where/")).content == b"replica"
    assert not visitor.cookies
    await visitor.post("/async-write/")
    both = await asyncio.gather(visitor.get("/async-where/"), AsyncClient().get("/async-where/"))
    assert [response.content for response in both] == [b"default", b"replica"]


def test_a_write_in_a_get_counts_and_so_does_one_before_an_error(site):
    for url in ("/write/", "/fails/", "/streamed/"):
        visitor = Client(raise_request_exception=False)
        visitor.get(url)
        assert visitor.get("/where/").content == b"default"


def test_a_write_before_an_error_that_nobody_answers_is_no_answer(site, settings):
    settings.DEBUG_PROPAGATE_EXCEPTIONS = True
    with pytest.raises(RuntimeError):
        Client().get("/fails/")


def test_once_the_replica_has_it_the_cookie_is_taken_back(site, settings):
    visitor = Client()
    visitor.post("/write/")
    assert visitor.get("/where/").content == b"default"
    [name] = carried(visitor.cookies)
    catch_up(site, settings)
    # Not with the first, perhaps: how far a server is may not be known as soon as that.
    wait_until(lambda: visitor.get("/where/").content == b"replica", 20)
    wait_until(lambda: not visitor.get("/where/").cookies, 20)
    assert not carried(visitor.cookies)
    assert visitor.cookies[name]["max-age"] == 0


def test_answers_that_overlap_undo_nothing_of_each_other(site):
    # A browser asks for two things at once, with the cookies that it has. The answers come in any
    # order; so whichever is the last must not be the only one that counts.
    came = carried(Client().post("/write/").cookies)
    one = carried(get("/write/", came).cookies)
    other = carried(get("/write/", came).cookies)
    assert len(one.keys() | other.keys() | came.keys()) == 3
    together = get("/write/", {**one, **other})
    [(_, both)] = carried(together.cookies).items()
    assert {*one, *other} < together.cookies.keys()  # these are in it, and go
    [newest] = unseal(both).values()
    assert newest.position is not None
    for each in (*one.values(), *other.values()):
        [floor] = unseal(each).values()
        assert floor.position is not None
        assert floor.position.lsn < newest.position.lsn


def test_a_request_that_only_reads_takes_nothing_back_that_it_has_not_brought(site, settings):
    # It may have been on its way while another one wrote, whose answer has come already.
    old = carried(Client().post("/write/").cookies)
    catch_up(site, settings)
    wait_until(lambda: values(get("/where/", old)) == dict.fromkeys(old, ""), 20)


def test_what_is_there_to_change_something_does_not_wait(site, settings, monkeypatch):
    from django_poolkit.routing import carriers

    visitor = Client()
    visitor.post("/write/")
    monkeypatch.setattr(carriers, "settle", pytest.fail)
    assert visitor.post("/where/").content == b"default"
    assert Client().get("/where/").content == b"replica"  # and neither does who brings nothing


def test_where_nothing_can_be_behind_nothing_is_carried(site, settings):
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": {"default": {}}}
    assert not Client().post("/write/").cookies


def test_where_all_runs_on_one_database_nothing_is_behind(site, monkeypatch):
    from django_poolkit.routing import carriers

    # In a test that records what would be read where: there may be no replica to ask.
    monkeypatch.setattr(carriers, "settle", pytest.fail)
    monkeypatch.setattr(carriers, "outgoing", pytest.fail)
    with record_routing() as log:
        visitor = Client()
        visitor.post("/write/")
        visitor.get("/where/")
    assert not visitor.cookies
    assert [each.reason for each in log.decisions] == ["read"]


# -- the cookie


def test_it_is_set_as_the_session_cookie_is(site, settings):
    [cookie] = Client().post("/write/").cookies.values()
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert (cookie["secure"], cookie["domain"]) == ("", "")
    assert 25 < cookie["max-age"] <= 30
    settings.SESSION_COOKIE_SECURE = True
    settings.SESSION_COOKIE_DOMAIN = "shop.example"
    settings.SESSION_COOKIE_PATH = "/shop/"
    response = Client().post("/write/")
    [cookie] = response.cookies.values()
    assert (cookie["secure"], cookie["domain"], cookie["path"]) == (True, "shop.example", "/shop/")
    catch_up(site, settings)
    came = carried(response.cookies)
    wait_until(lambda: values(get("/where/", came)) == dict.fromkeys(came, ""), 20)
    [gone] = get("/where/", came).cookies.values()
    assert (gone["domain"], gone["path"]) == ("shop.example", "/shop/")


def test_it_may_have_another_name_or_none(site, settings):
    configure(settings, COOKIE="seen")
    [name] = Client().post("/write/").cookies
    assert name.startswith("seen_")
    configure(settings, COOKIE=None)
    assert not Client().post("/write/").cookies


def test_it_says_nothing_of_the_database(site):
    [text] = carried(Client().post("/write/").cookies).values()
    system = one(site, "SELECT system_identifier FROM pg_control_system()")
    lsn = one(site, "SELECT pg_current_wal_insert_lsn()::text")
    assert str(system) not in text
    assert lsn.split("/")[1].lower() not in text.lower()


# -- what is not believed


def one(site: Any, query: str) -> Any:
    [[value]] = site.primary.execute(query)
    return value


def future(site: Any, seconds: float) -> Floor:
    system = int(one(site, "SELECT system_identifier FROM pg_control_system()"))
    return Floor(Position(system, 1, 2**60), time.time() + seconds)


@pytest.mark.parametrize(
    "text", [".", "0/4618BE0", "'; DROP TABLE app_item; --", "a.b.c", "x" * 4000, "\\303\\251"]
)
def test_forged_ones_are_nothing(site, text):
    response = get("/where/", {"poolkit_floor_0000": text})
    assert response.content == b"replica"
    assert not response.cookies


def test_those_of_another_site_at_the_same_address_are_left_to_it(site, settings):
    ours = carried(Client().post("/write/").cookies)
    settings.SECRET_KEY = "of another site"
    response = get("/write/", ours)
    assert carried(response.cookies).keys() == response.cookies.keys()
    assert ours.keys().isdisjoint(response.cookies)


def test_one_that_was_changed_is_nothing(site):
    [(name, text)] = carried(Client().post("/write/").cookies).items()
    assert get("/where/", {name: text}).content == b"default"
    assert get("/where/", {name: text[:-2]}).content == b"replica"


def test_names_that_only_look_like_ours_are_left_alone(site):
    names = ["poolkit_floor", "poolkit_floor_", "poolkit_floor_xyzw", "poolkit_floor_00000"]
    response = get("/where/", dict.fromkeys(names, seal({"default": future(site, 20)})))
    assert response.content == b"replica"
    assert not response.cookies


def test_very_many_of_them_are_not_all_looked_at(site, monkeypatch):
    from django_poolkit.routing import carriers

    looked_at: list[str] = []

    def look(text: str) -> dict[str, Floor]:
        looked_at.append(text)
        return {}

    monkeypatch.setattr(carriers, "unseal", look)
    get("/where/", {f"poolkit_floor_{number:04x}": "x" for number in range(100)})
    assert len(looked_at) == carriers.MOST


def test_what_nobody_can_fulfil_holds_no_longer_than_max_age(site, settings):
    # Of a site whose key is known, or of a server whose log has been lost.
    configure(settings, MAX_AGE=1.0, PIN=0.5)
    cookies = {"poolkit_floor_0000": seal({"default": future(site, 10**9)})}
    began = time.monotonic()
    assert get("/where/", cookies).content == b"default"
    wait_until(lambda: get("/where/", cookies).content == b"replica", 10)
    # A stamp has whole seconds.
    assert time.monotonic() - began < 4.0


def test_a_visitor_who_reads_on_does_not_make_it_last(site, settings):
    configure(settings, MAX_AGE=1.0, PIN=0.5)
    for node in site.replicas:
        node.resume_replay()
    visitor = Client()
    visitor.cookies["poolkit_floor_0000"] = seal({"default": future(site, 10**9)})
    assert visitor.get("/where/").content == b"default"
    wait_until(lambda: visitor.get("/where/").content == b"replica", 10)


# -- shared caches


@pytest.mark.parametrize(
    "header", ["Cache-Control:public, max-age=60", "Cache-Control:s-maxage=60, max-age=0",
               "Cache-Control:PUBLIC", "CDN-Cache-Control:max-age=60"],
)  # fmt: skip
def test_what_everyone_may_get_has_no_token(site, settings, header):
    configure(settings, HEADER="X-Floor")
    response = Client().post(f"/write/?with={header}")
    assert not response.cookies
    assert "X-Floor" not in response.headers
    assert "private" not in response.headers.get("Cache-Control", "")
    # Nor does it take any back: everyone would lose it.
    mine = carried(Client().post("/write/").cookies)
    catch_up(site, settings)
    wait_until(lambda: values(get("/where/", mine)) == dict.fromkeys(mine, ""), 20)
    assert not get(f"/where/?with={header}", mine).cookies


@pytest.mark.parametrize(
    ("header", "then"),
    [
        ("", {"private"}),
        ("Cache-Control:max-age=60", {"max-age=60", "private"}),
        ("Cache-Control:private, s-maxage=60", {"private", "s-maxage=60"}),
        ("Cache-Control:no-store", {"no-store", "private"}),
    ],
)
def test_what_has_one_is_for_its_visitor_alone(site, header, then):
    response = Client().post(f"/write/?with={header}")
    assert carried(response.cookies)
    assert set(response.headers["Cache-Control"].split(", ")) == then


@pytest.mark.parametrize("first", ["ours", "the page cache"])
def test_the_page_cache_keeps_no_token(site, settings, first):
    cache = "django.middleware.cache."
    pages = [f"{cache}UpdateCacheMiddleware", f"{cache}FetchFromCacheMiddleware"]
    settings.MIDDLEWARE = [OURS, *pages] if first == "ours" else [pages[0], OURS, pages[1]]
    visitor = Client()
    response = visitor.get("/write/")
    assert carried(response.cookies)
    again = Client().get("/write/")
    # Inside of ours it was kept before it had one; around ours it is not kept at all.
    assert carried(again.cookies).keys().isdisjoint(carried(response.cookies))
    assert bool(carried(again.cookies)) == (first != "ours")


# -- the header


def test_a_client_without_cookies_gives_back_a_header(site, settings, monkeypatch):
    monkeypatch.setattr("django_poolkit.routing.outgoing.BUDGET", 10.0)
    configure(settings, HEADER="X-Floor", COOKIE=None)
    assert "X-Floor" not in Client().get("/where/").headers
    response = Client().post("/write/")
    token = response.headers["X-Floor"]
    assert not response.cookies
    assert "private" in response.headers["Cache-Control"]
    response = get("/where/", headers={"X-Floor": token})
    assert response.content == b"default"
    # It has read the primary, which says more; and its next request must not see less.
    before, after = (
        unseal(each)["default"].position for each in (token, response.headers["X-Floor"])
    )
    assert before is not None
    assert after is not None
    assert after.lsn >= before.lsn
    assert token != response.headers["X-Floor"]
    assert get("/where/").content == b"replica"
    assert get("/where/", headers={"X-Floor": "nothing"}).content == b"replica"


def test_several_of_them_are_one(site, settings):
    configure(settings, HEADER="X-Floor")
    token = Client().post("/write/").headers["X-Floor"]
    assert get("/where/", headers={"X-Floor": f"nothing,  {token}"}).content == b"default"


# -- who is asked for, and how


def test_a_visitor_is_known_by_its_session_or_its_credentials(site, settings):
    found: list[bytes | None] = []

    def view(request: HttpRequest) -> HttpResponse:
        here = scopes.current()
        assert here is not None
        found.append(here.visitor)
        return HttpResponse()

    served = PoolkitMiddleware(view)

    def ask(session: str = "", credentials: str = "") -> bytes | None:
        factory = RequestFactory()
        if session:
            factory.cookies["sessionid"] = session
        headers = {"Authorization": credentials} if credentials else {}
        served(factory.get("/", headers=headers))
        return found[-1]

    known = [ask("one"), ask("other"), ask(credentials="Bearer one"), ask(credentials="one")]
    assert len({*known}) == 4
    assert None not in known
    assert ask("one") == ask("one", "Bearer one") == known[0]
    assert ask() is None
    assert not any(b"one" in each for each in known if each)
    settings.SECRET_KEY = "another"
    assert ask("one") != known[0]


@looped
async def test_waiting_for_a_replica_holds_up_nobody_else(site, settings):
    await sync_to_async(configure)(settings, WAIT=0.3)
    visitor = AsyncClient()
    await visitor.post("/async-write/")
    waits = asyncio.create_task(visitor.get("/async-where/"))
    turns = 0
    while not waits.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert waits.result().content == b"default"
    assert turns > 30


@pytest.fixture
def twice(site: Any, settings: Any) -> Any:
    """Our middleware named two times."""
    settings.MIDDLEWARE = [OURS, OURS]
    return site


def test_middleware_that_is_named_twice_carries_once(twice):
    assert len(Client().post("/write/").cookies) == 1
