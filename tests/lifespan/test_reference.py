"""The reference of the lifespan says what the code says."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from typing import get_args

import pytest

from django_poolkit import lifespan
from django_poolkit.conf.lifespan import LifespanConfig, Pools
from django_poolkit.lifespan import declared
from django_poolkit.lifespan.keeper import _FIRST_PAUSE, _LONGEST_PAUSE, State
from django_poolkit.lifespan.span import _PATIENCE
from django_poolkit.testing.lifespan import AsyncSite, Site
from tests.docs_support import DOCS
from tests.lifespan.test_servers import CODES

pytestmark = pytest.mark.core

PAGE = (DOCS / "reference/lifespan.md").read_text()


def section(title: str) -> str:
    return re.split(r"\n##+ ", PAGE.split(f" {title}\n")[1])[0]


def rows(text: str) -> list[list[str]]:
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def test_every_setting_is_there_with_its_default() -> None:
    found = {
        cells[0].strip("`"): ast.literal_eval(cells[1].strip("`"))
        for cells in rows(section("Settings"))
        if cells[0].startswith("`")
    }
    assert found == {field.name.upper(): field.default for field in fields(LifespanConfig)}
    for way in get_args(Pools):
        assert f'`"{way}"`' in section("Settings")


def test_every_name_is_there() -> None:
    named = set(re.findall(r"^\| `(\w+)", section("django_poolkit.lifespan"), re.MULTILINE))
    assert named == set(lifespan.__all__)


def test_every_option_is_there_with_its_default() -> None:
    options = inspect.signature(declared._declare).parameters.keys() - {"function", "options"}
    options |= {"required", "start_timeout", "stop_timeout"}
    table = [cells for cells in rows(section("resource")) if cells[0].startswith("`")]
    found = {cells[0].strip("`") for cells in table}
    assert options <= found
    assert "`@resource(name=None, required=True, start_timeout=None, stop_timeout=None)`" in PAGE
    assert {"get()", "aget()"} <= found


def test_every_state_is_there() -> None:
    named = {cells[0].strip("`") for cells in rows(section("Status"))} - {"state", "---"}
    assert named == set(get_args(State))
    assert f"a pause of {_FIRST_PAUSE} s, doubling up to {_LONGEST_PAUSE:g} s" in PAGE
    assert f"waited for by the start for {_PATIENCE:g} s at most" in PAGE


def test_every_exit_code_is_there() -> None:
    text = section("What a server hears")
    said = {
        "uvicorn": r"\[uvicorn\].* 3; with `--workers` 0 \|",
        "gunicorn-uvicorn": r"with uvicorn's worker \| 3 \|",
        "gunicorn-asgi": r"`asgi` worker \| 3 \|",
        "granian": r"\[granian\].*? \| 1 \|",
        "hypercorn": r"\[hypercorn\].*? \| 0 \|",
    }
    assert set(CODES) == {*said, "uvicorn-2"}
    for kind, pattern in said.items():
        assert re.search(pattern, text), kind
    assert CODES == {
        "uvicorn": 3, "uvicorn-2": 0, "gunicorn-uvicorn": 3, "gunicorn-asgi": 3, "granian": 1,
        "hypercorn": 0,
    }  # fmt: skip


def test_what_tests_may_use_is_there() -> None:
    text = section("In tests")
    for site in (AsyncSite, Site):
        assert f"`{site.__name__}(app, **changes)`" in text
    assert {"run"} == {name for name in vars(Site) if not name.startswith("_")} - {"state"}
    assert "`run(coroutine)`" in text
