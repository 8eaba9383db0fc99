"""Session state that functions of the database leave, where no statement's text shows it.

In transaction mode what a text shows pins its lease. What a trigger, a view or a policy runs is
seen by nobody, and what it sets would be met by the next lease.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

from django.apps import AppConfig
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.checks.catalogue import catalogue
from django_poolkit.checks.hidden_search import Finding, Found, search
from django_poolkit.conf.databases import pool_config
from django_poolkit.pools.config import PoolConfig

_DOES: Final = {
    "set": "changes a setting for the session",
    "advisory_lock": "takes or gives back an advisory lock of the session",
    "temp_table": "makes a temporary table",
    "listen": "changes what the session listens to",
    "prepare": "prepares a statement",
    "cursor_hold": "opens a cursor WITH HOLD",
    "load": "loads a library",
    "discard": "discards state of the session",
}
_REMEDY: Final = (
    "Have it end with the transaction: set_config(…, true), SET LOCAL, pg_advisory_xact_lock(), "
    "ON COMMIT DROP. Or put what runs it into connection.pinned(), or stay in session mode with "
    "'reset': 'always'. "
)
_SHOWN: Final = 10


def check_hidden_state(
    app_configs: Sequence[AppConfig] | None = None,
    databases: Collection[str] | None = None,
    **kwargs: Any,
) -> Iterable[CheckMessage]:
    """Return what functions of these databases leave unseen.

    Asks only aliases in transaction mode, and those that observe what it would bring.
    """
    found: list[CheckMessage] = []
    for alias in databases or ():
        config = _config(alias)
        if config is not None and (config.mode == "transaction" or config.observe):
            found += _look(alias, config)
    return found


def _config(alias: str) -> PoolConfig | None:
    wrapper: Any = connections[alias]
    if not isinstance(wrapper, PooledDatabaseWrapperMixin):
        return None
    try:
        return pool_config(alias, wrapper.settings_dict)
    except ImproperlyConfigured:
        return None  # of which another check speaks


def _look(alias: str, config: PoolConfig) -> Iterator[CheckMessage]:
    try:
        with catalogue(alias) as tables:
            found = search(tables, config.harmless_functions)
    except ImproperlyConfigured:
        return  # the pool cannot be made, by a setting of which another check speaks
    except Error as error:
        cause = type(error.__cause__ or error).__name__
        yield checks.Info(
            f"The functions of database {alias!r} could not be looked at: {cause}.",
            id="poolkit.I002",
        )
        return
    level = checks.WARNING if config.mode == "transaction" else checks.INFO
    for finding in found.findings:
        if message := _message(alias, config, finding, level):
            yield message
    yield from _remaining(alias, config, found)


def _message(alias: str, config: PoolConfig, finding: Finding, level: int) -> CheckMessage | None:
    function = finding.function
    does = ", ".join(_DOES.get(what, f"keeps {what}") for what in finding.leaves)
    whose = f" (of the extension {function.extension})" if function.extension else ""
    by = "" if finding.by is function else f"{finding.by}, which calls it, and is run by "
    if finding.reached is None:
        return CheckMessage(
            level,
            f"In database {alias!r} {function}{whose} {does}. Statements that call {finding.by} "
            "are taken to leave nothing behind.",
            hint=f"{_REMEDY}If {_name(finding)} stands in DATABASES[{alias!r}]['OPTIONS']['pool']"
            "['harmless_functions'], take it out, so that a call pins; if it has the name of a "
            "function that PostgreSQL or an extension ships, give it another.",
            id="poolkit.W011",
        )
    if _is_listed(config, finding):
        return None
    return CheckMessage(
        level,
        f"In database {alias!r} {function}{whose} {does}, which no statement's text shows. "
        f"It is run by {by}{finding.reached}.",
        hint=f"{_REMEDY}If it leaves nothing after all, list it: DATABASES[{alias!r}]['OPTIONS']"
        f"['pool']['harmless_functions']. In tests 'verify_state' tells for certain.",
        id="poolkit.W010",
    )


def _name(finding: Finding) -> str:
    return repr(f"{finding.by.schema}.{finding.by.name}")


def _is_listed(config: PoolConfig, finding: Finding) -> bool:
    function = finding.function
    return not config.harmless_functions.isdisjoint(
        (function.name, f"{function.schema}.{function.name}")
    )


def _remaining(alias: str, config: PoolConfig, found: Found) -> Iterator[CheckMessage]:
    unclear = [
        str(each)
        for each in found.unclear
        if config.harmless_functions.isdisjoint((each.name, f"{each.schema}.{each.name}"))
    ]
    if unclear:
        yield checks.Info(
            f"In database {alias!r} triggers, views or the like run functions of which cannot be "
            f"told what they leave behind: {_listed(unclear)}.",
            hint="They run a text that they make, or are written in another language than SQL "
            "and PL/pgSQL. Try them with 'verify_state', then list them in 'harmless_functions'.",
            id="poolkit.I001",
        )
    if found.policies:
        yield checks.Info(
            f"In database {alias!r} what was SET decides who sees which row: "
            f"{_listed(found.policies)}.",
            hint="Set it by set_config(…, true) inside atomic(), or in connection.pinned(). "
            "Statements outside of them meet sessions where it is not set. A SET without LOCAL "
            "is right, too, and pins.",
            id="poolkit.I003",
        )
    if found.unread:
        yield checks.Info(
            f"In database {alias!r} there was no time for {found.unread} functions or more.",
            id="poolkit.I002",
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
