"""A checker of the router, in the manner of Jepsen: `python -m tests.checker --help`."""
