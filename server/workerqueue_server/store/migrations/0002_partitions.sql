-- Daily partitions of history and attempts, made ahead of need and dropped when their day is over.

-- Makes the partitions from today to p_days ahead (UTC days). Safe to run from several servers
-- at once: the advisory lock serializes them and existing partitions are left alone.
create function workerqueue.create_partitions(p_days integer) returns integer
language plpgsql as $$
declare
  v_made integer := 0;
  v_day date;
  v_name text;
  v_parent text;
begin
  perform pg_advisory_xact_lock(hashtext('workerqueue.partitions'));
  foreach v_parent in array array['history', 'attempts'] loop
    for v_day in
      select generate_series(
        (clock_timestamp() at time zone 'UTC')::date,
        (clock_timestamp() at time zone 'UTC')::date + p_days,
        interval '1 day')::date
    loop
      -- Attempts are partitioned by the day they ended, so a few days ahead are enough.
      continue when v_parent = 'attempts'
        and v_day > (clock_timestamp() at time zone 'UTC')::date + 2;
      v_name := v_parent || '_' || to_char(v_day, 'YYYYMMDD');
      if to_regclass('workerqueue.' || v_name) is null then
        execute format(
          'create table workerqueue.%I partition of workerqueue.%I for values from (%L) to (%L)',
          v_name, v_parent,
          v_day::text || ' 00:00:00+00', (v_day + 1)::text || ' 00:00:00+00');
        v_made := v_made + 1;
      end if;
    end loop;
  end loop;
  return v_made;
end
$$;

-- Drops one partition whose day is over and returns its name; null when there is none. One at a time
-- and with a short lock timeout set by the caller, so that it never queues behind a long reader and
-- makes everybody else queue behind it.
create function workerqueue.drop_expired_partition(p_attempts_days integer) returns text
language plpgsql as $$
declare
  v_name text;
begin
  select c.relname into v_name
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
   where (i.inhparent = 'workerqueue.history'::regclass
          and right(c.relname, 8) < to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD'))
      or (i.inhparent = 'workerqueue.attempts'::regclass
          and right(c.relname, 8)
              < to_char(clock_timestamp() at time zone 'UTC' - make_interval(days => p_attempts_days),
                        'YYYYMMDD'))
   order by right(c.relname, 8)
   limit 1;
  if v_name is not null then
    execute format('drop table workerqueue.%I', v_name);
  end if;
  return v_name;
end
$$;

-- 31 days ahead covers the longest retention (30 days).
select workerqueue.create_partitions(32);
