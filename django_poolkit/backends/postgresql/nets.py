"""What becomes of the leases of a thread that ends."""

from __future__ import annotations

import threading
from typing import Any, Final
from weakref import WeakSet


class ThreadNet:
    """Takes back the leases of a thread that ends without closing its connections."""

    def __init__(self) -> None:
        self.wrappers: WeakSet[Any] = WeakSet()
        """Wrappers that have leased something in this thread."""

    def __del__(self) -> None:
        for wrapper in list(self.wrappers):
            lease = wrapper._lease
            # A wrapper shared between threads, as a live test server's, lives on elsewhere.
            if lease is None or lease.released or wrapper.allow_thread_sharing:
                continue
            # What a request has taken, the end of the request takes back.
            if wrapper._scope is None or lease not in wrapper._scope.leases:
                wrapper._forget_lease()
                lease.pool.lost(lease)


class _Local(threading.local):
    def __init__(self) -> None:
        self.net = ThreadNet()


_local: Final = _Local()


def net() -> ThreadNet:
    """Return that of the present thread."""
    return _local.net
