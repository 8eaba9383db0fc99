"""`POOLKIT["CLUSTERS"][name]["choice"]`: by what one of several replicas is chosen."""

from __future__ import annotations

from typing import Final, Literal, cast, get_args

from django_poolkit.conf.poolkit import bad_value_at

Choice = Literal["visitor", "round_robin", "random", "least_used", "latency"]

CHOICE: Final[Choice] = "visitor"


def choice_at(path: str, value: object) -> Choice:
    """Return what is at a path of the settings. Raises ImproperlyConfigured for what it is not."""
    if value not in get_args(Choice):
        raise bad_value_at(path, value, f"must be one of {', '.join(map(repr, get_args(Choice)))}")
    return cast(Choice, value)
