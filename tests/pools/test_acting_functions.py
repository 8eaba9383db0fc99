"""Which of the functions that PostgreSQL ships do more than answer, held against a server."""

from __future__ import annotations

import pytest

from django_poolkit.pools.acting_functions import acts
from django_poolkit.pools.session_state import residue
from django_poolkit.testing import Node

# All that a server says may give another answer each time, or do something.
_VOLATILE = """
SELECT DISTINCT proname FROM pg_proc
WHERE provolatile = 'v' AND pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f'
AND prorettype <> ALL ('{internal, trigger, event_trigger, language_handler}'::regtype[])
AND NOT '{internal}'::regtype[] && proargtypes::regtype[]
"""
# They give another answer each time, and do nothing.
_NAMES = """
    amvalidate array_sample array_shuffle clock_timestamp current_query currtid2 cursor_to_xml
    cursor_to_xmlschema gen_random_uuid pg_available_wal_summaries pg_blocking_pids
    pg_collation_actual_version pg_current_logfile pg_current_wal_flush_lsn
    pg_current_wal_insert_lsn pg_current_wal_lsn pg_database_collation_actual_version
    pg_database_size pg_hba_file_rules pg_ident_file_mappings pg_indexes_size
    pg_is_in_recovery pg_is_wal_replay_paused pg_isolation_test_session_is_blocked
    pg_jit_available pg_last_committed_xact pg_last_wal_receive_lsn pg_last_wal_replay_lsn
    pg_last_xact_replay_timestamp pg_lock_status pg_notification_queue_usage
    pg_partition_ancestors pg_partition_tree pg_prepared_xact pg_read_binary_file pg_read_file
    pg_relation_size pg_safe_snapshot_blocking_pids pg_sequence_last_value
    pg_show_all_file_settings pg_show_replication_origin_status pg_sleep pg_sleep_for
    pg_sleep_until pg_stat_file pg_stat_have_stats pg_table_size pg_tablespace_size
    pg_total_relation_size pg_wal_summary_contents pg_xact_commit_timestamp
    pg_xact_commit_timestamp_origin pg_xact_status random random_normal timeofday ts_stat
    txid_status uuidv4 uuidv7 plpgsql_validator
"""
_ANSWER = frozenset(_NAMES.split())
_FAMILIES = ("pg_get_", "pg_ls_", "pg_control_", "pg_stat_get_")


def test_every_volatile_function_of_a_server_is_known(primary: Node) -> None:
    found = {name for [name] in primary.execute(_VOLATILE)}
    unknown = {
        name
        for name in found
        if not acts(f"SELECT {name}()")
        and residue(f"SELECT {name}()") is None
        and name not in _ANSWER
        and "advisory_xact_lock" not in name  # told apart by those who lock
        and not name.startswith(_FAMILIES)
    }
    assert not unknown
    assert not {name for name in _ANSWER if acts(f"SELECT {name}()")}


@pytest.mark.parametrize(
    "text",
    ["SELECT nextval('a')", 'select "nextval"(1)', "SELECT NEXTVAL ('a')",
     "SELECT pg_notify('a','b')",
     "SELECT nextval/* a */ -- b\n('a')", "SELECT a, pg_catalog.setval('a', 1) FROM b",
     "SELECT procrastinate_defer_job_v1()", "SELECT lo_unlink(1)"],
)  # fmt: skip
def test_a_call_is_found_however_it_is_written(text: str) -> None:
    assert acts(text)


@pytest.mark.parametrize(
    "text", ["SELECT nextval FROM a", "SELECT lo_price FROM a", "SELECT my_nextval(1)", "SELECT 1"]
)
def test_what_is_no_call_is_none(text: str) -> None:
    assert not acts(text)
