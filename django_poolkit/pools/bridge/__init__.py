"""The bridge: synchronous code in a task of an event loop, whose waits suspend that task alone."""

# Whoever loads any part of it has connections wait in it.
from django_poolkit.pools.bridge import waits as waits
