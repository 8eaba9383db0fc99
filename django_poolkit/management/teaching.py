"""What the commands have in common: a `--help` that teaches."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, DjangoHelpFormatter


class _Formatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Django's order of the options, with our paragraphs as they are."""


class TeachingCommand(BaseCommand):
    """A command whose help keeps its paragraphs, and ends with examples and exit codes.

    None of them runs Django's system checks first: they have to work when the project or its
    database does not, and `devcluster` makes what the checks would ask for.
    """

    epilog = ""
    """Examples, and what the exit codes mean."""
    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """Return the parser, with the help as it was written."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.formatter_class = _Formatter
        parser.epilog = self.epilog
        return parser
