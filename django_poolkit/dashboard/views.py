"""The views behind `django_poolkit.dashboard.urls`."""

from __future__ import annotations

import logging
from typing import Any, Final

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied
from django.db.transaction import non_atomic_requests
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from django_poolkit.control.directory import DirectoryRefused
from django_poolkit.control.outcome import DONE, REFUSED, Outcome
from django_poolkit.dashboard import looking, steering
from django_poolkit.dashboard.access import Visitor, admit, give_back, wants_json
from django_poolkit.dashboard.figures import Figures, figures
from django_poolkit.dashboard.steering import COMMANDS, Command
from django_poolkit.dashboard.tables import clock, shown, tables

logger = logging.getLogger("django_poolkit.dashboard")

INTERVAL: Final = 2
"""Seconds between two looks of a page that is open."""


# Whether somebody is logged in is asked by `admit()`, and a block around all would hold a lease.
@login_not_required
@non_atomic_requests
@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show the pools of all processes: as a page, or as JSON to who accepts nothing else better."""
    program = wants_json(request)
    visitor = admit(request, page=not program)
    if not isinstance(visitor, Visitor):
        return visitor
    found = figures(looking.report())
    if program:
        return _unstored(JsonResponse(found))
    context = {
        **visitor.context,
        **_live(found, visitor),
        "title": "Connection pools",
        "interval": INTERVAL,
    }
    return _unstored(render(request, "poolkit_dashboard/page.html", context))


@login_not_required
@non_atomic_requests
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """Return the part of the page that changes, for its script."""
    visitor = admit(request, page=False)
    if not isinstance(visitor, Visitor):
        return visitor
    context = _live(figures(looking.report()), visitor)
    return _unstored(render(request, "poolkit_dashboard/live.html", context))


@login_not_required
@non_atomic_requests
@csrf_protect  # as the admin's own views, whatever MIDDLEWARE has
@require_http_methods(["GET", "HEAD", "POST"])
def steer(request: HttpRequest, command: str) -> HttpResponse:
    """Ask whether something is to be done to a pool, and do it."""
    visitor = admit(request)
    if not isinstance(visitor, Visitor):
        return visitor
    if not visitor.may_steer:
        raise PermissionDenied
    if command not in COMMANDS:
        raise Http404("There is no such command.")
    chosen, context = COMMANDS[command], dict(visitor.context)
    pool = _pool(request)
    context |= {"title": f"{chosen.title} {pool}?", "command": chosen, "pool": pool}
    if (refusal := steering.refusal()) is not None:
        return _told(request, context, 403, refusal)
    if request.method != "POST":
        return _asked(request, context)
    seconds = _seconds(request)
    if seconds is None:
        text = f"Give whole seconds, from 1 to {steering.LONGEST_PAUSE}."
        return _asked(request, context, status=400, problem=text)
    return _done(request, context, visitor, chosen, seconds)


def _pool(request: HttpRequest) -> str:
    """Return the pool that is meant. Raises Http404 where no process has one of that name."""
    name = (request.POST if request.method == "POST" else request.GET).get("pool", "")
    if name not in {pool["name"] for pool in figures(looking.report())["pools"]}:
        raise Http404("There is no such pool.")
    return str(name)


def _seconds(request: HttpRequest) -> int | None:
    text = request.POST.get("seconds", str(steering.USUAL_PAUSE))
    if not text.isascii() or not text.isdecimal():
        return None
    return seconds if 1 <= (seconds := int(text[:9])) <= steering.LONGEST_PAUSE else None


def _done(
    request: HttpRequest, context: dict[str, Any], visitor: Visitor, command: Command, seconds: int
) -> HttpResponse:
    pool = context["pool"]
    steering.enter(visitor.pk, command, pool, seconds)
    give_back()  # a pause waits for all leases
    try:
        outcome = steering.carry_out(command, pool, seconds)
    except (DirectoryRefused, OSError) as error:
        _log(visitor, command, pool, type(error).__name__)
        text = "No order could be left for processes that start meanwhile, so nothing was done."
        return _told(request, context, 500, text)
    finally:
        looking.forget()
    _log(visitor, command, pool, "done" if outcome.code == DONE else f"code {outcome.code}")
    obeyed = _obeyed(outcome)
    context["title"] = f"{command.done}: {pool}" if obeyed else f"Not {command.done}"
    context["tables"] = outcome.tables()
    # The answer itself, and no redirect to it: that would ask a database who it is for, which may
    # be the one that has just been paused.
    problem = outcome.problem() or ("" if obeyed else "No process has this pool any more.")
    return _told(request, context, 403 if outcome.code == REFUSED else 200, problem)


def _obeyed(outcome: Outcome) -> bool:
    return any(answer.result and answer.result["pools"] for answer in outcome.answers)


def _log(visitor: Visitor, command: Command, pool: str, result: str) -> None:
    text = "event=dashboard_steer user=%s command=%s pool=%s result=%s"
    logger.info(text, visitor.pk, command.name, ascii(pool), result)


def _asked(
    request: HttpRequest, context: dict[str, Any], *, status: int = 200, problem: str = ""
) -> HttpResponse:
    context |= {"problem": problem, "seconds": request.POST.get("seconds", steering.USUAL_PAUSE)}
    context["longest"] = steering.LONGEST_PAUSE
    return _unstored(render(request, "poolkit_dashboard/confirm.html", context, status=status))


def _told(
    request: HttpRequest, context: dict[str, Any], status: int, problem: str = ""
) -> HttpResponse:
    context["problem"] = problem
    return _unstored(render(request, "poolkit_dashboard/told.html", context, status=status))


def _live(found: Figures, visitor: Visitor) -> dict[str, Any]:
    return {
        "found": found,
        "tone": "good" if found["status"] == "fine" else "bad",
        "pools": [shown(pool) for pool in found["pools"]],
        "tables": tables(found),
        "when": clock(found["time"]),
        "commands": _commands(visitor),
        "refusal": steering.refusal() if visitor.may_steer else None,
    }


def _commands(visitor: Visitor) -> list[Command]:
    return list(COMMANDS.values()) if visitor.may_steer and steering.refusal() is None else []


def _unstored(response: HttpResponse) -> HttpResponse:
    response.headers["Cache-Control"] = "no-store"
    return response
