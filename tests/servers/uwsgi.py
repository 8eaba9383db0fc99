"""uWSGI as a module of Python's."""

from __future__ import annotations

if __name__ == "__main__":
    import pyuwsgi

    pyuwsgi.run()
