"""What the commands have in common: a `--help` that teaches, and a word with whoever reads."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from django.core.management.base import BaseCommand, CommandError, DjangoHelpFormatter

from django_poolkit.control import servers
from django_poolkit.control.tables import Table, draw

_REFUSED: Final = 2  # as argparse has it


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

    def on_terminal(self) -> bool:
        """Return whether somebody looks on, who can be shown colours."""
        return bool(self.stdout.isatty()) and os.environ.get("TERM") != "dumb"

    def drawn(self, tables: Sequence[Table], options: dict[str, Any]) -> str:
        """Return tables as text, as wide and colourful as the output takes it."""
        terminal = self.on_terminal()
        plain = options["no_color"] or "NO_COLOR" in os.environ
        return draw(
            tables,
            color=options["force_color"] or (terminal and not plain),
            width=shutil.get_terminal_size().columns if terminal else None,
        )

    def print(self, text: str, ending: str = "\n") -> None:
        """Write text to the output at once.

        Names, and what other processes say, may be more than it can spell: that is escaped.
        """
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        self.stdout.write(text, ending=ending)
        self.stdout.flush()


@contextmanager
def while_read() -> Iterator[None]:
    """End the process, without a word, once nobody reads any more what it prints."""
    try:
        yield
    except BrokenPipeError:
        # Who read has seen enough. Python would try to write the rest once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def refuse(text: str) -> NoReturn:
    """Refuse what makes no sense, with the exit code that argparse has for it."""
    raise CommandError(text, returncode=_REFUSED)


def verify_pooled(aliases: Collection[str]) -> None:
    """Refuse an alias of `--database` that is not pooled."""
    pooled = servers.pooled_names() if aliases else []
    for alias in aliases:
        if alias not in pooled:
            known = ", ".join(pooled) or "none"
            refuse(f"{alias!r} is no pooled alias of DATABASES; these are: {known}")
