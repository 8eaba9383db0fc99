"""A report as a small page for a person: no script, no file from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Final

from django_poolkit.health.report import Figures, Report, Result

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""The Content-Security-Policy of the page."""

_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}"
    "th,td{padding:.3rem .8rem .3rem 0;text-align:left;border-bottom:1px solid #8884}"
    "td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".pass{color:#18864b}.warn{color:#a86400}.fail{color:#d0342c}"
)
# The heading, and whether what is below it is a number.
_COLUMNS: Final = (
    ("check", False), ("status", False), ("reason", False), ("latency", True), ("used", True),
    ("idle", True), ("size", True), ("waiters", True), ("lag", True),
)  # fmt: skip


def brief(status: str) -> str:
    """Return the page for those who are told the status alone."""
    return _page(status, "")


def detailed(report: Report) -> str:
    """Return the page with a row for each check."""
    head = "".join(f"<th{_class(number)}>{name}</th>" for name, number in _COLUMNS)
    rows = "".join(map(_row, report.results))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>\n"
    age = f"<p>{escape(report.group)}, as it was {report.age:.1f} s ago</p>\n"
    return _page(report.status, age + (table if report.results else ""))


def _page(status: str, body: str) -> str:
    status = escape(status)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{status}</title>'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">'
        f"<style>{_STYLE}</style></head>\n"
        f'<body><h1 class="{status}">{status}</h1>\n{body}</body></html>\n'
    )


def _row(result: Result) -> str:
    pool = result.figures
    cells = (
        result.name,
        result.status,
        result.reason or "",
        _seconds(result.latency),
        *(("",) * 4 if pool is None else (pool.used, pool.idle, _size(pool), pool.waiters)),
        _seconds(result.lag),
    )
    shown = (
        f"<td{_class(number)}>{escape(str(cell))}</td>"
        for cell, (_, number) in zip(cells, _COLUMNS, strict=True)
    )
    return f'<tr class="{escape(result.status)}">{"".join(shown)}</tr>\n'


def _class(number: bool) -> str:
    return ' class="n"' if number else ""


def _size(pool: Figures) -> str:
    return f"{pool.size}/{pool.max_size}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.4f} s"
