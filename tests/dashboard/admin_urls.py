"""A site with the admin alone: the dashboard's app is installed, and its URLs are forgotten."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
