"""What is told of the servers of a cluster, and how loudly."""

from __future__ import annotations

import logging

import pytest

from django_poolkit.conf.clusters import Cluster
from django_poolkit.routing.lag import Refusal
from django_poolkit.routing.news import PrimaryNews


@pytest.mark.parametrize(
    ("refusal", "level"),
    [
        ("refuses", logging.WARNING),
        ("untold", logging.WARNING),
        ("not_a_primary", logging.ERROR),
        ("timeline", logging.ERROR),
        ("system", logging.ERROR),
        (None, logging.INFO),
    ],
)
def test_a_primary_that_may_be_well_is_no_error(
    caplog: pytest.LogCaptureFixture, refusal: Refusal | None, level: int
) -> None:
    cluster = Cluster(name="shop", primary="default", replicas=("replica",))
    with caplog.at_level(logging.INFO, "django_poolkit.routing"):
        PrimaryNews(cluster, None, refusal).tell()
    [record] = caplog.records
    assert record.levelno == level
