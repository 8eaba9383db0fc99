"""`manage.py seed`: fill the shop."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from example_project.shop import seeding


class Command(BaseCommand):
    """Bring the shop to a number of orders."""

    help = "Fill the shop with customers, products and orders; what is there stays."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Offer --orders."""
        parser.add_argument("--orders", type=int, default=50_000, help="how many there shall be")

    def handle(self, *args: Any, orders: int, **options: Any) -> None:
        """Seed, with a line a batch."""
        started = time.monotonic()

        def progress(done: int, of: int) -> None:
            seconds = time.monotonic() - started
            self.stdout.write(f"  {done:,} of {of:,} orders after {seconds:.1f} s")
            self.stdout.flush()

        added = seeding.seed(orders, progress)
        if not added:
            self.stdout.write(f"  {orders:,} orders or more are there")
