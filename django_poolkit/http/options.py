"""aiohttp's own options, held against its real signatures and handed on by their names."""

from __future__ import annotations

import difflib
import inspect
import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import aiohttp
from django.core.exceptions import ImproperlyConfigured
from multidict import CIMultiDict
from yarl import URL

from django_poolkit.conf.http import HttpConfig, path_of
from django_poolkit.conf.poolkit import bad_value_at

_BOUND_TO_A_LOOP: Final = "belongs to one event loop, and a client session is made for each"
_DEPRECATED: Final = "is deprecated in aiohttp"
# Not to be set, and why.
_REFUSED: Final[Mapping[str, str]] = {
    "connector": f"{_BOUND_TO_A_LOOP}; write the options of TCPConnector by their names",
    "connector_owner": "is not yours to set: each client session owns its connector",
    "loop": f"{_BOUND_TO_A_LOOP} that uses it",
    "resolver": f"{_BOUND_TO_A_LOOP}; see ADDRESSES",
    "cookie_jar": f"{_BOUND_TO_A_LOOP}; see COOKIES",
    "timeout": "is not one number: write total, connect, sock_connect and sock_read",
    "trust_env": "would let the environment choose proxies, and ~/.netrc who you are; see proxy",
    "auth": f"{_DEPRECATED}; write headers={{'Authorization': ...}}",
    "proxy_auth": f"{_DEPRECATED}; write the user and the password into proxy",
    "read_timeout": f"{_DEPRECATED}; write total",
    "conn_timeout": f"{_DEPRECATED}; write connect",
    "verify_ssl": f"{_DEPRECATED}, and certificates are always verified; see CAFILE",
    "ssl_context": f"{_DEPRECATED}; write ssl",
    "fingerprint": f"{_DEPRECATED}; write ssl",
    "ssl_shutdown_timeout": _DEPRECATED,
}


@dataclass(frozen=True)
class Options:
    """What the constructors of aiohttp are called with."""

    session: Mapping[str, Any] = field(repr=False)  # headers and proxies hold secrets
    connector: Mapping[str, Any] = field(repr=False)
    timeout: aiohttp.ClientTimeout
    ssl: ssl.SSLContext | aiohttp.Fingerprint | bool
    base_url: URL | None = field(repr=False)


def _names(kind: type[Any]) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters.values()
    return {parameter.name: parameter.annotation for parameter in parameters}


_SESSION: Final = _names(aiohttp.ClientSession)
_CONNECTOR: Final = _names(aiohttp.TCPConnector)
_TIMEOUT: Final = _names(aiohttp.ClientTimeout)
_ALL: Final = _TIMEOUT | _CONNECTOR | _SESSION


def read(config: HttpConfig) -> Options:
    """Return the options, sorted by whose they are. Reads `CAFILE`.

    Raises ImproperlyConfigured with the path of the first that cannot be honoured.
    """
    path = path_of(config.name)
    for key, value in config.options.items():
        _check(f"{path}[{key!r}]", key, value)
    options = dict(config.options)
    base_url = _base_url(f"{path}['base_url']", options.get("base_url"))
    verified = _ssl(config, options.pop("ssl", True))
    if config.addresses is not None and options.get("proxy") is not None:
        raise ImproperlyConfigured(
            f"{path}['proxy']: a proxy looks up hosts by itself, so that ADDRESSES could not hold. "
            "Set ADDRESSES to 'any', or remove the proxy."
        )
    if options.get("cookies") and not config.cookies:
        raise ImproperlyConfigured(
            f"{path}['cookies'] would be dropped, as no cookies are kept. Set COOKIES to True, "
            "or write headers={'Cookie': ...}."
        )
    return Options(
        session={key: value for key, value in options.items() if key in _SESSION},
        connector={key: value for key, value in options.items() if key in _CONNECTOR},
        timeout=aiohttp.ClientTimeout(**{k: v for k, v in options.items() if k in _TIMEOUT}),
        ssl=verified,
        base_url=base_url,
    )


def is_verified(value: object) -> bool:
    """Return whether `ssl=value` leaves a server to prove who it is."""
    if isinstance(value, ssl.SSLContext):
        return value.verify_mode == ssl.CERT_REQUIRED and value.check_hostname
    # A fingerprint stands for one certificate, which aiohttp compares by itself.
    return value is True or isinstance(value, aiohttp.Fingerprint)


def _check(path: str, key: str, value: object) -> None:
    if key in _REFUSED:
        raise ImproperlyConfigured(f"{path} {_REFUSED[key]}.")
    if key not in _ALL:
        ours = [name for name in HttpConfig.__dataclass_fields__ if name not in ("name", "options")]
        close = difflib.get_close_matches(key, [*ours, *_ALL], n=1)
        meant = close[0].upper() if close and close[0] in ours else close[0] if close else ""
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise ImproperlyConfigured(
            f"{path}: neither ClientSession nor TCPConnector nor ClientTimeout of aiohttp "
            f"{aiohttp.__version__} has this option.{hint}"
        )
    kinds = _kinds(_ALL[key])
    if kinds and not any(_is_a(value, kind) for kind in kinds):
        names = " or ".join(sorted("None" if k is type(None) else k.__name__ for k in kinds))
        raise bad_value_at(path, value, f"must be {names}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_number(path, key, value)
    if key == "headers" and value is not None:
        try:
            CIMultiDict(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise bad_value_at(path, value, "must be a dict of headers") from None
    lists = (list, tuple, type(None))
    if key in ("middlewares", "trace_configs") and not isinstance(value, lists):
        raise bad_value_at(path, value, "must be a list")


def _check_number(path: str, key: str, value: float) -> None:
    if not math.isfinite(value) or value < 0:
        raise bad_value_at(path, value, "must not be negative, nor endless")
    if value == 0 and key in _TIMEOUT and key != "ceil_threshold":
        raise bad_value_at(path, value, "must be above 0, or None for no bound")
    if value == 0 and key == "limit":
        raise bad_value_at(path, value, "must be above 0: all requests of a process share it")


def _kinds(annotation: Any) -> set[type[Any]] | None:
    """Return the plain types of which a value must be one, None where it may be something else."""
    union = get_origin(annotation) in (Union, UnionType)
    found = {
        kind
        for kind in (get_args(annotation) if union else (annotation,))
        # The sentinel for "not given" is one.
        if not (isinstance(kind, type) and issubclass(kind, Enum))
    }
    return found if found <= {bool, int, float, str, type(None)} else None


def _is_a(value: object, kind: type[Any]) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _base_url(path: str, value: object) -> URL | None:
    if value is None:
        return None
    what = "must be a URL such as 'https://api.example.com/', with a slash at its end"
    try:
        url = URL(value) if isinstance(value, (str, URL)) else URL()
        if url.scheme in ("http", "https") and url.host and url.path.endswith("/"):
            return url
    except ValueError:
        pass
    raise bad_value_at(path, value, what)


def _ssl(config: HttpConfig, value: Any) -> ssl.SSLContext | aiohttp.Fingerprint | bool:
    path = path_of(config.name)
    if not is_verified(value):
        raise ImproperlyConfigured(
            f"{path}['ssl'] must not give up verification: whoever is on the way could read and "
            "answer everything. Name your own authority's certificates in CAFILE."
        )
    if config.cafile is None:
        return value  # type: ignore[no-any-return]
    if value is not True:
        raise ImproperlyConfigured(f"{path}: of CAFILE and ssl there can be only one.")
    try:
        context = ssl.create_default_context(cafile=config.cafile)
    except ssl.SSLError:
        what = "must be a file of certificates in PEM format"
        raise bad_value_at(f"{path}['CAFILE']", str(config.cafile), what) from None
    context.set_alpn_protocols(("http/1.1",))  # as aiohttp's own
    return context
