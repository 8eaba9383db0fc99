"""The way from the admin's index to the page: an entry for those who may see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import NoReverseMatch, URLPattern, path, reverse

from django_poolkit.dashboard.access import VIEW
from django_poolkit.dashboard.models import Pools

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _ModelAdmin = admin.ModelAdmin


@admin.register(Pools)
class PoolsAdmin(_ModelAdmin):
    """Stands in the list of models; there is nothing to add, change or delete."""

    def get_urls(self) -> list[URLPattern]:
        """Return one address, by the name that the index asks for."""
        name = "poolkit_dashboard_pools_changelist"
        return [path("", self.admin_site.admin_view(self.changelist_view), name=name)]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Lead to the page, which asks for itself who may see it."""
        return HttpResponseRedirect(_address() or reverse(f"{self.admin_site.name}:index"))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Tell whether the index names it."""
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Tell whether there is a page, and the user may see it."""
        return _address() is not None and bool(request.user.has_perm(VIEW))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Return False."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Return False."""
        return False


def _address() -> str | None:
    try:
        return reverse("poolkit_dashboard:index")
    except NoReverseMatch:  # the app is installed, and its URLs are not included
        return None
