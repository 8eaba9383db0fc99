"""What the backend asks of those above it, and what it tells them: each None until it is set.

They are set once, as the app gets ready, by plain assignment: `ports.note_write = function`.
Every statement may pass here, so each of them has to be quick, never wait, and never raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

choose_host: Callable[[str, Mapping[str, float]], str | None] | None = None
"""Called with a logical alias and the weights of its hosts by key, before a lease is acquired.

Returns one of these keys, or None to leave the choice to the backend. A host that has just
refused a connection is left out of them, so that another one has to be chosen, and remembered.
"""

note_write: Callable[[str], None] | None = None
"""Called with an alias as a statement that may write begins on it, in the thread that runs it."""

note_lock: Callable[[str], None] | None = None
"""Called with an alias as a statement that takes an advisory lock begins on it.

The only one that may raise: what it raises, that statement raises, and is not sent.
"""
