"""Which request a lease was acquired for, told by its view and never by its path."""

from __future__ import annotations

import pytest
from django.test import override_settings

from django_poolkit.backends.request import RequestScope

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "/held/", "GET held"),
        ("", "/held/", "held"),
        ("GET", "/no/such/secret-token/", "GET (no view)"),
        ("POST", "", "POST (no view)"),
    ],
)
@override_settings(ROOT_URLCONF="tests.request_end.where_urls")
def test_a_scope_knows_its_view(method, path, said):
    assert RequestScope(method=method, path=path).where() == said


@override_settings(ROOT_URLCONF="tests.request_end.where_urls")
def test_a_view_without_a_name_is_called_by_its_own():
    assert RequestScope(method="GET", path="/unnamed/7/").where() == (
        "GET tests.request_end.where_urls.unnamed"
    )
    assert RequestScope(method="GET", path="/api/orders/7/").where() == "GET api:order"


@override_settings(ROOT_URLCONF="tests.request_end.nowhere")
def test_urls_that_cannot_be_loaded_are_nobodys_error():
    assert RequestScope(method="GET", path="/held/").where() == "GET (no view)"
