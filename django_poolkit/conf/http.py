"""`POOLKIT["HTTP"]`: the shared client sessions by name, and what each of them may do.

Keys in capitals are ours, and are read here. Those in small letters are aiohttp's own: they are
held against its signatures where aiohttp is known, in `http/options.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final, Literal, TypeGuard

from django.core.exceptions import ImproperlyConfigured

from django_poolkit.conf.poolkit import bad_value_at, mapping, refuse_unknown, section

Redirects = Literal["same-origin", "any", "never"]
Network = IPv4Network | IPv6Network

DEFAULTS: Final[Mapping[str, float]] = {
    "limit": 100,
    "total": 30.0,
    "connect": 5.0,
    "sock_connect": 5.0,
    "sock_read": 15.0,
}
"""Of aiohttp's options, where nothing else is set: connections, and seconds. By its own defaults a
request may take five minutes."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"\*|\.?{_LABEL}(\.{_LABEL})*|\[?[0-9a-f:.]*:[0-9a-f:.]*\]?")
_MOST_RETRIES: Final = 10
_URL: Final = re.compile(r"(https?://[^/\s]|/)\S*")


@dataclass(frozen=True, kw_only=True)
class AddressRule:
    """To which addresses may be connected: those of the networks, and the public ones."""

    public: bool
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HttpConfig:
    """One client session, as the settings want it."""

    name: str
    max_body: int | None = 10 * 1024 * 1024
    """Bytes of a response's body, decompressed; None for no bound."""
    redirects: Redirects = "same-origin"
    """Which are followed."""
    allowed_hosts: tuple[str, ...] | None = None
    """Hosts that may be asked, `.example.com` with all below; None for what `base_url` says."""
    addresses: AddressRule | None = None
    """To what a host's name may lead; None for anything."""
    cookies: bool = False
    """Whether cookies that servers set are kept, and sent with whoever asks next."""
    cafile: Path | None = None
    """A file of the certificates to trust instead of the system's."""
    retries: int = 0
    """How many more times an idempotent request is sent that failed."""
    retry_budget: float = 0.1
    """The share of requests that may be retries."""
    close_timeout: float = 3.0
    """Seconds that closing takes at most."""
    health_url: str | None = None
    """Which URL its health check asks for; None: it asks for none."""
    options: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULTS), repr=False)
    """aiohttp's own. Never shown: headers and proxies hold secrets."""


_KEYS: Final = tuple(
    name.upper() for name in HttpConfig.__dataclass_fields__ if name not in ("name", "options")
)


def http_names() -> tuple[str, ...]:
    """Return the names of all client sessions, in the order of the settings."""
    return tuple(section("HTTP", None))


def http_config(name: str) -> HttpConfig:
    """Return what is set for one client session.

    Raises KeyError where there is none of this name, and ImproperlyConfigured with the path of
    the first value that cannot be honoured.
    """
    sessions = section("HTTP", None)
    if name not in sessions:
        known = ", ".join(map(repr, sessions)) or "none"
        raise KeyError(f"POOLKIT['HTTP'] has no client session {name!r}; there are: {known}")
    path = path_of(name)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ImproperlyConfigured(
            f"{path}: the name of a client session has at most 40 letters, digits, dots, hyphens "
            "and underscores."
        )
    values = mapping(sessions[name], path)
    ours = {key: value for key, value in values.items() if not _is_theirs(key)}
    theirs = {key: value for key, value in values.items() if _is_theirs(key)}
    refuse_unknown(ours, _KEYS, path)
    url = ours.get("HEALTH_URL")
    if isinstance(url, str) and url.startswith("/") and not theirs.get("base_url"):
        what = "needs a base_url, or has to begin with https:// or http://"
        raise bad_value_at(f"{path}['HEALTH_URL']", url, what)
    return HttpConfig(
        name=name,
        options={**DEFAULTS, **theirs},
        **{key.lower(): _READ[key](f"{path}[{key!r}]", value) for key, value in ours.items()},
    )


def path_of(name: str) -> str:
    """Return where in the settings a client session is."""
    return f"POOLKIT['HTTP'][{name!r}]"


def _is_theirs(key: object) -> bool:
    return isinstance(key, str) and key.islower()


def _max_body(path: str, value: object) -> int | None:
    if value is not None and (not _is_int(value) or value < 1):
        raise bad_value_at(path, value, "must be a number of bytes, or None for no bound")
    return value


def _redirects(path: str, value: object) -> Redirects:
    if value not in ("same-origin", "any", "never"):
        raise bad_value_at(path, value, "must be 'same-origin', 'any' or 'never'")
    return value


def _allowed_hosts(path: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    what = "must be a list of host names such as 'api.example.com' or '.example.com', or None"
    if isinstance(value, str) or not isinstance(value, (list, tuple, set, frozenset)) or not value:
        raise bad_value_at(path, value, what)
    hosts = [host.lower() if isinstance(host, str) else host for host in value]
    for host in hosts:
        # A port, a scheme or a letter that has to be written as xn--... would match no host.
        if not isinstance(host, str) or not _HOST.fullmatch(host):
            raise bad_value_at(path, host, what)
    return tuple(host.strip("[]") for host in hosts)


def _addresses(path: str, value: object) -> AddressRule | None:
    if value == "any":
        return None
    if value == "public":
        return AddressRule(public=True)
    what = "must be 'any', 'public', or a list of networks and 'public'"
    if isinstance(value, str) or not isinstance(value, (list, tuple, set, frozenset)) or not value:
        raise bad_value_at(path, value, what)
    networks = []
    for entry in value:
        try:
            if entry != "public":
                # A number would be read as one address.
                networks.append(ip_network(entry if isinstance(entry, str) else ""))
        except ValueError:
            raise bad_value_at(path, entry, what) from None
    return AddressRule(public="public" in value, networks=tuple(networks))


def _cookies(path: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise bad_value_at(path, value, "must be True or False")
    return value


def _cafile(path: str, value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not Path(value).is_file():
        raise bad_value_at(path, value, "must be the path of a file of certificates, or None")
    return Path(value)


def _retries(path: str, value: object) -> int:
    if not _is_int(value) or not 0 <= value <= _MOST_RETRIES:
        raise bad_value_at(path, value, f"must be a whole number from 0 to {_MOST_RETRIES}")
    return value


def _retry_budget(path: str, value: object) -> float:
    if not _is_number(value) or not 0 < value <= 1:
        raise bad_value_at(path, value, "must be a share above 0, and at most 1")
    return float(value)


def _close_timeout(path: str, value: object) -> float:
    if not _is_number(value) or not 0 < value <= 60:
        raise bad_value_at(path, value, "must be a number of seconds above 0, and at most 60")
    return float(value)


def _health_url(path: str, value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and _URL.fullmatch(value)):
        what = "must be a URL, or a path below base_url that begins with a slash, or None"
        raise bad_value_at(path, value, what)
    return value


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_READ: Final[Mapping[str, Callable[[str, object], Any]]] = {
    "MAX_BODY": _max_body,
    "REDIRECTS": _redirects,
    "ALLOWED_HOSTS": _allowed_hosts,
    "ADDRESSES": _addresses,
    "COOKIES": _cookies,
    "CAFILE": _cafile,
    "RETRIES": _retries,
    "RETRY_BUDGET": _retry_budget,
    "CLOSE_TIMEOUT": _close_timeout,
    "HEALTH_URL": _health_url,
}
assert set(_READ) == set(_KEYS)
