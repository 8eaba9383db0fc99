"""Connections over a network whose other end proves nothing. For `check --deploy`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.checks.aliases import Alias, aliases, client_sessions
from django_poolkit.conf import site
from django_poolkit.conf.hosts import hosts_of
from django_poolkit.conf.http import path_of

_DEFAULT: Final = "prefer"


def databases() -> Iterator[CheckMessage]:
    """Look for databases that could be anybody: sslmode below verify-full, over a network."""
    for alias in aliases():
        mode = _sslmode(alias.options)
        if mode not in (None, "verify-full") and _remote(alias):
            shown = mode if alias.options.get("sslmode") else f"not set, so {mode!r}"
            yield checks.Warning(
                f"{alias.path('OPTIONS', 'sslmode')} is {shown}: whoever is on the way can pose "
                "as the server, and be told the password.",
                hint="Set it to 'verify-full', with 'sslrootcert': the file of the authority that "
                "signs your servers' certificates, or 'system'.",
                id="poolkit.W028",
            )


def upstreams() -> Iterator[CheckMessage]:
    """Look for client sessions that speak to another machine in the clear."""
    for config in client_sessions():
        for key, url in (
            ("base_url", config.options.get("base_url")), ("HEALTH_URL", config.health_url),
        ):  # fmt: skip
            parts = urlsplit(str(url or ""))
            if parts.scheme == "http" and not _is_near(parts.hostname or ""):
                yield checks.Warning(
                    f"{path_of(config.name)}[{key!r}] begins with http://, and leads to another "
                    "machine: everybody on the way can read and change what is said.",
                    hint="Write https://. Where a proxy on this host or a service mesh encrypts, "
                    "silence this check.",
                    id="poolkit.W029",
                )


def _sslmode(options: Mapping[str, Any]) -> str | None:
    """Return the mode that libpq takes, None where what is written does not tell."""
    if mode := options.get("sslmode"):
        return str(mode)
    if options.get("sslrootcert") == "system":
        return "verify-full"  # which libpq then insists on
    if options.get("service") or options.get("gssencmode") == "require":
        return None
    return site.default_sslmode() or _DEFAULT


def _remote(alias: Alias) -> bool:
    """Tell whether any server of an alias is reached over a network."""
    try:
        hosts = hosts_of(alias.name, alias.settings)
    except ImproperlyConfigured:
        return False
    own = alias.settings["HOST"] or ""
    names = [own] if hosts is None else [h.settings.get("HOST", own) for h in hosts.values()]
    return any(not _is_near(each.strip()) for name in names for each in str(name).split(","))


def _is_near(host: str) -> bool:
    """Tell whether a host is this one: a UNIX socket (also where nothing is named), or loopback."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
