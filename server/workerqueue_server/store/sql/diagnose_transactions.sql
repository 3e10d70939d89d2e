-- Who keeps vacuum from removing dead rows, the longest first: open and prepared transactions, and
-- replication slots with a horizon of their own. Says who and how long, never the query.
select kind, owner, state, age_seconds
from (
  select 'transaction' as kind,
    concat_ws(' ', nullif(application_name, ''), usename::text, host(client_addr), 'pid ' || pid) as owner,
    state,
    extract(epoch from clock_timestamp() - xact_start)::float8 as age_seconds
  from pg_stat_activity
  where backend_type = 'client backend' and pid <> pg_backend_pid() and xact_start is not null
  union all
  select 'prepared transaction', concat_ws(' ', gid, owner::text), 'prepared',
    extract(epoch from clock_timestamp() - prepared)::float8
  from pg_prepared_xacts
  union all
  select 'replication slot', slot_name::text, case when active then 'active' else 'inactive' end, null
  from pg_replication_slots
  where xmin is not null and not active
) holders
where age_seconds is null or age_seconds > %(seconds)s
order by age_seconds desc nulls first
limit 5
