"""Names of the functions that PostgreSQL and its usual extensions ship.

Data only. A call of one of these leaves no session state behind, so `session_state` lets it pass;
those that do leave some are not in here but in `session_state.STATEFUL_FUNCTIONS`.

The names were read from servers of PostgreSQL 15.18, 16.2 and 18.6, and united. Left out is what
nobody calls by name: the functions behind operators, types, indexes and aggregates (a few that are
called nevertheless were put back), and the families in `HARMLESS_PREFIXES`. To bring the list up to
date, run this on a new server (and the same for `CONTRIB` after `CREATE EXTENSION` of each, with
`pg_depend.deptype = 'e'`), then add what is new and harmless:

    SELECT DISTINCT p.proname FROM pg_proc p
    LEFT JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
    WHERE p.pronamespace = 'pg_catalog'::regnamespace
    AND coalesce(d.description, 'I/O') NOT SIMILAR TO 'implementation of %|internal %|I/O'
    AND NOT ('{internal, cstring}'::regtype[] && p.proargtypes::regtype[])
    AND p.prorettype <> ALL ('{internal, cstring, trigger, event_trigger}'::regtype[]) ORDER BY 1
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


HARMLESS_PREFIXES = ("pg_stat_get_", "st_", "_st_", "postgis_", "procrastinate_")
"""Families too large to list: the statistics views' own functions, and PostGIS. Those of the queue
procrastinate have a version at their end, and do nothing but change its tables and NOTIFY."""

POSTGRESQL = _words(
    """
    abbrev abs aclcontains acldefault aclexplode aclinsert aclremove acos acosd acosh age
    amvalidate any_value area array_agg array_append array_cat array_dims array_fill array_length
    array_lower array_ndims array_position array_positions array_prepend array_remove
    array_replace array_reverse array_sample array_shuffle array_sort array_to_json
    array_to_string array_to_tsvector array_upper arraycontained arraycontains arrayoverlap ascii
    asin asind asinh atan atan2 atan2d atand atanh avg bernoulli bit bit_and bit_count bit_length
    bit_or bit_xor bool bool_and bool_or bound_box box bpchar brin_desummarize_range
    brin_summarize_new_values brin_summarize_range broadcast btrim bytea cardinality casefold
    cash_words cbrt ceil ceiling center char char_length character_length chr cidr circle
    clock_timestamp col_description concat concat_ws convert convert_from convert_to corr cos cosd
    cosh cot cotd count covar_pop covar_samp crc32 crc32c cume_dist current_database current_query
    current_schema current_schemas current_setting current_user currtid2 cursor_to_xml
    cursor_to_xmlschema database_to_xml database_to_xml_and_xmlschema database_to_xmlschema date
    date_add date_bin date_cmp_timestamp date_cmp_timestamptz date_mi_interval date_part
    date_pl_interval date_subtract date_trunc datemultirange daterange decode degrees dense_rank
    diagonal diameter div encode enum_first enum_last enum_range erf erfc every exp extract
    factorial family first_value float4 float8 floor format format_type gamma gcd gen_random_uuid
    generate_series generate_subscripts get_bit get_byte get_current_ts_config getdatabaseencoding
    getpgusername gin_clean_pending_list has_any_column_privilege has_column_privilege
    has_database_privilege has_foreign_data_wrapper_privilege has_function_privilege
    has_language_privilege has_largeobject_privilege has_parameter_privilege has_schema_privilege
    has_sequence_privilege has_server_privilege has_table_privilege has_tablespace_privilege
    has_type_privilege hashtext hashtextextended height host hostmask icu_unicode_version in_range
    inet_client_addr inet_client_port inet_merge inet_same_family inet_server_addr
    inet_server_port initcap int2 int2int4_sum int4 int4inc int4multirange int4range int8 int8dec
    int8dec_any int8multirange int8range interval is_normalized isclosed isempty isfinite
    ishorizontal isopen isparallel isperp isvertical json_agg json_agg_strict json_array_element
    json_array_element_text json_array_elements json_array_elements_text json_array_length
    json_build_array json_build_object json_each json_each_text json_extract_path
    json_extract_path_text json_object json_object_agg json_object_agg_strict
    json_object_agg_unique json_object_agg_unique_strict json_object_field json_object_field_text
    json_object_keys json_populate_record json_populate_recordset json_strip_nulls json_to_record
    json_to_recordset json_to_tsvector json_typeof jsonb_agg jsonb_agg_strict jsonb_array_element
    jsonb_array_element_text jsonb_array_elements jsonb_array_elements_text jsonb_array_length
    jsonb_build_array jsonb_build_object jsonb_concat jsonb_contained jsonb_contains jsonb_delete
    jsonb_delete_path jsonb_each jsonb_each_text jsonb_exists jsonb_exists_all jsonb_exists_any
    jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_agg
    jsonb_object_agg_strict jsonb_object_agg_unique jsonb_object_agg_unique_strict
    jsonb_object_field jsonb_object_field_text jsonb_object_keys jsonb_path_exists
    jsonb_path_exists_opr jsonb_path_exists_tz jsonb_path_match jsonb_path_match_opr
    jsonb_path_match_tz jsonb_path_query jsonb_path_query_array jsonb_path_query_array_tz
    jsonb_path_query_first jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record
    jsonb_populate_record_valid jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax
    jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_to_tsvector jsonb_typeof
    justify_days justify_hours justify_interval lag last_value lcm lead left length lgamma like
    like_escape line ln lo_close lo_creat lo_create lo_export lo_from_bytea lo_get lo_import
    lo_lseek lo_lseek64 lo_open lo_put lo_tell lo_tell64 lo_truncate lo_truncate64 lo_unlink log
    log10 loread lower lower_inc lower_inf lowrite lpad lseg lseg_length ltrim macaddr macaddr8
    macaddr8_set7bit make_date make_interval make_time make_timestamp make_timestamptz makeaclitem
    masklen max md5 min min_scale mod mode money multirange multirange_contains_elem
    multirange_intersect multirange_minus multirange_union mxid_age name nameconcatoid netmask
    network network_overlap network_sub network_sup nextval normalize notlike now npoints
    nth_value ntile num_nonnulls num_nulls numeric numeric_div_trunc numeric_exp numeric_inc
    numeric_ln numeric_log numeric_sqrt nummultirange numnode numrange obj_description
    octet_length oid oidvectortypes overlaps overlay parse_ident path path_length pclose
    percent_rank percentile_cont percentile_disc pg_advisory_xact_lock
    pg_advisory_xact_lock_shared pg_available_extension_versions pg_available_extensions
    pg_available_wal_summaries pg_backend_pid pg_backup_start_time pg_basetype pg_blocking_pids
    pg_cancel_backend pg_char_to_encoding pg_clear_attribute_stats pg_clear_relation_stats
    pg_client_encoding pg_collation_actual_version pg_collation_for pg_collation_is_visible
    pg_column_compression pg_column_is_updatable pg_column_size pg_column_toast_chunk_id
    pg_conf_load_time pg_config pg_control_checkpoint pg_control_init pg_control_recovery
    pg_control_system pg_conversion_is_visible pg_create_restore_point pg_current_logfile
    pg_current_snapshot pg_current_wal_flush_lsn pg_current_wal_insert_lsn pg_current_wal_lsn
    pg_current_xact_id pg_current_xact_id_if_assigned pg_cursor
    pg_database_collation_actual_version pg_database_size pg_describe_object
    pg_drop_replication_slot pg_encoding_max_length pg_encoding_to_char pg_export_snapshot
    pg_extension_config_dump pg_extension_update_paths pg_filenode_relation pg_function_is_visible
    pg_get_acl pg_get_aios pg_get_backend_memory_contexts pg_get_catalog_foreign_keys
    pg_get_constraintdef pg_get_expr pg_get_function_arg_default pg_get_function_arguments
    pg_get_function_identity_arguments pg_get_function_result pg_get_function_sqlbody
    pg_get_functiondef pg_get_indexdef pg_get_keywords pg_get_loaded_modules
    pg_get_multixact_members pg_get_object_address pg_get_partition_constraintdef
    pg_get_partkeydef pg_get_publication_tables pg_get_replica_identity_index
    pg_get_replication_slots pg_get_ruledef pg_get_sequence_data pg_get_serial_sequence
    pg_get_shmem_allocations pg_get_shmem_allocations_numa pg_get_statisticsobjdef
    pg_get_statisticsobjdef_columns pg_get_statisticsobjdef_expressions pg_get_triggerdef
    pg_get_userbyid pg_get_viewdef pg_get_wait_events pg_get_wal_replay_pause_state
    pg_get_wal_resource_managers pg_get_wal_summarizer_state pg_has_role pg_hba_file_rules
    pg_ident_file_mappings pg_identify_object pg_identify_object_as_address
    pg_import_system_collations pg_index_column_has_property pg_index_has_property
    pg_indexam_has_property pg_indexam_progress_phasename pg_indexes_size pg_input_error_info
    pg_input_is_valid pg_is_in_backup pg_is_in_recovery pg_is_other_temp_schema
    pg_is_wal_replay_paused pg_jit_available pg_last_committed_xact pg_last_wal_receive_lsn
    pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_listening_channels pg_lock_status
    pg_log_backend_memory_contexts pg_log_standby_snapshot pg_logical_emit_message
    pg_logical_slot_get_binary_changes pg_logical_slot_get_changes
    pg_logical_slot_peek_binary_changes pg_logical_slot_peek_changes pg_ls_archive_statusdir
    pg_ls_dir pg_ls_logdir pg_ls_logicalmapdir pg_ls_logicalsnapdir pg_ls_replslotdir
    pg_ls_summariesdir pg_ls_tmpdir pg_ls_waldir pg_lsn pg_mcv_list_items pg_my_temp_schema
    pg_notification_queue_usage pg_notify pg_numa_available pg_opclass_is_visible
    pg_operator_is_visible pg_opfamily_is_visible pg_options_to_table pg_partition_ancestors
    pg_partition_root pg_partition_tree pg_postmaster_start_time pg_prepared_statement
    pg_prepared_xact pg_promote pg_read_binary_file pg_read_file pg_relation_filenode
    pg_relation_filepath pg_relation_is_publishable pg_relation_is_updatable pg_relation_size
    pg_reload_conf pg_replication_origin_advance pg_replication_origin_create
    pg_replication_origin_drop pg_replication_origin_oid pg_replication_origin_progress
    pg_replication_origin_session_is_setup pg_replication_origin_session_progress
    pg_replication_origin_xact_reset pg_replication_origin_xact_setup pg_replication_slot_advance
    pg_restore_attribute_stats pg_restore_relation_stats pg_rotate_logfile
    pg_safe_snapshot_blocking_pids pg_sequence_last_value pg_sequence_parameters
    pg_settings_get_flags pg_show_all_file_settings pg_show_all_settings
    pg_show_replication_origin_status pg_size_bytes pg_size_pretty pg_sleep pg_sleep_for
    pg_sleep_until pg_snapshot_xip pg_snapshot_xmax pg_snapshot_xmin pg_split_walfile_name
    pg_stat_clear_snapshot pg_stat_file pg_stat_force_next_flush pg_stat_have_stats pg_stat_reset
    pg_stat_reset_backend_stats pg_stat_reset_replication_slot pg_stat_reset_shared
    pg_stat_reset_single_function_counters pg_stat_reset_single_table_counters pg_stat_reset_slru
    pg_stat_reset_subscription_stats pg_statistics_obj_is_visible pg_stop_making_pinned_objects
    pg_switch_wal pg_sync_replication_slots pg_table_is_visible pg_table_size
    pg_tablespace_databases pg_tablespace_location pg_tablespace_size pg_terminate_backend
    pg_timezone_abbrevs pg_timezone_abbrevs_abbrevs pg_timezone_abbrevs_zone pg_timezone_names
    pg_total_relation_size pg_trigger_depth pg_try_advisory_xact_lock
    pg_try_advisory_xact_lock_shared pg_ts_config_is_visible pg_ts_dict_is_visible
    pg_ts_parser_is_visible pg_ts_template_is_visible pg_type_is_visible pg_typeof
    pg_visible_in_snapshot pg_wal_lsn_diff pg_wal_replay_pause pg_wal_replay_resume
    pg_wal_summary_contents pg_walfile_name pg_walfile_name_offset pg_xact_commit_timestamp
    pg_xact_commit_timestamp_origin pg_xact_status phraseto_tsquery pi plainto_tsquery point
    point_distance polygon popen position pow power querytree quote_ident quote_literal
    quote_nullable radians radius random random_normal range_adjacent range_after range_agg
    range_before range_cmp range_contained_by range_contains range_contains_elem range_intersect
    range_intersect_agg range_merge range_minus range_overlaps range_overleft range_overright
    range_union rank regclass regexp_count regexp_instr regexp_like regexp_match regexp_matches
    regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr regr_avgx regr_avgy
    regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy repeat replace reverse
    right round row_number row_security_active row_to_json rpad rtrim satisfies_hash_partition
    scale schema_to_xml schema_to_xml_and_xmlschema schema_to_xmlschema session_user set_bit
    set_byte set_masklen setval setweight sha224 sha256 sha384 sha512 shobj_description sign
    similar_escape similar_to_escape sin sind sinh slope spg_poly_quad_compress split_part sqrt
    starts_with statement_timestamp stddev stddev_pop stddev_samp string_agg string_to_array
    string_to_table strip strpos substr substring sum system system_user table_to_xml
    table_to_xml_and_xmlschema table_to_xmlschema tan tand tanh text textcat texticlike
    texticnlike textlen textlike textnlike time timeofday timestamp timestamp_cmp_date
    timestamp_cmp_timestamptz timestamp_mi_interval timestamp_pl_interval timestamptz
    timestamptz_cmp_date timestamptz_cmp_timestamp timetz timezone to_ascii to_bin to_char to_date
    to_hex to_json to_jsonb to_number to_oct to_regclass to_regcollation to_regnamespace
    to_regoper to_regoperator to_regproc to_regprocedure to_regrole to_regtype to_regtypemod
    to_timestamp to_tsquery to_tsvector transaction_timestamp translate trim_array trim_scale
    trunc ts_debug ts_delete ts_filter ts_headline ts_lexize ts_match_qv ts_match_tq ts_match_tt
    ts_match_vq ts_parse ts_rank ts_rank_cd ts_token_type tsmultirange tsq_mcontained
    tsq_mcontains tsquery_and tsquery_not tsquery_or tsquery_phrase tsrange tstzmultirange
    tstzrange tsvector_concat tsvector_to_array txid_current txid_current_if_assigned
    txid_current_snapshot txid_snapshot_xip txid_snapshot_xmax txid_snapshot_xmin txid_status
    txid_visible_in_snapshot unicode_assigned unicode_version unistr unnest upper upper_inc
    upper_inf uuid_extract_timestamp uuid_extract_version uuidv4 uuidv7 var_pop var_samp varbit
    varchar variance version websearch_to_tsquery width width_bucket xid xml xml_is_well_formed
    xml_is_well_formed_content xml_is_well_formed_document xmlagg xmlcomment xmlconcat2 xmlexists
    xmltext xmlvalidate xpath xpath_exists
    """
)
"""In the schema pg_catalog."""

CONTRIB = _words(
    """
    akeys armor autoprewarm_dump_now autoprewarm_start_worker avals brin_metapage_info
    brin_page_items brin_page_type brin_revmap_data bt_index_check bt_index_parent_check bt_metap
    bt_multi_page_stats bt_page_items bt_page_stats citext connectby crypt cube cube_contained
    cube_contains cube_coord cube_coord_llur cube_dim cube_distance cube_enlarge cube_inter
    cube_is_point cube_ll_coord cube_overlap cube_size cube_subset cube_union cube_ur_coord
    daitch_mokotoff dblink_build_sql_delete dblink_build_sql_insert dblink_build_sql_update
    dblink_get_pkey dearmor decrypt decrypt_iv defined delete difference digest distance_chebyshev
    distance_taxicab dmetaphone dmetaphone_alt each earth earth_box earth_distance encrypt
    encrypt_iv exist exists_all exists_any fetchval fsm_page_contents gc_to_sec gen_random_bytes
    gen_salt get_raw_page gin_index_check gin_leafpage_items gin_metapage_info
    gin_page_opaque_info gist_page_items gist_page_items_bytea gist_page_opaque_info
    hash_bitmap_info hash_metapage_info hash_page_items hash_page_stats hash_page_type
    heap_force_freeze heap_force_kill heap_page_item_attrs heap_page_items
    heap_tuple_infomask_flags hmac hs_concat hs_contained hs_contains hstore hstore_to_array
    hstore_to_json hstore_to_json_loose hstore_to_jsonb hstore_to_jsonb_loose hstore_to_matrix
    hstore_version_diag icount idx index int_array_aggregate int_array_enum intarray_del_elem
    intarray_push_array intarray_push_elem intset intset_subtract intset_union_elem is_valid isbn
    isbn13 isdefined isexists ismn ismn13 issn issn13 latitude lca levenshtein
    levenshtein_less_equal ll_to_earth lo_oid longitude ltree2text ltree_addltree ltree_addtext
    ltree_isparent ltree_risparent ltree_textadd make_valid metaphone nlevel normal_rand
    page_checksum page_header pg_buffercache_evict pg_buffercache_evict_all
    pg_buffercache_evict_relation pg_buffercache_numa_pages pg_buffercache_pages
    pg_buffercache_summary pg_buffercache_usage_counts pg_check_frozen pg_check_visible
    pg_file_rename pg_file_sync pg_file_unlink pg_file_write pg_freespace
    pg_get_logical_snapshot_info pg_get_logical_snapshot_meta pg_get_wal_block_info
    pg_get_wal_record_info pg_get_wal_records_info pg_get_wal_records_info_till_end_of_wal
    pg_get_wal_stats pg_get_wal_stats_till_end_of_wal pg_logdir_ls pg_old_snapshot_time_mapping
    pg_prewarm pg_relpages pg_stat_statements pg_stat_statements_info pg_stat_statements_reset
    pg_truncate_visibility_map pg_visibility pg_visibility_map pg_visibility_map_summary
    pgp_armor_headers pgp_key_id pgp_pub_decrypt pgp_pub_decrypt_bytea pgp_pub_encrypt
    pgp_pub_encrypt_bytea pgp_sym_decrypt pgp_sym_decrypt_bytea pgp_sym_encrypt
    pgp_sym_encrypt_bytea pgrowlocks pgstatginindex pgstathashindex pgstatindex pgstattuple
    pgstattuple_approx populate_record postgres_fdw_disconnect postgres_fdw_disconnect_all
    postgres_fdw_get_connections sec_to_gc seg_center seg_inter seg_lower seg_size seg_union
    seg_upper show_limit show_trgm similarity similarity_dist similarity_op skeys slice
    slice_array sort sort_asc sort_desc soundex ssl_cipher ssl_client_cert_present ssl_client_dn
    ssl_client_dn_field ssl_client_serial ssl_extension_info ssl_is_used ssl_issuer_dn
    ssl_issuer_field ssl_version strict_word_similarity strict_word_similarity_op subarray
    subltree subpath svals tconvert text2ltree text_soundex tuple_data_split unaccent uniq upc
    uuid_generate_v1 uuid_generate_v1mc uuid_generate_v3 uuid_generate_v4 uuid_generate_v5
    uuid_nil uuid_ns_dns uuid_ns_oid uuid_ns_url uuid_ns_x500 verify_heapam word_similarity
    word_similarity_op xml_encode_special_chars xml_valid xpath_bool xpath_list xpath_nodeset
    xpath_number xpath_string xslt_process
    """
)
"""Of the extensions that come with PostgreSQL; in whatever schema they were created."""

THIRD_PARTY = _words(
    """
    addgeometrycolumn array_to_halfvec array_to_sparsevec array_to_vector binary_quantize box2d
    box2dfromgeohash box3d cosine_distance dropgeometrycolumn dropgeometrytable find_srid
    geography geography_distance_knn geography_overlaps geometry geometry_contains
    geometry_distance_box geometry_distance_centroid geometry_overlaps geometry_same
    geometry_within geometrytype halfvec halfvec_to_vector hamming_distance inner_product
    jaccard_distance l1_distance l2_distance l2_norm l2_normalize populate_geometry_columns raster
    sparsevec sparsevec_to_vector subvector updategeometrysrid vector vector_avg vector_dims
    vector_norm vector_to_float4 vector_to_halfvec vector_to_sparsevec
    """
)
"""Of pgvector, and those of PostGIS that have no prefix."""
