"""`manage.py holdone`: use one connection until the input ends."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection, transaction


class Command(BaseCommand):
    """Hold a transaction open."""

    help = "Hold a transaction open until the input ends."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        """Say when it has begun, then wait."""
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            self.stdout.write("holding")
            self.stdout.flush()
            sys.stdin.read()
