"""The reference has every id of a system check, and no other."""

from __future__ import annotations

import ast
import re

from django.core import checks
from django.core.checks import CheckMessage

from django_poolkit.checks import registered
from django_poolkit.checks.anchors import PAGE, anchor, with_anchors
from tests.docs_support import ROOT, headings
from tests.test_architecture import modules, tree_of


def ids() -> set[str]:
    return {
        str(node.value)
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and re.fullmatch(r"poolkit\.[EWI]\d{3}", str(node.value))
    }


def test_each_id_has_a_heading_and_each_heading_an_id() -> None:
    text = (ROOT / PAGE).read_text()
    documented = re.findall(r"^### (poolkit\.[EWI]\d{3})$", text, re.MULTILINE)
    assert len(set(documented)) == len(documented)
    assert set(documented) == ids()


def test_each_id_is_in_a_test() -> None:
    texts = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    named = {name for text in texts for name in re.findall(r"\b[EWI]0\d\d\b", text)}
    assert {name.removeprefix("poolkit.") for name in ids()} <= named


def test_each_heading_says_what_to_do() -> None:
    parts = re.split(r"^### poolkit\..*$", (ROOT / PAGE).read_text(), flags=re.MULTILINE)[1:]
    assert all(len(re.split(r"^## ", part, flags=re.MULTILINE)[0].strip()) > 40 for part in parts)


def test_the_anchors_lead_there() -> None:
    known = headings(ROOT / PAGE)
    for name in ids():
        page, _, heading = anchor(name).partition("#")
        assert page == PAGE
        assert heading in known


def test_hints_end_with_the_anchor() -> None:
    messages: list[CheckMessage] = [
        checks.Warning("a", hint="Do b.", id="poolkit.W001"),
        checks.Info("a", id="poolkit.I001"),
        checks.Info("a"),
    ]
    assert [message.hint for message in with_anchors(messages)] == [
        "Do b. See docs/reference/checks.md#poolkitw001.",
        "See docs/reference/checks.md#poolkiti001.",
        None,
    ]


def test_an_app_that_starts_again_has_no_check_twice() -> None:
    before = set(checks.registry.registry.get_checks(include_deployment_checks=True))
    registered.install()
    assert set(checks.registry.registry.get_checks(include_deployment_checks=True)) == before
