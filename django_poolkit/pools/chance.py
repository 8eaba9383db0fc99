"""Chance of the kit's own: who seeds `random` gets the same numbers, whatever our threads draw.

It asks the system once for each process, and not each time (`random.SystemRandom`): that takes
thirty times as long, and who is sent to which replica is no secret.
"""

from __future__ import annotations

from random import Random
from typing import Final

from django_poolkit.pools.forks import in_child

chance: Final = Random()
"""What all that is left to chance here is drawn from. Any thread may draw; never for secrets."""

# Else all children would draw what their parent would have drawn, and do the same at once.
in_child(chance.seed)
