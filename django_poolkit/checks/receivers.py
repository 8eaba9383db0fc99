"""Receivers of `connection_created` that SET what differs from request to request.

Without a pool, and with Django's own, the signal is sent for each request. Here it is sent once for
each connection of the pool. What a receiver SETs by constants is in force on every lease; what it
takes from the request of that moment would be met by whoever leases the connection next.

Their source is read, and nothing is called. What cannot be followed is left alone.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.conf import LazySettings
from django.core import checks
from django.core.checks import CheckMessage
from django.db.backends.signals import connection_created

from django_poolkit.checks.aliases import pooled
from django_poolkit.pools.session_state import Residue, residue

_LASTING: Final = frozenset({Residue.SET, Residue.ADVISORY_LOCK, Residue.TEMP_TABLE})
_OWN: Final = ("django.", "django_poolkit.")
# What these give is the same for each request of a process.
_OF_THE_PROCESS: Final = frozenset({"settings_dict", "alias", "vendor", "environ"})
_SAME_AGAIN: Final = frozenset({
    "str", "int", "float", "repr", "format", "list", "tuple", "dict", "getattr", "len", "getenv",
})  # fmt: skip
_PLAIN: Final = (str, bytes, int, float, bool, type(None), tuple, frozenset, LazySettings)


def receivers() -> Iterator[CheckMessage]:
    """Look for receivers that SET a value of the request's on a connection of the pool's."""
    if not any(pooled()):
        return
    for function, given in _functions():
        if sets_per_request(function, given):
            place = f"{function.__module__}.{function.__qualname__}"
            yield checks.Warning(
                f"{place}, a receiver of connection_created, SETs a value that it looks up: the "
                "signal is sent once for each connection of a pool, not for each request, so "
                "others would find what was looked up for the first.",
                hint="Set it where the request is known: by set_config(…, true) inside atomic(), "
                "or in connection.pinned(). What is the same for all requests may stay; if this "
                "is, silence this check.",
                id="poolkit.W024",
            )


def sets_per_request(function: Any, given: Mapping[str, Any] | None = None) -> bool:
    """Tell whether a function executes a SET for the session with a value that it looks up.

    `given` are arguments that it is called with each time.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        names = {**function.__globals__, **_defaults(function), **(given or {})}
    except (OSError, TypeError, SyntaxError, ValueError, AttributeError):
        return False  # made without a file, or a part of an expression
    reader = _Reader(names, tree)
    return any(reader.is_per_request(call) for call in ast.walk(tree) if isinstance(call, ast.Call))


def _defaults(function: Any) -> dict[str, Any]:
    """Return what a function has by its closure, and by defaults that no signal overrides."""
    parameters = inspect.signature(function).parameters.values()
    found = {each.name: each.default for each in parameters if each.default is not each.empty}
    return {**inspect.getclosurevars(function).nonlocals, **found}


def _functions() -> Iterator[tuple[Any, Mapping[str, Any]]]:
    for entry in list(connection_created.receivers):
        found: Any = entry[1]
        given: dict[str, Any] = {}
        if isinstance(found, weakref.ReferenceType):
            found = found()
        while isinstance(found, functools.partial):
            given = {**found.keywords, **given}
            found = found.func
        if not inspect.isroutine(found):
            found = getattr(found, "__call__", None)  # noqa: B004 - an object that is one
        found = inspect.unwrap(getattr(found, "__func__", found))
        if inspect.isfunction(found) and not f"{found.__module__}.".startswith(_OWN):
            yield found, given


class _Reader:
    """Reads the calls of `execute()` in one function."""

    def __init__(self, names: Mapping[str, Any], tree: ast.AST) -> None:
        self._names = names
        self._assigned: dict[str, list[ast.expr]] = {}
        for node in ast.walk(tree):
            match node:
                case ast.Assign(targets=targets, value=value):
                    self._assign(targets, value)
                case (
                    ast.For(target=target, iter=value)
                    | ast.comprehension(target=target, iter=value)
                ):
                    self._assign([target], value)

    def _assign(self, targets: list[ast.expr], value: ast.expr) -> None:
        for target in targets:
            for node in ast.walk(target):
                if isinstance(node, ast.Name):
                    self._assigned.setdefault(node.id, []).append(value)

    def is_per_request(self, call: ast.Call) -> bool:
        """Tell whether this executes a SET, with something that is looked up."""
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "execute" or not call.args:
            return False
        statement = self._resolved(call.args[0])
        text = self._text(statement)
        if text is None or residue(text) not in _LASTING:
            return False
        values = [*call.args[1:], *(keyword.value for keyword in call.keywords)]
        return not all(map(self._is_constant, [statement, *values]))

    def _resolved(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Name) and len(given := self._assigned.get(node.id, [])) == 1:
            return given[0]
        return node

    def _text(self, node: ast.expr) -> str | None:
        """Return the statement with a 0 for each value, None where it cannot be read."""
        match node:
            case ast.Constant(value=str(text)):
                return text.replace("%s", "0")
            case ast.JoinedStr(values=parts):
                texts = [self._text(part) if isinstance(part, ast.Constant) else "0"
                         for part in parts]  # fmt: skip
                return "".join(text or "" for text in texts)
            case ast.BinOp(left=left, op=ast.Mod()):
                return self._text(self._resolved(left))
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return (self._text(self._resolved(left)) or "0") + (self._text(right) or "0")
            case ast.Call(func=ast.Attribute(value=value, attr="format")):
                return (self._text(self._resolved(value)) or "0").replace("{}", "0")
            case ast.Name(id=name) if isinstance(self._names.get(name), str):
                return str(self._names[name]).replace("%s", "0")
        return None

    def _is_constant(self, node: ast.expr) -> bool:
        """Tell whether an expression is the same for each request, as far as it says."""
        match node:
            case ast.Constant():
                return True
            case ast.Name(id=name) if name in self._assigned:
                given = self._assigned[name]
                own = any(
                    isinstance(each, ast.Name) and each.id == name for each in ast.walk(given[0])
                )
                return len(given) == 1 and not own and self._is_constant(given[0])
            case ast.Name(id=name):
                known = self._names.get(name, ...)
                return (
                    name.isupper()
                    or name in ("self", "cls", "settings")
                    or isinstance(known, _PLAIN)
                )
            case ast.Attribute(value=value, attr=attr):
                return attr in _OF_THE_PROCESS or attr.isupper() or self._is_constant(value)
            case ast.Call(func=function, args=arguments, keywords=keywords):
                values = [*arguments, *(keyword.value for keyword in keywords)]
                return self._same_again(function) and all(map(self._is_constant, values))
        inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return bool(inner) and all(map(self._is_constant, inner))

    def _same_again(self, function: ast.expr) -> bool:
        """Tell whether a call with the same arguments has the same result each time."""
        match function:
            case ast.Name(id=name):
                return name in _SAME_AGAIN
            case ast.Attribute(attr=attr) if attr in _SAME_AGAIN - {"format"}:
                return True
            case ast.Attribute(value=ast.Name(id=name)) if name in ("self", "cls"):
                return False
            case ast.Attribute(value=value):
                return self._is_constant(value)
        return False
