"""A process that has seen no lifespan yet, for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_poolkit.lifespan import course, declared
from tests.lifespan.support import Diary


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    before = dict(declared._declared)
    declared._declared.clear()
    yield
    declared._declared.clear()
    declared._declared.update(before)
    course.forget()


@pytest.fixture
def diary() -> Diary:
    return Diary()
