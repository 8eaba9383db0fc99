"""What is shown of a stack."""

from __future__ import annotations

import sysconfig

import django
import pytest

from django_poolkit.control.stacktext import telling

DJANGO = f"{django.__path__[0]}/db/models/query.py:91 ModelIterable.__iter__"
STANDARD = f"{sysconfig.get_path('stdlib')}/threading.py:1012 Thread.run"
FROZEN = "<frozen runpy>:88 _run_code"


def test_the_applications_own_lines_are_shown_and_the_innermost_of_them() -> None:
    own = [f"/srv/shop/{name}.py:{number} run" for number, name in enumerate("abcde")]
    stack = [DJANGO, own[0], DJANGO, own[1], STANDARD, *own[2:], FROZEN]
    assert telling(stack) == tuple(own[:3])


@pytest.mark.parametrize("own", ["<console>:1 <module>", "<string>:3 f.<locals>.<lambda>",
                                 "/srv/python/lib/shop/views.py:3 view"])  # fmt: skip
def test_what_is_typed_is_the_applications(own: str) -> None:
    assert telling([DJANGO, own, STANDARD]) == (own,)


def test_where_it_has_none_the_innermost_of_all_are_shown() -> None:
    stack = [DJANGO, STANDARD, FROZEN, STANDARD]
    assert telling(stack) == (DJANGO, STANDARD, FROZEN)


def test_libraries_of_other_pythons_are_libraries() -> None:
    found = telling([
        "/usr/lib/python3/dist-packages/celery/app/trace.py:453 trace_task",
        "/opt/python/lib/python3.11/asyncio/runners.py:118 run",
        "/srv/venv/lib64/site-packages/gunicorn/workers/gthread.py:1 handle",
        "/srv/checkout/django_poolkit/wsgi.py:4 __call__",
        "/srv/shop/tasks.py:7 send",
    ])  # fmt: skip
    assert found == ("/srv/shop/tasks.py:7 send",)
