"""The lock of development is in step with pyproject.toml, and so all extras go together."""

from __future__ import annotations

import re

import pytest
from packaging.utils import canonicalize_name

from tests import lock


def test_each_line_is_a_version_with_its_hash_in_order() -> None:
    lines = [line for line in lock.LOCK.read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines)
    assert len(lock.locked()) == len(lines) > 100


def test_no_address_is_in_it() -> None:
    assert not re.search(r"://|@|--(extra-)?index|--find", lock.LOCK.read_text())


@pytest.mark.parametrize("extra", sorted({extra for extra, _ in lock.requirements()}))
def test_what_pyproject_asks_for_is_in_it(extra: str) -> None:
    there, pinned = {"python_version": "3.13"}, lock.locked()
    asked = [requirement for name, requirement in lock.requirements() if name == extra]
    assert asked
    for requirement in asked:
        name = canonicalize_name(requirement.name)
        elsewhere = requirement.marker is not None and not requirement.marker.evaluate(there)
        if elsewhere or name == lock.OURS:
            continue
        assert name in pinned, f"{name} is missing: python -m tests.lock --write"
        assert requirement.specifier.contains(pinned[name], prereleases=True), (
            f"{requirement} is asked for, {pinned[name]} locked: python -m tests.lock --write"
        )


def test_an_extra_that_names_ours_names_extras_that_there_are() -> None:
    extras = {extra for extra, _ in lock.requirements()}
    for extra, requirement in lock.requirements():
        if requirement.name == lock.OURS:
            assert requirement.extras <= extras, extra


def test_a_report_of_pip_becomes_lines_without_the_address_it_has() -> None:
    found = lock.text({
        "environment": {
            "platform_system": "Linux", "platform_machine": "x86_64", "python_version": "3.13",
        },
        "install": [
            {
                "metadata": {"name": name, "version": "1.0"},
                "download_info": {
                    "url": "https://index.example.com/x.whl",
                    "archive_info": {"hashes": {"sha256": "a" * 64}},
                },
            }
            for name in ("Zope.Thing", "asgiref")
        ]
        + [{"metadata": {"name": "django-poolkit", "version": "0.1.0"}}],
    })  # fmt: skip
    assert found.splitlines()[2:] == [
        f"asgiref==1.0 --hash=sha256:{'a' * 64}",
        f"zope-thing==1.0 --hash=sha256:{'a' * 64}",
    ]
    assert "example.com" not in found
