"""Health: is this process alive, is it ready, and can it reach what it needs?

`report()` and `areport()` answer for a group of checks; `@check` declares one of your own.
"""

from __future__ import annotations

from django_poolkit.health.asking import areport, known, look, names, report
from django_poolkit.health.declared import check
from django_poolkit.health.report import Figures, Reason, Report, Result, Status

__all__ = [
    "Figures",
    "Reason",
    "Report",
    "Result",
    "Status",
    "areport",
    "check",
    "known",
    "look",
    "names",
    "report",
]
