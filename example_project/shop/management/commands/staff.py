"""`manage.py staff`: let somebody into the admin."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

VARIABLE = "SHOP_STAFF_PASSWORD"


class Command(BaseCommand):
    """Make a superuser, or give the one that is there a new password."""

    help = f"Make a superuser of the shop's admin, whose password is in {VARIABLE}."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the name."""
        parser.add_argument("name", help="whom to let in")

    def handle(self, *args: Any, name: str, **options: Any) -> None:
        """Make it so."""
        from django.contrib.auth import get_user_model

        password = os.environ.get(VARIABLE)
        if not password:
            raise CommandError(f"{VARIABLE} is not set: there has to be a password.")
        users: Any = get_user_model()
        user, _ = users.objects.update_or_create(
            username=name, defaults={"is_staff": True, "is_superuser": True}
        )
        user.set_password(password)
        user.save()
