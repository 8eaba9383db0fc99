"""`python -m tests.checker.site.prepare NAMES…`: makes the tables, and a user of each name."""

from __future__ import annotations

import os
import sys


def main(names: list[str]) -> None:
    """Make them, on the primary."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.checker.site.settings"
    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command

    from tests.checker.site.models import Mirror

    call_command("migrate", run_syncdb=True, verbosity=0)
    Mirror.objects.get_or_create(pk=1)
    for name in names:
        if not User.objects.filter(username=name).exists():
            User.objects.create_user(name, password="secret")


if __name__ == "__main__":
    main(sys.argv[1:])
