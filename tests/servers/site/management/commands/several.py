"""`manage.py several`: run several command lines in one process, which spares their start."""

from __future__ import annotations

import io
import json
from argparse import ArgumentParser
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand


def run(words: list[str]) -> dict[str, Any]:
    """Run a command line as `manage.py` does; return its exit code and what it said."""
    app = get_commands()[words[0]]
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            load_command_class(str(app), words[0]).run_from_argv(["manage.py", *words])
        except SystemExit as end:
            code = end.code
    return {"words": words, "code": code, "out": out.getvalue(), "err": err.getvalue()}


class Command(BaseCommand):
    """Run several commands."""

    help = "Run several command lines in one process."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the one argument."""
        parser.add_argument("lines", type=json.loads, help="a list of lists of words")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run them, one after the other."""
        self.stdout.write(json.dumps([run(words) for words in options["lines"]]))
