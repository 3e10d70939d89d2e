-- Daily partitions of history and attempts, made ahead of need and dropped when their day is over.
--
-- Locks. Every ack writes to history, so nothing here may wait for a strong lock on it: a waiting lock
-- makes everybody queue up behind it, and a backup or a long report can hold history for hours.
-- `create table ... partition of` wants such a lock (access exclusive), so partitions are made as
-- tables of their own and attached, which no read and no write conflicts with. A drop cannot do without.
-- It is not even tried while an old transaction is seen to hold the table, and gives up after 200 ms
-- otherwise: that is the longest that it can hold up an ack.

-- Makes the partitions from today to p_days ahead (UTC days). Safe to run from several servers
-- at once: the advisory lock serializes them and existing partitions are left alone.
create function workerqueue.create_partitions(p_days integer) returns integer
language plpgsql as $$
declare
  v_today constant date := (clock_timestamp() at time zone 'UTC')::date;
  v_made integer := 0;
  v_day date;
  v_name text;
  v_parent text;
begin
  perform pg_advisory_xact_lock(hashtext('workerqueue.partitions'));
  foreach v_parent in array array['history', 'attempts'] loop
    for v_day in select generate_series(v_today, v_today + p_days, interval '1 day')::date loop
      -- Attempts are partitioned by the day they ended, so a few days ahead are enough.
      continue when v_parent = 'attempts' and v_day > v_today + 2;
      v_name := v_parent || '_' || to_char(v_day, 'YYYYMMDD');
      if to_regclass('workerqueue.' || v_name) is null then
        execute format('create table workerqueue.%I (like workerqueue.%I)', v_name, v_parent);
        execute format(
          'alter table workerqueue.%I attach partition workerqueue.%I for values from (%L) to (%L)',
          v_parent, v_name, v_day::text || ' 00:00:00+00', (v_day + 1)::text || ' 00:00:00+00');
        v_made := v_made + 1;
      end if;
    end loop;
  end loop;
  return v_made;
end
$$;

-- Drops one partition whose day is over and says which. If none could be dropped because somebody
-- uses its table, `held_by` says who: come again later. Both null: there is nothing to drop.
create function workerqueue.drop_expired_partition(
  p_attempts_days integer, out dropped text, out held_by text
)
language plpgsql
set lock_timeout = '200ms'
as $$
declare
  -- A task that finished a moment before midnight and is not kept at all may still be on its way in.
  v_today constant date := ((clock_timestamp() - interval '1 hour') at time zone 'UTC')::date;
  v_part record;
begin
  for v_part in
    select c.oid, c.relname, i.inhparent
      from pg_inherits i
      join pg_class c on c.oid = i.inhrelid
     where (i.inhparent = 'workerqueue.history'::regclass
            and right(c.relname, 8) < to_char(v_today, 'YYYYMMDD'))
        or (i.inhparent = 'workerqueue.attempts'::regclass
            and right(c.relname, 8) < to_char(v_today - p_attempts_days, 'YYYYMMDD'))
     order by right(c.relname, 8)
  loop
    select format('process %s (%s) since %s', a.pid, a.application_name,
                  date_trunc('second', a.xact_start))
      into held_by
      from pg_locks l
      join pg_stat_activity a on a.pid = l.pid
     where l.locktype = 'relation' and l.granted
       and l.database = (select d.oid from pg_database d where d.datname = current_database())
       and l.relation in (v_part.oid, v_part.inhparent)
       and a.pid <> pg_backend_pid()
       and a.xact_start < clock_timestamp() - interval '1 second'
     order by a.xact_start
     limit 1;
    continue when held_by is not null;
    begin
      execute format('drop table workerqueue.%I', v_part.relname);
      dropped := v_part.relname;
      held_by := null;
      return;
    exception
      when lock_not_available or deadlock_detected then
        held_by := 'somebody';
      when undefined_table then
        -- Another server was faster.
        null;
    end;
  end loop;
end
$$;

-- Takes the days whose partitions of history are gone out of the statistics; how many.
create function workerqueue.forget_dropped_days() returns integer
language plpgsql as $$
declare
  v_day date;
  v_forgotten integer := 0;
begin
  for v_day in
    select distinct d.retain_day
      from workerqueue.task_depths d
     where d.retain_day > '-infinity'
       and d.retain_day < (clock_timestamp() at time zone 'UTC')::date
       and to_regclass('workerqueue.history_' || to_char(d.retain_day, 'YYYYMMDD')) is null
  loop
    perform workerqueue.forget_retained(v_day);
    v_forgotten := v_forgotten + 1;
  end loop;
  return v_forgotten;
end
$$;

-- 32 days ahead covers the longest retention (30 days).
select workerqueue.create_partitions(32);
