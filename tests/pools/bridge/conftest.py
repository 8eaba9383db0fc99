"""What the tests of the bridge share with those of the pool that it waits for."""

from tests.pools.postgres.conftest import app, far_pool, proxy

__all__ = ["app", "far_pool", "proxy"]
