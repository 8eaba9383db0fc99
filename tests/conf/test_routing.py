"""`POOLKIT["ROUTING"]`: what it may hold, and how the rest is refused."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.conf.routing import RoutingConfig, routing_config


def test_the_defaults(settings):
    settings.POOLKIT = {}
    assert routing_config() == RoutingConfig()


def test_it_is_read_once(settings):
    settings.POOLKIT = {"ROUTING": {"WAIT": 0.1}}
    assert routing_config() is routing_config()
    settings.POOLKIT = {"ROUTING": {"WAIT": 0.2}}
    assert routing_config().wait == 0.2


def test_everything_can_be_set(settings):
    settings.POOLKIT = {
        "ROUTING": {
            "WAIT": 0,
            "MAX_AGE": 10,
            "PIN": 2,
            "COOKIE": None,
            "HEADER": "X-Floor",
            "CACHE": "shared",
            "DEBUG_HEADER": "X-Routing",
        }
    }
    assert routing_config() == RoutingConfig(
        wait=0.0,
        max_age=10.0,
        pin=2.0,
        cookie=None,
        header="X-Floor",
        cache="shared",
        debug_header="X-Routing",
    )


def test_a_pin_that_is_not_set_is_no_longer_than_a_floor_lasts(settings):
    settings.POOLKIT = {"ROUTING": {"MAX_AGE": 2}}
    assert routing_config().pin == 2.0


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ({"WAIT": -1}, "POOLKIT['ROUTING']['WAIT']"),
        ({"WAIT": "0.1"}, "POOLKIT['ROUTING']['WAIT']"),
        ({"WAIT": 30}, "POOLKIT['ROUTING']['WAIT']"),
        ({"MAX_AGE": 0}, "POOLKIT['ROUTING']['MAX_AGE']"),
        ({"MAX_AGE": float("inf")}, "POOLKIT['ROUTING']['MAX_AGE']"),
        ({"PIN": True}, "POOLKIT['ROUTING']['PIN']"),
        ({"PIN": 31}, "POOLKIT['ROUTING']['PIN']"),
        ({"COOKIE": "a b"}, "POOLKIT['ROUTING']['COOKIE']"),
        ({"HEADER": "X:"}, "POOLKIT['ROUTING']['HEADER']"),
        ({"HEADER": ""}, "POOLKIT['ROUTING']['HEADER']"),
        ({"DEBUG_HEADER": True}, "POOLKIT['ROUTING']['DEBUG_HEADER'] must be the name of a header"),
        ({"DEBUG_HEADER": "x-a", "HEADER": "X-A"}, "['DEBUG_HEADER'] must be another one than"),
        ({"CACHE": 3}, "POOLKIT['ROUTING']['CACHE']"),
        ({"WAITS": 1}, "Did you mean 'WAIT'?"),
    ],
)
def test_what_cannot_be_honoured_is_refused(settings, entry, path):
    settings.POOLKIT = {"ROUTING": entry}
    with pytest.raises(ImproperlyConfigured) as caught:
        routing_config()
    assert path in str(caught.value)
