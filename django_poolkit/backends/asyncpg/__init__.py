"""The asyncpg pools of `DATABASES`. Loads asyncpg when the first is asked for."""
