"""What others build on changes on purpose only."""

from __future__ import annotations

import difflib

from tests import public_api

_ADVICE = """
On purpose? Then: python -m tests.public_api --write, and a line in CHANGELOG.md.
What goes has been deprecated before: docs/reference/versions.md.
"""


def test_the_public_names_are_those_of_the_snapshot() -> None:
    known = public_api.SNAPSHOT.read_text().splitlines()
    changed = list(difflib.unified_diff(known, public_api.lines(), "the snapshot", "now", n=0))
    assert not changed, "\n".join(changed) + _ADVICE
