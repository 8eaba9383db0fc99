"""`POOLKIT["HTTP"]`: its defaults, and what is refused."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from django_poolkit.conf.http import AddressRule, HttpConfig, http_config, http_names

pytestmark = pytest.mark.core


def config_of(values: Any, name: str = "api") -> HttpConfig:
    with override_settings(POOLKIT={"HTTP": {name: values}}):
        return http_config(name)


def test_what_holds_where_nothing_is_set() -> None:
    config = config_of({})
    assert config == HttpConfig(name="api")
    assert config.max_body == 10_485_760
    assert config.redirects == "same-origin"
    assert (config.allowed_hosts, config.addresses, config.cafile) == (None, None, None)
    assert (config.cookies, config.retries, config.close_timeout) == (False, 0, 3.0)
    assert config.options == {
        "limit": 100, "total": 30.0, "connect": 5.0, "sock_connect": 5.0, "sock_read": 15.0,
    }  # fmt: skip


def test_a_path_may_be_asked_for_below_the_base_url() -> None:
    config = config_of({"HEALTH_URL": "/up", "base_url": "https://api.example.com"})
    assert config.health_url == "/up"


def test_what_is_set_holds(tmp_path: Path) -> None:
    cafile = tmp_path / "ca.pem"
    cafile.touch()
    config = config_of(
        {
            "MAX_BODY": None,
            "REDIRECTS": "any",
            "ALLOWED_HOSTS": ["API.example.com", ".example.org", "[::1]", "127.0.0.1"],
            "ADDRESSES": ["public", "10.1.0.0/16"],
            "COOKIES": True,
            "CAFILE": str(cafile),
            "RETRIES": 2,
            "RETRY_BUDGET": 0.5,
            "CLOSE_TIMEOUT": 1,
            "HEALTH_URL": "https://api.example.com/up?deep=1",
            "limit": 7,
            "total": None,
            "headers": {"X": "1"},
        }
    )
    assert config == HttpConfig(
        name="api",
        max_body=None,
        redirects="any",
        allowed_hosts=("api.example.com", ".example.org", "::1", "127.0.0.1"),
        addresses=AddressRule(public=True, networks=(ip_network("10.1.0.0/16"),)),
        cookies=True,
        cafile=cafile,
        retries=2,
        retry_budget=0.5,
        close_timeout=1.0,
        health_url="https://api.example.com/up?deep=1",
        options={
            "limit": 7, "total": None, "connect": 5.0, "sock_connect": 5.0, "sock_read": 15.0,
            "headers": {"X": "1"},
        },
    )  # fmt: skip
    assert config_of({"ADDRESSES": "any"}).addresses is None
    assert config_of({"ADDRESSES": "public"}).addresses == AddressRule(public=True)


def test_names_are_the_users() -> None:
    with override_settings(POOLKIT={"HTTP": {"default": {}, "payments-2": {}}}):
        assert http_names() == ("default", "payments-2")
        with pytest.raises(KeyError, match=r"no client session 'x'; there are: 'default', 'pay"):
            http_config("x")
    with override_settings(POOLKIT={}):
        assert http_names() == ()
        with pytest.raises(KeyError, match="there are: none"):
            http_config("default")


@pytest.mark.parametrize("name", ["", "a b", "http:x", "x" * 41, 7])
def test_a_name_that_no_metric_could_bear_is_refused(name: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="at most 40 letters"):
        config_of({}, name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"POOLKIT\['HTTP'\]\['api'\] must be a dict; got a list"),
        ({"MAX_BODY": 0}, r"\['api'\]\['MAX_BODY'\] must be a number of bytes, or None.*; got 0"),
        ({"MAX_BODY": "1 MB"}, r"\['MAX_BODY'\] must be.*got a str"),
        ({"MAX_BODY": True}, r"\['MAX_BODY'\] must be.*got True"),
        ({"MAX_BODY": 1.5}, r"\['MAX_BODY'\] must be.*got 1.5"),
        ({"REDIRECTS": True}, r"\['REDIRECTS'\] must be 'same-origin', 'any' or 'never'"),
        ({"REDIRECTS": ["any"]}, r"\['REDIRECTS'\] must be"),
        ({"ALLOWED_HOSTS": "api.example.com"}, r"\['ALLOWED_HOSTS'\] must be a list of host"),
        ({"ALLOWED_HOSTS": []}, r"\['ALLOWED_HOSTS'\] must be a list"),
        ({"ALLOWED_HOSTS": ["https://api.example.com"]}, r"\['ALLOWED_HOSTS'\] must be"),
        ({"ALLOWED_HOSTS": ["api.example.com:443"]}, r"\['ALLOWED_HOSTS'\] must be"),
        ({"ALLOWED_HOSTS": ["*.example.com"]}, r"\['ALLOWED_HOSTS'\] must be"),
        ({"ALLOWED_HOSTS": ["bücher.example"]}, r"\['ALLOWED_HOSTS'\] must be"),
        ({"ALLOWED_HOSTS": [b"api"]}, r"\['ALLOWED_HOSTS'\] must be"),
        ({"ADDRESSES": "private"}, r"\['ADDRESSES'\] must be 'any', 'public', or a list"),
        ({"ADDRESSES": []}, r"\['ADDRESSES'\] must be"),
        ({"ADDRESSES": ["any"]}, r"\['ADDRESSES'\] must be"),
        ({"ADDRESSES": ["10.0.0.1/8"]}, r"\['ADDRESSES'\] must be"),
        ({"ADDRESSES": [1]}, r"\['ADDRESSES'\] must be"),
        ({"ADDRESSES": None}, r"\['ADDRESSES'\] must be"),
        ({"COOKIES": 1}, r"\['COOKIES'\] must be True or False; got 1"),
        ({"CAFILE": "/no/such/file"}, r"\['CAFILE'\] must be the path of a file"),
        ({"CAFILE": 1}, r"\['CAFILE'\] must be the path"),
        ({"RETRIES": -1}, r"\['RETRIES'\] must be a whole number from 0 to 10; got -1"),
        ({"RETRIES": 11}, r"\['RETRIES'\] must be"),
        ({"RETRIES": True}, r"\['RETRIES'\] must be"),
        ({"RETRY_BUDGET": 0}, r"\['RETRY_BUDGET'\] must be a share above 0, and at most 1"),
        ({"RETRY_BUDGET": 1.1}, r"\['RETRY_BUDGET'\] must be"),
        ({"RETRY_BUDGET": float("nan")}, r"\['RETRY_BUDGET'\] must be"),
        ({"HEALTH_URL": "api.example.com"}, r"\['HEALTH_URL'\] must be a URL, or a path"),
        ({"HEALTH_URL": "http:///up"}, r"\['HEALTH_URL'\] must be a URL"),
        ({"HEALTH_URL": "https://x/a b"}, r"\['HEALTH_URL'\] must be a URL"),
        ({"HEALTH_URL": ""}, r"\['HEALTH_URL'\] must be a URL"),
        ({"HEALTH_URL": 7}, r"\['HEALTH_URL'\] must be a URL"),
        ({"HEALTH_URL": "/up"}, r"\['HEALTH_URL'\] needs a base_url"),
        ({"CLOSE_TIMEOUT": 0}, r"\['CLOSE_TIMEOUT'\] must be a number of seconds above 0"),
        ({"CLOSE_TIMEOUT": float("inf")}, r"\['CLOSE_TIMEOUT'\] must be"),
        ({"MAXBODY": 1}, r"POOLKIT\['HTTP'\]\['api'\]\['MAXBODY'\]: .*Did you mean 'MAX_BODY'\?"),
        ({"Limit": 1}, r"\['Limit'\]: there is no such setting"),
        ({1: 1}, r"\[1\]: there is no such setting. Known are: MAX_BODY, REDIRECTS, "),
    ],
)
def test_what_cannot_be_honoured_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        config_of(values)


def test_the_section_must_be_a_dict() -> None:
    with (
        override_settings(POOLKIT={"HTTP": ["api"]}),
        pytest.raises(ImproperlyConfigured, match=r"POOLKIT\['HTTP'\] must be a dict"),
    ):
        http_names()


@settings(deadline=None)
@given(st.text(max_size=30))
def test_what_passes_for_a_host_is_nothing_else(host: str) -> None:
    try:
        config = config_of({"ALLOWED_HOSTS": [host]})
    except ImproperlyConfigured:
        return
    assert config.allowed_hosts is not None
    assert not set(config.allowed_hosts[0]) & set("/@#?%\\ \t\n[]")
    assert config.allowed_hosts[0].isascii()
