"""Connection pools for Django under high concurrency."""

__version__ = "0.1.0"
