"""`POOLKIT["CLUSTERS"]`: read as it is, refused with its path, and held against `DATABASES`."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.conf.clusters import clusters_config, verify_clusters
from django_poolkit.routing import topology

pytestmark = pytest.mark.core

OURS = "django_poolkit.backends.postgresql"


@pytest.fixture
def clusters(settings: Any):
    """Return a function that sets the section."""

    def be(value: Any) -> None:
        settings.POOLKIT = {"CLUSTERS": value}

    return be


@pytest.fixture
def aliases(monkeypatch):
    """Return a function that adds to `DATABASES`."""

    def be(**entries: Any) -> None:
        for name, entry in entries.items():
            whole = {"ENGINE": OURS, "NAME": "x", "OPTIONS": {}, **entry}
            monkeypatch.setitem(settings.DATABASES, name, whole)

    return be


def parts(name: str = "default") -> tuple[str, tuple[str, ...]]:
    cluster = clusters_config()[name]
    return cluster.primary, cluster.replicas


def test_there_are_none_unless_they_are_set(settings):
    settings.POOLKIT = {}
    assert clusters_config() == {}
    assert topology.cluster_of("default") is None
    assert topology.role_of("default") is None


def test_a_cluster_called_like_its_primary_need_not_name_it(clusters):
    clusters({"default": {"replicas": ["replica"]}})
    assert parts() == ("default", ("replica",))


def test_there_may_be_several(clusters):
    clusters(
        {
            "main": {"primary": "default", "replicas": ["eu", "us"]},
            "ts": {"replicas": ("ts_replica",)},
            "lone": {},
        }
    )
    assert parts("main") == ("default", ("eu", "us"))
    assert parts("ts") == ("ts", ("ts_replica",))
    assert parts("lone") == ("lone", ())
    found = {alias: topology.cluster_of(alias) for alias in ("default", "us", "ts", "ts_replica")}
    assert {alias: cluster and cluster.name for alias, cluster in found.items()} == {
        "default": "main", "us": "main", "ts": "ts", "ts_replica": "ts",
    }  # fmt: skip
    assert [topology.role_of(alias) for alias in ("default", "eu", "lone", "other")] == [
        "primary", "replica", "primary", None,
    ]  # fmt: skip
    assert topology.clusters() is clusters_config()


def test_what_is_set_again_is_read_again(clusters, settings):
    clusters({"default": {"replicas": ["replica"]}})
    assert clusters_config() is clusters_config()
    assert topology.role_of("replica") == "replica"
    clusters({"default": {"replicas": ["other"]}})
    assert topology.role_of("replica") is None
    assert topology.role_of("other") == "replica"
    settings.POOLKIT["CLUSTERS"] = {"default": {"replicas": ["third"]}}
    assert topology.role_of("third") == "replica"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], r"POOLKIT\['CLUSTERS'\] must be a dict; got a list"),
        ({1: {}}, r"POOLKIT\['CLUSTERS'\] must have names for keys; got 1"),
        ({"a": []}, r"POOLKIT\['CLUSTERS'\]\['a'\] must be a dict; got a list"),
        ({"a": {"PRIMARY": "a"}}, r"\['a'\]\['PRIMARY'\]: .* Did you mean 'primary'\?"),
        ({"a": {"secret": "s3cr3t"}}, r"\['a'\]\['secret'\]: there is no such setting. Known are:"),
        ({"a": {"primary": None}}, r"\['a'\]\['primary'\] must be an alias .*; got a NoneType"),
        ({"a": {"primary": ""}}, r"\['a'\]\['primary'\] must be an alias .*; got a str"),
        ({"a": {"replicas": "r"}}, r"\['a'\]\['replicas'\] must be a list .*; got a str"),
        ({"a": {"replicas": ["r", 2]}}, r"\['a'\]\['replicas'\]\[1\] must be a list .*; got 2"),
        ({"a": {"replicas": ["r", "r"]}}, r"\['a'\]\['replicas'\]\[0\] must .* each of them once"),
        ({"a": {"replicas": ["a"]}}, r"\['a'\] has the alias 'a', and so has .*\['a'\]: an alias"),
        (
            {"a": {"replicas": ["r"]}, "b": {"replicas": ["r"]}},
            r"\['b'\] has the alias 'r', and so has POOLKIT\['CLUSTERS'\]\['a'\]",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_path(clusters, value, said):
    clusters(value)
    with pytest.raises(ImproperlyConfigured, match=said):
        clusters_config()


def test_what_is_refused_once_is_refused_again(clusters):
    clusters({"a": []})
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured):
            topology.cluster_of("a")


def test_members_are_looked_up_in_databases(clusters, aliases):
    aliases(default={}, replica={"OPTIONS": {"hosts": [{"PORT": "1"}]}})
    clusters({"default": {"replicas": ["replica"]}})
    verify_clusters()
    assert topology.host_keys("replica") == ("1",)
    assert topology.host_keys("default") is None
    with pytest.raises(KeyError):
        topology.host_keys("absent")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"default": {"replicas": ["nil"]}}, r"\['replicas'\]\[0\] is 'nil', .* 'default', 'ho"),
        ({"main": {}}, r"\['main'\]\['primary'\] is 'main', which is no alias of DATABASES"),
        ({"stock": {}}, r"\['primary'\] is 'stock', whose ENGINE is 'django.db.backends.postgresq"),
        (
            {"default": {"replicas": ["stock"]}},
            r"\['replicas'\]\[0\] is 'stock', .* Set DATABASES\['stock'\]\['ENGINE'\] to 'django_",
        ),
        ({"hosts": {}}, r"\['primary'\] is 'hosts', which has OPTIONS\['hosts'\]: a primary is o"),
        ({"plain": {}}, r"\['primary'\] is 'plain', which is not pooled: .* Remove DATABASES\['pl"),
    ],
)  # fmt: skip
def test_members_that_cannot_have_their_part_are_refused(clusters, aliases, value, said):
    aliases(
        default={},
        hosts={"OPTIONS": {"hosts": [{"PORT": "1"}]}},
        stock={"ENGINE": "django.db.backends.postgresql"},
        plain={"OPTIONS": {"pool": False}},
    )
    clusters(value)
    with pytest.raises(ImproperlyConfigured, match=said):
        verify_clusters()
