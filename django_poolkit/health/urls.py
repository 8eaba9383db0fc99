"""`path("health/", include("django_poolkit.health.urls"))`: `/health/live`, `/health/db` …"""

from __future__ import annotations

from django.urls import path

from django_poolkit.health.views import health

app_name = "poolkit_health"
urlpatterns = [
    path("", health, name="index"),
    path("<path:group>", health, name="group"),
]
