"""What a preset stands for, and who wins against it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.errors import PoolConfigError
from django_poolkit.pools.presets import PRESETS
from tests.docs_support import DOCS

PATH = "DATABASES['default']['OPTIONS']['pool']"


def refusal(options: dict[str, Any]) -> str:
    with pytest.raises(PoolConfigError) as caught:
        PoolConfig.from_options(options, path=PATH)
    text = str(caught.value)
    assert text.startswith(PATH)
    assert text.count("DATABASES") == 1
    return text


@pytest.mark.parametrize(
    ("name", "low", "high", "lifetime", "timeout"),
    [
        ("development", 5, 5 + 10, 3600.0, 30.0),
        ("worker", 5, 5 + 10, 3600.0, 30.0),
        ("small", 5, 5 + 10, 3600.0, 30.0),
        ("api", 10, 10 + 20, 3600.0, 30.0),
        ("medium", 20, 20 + 40, 1800.0, 15.0),
        ("high", 50, 50 + 100, 900.0, 5.0),
    ],
)
def test_a_preset_has_the_published_size_overflow_recycling_and_timeout(
    name: str, low: int, high: int, lifetime: float, timeout: float
) -> None:
    config = PoolConfig.from_options({"preset": name})
    assert config == PoolConfig(min_size=low, max_size=high, max_lifetime=lifetime, timeout=timeout)


def test_no_other_presets_are_there() -> None:
    assert list(PRESETS) == ["development", "worker", "small", "api", "medium", "high"]


def test_the_reference_has_the_same_figures() -> None:
    page = (DOCS / "reference" / "settings.md").read_text()
    found = re.findall(r'^\| `"(\w+)"` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$', page, re.MULTILINE)
    keys = ("min_size", "max_size", "max_lifetime", "timeout")
    assert {name: [float(each) for each in row] for name, *row in found} == {
        name: [options[key] for key in keys] for name, options in PRESETS.items()
    }


def test_what_the_options_say_themselves_wins() -> None:
    config = PoolConfig.from_options(
        {"preset": "medium", "max_size": 25, "timeout": 2.0, "mode": "transaction"}
    )
    assert (config.min_size, config.max_size, config.timeout) == (20, 25, 2.0)
    assert (config.max_lifetime, config.mode, config.reset) == (1800.0, "transaction", "dirty")


def test_a_fixed_size_is_that_which_the_preset_keeps_open() -> None:
    config = PoolConfig.from_options({"preset": "api", "max_size": None})
    assert (config.min_size, config.max_size) == (10, 10)


@pytest.mark.parametrize("name", ["medum", "", None, 5, True, ["api"], {"api": 1}, b"api"])
def test_one_that_does_not_exist_is_refused_with_those_that_do(name: Any) -> None:
    text = refusal({"preset": name})
    assert "['preset'] must be one of 'development', 'worker', 'small', 'api', " in text
    assert text.endswith(f"of type {type(name).__name__}")


def test_what_was_pasted_in_its_place_is_not_shown() -> None:
    assert "hunter2" not in refusal({"preset": "hunter2"})


@pytest.mark.parametrize(
    ("options", "theirs"),
    [({"max_size": 8}, "min_size is that of the"), ({"min_size": 61}, "max_size is that of the")],
)
def test_a_size_that_the_other_one_does_not_go_with_is_refused(
    options: dict[str, int], theirs: str
) -> None:
    text = refusal({"preset": "medium", **options})
    assert "is below ['min_size']" in text
    assert f"{theirs} preset 'medium': write one of your own" in text


def test_sizes_that_are_both_given_are_refused_as_ever() -> None:
    assert "preset" not in refusal({"preset": "api", "min_size": 9, "max_size": 8})


@pytest.mark.parametrize("key", ["max_size", "min_size"])
@pytest.mark.parametrize("value", ["8", 8.5, -1])
def test_a_size_that_is_none_is_refused_for_what_it_is(key: str, value: Any) -> None:
    assert f"[{key!r}] must be a whole number" in refusal({"preset": "api", key: value})


def test_a_presets_options_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PRESETS["api"]["max_size"] = 1


def test_an_option_that_is_nearly_preset_is_asked_about() -> None:
    assert "Did you mean 'preset'?" in refusal({"presets": "api"})
