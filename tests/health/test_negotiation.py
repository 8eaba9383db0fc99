"""What a client accepts decides about the content type, and never about success."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_poolkit.health.negotiation import HEALTH_JSON, HTML, JSON, OFFERED, TEXT, preferred

pytestmark = pytest.mark.core

CHROME = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,"
    "*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
NEWER_JAVA = "text/html, image/gif, image/jpeg, */*; q=0.2"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", JSON),
        ("*", JSON),
        ("*/*", JSON),
        (JAVA, JSON),
        (NEWER_JAVA, JSON),
        (CHROME, HTML),
        (FIREFOX, HTML),
        ("text/html", HTML),
        ("text/html, text/plain;q=0.5", HTML),
        ("text/plain, text/html", TEXT),
        ("text/plain", TEXT),
        ("text/*", TEXT),
        ("application/json", JSON),
        ("application/*", JSON),
        ("application/health+json", HEALTH_JSON),
        ("Application/Health+JSON; charset=utf-8", HEALTH_JSON),
        ("application/health+json, application/json;q=0.9, */*;q=0.1", HEALTH_JSON),
        ("application/json;q=0.1, text/plain;q=0.2", TEXT),
        ("*/*, text/plain", JSON),
        ("application/json;q=0, */*", HEALTH_JSON),
        ("application/*;q=0.1, text/plain;q=0", JSON),
        ("image/png", JSON),
        ("text/html;q=nonsense, text/plain;q=nan, application/health+json;q=7", JSON),
        ("text/plain;q=-1", JSON),
        ("text/plain;q=", JSON),
        (";;;,,,q=1;/;*/", JSON),
        ("\x00\xff\x80 b'text/plain'", JSON),
    ],
)
def test_the_content_type_that_a_client_likes_best(accept: str, kind: str) -> None:
    assert preferred(accept) == kind


@given(st.text() | st.lists(st.sampled_from(["*", "/", ",", ";", "q=", "0.", "text", "9", "-"])))
def test_nothing_that_a_client_sends_is_an_error(accept: str | list[str]) -> None:
    assert preferred("".join(accept)) in OFFERED


def test_a_long_header_is_not_read_to_its_end() -> None:
    assert preferred("image/png," * 300 + "text/plain") == JSON
    assert preferred("image/png," * 100 + "text/plain") == TEXT
