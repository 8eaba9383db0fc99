"""A site with the admin and the dashboard in front of it."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/poolkit/", include("django_poolkit.dashboard.urls")),
    path("admin/", admin.site.urls),
]
