-- What an operator should know about the database server, in one row.
select
  current_setting('server_version_num')::int as version_num,
  current_setting('server_version') as version,
  extract(epoch from clock_timestamp())::float8 as clock,
  pg_is_in_recovery() as in_recovery,
  current_setting('default_transaction_read_only')::bool as read_only,
  current_setting('fsync')::bool as fsync,
  current_setting('full_page_writes')::bool as full_page_writes,
  current_setting('synchronous_commit') as synchronous_commit,
  current_setting('autovacuum')::bool as autovacuum,
  current_setting('max_connections')::int as max_connections,
  current_setting('superuser_reserved_connections')::int as reserved_connections,
  (select coalesce(sum(numbackends), 0)::int from pg_stat_database) as connections,
  (select count(*)::int from pg_stat_activity
    where datname = current_database() and application_name like 'workerqueue %'
      and application_name <> 'workerqueue doctor') as own_connections,
  pg_has_role(current_user, 'pg_read_all_stats', 'member') as sees_all_sessions,
  pg_database_size(current_database()) as database_bytes
