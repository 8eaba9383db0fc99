"""URLs of the tests' project. Tests that need views override ROOT_URLCONF."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
