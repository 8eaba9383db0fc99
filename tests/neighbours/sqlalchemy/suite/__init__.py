"""SQLAlchemy's own tests of a dialect, run on leases in a process of their own."""
