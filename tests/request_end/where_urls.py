"""Views with names and without."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import include, path


def unnamed(request: HttpRequest, number: int = 0) -> HttpResponse:
    """Answer with nothing."""
    return HttpResponse()


urlpatterns = [
    path("held/", unnamed, name="held"),
    path("unnamed/<int:number>/", unnamed),
    path("api/", include(([path("orders/<int:number>/", unnamed, name="order")], "api"))),
]
