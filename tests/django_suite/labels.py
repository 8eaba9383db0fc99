"""Which of Django's tests: sets of the top level modules of its suite.

A module that a Django does not have is left out there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tests.django_suite.source import Source, SuiteError


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TELLING = _names("""
    backends basic bulk_create cache delete expressions get_or_create introspection
    many_to_many migrate_signals migration_test_data_persistence migrations.test_operations
    prefetch_related queries raw_query select_for_update servers sessions_tests test_client
    test_runner test_utils timezones transaction_hooks transactions update
""")
"""Where a backend shows itself: connections, transactions, cursors, threads, the end of a request.

One of `migrations.test_operations` holds a raw cursor open around `atomic()`; two of the others
have the contents of the database kept in memory.
"""

ORM = _names("""
    aggregation annotations basic bulk_create custom_pk dates datetimes defer delete
    expressions from_db_value get_or_create lookup many_to_many many_to_one
    model_inheritance one_to_one ordering prefetch_related queries raw_query
    select_for_update select_related update
""")
"""What sites do with the ORM."""

ASYNC = _names("""
    async asgi auth_tests basic bulk_create contenttypes_tests defer delete generic_relations
    get_or_create handlers lookup many_to_many many_to_one one_to_one pagination
    prefetch_related queries raw_query select_for_update select_related sessions_tests signals
    test_client test_utils transaction_hooks transactions update
""")
"""Where async methods of the ORM are, and what they are made of."""

_NO_DATABASE = _names("""
    admin_autodiscover admin_default_site app_loading apps bash_completion builtin_server
    conditional_processing csrf_tests decorators deprecation dispatch file_storage files
    forms_tests gis_tests httpwrappers i18n import_error_package logging_tests mail
    messages_tests middleware model_enums project_template requests_tests resolve_url
    responses settings_tests shell signed_cookies_tests signing sphinx staticfiles_tests str
    template_backends template_loader template_tests test_runner_apps urlpatterns
    urlpatterns_reverse user_commands utils_tests validators version wsgi
""")
"""They hardly ask a database anything, or cannot be asked for by name."""

_NEED_ICU = ("inspectdb", "model_fields")
"""Their tables cannot be made on a server that was built without ICU, with any backend."""

SETS = ("telling", "orm", "async", "database", "whole")


@dataclass(frozen=True)
class Choice:
    """The modules of tests that are run, and those that this server cannot run."""

    labels: tuple[str, ...]
    left_out: tuple[str, ...]


def choose(wanted: Sequence[str], source: Source, *, icu: bool) -> Choice:
    """Return what a set, or names of modules, classes or tests, stand for in this Django.

    Raises:
        SuiteError: there is nothing of such a name.
    """
    there = source.labels()
    if len(wanted) == 1 and wanted[0] in SETS:
        labels = _members(wanted[0], there)
    else:
        if strangers := [each for each in wanted if each.partition(".")[0] not in there]:
            raise SuiteError(
                f"Django's suite has no {', '.join(strangers)}; the sets are {', '.join(SETS)}"
            )
        labels = [*dict.fromkeys(wanted)]
    left_out = [] if icu else [each for each in labels if each.partition(".")[0] in _NEED_ICU]
    return Choice(tuple(each for each in labels if each not in left_out), tuple(left_out))


def _members(name: str, there: Collection[str]) -> list[str]:
    if name == "whole":
        return sorted(set(there) - {"gis_tests", "import_error_package", "test_runner_apps"})
    if name == "database":
        return sorted(set(there) - set(_NO_DATABASE))
    members = {"telling": TELLING, "orm": ORM, "async": ASYNC}[name]
    return [each for each in members if each.partition(".")[0] in there]
