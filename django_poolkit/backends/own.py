"""Which database wrappers a context uses as its own, outside of the bridge.

A middleware may put something on the wrapper of its thread, as a tenant, which the calls in the
bridge of the same request have to see. A context variable leads there: asgiref copies these from
the loop to its threads, and back.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

if TYPE_CHECKING:
    from django_poolkit.backends.postgresql.leasing import LeasingMixin

_Own = Mapping[str, "ref[LeasingMixin]"]
_NONE: Final[_Own] = {}
_of_thread: Final[ContextVar[_Own]] = ContextVar("django_poolkit_of_thread", default=_NONE)
_of_loop: Final[ContextVar[_Own]] = ContextVar("django_poolkit_of_loop", default=_NONE)


def note(alias: str, wrapper: LeasingMixin) -> None:
    """Take note that the present context uses a wrapper: that of its thread, or of the loop."""
    variable = _of_thread if _get_running_loop() is None else _of_loop
    own = variable.get()
    known = own.get(alias)
    if known is None or known() is not wrapper:
        variable.set({**own, alias: ref(wrapper)})


def forget(alias: str) -> None:
    """Forget the wrapper of an alias, which has been taken away."""
    variable = _of_thread if _get_running_loop() is None else _of_loop
    own = variable.get()
    if alias in own:
        variable.set({name: wrapper for name, wrapper in own.items() if name != alias})


def of_context(alias: str) -> list[Any]:
    """Return the present context's own wrappers: first the loop's, which is nearer."""
    found: list[Any] = []
    # Spelled out for both, since each call in the bridge asks.
    if (known := _of_loop.get().get(alias)) is not None and (wrapper := known()) is not None:
        found.append(wrapper)
    if (known := _of_thread.get().get(alias)) is not None and (wrapper := known()) is not None:
        found.append(wrapper)
    return found
