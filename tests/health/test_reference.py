"""The reference of health says what the code says."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from typing import get_args

import pytest

from django_poolkit import health
from django_poolkit.conf.health import HealthConfig
from django_poolkit.health import groups
from django_poolkit.health.declared import _declare
from django_poolkit.health.report import Figures, Reason, Report, Result, Status
from django_poolkit.health.worker import IDLE
from tests.docs_support import DOCS, ROOT

pytestmark = pytest.mark.core

PAGE = (DOCS / "reference/health.md").read_text()


def section(title: str) -> str:
    return re.split(r"\n##+ ", PAGE.split(f"# {title}\n")[1])[0]


def rows(text: str) -> list[list[str]]:
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def first_words(text: str) -> set[str]:
    return {word for cells in rows(text) for word in re.findall(r"`([\w./<>]+)", cells[0])}


def test_every_setting_is_there_with_its_default() -> None:
    found = {
        cells[0].strip("`"): ast.literal_eval(cells[1].strip("`"))
        for cells in rows(section("Settings"))
        if cells[0].startswith("`")
    }
    config = HealthConfig()
    expected = {f.name.upper(): getattr(config, f.name) for f in fields(HealthConfig)}
    assert found == expected


def test_every_group_is_there() -> None:
    named = first_words(section("Groups").split("| member |")[0])
    kinds = {"db", "db/<alias>", "http", "http/<name>", "asyncpg", "asyncpg/<alias>"}
    assert named == {*groups._TOLD, *kinds}


def test_every_status_and_reason_is_there() -> None:
    text = section("Results")
    statuses, reasons = text.split("| reason |")
    assert first_words(statuses) == set(get_args(Status))
    assert first_words(reasons) == set(get_args(Reason))


def test_every_reason_is_given_by_something() -> None:
    code = "".join(
        path.read_text()
        for folder in ("health", "pools/postgres")
        for path in (ROOT / "django_poolkit" / folder).glob("*.py")
        if path.name != "report.py"
    )
    for reason in get_args(Reason):
        assert f'"{reason}"' in code, reason


def test_every_name_is_there() -> None:
    text = section("django_poolkit.health")
    assert first_words(text) == set(health.__all__)
    described = {cells[0].strip("`"): cells[1] for cells in rows(text)}
    for kind in (Report, Result, Figures):
        for name in (field.name for field in fields(kind)):
            assert f"`{name}`" in described[kind.__name__], name


def test_every_option_of_a_check_is_there() -> None:
    text = section("Checks of your own")
    options = inspect.signature(_declare).parameters
    table = text.split("| it returns |")[0]
    assert first_words(table) == options.keys() - {"function"}
    assert '`@check(name=None, *, groups=("ready",), timeout=None, cache=None)`' in text
    for name in ("groups", "timeout", "cache"):
        assert f"{name}={options[name].default!r}".replace("'", '"') in text


def test_the_times_are_right() -> None:
    assert f"nobody has asked for {IDLE:.0f} s" in PAGE
    assert f"ends after {IDLE:.0f} s" in PAGE


def test_every_system_check_is_there() -> None:
    code = (ROOT / "django_poolkit/checks/health.py").read_text()
    ids = re.findall(r'id="([\w.]+)"', code)
    assert len(set(ids)) == len(ids) > 4
    assert set(re.findall(r"^\| \[`(poolkit\.\w+)`\]", section("System checks"), re.MULTILINE)) == {
        *ids
    }
