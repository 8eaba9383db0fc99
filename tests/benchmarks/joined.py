"""Several runs of the program as one: the parts of each, where all are of the same machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.benchmarks.parts import PARTS

Run = dict[str, Any]


def joined(runs: Sequence[Run]) -> Run:
    """Return a run that has the parts of all, in the program's order.

    The contestants of a part are of one run, so their ratios hold. A part that several runs have
    is that of the first. Raises ValueError where the runs are not of one machine with the same
    versions.
    """
    first, *others = runs
    if not others:
        return first
    if any(run["machine"] != first["machine"] for run in others):
        raise ValueError("the runs are of different machines, or of different versions")
    by_name: dict[str, dict[str, Any]] = {}
    for run in runs:
        for part in run["parts"]:
            by_name.setdefault(part["name"], part)
    loads = [load for run in runs for load in run["load"]]
    return {
        "day": " and ".join(dict.fromkeys(run["day"] for run in runs)),
        "form": " and ".join(dict.fromkeys(run["form"] for run in runs)),
        "machine": first["machine"],
        "seconds": sum(run["seconds"] for run in runs),
        "load": [min(loads), max(loads)],
        "runs": len(runs),
        "parts": [by_name[part.name] for part in PARTS if part.name in by_name],
        "left_out": [
            part.name
            for part in PARTS
            if part.name not in by_name and any(part.name in run["left_out"] for run in runs)
        ],
    }
