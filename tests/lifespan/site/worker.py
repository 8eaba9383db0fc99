"""A worker of gunicorn's that does not wait for ever for what does not end."""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped,unused-ignore]


class Worker(UvicornWorker):  # type: ignore[misc,unused-ignore]
    """Uvicorn's worker, with a bound that gunicorn has no option for."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        **UvicornWorker.CONFIG_KWARGS,
        "timeout_graceful_shutdown": 1,
    }
