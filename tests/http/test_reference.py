"""The reference of client sessions says what the code says."""

from __future__ import annotations

import ast
import re
from dataclasses import fields

import aiohttp

from django_poolkit.conf.http import DEFAULTS, HttpConfig
from django_poolkit.http import errors, options
from django_poolkit.http.retries import BASE, IDEMPOTENT, LONGEST, STATUSES
from django_poolkit.http.shared import SharedClientSession
from django_poolkit.http.sync import SyncClientSession, SyncResponse
from tests.docs_support import DOCS

PAGE = (DOCS / "reference/http.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    lines = re.findall(r"^\| (`.*) \|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def test_every_setting_is_there_with_its_default() -> None:
    found = {
        cells[0].strip("`"): ast.literal_eval(cells[1].strip("`"))
        for cells in rows(section("Settings"))
        if cells[1].startswith("`") and len(cells) == 3
    }
    ours = {
        field.name.upper(): "any" if field.name == "addresses" else field.default
        for field in fields(HttpConfig)
        if field.name not in ("name", "options")
    }
    assert found == {**ours, **DEFAULTS}
    for name, value in found.items():
        assert type(value) is type({**ours, **DEFAULTS}[name])


def test_every_option_that_is_refused_is_named() -> None:
    [table] = [part for part in section("Settings").split("\n\n") if "| key | because |" in part]
    named = {name for cells in rows(table) for name in re.findall(r"`(\w+)`", cells[0])}
    assert named == {*options._REFUSED, "ssl", "cookies", "COOKIES", "proxy", "ADDRESSES"}


def test_every_method_is_named() -> None:
    text = section("client_sessions")
    public = {name for name in vars(SharedClientSession) if not name.startswith("_")}
    inner = {"close_from_thread", "forget"}  # called by the process's table
    named = set(re.findall(r"`(?:await )?(\w+)[`(]", text))
    assert public - inner <= named
    assert {name for name in vars(SyncClientSession) if not name.startswith("_")} <= named
    answer = {field.name for field in fields(SyncResponse)} | {"text", "json"}
    assert answer == {re.match(r"`(\w+)", cells[0])[1] for cells in rows(section("sync"))}


def test_every_error_is_named_with_what_catches_it() -> None:
    text = section("Errors")
    for kind in vars(errors).values():
        if isinstance(kind, type):
            assert issubclass(kind, aiohttp.ClientError)
            [line] = [each for each in text.splitlines() if f"errors.{kind.__name__}`" in each]
            assert f"`aiohttp.{kind.__base__.__name__}`" in line  # type: ignore[union-attr]


def test_retries_are_as_they_are_described() -> None:
    text = section("Retries")
    assert set(re.findall(r"\b[A-Z]{3,7}\b", text)) - {"RETRIES"} == IDEMPOTENT
    assert {int(number) for number in re.findall(r"\b5\d\d\b", text)} == STATUSES
    assert f"up to {BASE} s" in text
    assert f"{LONGEST:g} s at most" in text
