"""aiohttp's options by their names: each is handed on, or refused with its path."""

from __future__ import annotations

import inspect
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given, settings
from hypothesis import strategies as st

from django_poolkit.conf.http import DEFAULTS, HttpConfig
from django_poolkit.http import options
from tests.http.support import MakeSession
from tests.http.upstream import Upstream


def read(**values: Any) -> options.Options:
    config = {
        key: values.pop(key) for key in list(values) if key in HttpConfig.__dataclass_fields__
    }
    return options.read(HttpConfig(name="api", options={**DEFAULTS, **values}, **config))


def test_each_goes_where_it_belongs() -> None:
    context = ssl.create_default_context()
    found = read(limit=7, keepalive_timeout=3, total=9, headers={"X": "1"}, ssl=context)
    assert found.connector == {"limit": 7, "keepalive_timeout": 3}
    assert found.session == {"headers": {"X": "1"}}
    assert found.timeout == aiohttp.ClientTimeout(
        total=9, connect=5.0, sock_connect=5.0, sock_read=15.0
    )
    assert found.ssl is context


def test_no_name_means_two_things() -> None:
    """Else it could not be told whose it is."""
    session, connector, timeout = (
        set(inspect.signature(kind).parameters)
        for kind in (aiohttp.ClientSession, aiohttp.TCPConnector, aiohttp.ClientTimeout)
    )
    assert (session & connector) | (connector & timeout) | (timeout & session) <= set(
        options._REFUSED
    )


@pytest.mark.parametrize("key", sorted(options._ALL.keys() - options._REFUSED.keys()))
def test_every_other_option_of_aiohttp_is_taken_with_its_own_default(
    make: MakeSession, upstream: Upstream, key: str
) -> None:
    kinds = (aiohttp.ClientSession, aiohttp.TCPConnector, aiohttp.ClientTimeout)
    [parameter] = [
        inspect.signature(kind).parameters[key]
        for kind in kinds
        if key in inspect.signature(kind).parameters
    ]
    value = 5.0 if key == "keepalive_timeout" else parameter.default
    assert make(**{key: value}).sync.get(upstream.url()).status == 200


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"limits": 5},
            r"POOLKIT\['HTTP'\]\['api'\]\['limits'\]: neither ClientSession.*'limit'\?",
        ),
        ({"max_body": 5}, r"\['max_body'\].*Did you mean 'MAX_BODY'\?"),
        ({"allowed_host": []}, r"Did you mean 'ALLOWED_HOSTS'\?"),
        ({"zzz": 5}, r"\['zzz'\].*has this option\.$"),
        ({"limit": -1}, r"\['limit'\] must not be negative, nor endless; got -1"),
        ({"limit": 0}, r"\['limit'\] must be above 0: all requests of a process share it"),
        ({"limit": "5"}, r"\['limit'\] must be int; got a str"),
        ({"limit": True}, r"\['limit'\] must be int; got True"),
        ({"limit": None}, r"\['limit'\] must be int; got a NoneType"),
        ({"limit": 5.5}, r"\['limit'\] must be int; got 5.5"),
        ({"limit_per_host": -5}, r"\['limit_per_host'\] must not be negative"),
        ({"total": 0}, r"\['total'\] must be above 0, or None for no bound"),
        ({"total": -1.0}, r"\['total'\] must not be negative"),
        ({"total": float("inf")}, r"\['total'\] must not be negative, nor endless"),
        ({"total": float("nan")}, r"\['total'\] must not be negative, nor endless"),
        ({"connect": "5s"}, r"\['connect'\] must be None or float; got a str"),
        ({"force_close": "yes"}, r"\['force_close'\] must be bool; got a str"),
        ({"force_close": 1}, r"\['force_close'\] must be bool; got 1"),
        ({"headers": 5}, r"\['headers'\] must be a dict of headers; got 5"),
        ({"middlewares": 5}, r"\['middlewares'\] must be a list"),
        ({"trace_configs": "x"}, r"\['trace_configs'\] must be a list"),
        ({"base_url": "api.example.com"}, r"\['base_url'\] must be a URL such as"),
        ({"base_url": "https://api.example.com/v1"}, r"\['base_url'\].*with a slash at its end"),
        ({"base_url": "ftp://api.example.com/"}, r"\['base_url'\] must be"),
        ({"base_url": "http://[/"}, r"\['base_url'\] must be"),
        ({"base_url": 5}, r"\['base_url'\] must be"),
        ({"cookies": {"a": "1"}}, r"\['cookies'\] would be dropped.*Set COOKIES to True"),
        ({"ssl": False}, r"\['ssl'\] must not give up verification"),
        ({"ssl": None}, r"\['ssl'\] must not give up verification"),
        ({"ssl": 0}, r"\['ssl'\] must not give up verification"),
        ({"ssl": "off"}, r"\['ssl'\] must not give up verification"),
        ({"verify_ssl": True}, r"\['verify_ssl'\] is deprecated.*see CAFILE"),
        ({"trust_env": True}, r"\['trust_env'\] would let the environment choose proxies"),
        ({"timeout": 5}, r"\['timeout'\] is not one number: write total"),
        ({"connector": None}, r"\['connector'\] belongs to one event loop"),
        ({"resolver": None}, r"\['resolver'\] belongs to one event loop.*see ADDRESSES"),
        ({"cookie_jar": None}, r"\['cookie_jar'\].*see COOKIES"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    make: MakeSession, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        make(**values)


@pytest.mark.parametrize("key", sorted(options._REFUSED))
def test_what_is_refused_is_known_to_aiohttp(key: str) -> None:
    assert key in options._ALL
    with pytest.raises(ImproperlyConfigured, match=rf"\['api'\]\['{key}'\] "):
        read(**{key: True})


def test_contexts_that_verify_nothing_are_refused() -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    with pytest.raises(ImproperlyConfigured, match="must not give up verification"):
        read(ssl=context)
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ImproperlyConfigured, match="must not give up verification"):
        read(ssl=context)
    fingerprint = aiohttp.Fingerprint(bytes(32))
    assert read(ssl=fingerprint).ssl is fingerprint


def test_a_cafile_stands_alone_and_holds_certificates(cafile: Path, tmp_path: Path) -> None:
    found = read(cafile=cafile).ssl
    assert isinstance(found, ssl.SSLContext)
    assert found.verify_mode == ssl.CERT_REQUIRED
    assert found.check_hostname
    assert len(found.get_ca_certs()) == 1  # and none of the system's
    with pytest.raises(ImproperlyConfigured, match="of CAFILE and ssl there can be only one"):
        read(cafile=cafile, ssl=ssl.create_default_context())
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ImproperlyConfigured, match=r"\['CAFILE'\] must be a file of certificates"):
        read(cafile=empty)


def test_a_proxy_and_addresses_exclude_each_other(make: MakeSession) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"\['proxy'\]: a proxy looks up hosts by itself"
    ):
        make(proxy="http://proxy.example:3128", ADDRESSES="public")
    make(proxy="http://proxy.example:3128")


def test_no_value_is_shown_that_may_be_a_secret(make: MakeSession) -> None:
    for values in ({"headers": "secret"}, {"base_url": "secret"}, {"limit": "secret"}):
        with pytest.raises(ImproperlyConfigured) as caught:
            make(**values)
        assert "secret" not in str(caught.value)


def test_no_option_is_shown_that_may_hold_a_secret() -> None:
    secret = {"headers": {"X-Api-Key": "s3same"}, "proxy": "http://me:s3same@proxy.example/"}
    config = HttpConfig(name="api", options={**DEFAULTS, **secret})
    assert "s3same" not in f"{config!r} {options.read(config)!r}"


@settings(deadline=None)
@given(st.text(max_size=20))
def test_no_base_url_makes_it_fail_otherwise(text: str) -> None:
    try:
        found = read(base_url=f"https://{text}/")
    except ImproperlyConfigured:
        return
    assert found.base_url is not None
    assert found.base_url.raw_host
