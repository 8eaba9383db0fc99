"""What a cluster asks of its replicas."""

from __future__ import annotations

import math

import pytest
from django.core.exceptions import ImproperlyConfigured

from tests.conf.test_rules import read


def test_a_cluster_is_looked_after_by_default(settings):
    cluster = read(settings)
    assert (cluster.watch, cluster.all_down) == (True, "primary")
    assert (cluster.max_lag, cluster.max_lag_bytes) == (60.0, 2**28)


def test_limits_are_numbers_or_none(settings):
    cluster = read(settings, max_lag=0.5, max_lag_bytes=None, watch=False, all_down="stale")
    assert (cluster.max_lag, cluster.max_lag_bytes) == (0.5, None)
    assert (cluster.watch, cluster.all_down) == (False, "stale")
    assert read(settings, max_lag=None, max_lag_bytes=1).max_lag is None


@pytest.mark.parametrize("key", ["max_lag", "max_lag_bytes"])
@pytest.mark.parametrize("value", [0, -1, "60", True, math.inf, math.nan, [60]])
def test_a_limit_that_nobody_can_keep_or_break_is_refused(settings, key, value):
    with pytest.raises(ImproperlyConfigured, match=rf"\['{key}'\] must be a number of .* or None"):
        read(settings, **{key: value})


@pytest.mark.parametrize("value", ["replica", "", None, True, ["stale"]])
def test_where_all_are_down_one_of_three_things_happens(settings, value):
    with pytest.raises(ImproperlyConfigured, match=r"\['all_down'\] must be 'primary', 'stale' or"):
        read(settings, all_down=value)


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_a_cluster_is_looked_after_or_not(settings, value):
    with pytest.raises(ImproperlyConfigured, match=r"\['watch'\] must be True or False"):
        read(settings, watch=value)
