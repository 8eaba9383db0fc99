"""Which functions leave session state behind where no statement's text shows it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from django_poolkit.checks.catalogue import LONGEST_BODY, Catalogue, Function, Reached
from django_poolkit.pools import function_bodies
from django_poolkit.pools.session_state import StatementRules

SECONDS: Final = 10.0
"""As long as bodies are read, beyond the answers of the server."""
_AT_ONCE: Final = 200

IN_C: Final[dict[str, str]] = {
    "dblink_connect": "a connection to another database",
    "dblink_connect_u": "a connection to another database",
}
"""Functions whose body is C that keep something in the session, by their documentation: `dblink`'s
connections "will persist until closed or until the database session is ended"."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A function that may leave session state behind."""

    function: Function
    leaves: tuple[str, ...]
    """Kinds of session state, as `Residue` names them."""
    by: Function
    """Which function is run, and calls it; often the same."""
    reached: Reached | None
    """What has that one run, None if statements call it and are taken for harmless."""


@dataclass(slots=True)
class Found:
    """What a search has brought."""

    findings: list[Finding] = field(default_factory=list)
    unclear: list[Function] = field(default_factory=list)
    """Those that cannot be read, or run texts that they make."""
    unread: int = 0
    """How many there was no time for."""
    policies: list[str] = field(default_factory=list)
    """Row-level security policies that read a setting."""


def search(catalogue: Catalogue, harmless_functions: Collection[str]) -> Found:
    """Read the functions that no text shows, and what they call. Raises django.db.Error."""
    functions = {function.oid: function for function in catalogue.functions()}
    reached = {oid: how for oid, how in catalogue.reached().items() if oid in functions}
    rules = StatementRules(harmless_functions)
    roots = [functions[oid] for oid in reached]
    roots += [
        each for each in functions.values() if each.oid not in reached and _passes(rules, each)
    ]
    found = _Search(catalogue, functions.values(), reached).run(roots)
    found.policies = catalogue.policies()
    return found


class _Search:
    """From the functions that are run unseen to those that they call, each once."""

    def __init__(
        self, catalogue: Catalogue, functions: Iterable[Function], reached: dict[int, Reached]
    ) -> None:
        self._catalogue = catalogue
        self._reached = reached
        self._named: dict[str, list[Function]] = {}
        for each in functions:
            for name in (each.name, f"{each.schema}.{each.name}"):
                self._named.setdefault(name, []).append(each)
        self._found = Found()

    def run(self, roots: list[Function]) -> Found:
        """Search, breadth first."""
        end = monotonic() + SECONDS
        waiting = deque((root, root) for root in roots)
        seen = {root.oid for root in roots}
        while waiting:
            if monotonic() > end:
                self._found.unread = len(waiting)
                break
            some = [waiting.popleft() for _ in range(min(_AT_ONCE, len(waiting)))]
            legible = [each.oid for each, _ in some if each.language in function_bodies.LANGUAGES]
            bodies = self._catalogue.bodies(legible) if legible else {}
            for function, root in some:
                for callee in self._read(function, root, bodies.get(function.oid)):
                    if callee.oid not in seen:
                        seen.add(callee.oid)
                        waiting.append((callee, root))
        return self._found

    def _read(self, function: Function, root: Function, source: str | None) -> list[Function]:
        """Take down what a function leaves; return those that it calls."""
        if source is None or len(source) > LONGEST_BODY:
            self._not_read(function, root)
            return []
        body = function_bodies.read(source, function.language)
        in_c = {IN_C[name.rpartition(".")[2]] for name in body.calls if _is_in_c(name)}
        leaves = (*sorted(map(str, body.leaves)), *sorted(in_c))
        if leaves:
            how = self._reached.get(root.oid)
            self._found.findings.append(Finding(function, leaves, root, how))
        elif body.unclear:
            self._not_read(function, root)
        return [each for name in sorted(body.calls) for each in self._named.get(name, ())]

    def _not_read(self, function: Function, root: Function) -> None:
        # An extension's is its authors' affair, and what is C of a project's own is rare.
        if function.extension is None and root.oid in self._reached:
            self._found.unclear.append(function)


def _is_in_c(name: str) -> bool:
    return name.rpartition(".")[2] in IN_C


def _passes(rules: StatementRules, function: Function) -> bool:
    """Tell whether a statement that calls it is taken to leave nothing behind."""
    if function.extension is not None or function.is_trigger:
        return False
    verb = "CALL" if function.is_procedure else "SELECT"
    name = function.name if function.name.isidentifier() else _quoted(function.name)
    schema = function.schema if function.schema.isidentifier() else _quoted(function.schema)
    return any(rules.residue(f"{verb} {called}()") is None for called in (name, f"{schema}.{name}"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
