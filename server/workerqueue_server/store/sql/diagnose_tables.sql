-- The hot tables: dead rows, and whether vacuum was told to stay away.
select c.relname as name,
  s.n_live_tup as live_rows,
  s.n_dead_tup as dead_rows,
  extract(epoch from clock_timestamp() - greatest(s.last_autovacuum, s.last_vacuum))::float8
    as seconds_since_vacuum,
  coalesce('autovacuum_enabled=false' = any (c.reloptions), false) as vacuum_off
from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_stat_user_tables s on s.relid = c.oid
where n.nspname = 'workerqueue' and c.relname in ('tasks', 'queues', 'lanes', 'task_flows')
  and c.relkind = 'r'
order by s.n_dead_tup desc nulls last
