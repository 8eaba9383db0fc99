"""The site's addresses."""

from __future__ import annotations

from django.urls import path

from tests.lifespan.site import views

urlpatterns = [
    path("pid/", views.pid),
    path("state/", views.state),
    path("query/", views.query),
    path("aquery/", views.aquery),
    path("slow/", views.slow),
    path("slow-sync/", views.slow_sync),
    path("stream/", views.stream),
    path("cleanup/", views.cleanup),
    path("stubborn/", views.stubborn),
    path("resource/", views.resource),
    path("aresource/", views.aresource),
    path("status/", views.status),
]
