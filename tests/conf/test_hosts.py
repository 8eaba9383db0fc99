"""`OPTIONS["hosts"]`: keys, weights, what each host has of its own, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.conf.databases import verify_databases
from django_poolkit.conf.hosts import at_host, hosts_of

pytestmark = pytest.mark.core

AT = r"DATABASES\['replica'\]\['OPTIONS'\]\['hosts'\]"


def entry(hosts: Any, **options: Any) -> dict[str, Any]:
    return {
        "ENGINE": "django_poolkit.backends.postgresql",
        "NAME": "shop",
        "USER": "web",
        "HOST": "db",
        "PORT": "5432",
        "OPTIONS": {"hosts": hosts, "sslmode": "require", **options},
    }


def test_an_alias_without_them_leads_to_one_server():
    assert hosts_of("replica", {"OPTIONS": {}}) is None
    assert hosts_of("replica", {}) is None


def test_a_list_is_numbered_and_a_dict_has_names():
    listed = hosts_of("replica", entry([{"HOST": "a"}, {"HOST": "b", "weight": 3}]))
    assert listed is not None
    assert {key: host.weight for key, host in listed.items()} == {"1": 1.0, "2": 3.0}
    named = hosts_of("replica", entry({"eu-1": {"HOST": "a", "weight": 0.5}, "us": {"PORT": 6}}))
    assert named is not None
    assert {key: (host.key, host.weight) for key, host in named.items()} == {
        "eu-1": ("eu-1", 0.5), "us": ("us", 1.0),
    }  # fmt: skip


def test_what_a_host_does_not_say_is_as_for_the_alias():
    database = entry([{"HOST": "a", "weight": 2}, {"PORT": 6432, "USER": "u", "PASSWORD": "p"}])
    hosts = hosts_of("replica", database)
    assert hosts is not None
    one, two = (at_host(database, host) for host in hosts.values())
    assert one == {**database, "HOST": "a", "OPTIONS": {"sslmode": "require"}}
    assert two == {
        **database, "PORT": 6432, "USER": "u", "PASSWORD": "p", "OPTIONS": {"sslmode": "require"},
    }  # fmt: skip
    assert "hosts" in database["OPTIONS"]


def test_a_password_is_not_shown():
    hosts = hosts_of("replica", entry([{"HOST": "a", "PASSWORD": "s3cr3t"}]))
    assert hosts is not None
    assert "s3cr3t" not in repr(hosts["1"])


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ("a,b", rf"{AT} must be a list of hosts, .*; got a str"),
        (None, rf"{AT} must be a list of hosts, .*; got a NoneType"),
        ([], rf"{AT} must be a list of hosts, .*; got a list"),
        ({}, rf"{AT} must be a list of hosts, .*; got a dict"),
        (["a"], rf"{AT}\[0\] must be a dict; got a str"),
        ({"eu/1": {"HOST": "a"}}, rf"{AT} must have names of at most 40 letters.*; got a str"),
        ({"": {"HOST": "a"}}, rf"{AT} must have names"),
        ({"x" * 41: {"HOST": "a"}}, rf"{AT} must have names"),
        ({1: {"HOST": "a"}}, rf"{AT} must have names .*; got 1"),
        ([{"HOST": "a"}, {"host": "b"}], rf"{AT}\[1\]\['host'\]: .* Did you mean 'HOST'\?"),
        ([{"HOST": "a", "WEIGHT": 1}], rf"{AT}\[0\]\['WEIGHT'\]: .* Did you mean 'weight'\?"),
        ([{"HOST": "a", "NAME": "b"}], rf"{AT}\[0\]\['NAME'\]: there is no such setting"),
        ([{"HOST": "a,b"}], rf"{AT}\[0\]\['HOST'\] must be the name or address of one server"),
        ([{"HOST": None}], rf"{AT}\[0\]\['HOST'\] must be .*; got a NoneType"),
        ([{"PORT": "54x"}], rf"{AT}\[0\]\['PORT'\] must be a port, as 5432; got a str"),
        ([{"PORT": True}], rf"{AT}\[0\]\['PORT'\] must be a port"),
        ([{"weight": 1}], rf"{AT}\[0\] must have a HOST or a PORT, or it leads nowhere"),
        ({"eu": {"HOST": "a", "weight": 0}}, rf"{AT}\['eu'\]\['weight'\] .* above 0; got 0"),
        ([{"HOST": "a", "weight": True}], rf"{AT}\[0\]\['weight'\] must be a number above 0"),
        ([{"HOST": "a", "weight": "2"}], rf"{AT}\[0\]\['weight'\] .* above 0; got a str"),
        ([{"HOST": "a", "weight": float("inf")}], rf"{AT}\[0\]\['weight'\] .*; got inf"),
        ([{"HOST": "a", "weight": float("nan")}], rf"{AT}\[0\]\['weight'\] .*; got nan"),
        (
            [{"HOST": "a", "PORT": 5432}, {"HOST": "a"}],
            rf"{AT}\[1\] leads to the same server as {AT}\[0\]; for a larger share give 'weight'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_path(hosts, said):
    with pytest.raises(ImproperlyConfigured, match=said):
        hosts_of("replica", entry(hosts))


def test_hosts_need_a_pool():
    with pytest.raises(ImproperlyConfigured, match=rf"{AT} is for a pooled alias"):
        hosts_of("replica", entry([{"HOST": "a"}], pool=False))


def test_they_are_looked_at_as_the_app_gets_ready(monkeypatch):
    monkeypatch.setitem(settings.DATABASES, "replica", entry([]))
    with pytest.raises(ImproperlyConfigured, match=AT):
        verify_databases()


def test_another_engine_does_not_know_them(monkeypatch):
    stock = {**entry([{"HOST": "a"}]), "ENGINE": "django.db.backends.postgresql"}
    monkeypatch.setitem(settings.DATABASES, "replica", stock)
    with pytest.raises(ImproperlyConfigured, match=rf"{AT} is an option of django_poolkit, but"):
        verify_databases()
