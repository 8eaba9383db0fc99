"""`path("admin/poolkit/", include("django_poolkit.dashboard.urls"))`, in front of `admin/`."""

from __future__ import annotations

from django.urls import path

from django_poolkit.dashboard import views

app_name = "poolkit_dashboard"
urlpatterns = [
    path("", views.index, name="index"),
    path("live/", views.live, name="live"),
    path("<str:command>/", views.steer, name="steer"),
]
