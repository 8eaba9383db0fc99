"""A health answer as one of Django's responses, for the view and the middleware."""

from __future__ import annotations

from django.http import HttpResponse

from django_poolkit.health.answers import Answer


def as_response(answer: Answer) -> HttpResponse:
    """Return an answer as a response that Django logs nothing about."""
    response = HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))
    # A 503 is what it has to say. Django would log an error and mail ADMINS, at each probe
    # (django/utils/log.py, log_response()).
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response
