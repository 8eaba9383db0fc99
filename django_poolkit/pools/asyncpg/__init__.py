"""Pools of asyncpg connections. This package loads asyncpg where its modules are imported."""
