"""Django's default alias in transaction mode, and the server behind it."""

from tests.backends.transaction_mode.conftest import pooled, server, session_name
from tests.pools.postgres.tasks import run_on_each

__all__ = ["pooled", "run_on_each", "server", "session_name"]
