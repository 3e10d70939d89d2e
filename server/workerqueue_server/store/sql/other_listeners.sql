-- Whether another server listens for hints.
select exists (
  select
    from pg_locks l
   where l.locktype = 'advisory' and l.classid = 7711 and l.objid = 0 and l.pid <> %(own)s
     and l.database = (select d.oid from pg_database d where d.datname = current_database()))
