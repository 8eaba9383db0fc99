"""A dashboard that is included, and cannot be shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from django.apps import apps as installed
from django.core import checks
from django.core.checks import CheckMessage
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse

_NEEDED: Final = (
    "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
    "django_poolkit.dashboard",
)  # fmt: skip


def apps() -> Iterator[CheckMessage]:
    """Look for the apps without which its pages fail."""
    if _address() is None:
        return
    if missing := [name for name in _NEEDED if not installed.is_installed(name)]:
        yield checks.Error(
            "The URLs include django_poolkit.dashboard.urls, and INSTALLED_APPS lacks "
            f"{', '.join(missing)}.",
            hint="Add what is missing, then run migrate. Or take the line out of the URLs.",
            id="poolkit.E015",
        )


def order() -> Iterator[CheckMessage]:
    """Look whether something in front of it takes its address."""
    if (address := _address()) is None:
        return
    try:
        found = resolve(address).namespaces
    except Resolver404:  # what is in front raises it, too
        found = []
    if "poolkit_dashboard" not in found:
        yield checks.Warning(
            f"The dashboard is included at {address}, and another line of the URLs takes that "
            "address.",
            hint="Put its line in front of the other, which is often path('admin/', "
            "admin.site.urls).",
            id="poolkit.W045",
        )


def _address() -> str | None:
    try:
        found = reverse("poolkit_dashboard:index")
    except (NoReverseMatch, AttributeError):  # the latter where there is no ROOT_URLCONF
        return None
    return "/" + found.removeprefix(get_script_prefix())
