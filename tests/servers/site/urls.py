"""The site's addresses."""

from __future__ import annotations

from django.urls import include, path

from tests.servers.site import views

accounts = [path("idle/", views.idle, name="idle")]
urlpatterns = [
    path("quick/", views.quick, name="quick"),
    path("draw/", views.draw, name="draw"),
    path("slow/", views.slow, name="slow"),
    path("aslow/", views.aslow, name="aslow"),
    path("raw/", views.raw, name="raw"),
    path("nested/", views.nested, name="nested"),
    path("rows/", views.rows, name="rows"),
    path("accounts/", include((accounts, "accounts"))),
    path("", include("django_prometheus.urls")),
]
