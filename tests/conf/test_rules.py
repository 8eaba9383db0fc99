"""The rules of a cluster: which models it has, what is read from the primary, stale writes."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.conf.clusters import Cluster, clusters_config

pytestmark = pytest.mark.core


def read(settings: Any, **entries: Any) -> Cluster:
    settings.POOLKIT = {"CLUSTERS": {"default": {"replicas": ["replica"], **entries}}}
    return clusters_config()["default"]


def test_who_is_logged_in_is_read_from_the_primary_by_default(settings):
    cluster = read(settings)
    assert cluster.on_primary == ("admin", "auth", "sessions")
    assert cluster.models == ()
    assert cluster.stale_write == "warn"
    assert cluster.atomic_requests == "primary"


def test_labels_are_kept_as_django_spells_them(settings):
    cluster = read(settings, models=["shop", "Blog.BlogPost"], on_primary=[])
    assert cluster.models == ("shop", "Blog.blogpost")
    assert cluster.on_primary == ()


@pytest.mark.parametrize("key", ["models", "on_primary"])
@pytest.mark.parametrize("value", ["shop", {"shop"}, None, 3])
def test_labels_have_to_be_a_list(settings, key, value):
    with pytest.raises(ImproperlyConfigured, match=rf"\['default'\]\['{key}'\] must be a list"):
        read(settings, **{key: value})


@pytest.mark.parametrize("label", ["", "shop.", ".Order", "a.b.c", "shop order", 3])
def test_a_label_names_an_app_or_a_model(settings, label):
    with pytest.raises(ImproperlyConfigured, match=r"\['models'\]\[1\] must be as"):
        read(settings, models=["blog", label])


@pytest.mark.parametrize("value", ["ignore", "", None, [], True])
def test_a_stale_write_is_allowed_warned_of_or_refused(settings, value):
    with pytest.raises(ImproperlyConfigured, match="'allow', 'warn' or 'raise'"):
        read(settings, stale_write=value)


@pytest.mark.parametrize("value", ["both", None, [], True])
def test_views_in_transactions_read_either(settings, value):
    assert read(settings, atomic_requests="replica").atomic_requests == "replica"
    with pytest.raises(ImproperlyConfigured, match=r"\['atomic_requests'\] must be 'primary'"):
        read(settings, atomic_requests=value)


def test_two_clusters_cannot_have_the_same_models(settings):
    settings.POOLKIT = {
        "CLUSTERS": {"default": {"models": ["shop.Order"]}, "ts": {"models": ["shop.order"]}}
    }
    with pytest.raises(ImproperlyConfigured, match=r"\['ts'\]\['models'\].*\['default'\]"):
        clusters_config()


def test_how_positions_are_told(settings):
    settings.POOLKIT = {"CLUSTERS": {"default": {}}}
    assert clusters_config()["default"].position == "lsn"
    settings.POOLKIT = {"CLUSTERS": {"default": {"position": "time"}}}
    assert clusters_config()["default"].position == "time"
    settings.POOLKIT = {"CLUSTERS": {"default": {"position": "gtid"}}}
    with pytest.raises(ImproperlyConfigured, match=r"\['default'\]\['position'\] must be 'lsn' or"):
        clusters_config()


def test_one_of_several_replicas_is_chosen_by_one_of_five_ways(settings):
    assert read(settings).choice == "visitor"
    for value in ("visitor", "round_robin", "random", "least_used", "latency"):
        assert read(settings, choice=value).choice == value


@pytest.mark.parametrize("value", ["weighted", "", None, 2, ["random"]])
def test_there_is_no_other_way(settings, value):
    said = (
        r"\['choice'\] must be one of 'visitor', 'round_robin', 'random', 'least_used', 'latency'"
    )
    with pytest.raises(ImproperlyConfigured, match=said):
        read(settings, choice=value)
