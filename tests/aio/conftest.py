"""Django's default alias in transaction mode, in the bridge."""

from __future__ import annotations

from tests.backends.transaction_mode.conftest import pooled as pooled
from tests.backends.transaction_mode.conftest import session_name as session_name
