"""Settings of a project that is looked at from a shell."""

from tests.settings import *  # noqa: F403

DATABASES["default"]["NAME"] = "postgres"  # noqa: F405
