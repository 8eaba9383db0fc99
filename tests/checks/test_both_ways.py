"""Each check of the catalogue is told where something is wrong, and not where it is right.

Those that a row of `test_production.CASES` tries both ways are tried there.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.files.storage import FileSystemStorage, Storage
from django.db import models, router
from django.db.backends.signals import connection_created
from django.test.utils import isolate_apps

from django_poolkit import health
from django_poolkit.checks import hidden_search
from django_poolkit.health import declared
from django_poolkit.pools.errors import PoolWarning
from django_poolkit.routing import ReadWriteRouter
from tests.checks.stories import MIDDLEWARE, UNGUARDED, Both, Stage, Stories, Story
from tests.checks.test_dashboard import ADMIN, ALL, OURS, urls
from tests.checks.test_production import ASGI, CASES, PROMETHEUS, install
from tests.checks.test_receivers import a_constant, by_argument
from tests.checks.test_reference import ids
from tests.pools.postgres.pooler import Pooler

SETS = "BEGIN PERFORM set_config('app.last', 'a', false); RETURN NEW; END"
LOCAL = SETS.replace("false", "true")
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
TRIGGER = (
    "CREATE TABLE seen (a int);"
    "CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ {} $$;"
    "CREATE TRIGGER remember BEFORE INSERT ON seen FOR EACH ROW EXECUTE FUNCTION remember();"
)


# -- what is read off the settings


@Stories.told("E001")
def a_section_of_health(stage: Stage) -> Both:
    return stage.health(CACHE=-1), stage.health(CACHE=1)


@Stories.told("E002")
def checks_that_are_nowhere(stage: Stage) -> Both:
    stage.patch.setattr(declared, "_declared", {})
    return stage.health(CHECKS=["nowhere.at_all"]), stage.health(CHECKS=["tests.health.named.disk"])


@Stories.told("E003")
def a_member_that_is_none(stage: Stage) -> Both:
    return stage.health(GROUPS={"a": ["disc"]}), stage.health(GROUPS={"a": ["db:default"]})


@Stories.told("W001")
def a_group_without_members(stage: Stage) -> Both:
    return stage.health(GROUPS={"a": []}), stage.health(GROUPS={"a": ["process"]})


@Stories.told("W002")
def liveness_that_hangs_on_others(stage: Stage) -> Both:
    members = ["db:default"]
    return stage.health(GROUPS={"live": members}), stage.health(GROUPS={"ready": members})


@Stories.told("W003")
def a_slow_check(stage: Stage) -> Both:
    stage.patch.setattr(declared, "_declared", {})
    health.check("slow", timeout=0.7)(lambda: None)
    return stage.health(TIMEOUT=0.6), stage.health(TIMEOUT=0.8)


@Stories.told("W004")
def a_view_behind_the_answer(stage: Stage) -> Both:
    asks = {"PERMISSION": "auth.view_user"}
    return stage.health(PATH="/health/", **asks), stage.health(PATH="/up/", **asks)


@Stories.told("E004")
def a_cluster_that_cannot_be(stage: Stage) -> Both:
    return stage.routed(cluster={"replicas": ["nobody"]}), stage.routed()


@Stories.told("E005")
def transactions_on_a_replica(stage: Stage) -> Both:
    return stage.routed(replica={"ATOMIC_REQUESTS": True}), stage.routed()


@Stories.told("W005")
def transactions_of_the_primary(stage: Stage) -> Both:
    atomic = {"ATOMIC_REQUESTS": True}
    reads = {"replicas": ["replica"], "atomic_requests": "replica"}
    return stage.routed(primary=atomic), stage.routed(primary=atomic, cluster=reads)


@Stories.told("E006")
def a_section_of_routing(stage: Stage) -> Both:
    return stage.routed(section={"WAIT": -1}), stage.routed(section={"WAIT": 1})


@Stories.told("W006")
def replicas_without_a_router(stage: Stage) -> Both:
    stage.patch.setattr(router, "routers", [])
    wrong = stage.routed()
    stage.patch.setattr(router, "routers", [ReadWriteRouter()])
    return wrong, stage.routed()


@Stories.told("W007")
def replicas_without_the_middleware(stage: Stage) -> Both:
    return stage.routed(MIDDLEWARE=[SESSIONS]), stage.routed()


@Stories.told("W008")
def the_middleware_behind_another(stage: Stage) -> Both:
    return stage.routed(MIDDLEWARE=[SESSIONS, MIDDLEWARE]), stage.routed()


@Stories.told("E007")
def a_cookie_like_ours(stage: Stage) -> Both:
    return stage.routed(SESSION_COOKIE_NAME="poolkit_floor_cafe"), stage.routed()


@Stories.told("W009")
def a_cache_of_one_process(stage: Stage) -> Both:
    def cached(backend: str) -> list[str]:
        caches = {"floors": {"BACKEND": f"django.core.cache.backends.{backend}"}}
        return stage.routed(section={"CACHE": "floors"}, CACHES=caches)

    return cached("locmem.LocMemCache"), cached("redis.RedisCache")


@Stories.told("E009")
def an_alias_that_no_loop_can_wait_for(stage: Stage) -> Both:
    return stage.bridged(ENGINE="django.db.backends.postgresql"), stage.bridged()


@Stories.told("E010")
def no_greenlet(stage: Stage) -> Both:
    right = stage.bridged()
    stage.patch.setattr("django_poolkit.aio.starting.find_spec", lambda name: None)
    return stage.bridged(), right


@Stories.told("W040")
def no_loop_that_waits(stage: Stage) -> Both:
    right = stage.bridged()
    stage.patch.setattr("django_poolkit.aio.starting.sys.platform", "win32")
    return stage.bridged(), right


@Stories.told("W041")
def a_file_that_is_sent_elsewhere(stage: Stage) -> Both:
    def having(storage: Storage) -> list[str]:
        with isolate_apps("tests.app"):
            fields = {"scan": models.FileField(storage=storage), "__module__": __name__}
            meta = type("Meta", (), {"app_label": "app"})
            model = type("Scanned", (models.Model,), {**fields, "Meta": meta})
            with stage.patch.context() as patch:
                patch.setattr(apps, "get_models", lambda: [model])
                return stage.bridged()

    return having(Storage()), having(FileSystemStorage())


@Stories.told("E015")
def a_dashboard_without_its_apps(stage: Stage) -> Both:
    included, whole = {"ROOT_URLCONF": urls(OURS)}, [*settings.INSTALLED_APPS, *ALL]
    return stage.site.ids(**included), stage.site.ids(**included, INSTALLED_APPS=whole)


@Stories.told("W045")
def a_dashboard_behind_another_line(stage: Stage) -> Both:
    wrong = stage.site.ids(ROOT_URLCONF=urls(ADMIN, OURS))
    return wrong, stage.site.ids(ROOT_URLCONF=urls(OURS, ADMIN))


@Stories.told("W024")
def a_receiver_that_sets(stage: Stage) -> Both:
    def having(receiver: Any) -> list[str]:
        connection_created.connect(receiver)
        try:
            return stage.site.ids()
        finally:
            connection_created.disconnect(receiver)

    return having(by_argument), having(a_constant)


@Stories.told("W030")
def a_cursor_class_that_is_wrapped_again(stage: Stage) -> Both:
    def installed(version: str) -> list[str]:
        install(stage.patch, django_prometheus=version)
        databases = {"default": {**PROMETHEUS, "OPTIONS": {"pool": True}}}
        return stage.site.ids(databases=databases)

    return installed("2.4.1"), installed("2.5.0")


@Stories.told("W031")
def a_server_that_swallows_cancellations(stage: Stage) -> Both:
    def installed(version: str) -> list[str]:
        install(stage.patch, gunicorn=version)
        return stage.site.ids(**ASGI)

    return installed("26.0.0"), installed("26.1.0")


@Stories.told("W032")
def metrics_set_up_too_late(stage: Stage) -> Both:
    late = {"PROMETHEUS_MULTIPROC_DIR": "/nowhere"}
    return stage.site.ids(environment=late), stage.site.ids()


# -- what a database is asked


@Stories.told("W010", "W011", "I001", "I003")
def functions_that_leave_state(stage: Stage) -> Both:
    wrong = stage.asked(
        TRIGGER.format(SETS) + "CREATE FUNCTION lower(a int) RETURNS text LANGUAGE sql AS"
        " $$ SELECT set_config('app.tenant', a::text, false) $$;"
        "CREATE FUNCTION runs() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN EXECUTE TG_ARGV[0]; RETURN NEW; END $$;"
        "CREATE TRIGGER runs BEFORE INSERT ON seen FOR EACH ROW EXECUTE FUNCTION runs('SELECT 1');"
        "CREATE POLICY own ON seen USING (a = current_setting('app.tenant', true)::int)"
    )
    right = stage.asked(
        TRIGGER.format(LOCAL)
        + "CREATE FUNCTION lower(a int) RETURNS text LANGUAGE sql AS $$ SELECT a::text $$;"
        "CREATE POLICY own ON seen USING (a > 0)"
    )
    return wrong, right


@Stories.told("I002")
def no_time_for_functions(stage: Stage) -> Both:
    right = stage.asked(TRIGGER.format(SETS))
    stage.patch.setattr(hidden_search, "SECONDS", 0.0)
    return stage.asked(TRIGGER.format(SETS)), right


@Stories.told("W035")
def more_than_the_server_gives(stage: Stage) -> Both:
    return stage.asked(max_size=3_000), stage.asked(max_size=2)


@Stories.told("W036", "W037")
def nothing_that_ends_what_hangs(stage: Stage) -> Both:
    return stage.asked(**UNGUARDED), stage.asked()


@Stories.told("W038")
def a_pooler_that_nobody_declares(stage: Stage) -> Both:
    with Pooler(stage.server.host, stage.server.port) as between:
        here = str(between.port)
        with pytest.warns(PoolWarning):
            wrong = stage.asked(port=here, **UNGUARDED)
        right = stage.asked(port=here, pooler="pgbouncer-session", **UNGUARDED)
    assert "poolkit.I006" not in {*wrong, *right}  # it was asked
    return wrong, right


@Stories.told("I006")
def a_server_that_is_away(stage: Stage) -> Both:
    return stage.asked(port="1", timeout=0.2), stage.asked()


@Stories.told("I007")
def a_pooler_that_is_not_there(stage: Stage) -> Both:
    pooler = "pgbouncer-session"
    with Pooler(stage.server.host, stage.server.port) as between:
        right = stage.asked(port=str(between.port), pooler=pooler, **UNGUARDED)
    return stage.asked(pooler=pooler), right


# -- that none is left out


@pytest.mark.parametrize("story", [*dict.fromkeys(Stories.of.values())], ids=lambda s: s.__name__)
def test_it_is_told_where_it_is_wrong_and_not_where_it_is_right(stage: Stage, story: Story) -> None:
    names = {f"poolkit.{name}" for name, each in Stories.of.items() if each is story}
    wrong, right = story(stage)
    assert names <= set(wrong)
    assert not names & set(right)


def test_every_check_of_the_catalogue_is_tried_both_ways() -> None:
    of_rows = {name for name, _, _, right in CASES if right}
    assert not of_rows & set(Stories.of)
    assert of_rows | set(Stories.of) == {name.removeprefix("poolkit.") for name in ids()}
