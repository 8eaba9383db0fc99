"""What the program and its tests have in common."""

KINDS = ("Sync", "Hops", "Ours")
"""Consumers by the names of their classes."""
OF_EACH = 5
MESSAGES = 4
"""That each says."""
