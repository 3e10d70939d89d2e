-- Statistics: how many tasks are in each state, and how fast they move.
--
-- task_flows holds what moved lately, task_depths the sums of what was folded away from it. A statement
-- that adds both sees one snapshot, so its sums are exact at any moment: they equal what a count over
-- all tasks would say in that snapshot.

create table workerqueue.task_depths (
  lane_id integer not null,
  state workerqueue.task_state not null,
  -- The history partition of a terminal state; -infinity for live ones.
  retain_day date not null,
  n bigint not null,
  primary key (lane_id, state, retain_day)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- Moves per minute, for rates; kept a little over an hour.
create table workerqueue.task_rates (
  minute timestamptz not null,
  lane_id integer not null,
  move text collate "C" not null,
  n bigint not null,
  primary key (minute, lane_id, move)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- What a move counts as in the rates; null: it is no news.
create function workerqueue.move_name(
  p_left workerqueue.task_state, p_entered workerqueue.task_state
) returns text language sql immutable as $$
  select case
    when p_entered = 'leased' then 'started'
    when p_entered = 'succeeded' then 'succeeded'
    when p_entered = 'retrying' and p_left = 'leased' then 'retried'
    when p_entered = 'dead' then 'died'
    when p_entered in ('cancelled', 'expired') then 'dropped'
    when p_left is null or p_left in ('dead', 'cancelled', 'expired') then
      case when p_entered is not null then 'enqueued' end
  end
$$;

-- Moves up to p_limit flows into the sums; how many. One caller at a time; the others have nothing to do.
create function workerqueue.fold_flows(p_limit integer) returns integer
language plpgsql as $$
declare
  v_folded integer := 0;
begin
  if not pg_try_advisory_xact_lock(7705, 0) then
    return 0;
  end if;
  with taken as (
    delete from workerqueue.task_flows f
     where f.ctid = any (array(select t.ctid from workerqueue.task_flows t limit p_limit))
    returning f.*
  ), sides as (
    select t.lane_id, t.left_state as state, t.retain_day, -t.n as n from taken t
     where t.left_state is not null
    union all
    select t.lane_id, t.entered_state, t.retain_day, t.n from taken t
     where t.entered_state is not null
  ), depths as (
    insert into workerqueue.task_depths as d (lane_id, state, retain_day, n)
    select s.lane_id, s.state,
           case when s.state >= 'succeeded' then coalesce(s.retain_day, '-infinity')
                else '-infinity' end,
           sum(s.n)
      from sides s
     group by 1, 2, 3
    on conflict (lane_id, state, retain_day) do update set n = d.n + excluded.n
  ), rates as (
    insert into workerqueue.task_rates as r (minute, lane_id, move, n)
    select m.minute, m.lane_id, m.move, sum(m.n)
      from (select date_trunc('minute', t.at) as minute, t.lane_id, t.n,
                   workerqueue.move_name(t.left_state, t.entered_state) as move
              from taken t) m
     where m.move is not null
     group by 1, 2, 3
    on conflict (minute, lane_id, move) do update set n = r.n + excluded.n
  )
  select count(*) into v_folded from taken;

  delete from workerqueue.task_depths where n = 0;
  delete from workerqueue.task_rates where minute < clock_timestamp() - interval '70 minutes';
  return v_folded;
end
$$;

-- Forgets the finished tasks of a history partition that this transaction has dropped. Nobody can have
-- moves of that day in flight any more: the drop has waited for them.
create function workerqueue.forget_retained(p_day date) returns void
language plpgsql as $$
begin
  perform pg_advisory_xact_lock(7705, 0);
  while workerqueue.fold_flows(100000) > 0 loop
    null;
  end loop;
  delete from workerqueue.task_depths d where d.retain_day = p_day;
end
$$;

-- Counts everything anew: for the day when somebody truncated a table. Stops all changes while it runs.
create function workerqueue.recount_tasks() returns void
language plpgsql as $$
begin
  perform pg_advisory_xact_lock(7705, 0);
  lock table workerqueue.tasks, workerqueue.history in share mode;
  delete from workerqueue.task_flows;
  delete from workerqueue.task_depths;
  insert into workerqueue.task_depths (lane_id, state, retain_day, n)
  select t.lane_id, t.state, '-infinity', count(*) from workerqueue.tasks t group by 1, 2
  union all
  select h.lane_id, h.state, (h.retain_until at time zone 'UTC')::date, count(*)
    from workerqueue.history h group by 1, 2, 3;
end
$$;

-- How many tasks of the given queues are in each state.
create function workerqueue.count_tasks(p_queues text[])
returns table (queue text, kind text, state workerqueue.task_state, n bigint)
language sql stable as $$
  with lane as materialized (
    select l.lane_id, l.queue, l.kind from workerqueue.lanes l where l.queue = any (p_queues)
  ), part as (
    select d.lane_id, d.state, d.n from workerqueue.task_depths d
    union all
    select f.lane_id, f.left_state, -f.n from workerqueue.task_flows f
     where f.left_state is not null
    union all
    select f.lane_id, f.entered_state, f.n from workerqueue.task_flows f
     where f.entered_state is not null
  )
  select l.queue, l.kind, p.state, sum(p.n)::bigint
    from part p
    join lane l using (lane_id)
   group by l.queue, l.kind, p.state
  having sum(p.n) <> 0
$$;

-- How many moves of each sort the given queues made since the start of the minute before this one
-- (`recent`) and of the minute an hour ago (`hourly`), and how many seconds these spans are long.
create function workerqueue.count_moves(p_queues text[])
returns table (
  queue text, move text, recent bigint, recent_seconds double precision, hourly bigint,
  hourly_seconds double precision
) language sql stable as $$
  with span as (
    select s.now, date_trunc('minute', s.now) - interval '1 minute' as minute_start,
           date_trunc('minute', s.now) - interval '1 hour' as hour_start
      from (select clock_timestamp() as now) s
  ), part as (
    select r.lane_id, r.minute, r.move, r.n
      from workerqueue.task_rates r, span
     where r.minute >= span.hour_start
    union all
    select f.lane_id, date_trunc('minute', f.at), workerqueue.move_name(f.left_state, f.entered_state),
           f.n
      from workerqueue.task_flows f
  )
  select l.queue, p.move, coalesce(sum(p.n) filter (where p.minute >= span.minute_start), 0)::bigint,
         extract(epoch from max(span.now) - max(span.minute_start))::double precision,
         coalesce(sum(p.n) filter (where p.minute >= span.hour_start), 0)::bigint,
         extract(epoch from max(span.now) - max(span.hour_start))::double precision
    from part p
   cross join span
    join workerqueue.lanes l using (lane_id)
   where l.queue = any (p_queues) and p.move is not null
   group by l.queue, p.move
$$;

-- Since when the oldest available task of each of the given queues could have run: one index probe
-- per lane.
create function workerqueue.oldest_available(p_queues text[])
returns table (queue text, available_since timestamptz)
language sql stable
set enable_seqscan = off
set enable_bitmapscan = off
as $$
  select l.queue, min(first.run_at)
    from workerqueue.lanes l
   cross join lateral (
     select t.run_at
       from workerqueue.tasks t
      where t.lane_id = l.lane_id and t.state = 'available'
      order by t.position
      limit 1) first
   where l.queue = any (p_queues)
   group by l.queue
$$;
