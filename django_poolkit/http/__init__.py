"""Shared aiohttp client sessions: one for each process and event loop, safe by default."""
