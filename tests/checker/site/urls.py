"""Where the pages are."""

from __future__ import annotations

from django.urls import path

from tests.checker.site import views

urlpatterns = [
    path("enter", views.enter),
    path("work", views.work),
    path("awork", views.awork),
]
