"""What the page can do to pools: what `poolctl` does, entered first in the log of the admin."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from django_poolkit.conf.control import control_config
from django_poolkit.control import steer
from django_poolkit.control.outcome import Outcome
from django_poolkit.control.steer import Target

LONGEST_PAUSE: Final = 600
"""Seconds that may be asked for here. For longer ones there is `poolctl`."""
USUAL_PAUSE: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One thing that can be done to the pools of one name, in all processes."""

    name: str
    title: str
    text: str
    """What will happen, to be read before it is confirmed."""
    done: str


COMMANDS: Final = {
    each.name: each
    for each in (
        Command(
            name="pause",
            title="Pause",
            text="Nothing is leased any more, leases may end, and all connections are closed. Who "
            "asks for a connection meanwhile waits, up to the timeout of the pool, and then gets "
            "an error. The pause ends by itself.",
            done="Paused",
        ),
        Command(
            name="resume",
            title="Resume",
            text="The pause ends now, also for processes that are yet to start.",
            done="Resumed",
        ),
        Command(
            name="recycle",
            title="Recycle",
            text="Every connection is replaced: idle ones now, leased ones as they come home. No "
            "request sees anything of it.",
            done="Recycled",
        ),
    )
}


def refusal() -> str | None:
    """Return why the processes would not obey this one, None where they would."""
    config = control_config()
    if os.geteuid() in config.steerers():
        return None
    if config.steering:
        return "POOLKIT['CONTROL']['STEERING'] is 'root', and this process does not run as root."
    return "POOLKIT['CONTROL']['STEERING'] is False, so nobody may steer."


def enter(user_pk: Any, command: Command, pool: str, seconds: int) -> None:
    """Write down in the log of the admin who wants what done.

    Before it is done: a pool that is paused may be the one in which that log is kept.
    """
    # Here, so that a system check can say which of these apps is missing.
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.contenttypes.models import ContentType

    from django_poolkit.dashboard.models import Pools

    what = f"{command.title}, for {seconds} s" if command.name == "pause" else command.title
    LogEntry.objects.create(
        user_id=user_pk,
        content_type=ContentType.objects.get_for_model(Pools),
        object_repr=f"pool {pool}"[:200],
        action_flag=CHANGE,
        change_message=f"{what}, in all processes.",
    )


def carry_out(command: Command, pool: str, seconds: int) -> Outcome:
    """Have all processes do it. Blocks for 8 seconds at most, where one does not answer.

    Raises DirectoryRefused, OSError if a pause cannot be left as an order for new processes.
    """
    config, target = control_config(), Target(databases=(pool,))
    match command.name:
        case "pause":
            return steer.pause(config, target, seconds=float(seconds), wait=0.0)
        case "resume":
            return steer.resume(config, target)
        case _:
            return steer.recycle(config, target, wait=0.0)
