-- The functions that wait, block, admit and sweep read by phase; see 0021. What they do is as it was,
-- but for the sweep and for share_lanes, which grants from many lanes ask first.

-- Gives the free places of concurrency keys to those that wait for them; the rules are in 0003.
create or replace function workerqueue.admit(p_keys text[])
returns table (lane_id integer, "position" bigint)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set workerqueue.counts_itself = 'yes'
as $$
begin
  perform pg_advisory_xact_lock(7701, bucket)
    from (select distinct hashtext(k) & 1023 as bucket from unnest(p_keys) k order by 1) b;

  -- A task that waits with a higher priority than a holder nobody has leased yet takes its turn.
  with demoted as materialized (
    select a.ctid
      from (select distinct k from unnest(p_keys) k) key
      cross join lateral (
        select b.priority
          from workerqueue.tasks b
         where b.concurrency_key = key.k and b.phase = 'blocked' and b.behind is null
         order by b.priority desc, b.position
         limit 1) head
      cross join lateral (
        select h.ctid
          from workerqueue.tasks h
         where h.concurrency_key = key.k and h.priority < head.priority
           and h.phase > 'blocked' and h.state = 'available'
           for update skip locked) a
  ), moved as (
    update workerqueue.tasks t
       set state = 'blocked'
      from demoted d
     where t.ctid = d.ctid
    returning t.lane_id
  )
  insert into workerqueue.task_flows (lane_id, left_state, entered_state, n)
  select m.lane_id, 'available', 'blocked', count(*) from moved m group by m.lane_id;

  return query
  with waiting as materialized (
    select b.ctid, key.k, held.n as held, b.concurrency_limit, b.priority, b.position
      from (select distinct k from unnest(p_keys) k) key
      cross join lateral (
        select count(*) as n
          from workerqueue.tasks h
         where h.concurrency_key = key.k and h.phase > 'blocked') held
      cross join lateral (
        select w.concurrency_limit
          from workerqueue.tasks w
         where w.concurrency_key = key.k and w.phase = 'blocked' and w.behind is null
         order by w.priority desc, w.position
         limit 1) head
      cross join lateral (
        select w.ctid, w.concurrency_limit, w.priority, w.position
          from workerqueue.tasks w
         where w.concurrency_key = key.k and w.phase = 'blocked' and w.behind is null
         order by w.priority desc, w.position
         limit greatest(head.concurrency_limit - held.n, 0)
           for update skip locked) b
  ), ranked as (
    select w.*, row_number() over (
             partition by w.k order by w.priority desc, w.position) as rank
      from waiting w
  ), admitted as materialized (
    -- Limits may differ within a key. The first that does not fit stops those behind it.
    select r.ctid,
           bool_and(r.held + r.rank <= r.concurrency_limit)
             over (partition by r.k order by r.rank) as fits
      from ranked r
  ), moved as (
    update workerqueue.tasks t
       set state = 'available'
      from admitted a
     where t.ctid = a.ctid and a.fits
    returning t.lane_id, t.position
  ), flow as (
    insert into workerqueue.task_flows (lane_id, left_state, entered_state, n)
    select m.lane_id, 'blocked', 'available', count(*) from moved m group by m.lane_id
  )
  select m.lane_id, m.position from moved m;
end
$$;

-- Makes up to p_limit due tasks available, in the order of their due times. `promoted` tells whether
-- to come again at once; `wait_ms` how long until the next one is due (null: none is waiting).
create or replace function workerqueue.promote_due(p_limit integer)
returns table (promoted integer, lanes integer[], positions bigint[], wait_ms double precision)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set workerqueue.counts_itself = 'yes'
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_base bigint;
  v_promoted integer;
  v_lanes integer[];
  v_keys text[];
begin
  if exists (select from workerqueue.tasks t
              where t.phase = 'waiting' and t.run_at <= v_now) then
    v_base := nextval('workerqueue.position_seq') << 20;
    with due as materialized (
      select c.ctid, c.state, row_number() over () as place
        from (select t.ctid, t.state
                from workerqueue.tasks t
               where t.phase = 'waiting' and t.run_at <= v_now
               order by t.run_at, t.position
               limit p_limit
                 for update skip locked) c
    ), moved as (
      update workerqueue.tasks t
         set state = case when t.concurrency_key is null then 'available' else 'blocked' end
                     ::workerqueue.task_state,
             position = v_base | due.place
        from due
       where t.ctid = due.ctid
      returning t.lane_id, t.concurrency_key, due.state as left_state, t.state
    ), flow as (
      insert into workerqueue.task_flows (lane_id, left_state, entered_state, n)
      select m.lane_id, m.left_state, m.state, count(*)
        from moved m group by m.lane_id, m.left_state, m.state
    )
    select count(*), array_agg(distinct m.lane_id) filter (where m.concurrency_key is null),
           array_agg(distinct m.concurrency_key) filter (where m.concurrency_key is not null)
      into v_promoted, v_lanes, v_keys
      from moved m;
  end if;

  return query
  with woken as (
    select unnest(v_lanes) as lane_id, v_base as position
    union all
    select a.lane_id, a.position from workerqueue.admit(coalesce(v_keys, '{}')) a
     where v_keys is not null
  ), first as (
    select w.lane_id, min(w.position) as position from woken w group by 1
  )
  select coalesce(v_promoted, 0), array_agg(f.lane_id), array_agg(f.position),
         (select extract(epoch from t.run_at - clock_timestamp()) * 1000
            from workerqueue.tasks t
           where t.phase = 'waiting'
           order by t.run_at limit 1)::double precision
    from first f;
end
$$;

-- Drops up to p_limit tasks that no attempt started by their expire_at.
create or replace function workerqueue.expire_unstarted(p_limit integer)
returns table (dropped integer, lanes integer[], positions bigint[])
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_ids uuid[];
  v_keys text[];
begin
  select array_agg(d.id), array_agg(d.concurrency_key) filter (where d.concurrency_key is not null)
    into v_ids, v_keys
    from (select t.id, t.concurrency_key
            from workerqueue.tasks t
           where t.unstarted_until <= v_now
           order by t.unstarted_until
           limit p_limit
             for update skip locked) d;
  if v_ids is null then
    return query select 0, null::integer[], null::bigint[];
    return;
  end if;
  perform workerqueue.bury(v_ids, 'expired', v_now, null);
  return query
  select cardinality(v_ids), array_agg(r.lane_id), array_agg(r.position)
    from (select a.lane_id, min(a.position) as position
            from workerqueue.admit(coalesce(v_keys, '{}')) a
           where v_keys is not null
           group by a.lane_id) r;
end
$$;

-- Admits for keys that have waiting tasks and a free place. Needed after an enqueue by SQL (which takes
-- no key locks) and as a safety net; reads one index entry per distinct key, not per task.
create or replace function workerqueue.admit_waiting(p_after text, p_limit integer)
returns table (last_key text, lanes integer[], positions bigint[])
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_keys text[];
  v_last text;
begin
  with recursive key as (
    (select t.concurrency_key as k, 1 as n from workerqueue.tasks t
      where t.phase = 'blocked' and t.behind is null and t.concurrency_key > p_after
      order by t.concurrency_key limit 1)
    union all
    select (select t.concurrency_key from workerqueue.tasks t
             where t.phase = 'blocked' and t.behind is null and t.concurrency_key > key.k
             order by t.concurrency_key limit 1), key.n + 1
      from key where key.k is not null and key.n < p_limit
  )
  select array_agg(key.k) filter (
           where (select count(*) from workerqueue.tasks h
                   where h.concurrency_key = key.k and h.phase > 'blocked')
               < (select t.concurrency_limit from workerqueue.tasks t
                   where t.phase = 'blocked' and t.behind is null and t.concurrency_key = key.k
                   order by t.priority desc, t.position limit 1)),
         case when count(*) = p_limit then max(key.k) end
    into v_keys, v_last
    from key where key.k is not null;

  return query
  select v_last, array_agg(r.lane_id), array_agg(r.position)
    from (select a.lane_id, min(a.position) as position
            from workerqueue.admit(coalesce(v_keys, '{}')) a
           where v_keys is not null
           group by a.lane_id) r;
end
$$;

-- Since when the oldest available task of each of the given queues could have run. Reads past what is
-- leased in front of it.
create or replace function workerqueue.oldest_available(p_queues text[])
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
      where t.lane_id = l.lane_id and t.phase = 'ready' and t.state = 'available'
      order by t.position
      limit 1) first
   where l.queue = any (p_queues)
   group by l.queue
$$;

-- What decides whether a waiting task runs. `holders` have its concurrency key (at most 10 of
-- `held_by`); `ahead` come before it in its line (counted up to 1,000).
create or replace function workerqueue.what_holds(p_id uuid)
returns table (
  behind uuid, holders uuid[], held_by bigint, ahead bigint, paused boolean, max_in_flight integer,
  max_in_flight_per_worker integer, in_flight bigint, kind_known boolean, now timestamptz
)
language plpgsql stable
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_task workerqueue.tasks;
  v_lane workerqueue.lanes;
begin
  select * into v_task from workerqueue.tasks t where t.id = p_id;
  if not found then
    return;
  end if;
  select * into v_lane from workerqueue.lanes l where l.lane_id = v_task.lane_id;
  behind := v_task.behind;
  select (array_agg(h.id order by h.state desc, h.priority desc))[1:10], count(*)
    into holders, held_by
    from workerqueue.tasks h
   where h.concurrency_key = v_task.concurrency_key and h.phase > 'blocked'
     and h.id <> p_id;
  if v_task.state = 'blocked' then
    select count(*) into ahead
      from (select from workerqueue.tasks b
             where b.concurrency_key = v_task.concurrency_key and b.phase = 'blocked'
               and b.behind is null
               and (b.priority > v_task.priority
                    or b.priority = v_task.priority and b.position < v_task.position)
             limit 1000) x;
  else
    select count(*) into ahead
      from (select
              from workerqueue.lanes l
             cross join lateral (
               select from workerqueue.tasks a
                where a.lane_id = l.lane_id and a.phase = 'ready' and a.state = 'available'
                  and (l.priority > v_lane.priority or a.position < v_task.position)
                order by a.position
                limit 1000) a
             where l.queue = v_lane.queue and l.priority >= v_lane.priority
             limit 1000) x;
  end if;
  select q.paused, q.max_in_flight, q.max_in_flight_per_worker
    into paused, max_in_flight, max_in_flight_per_worker
    from workerqueue.queues q where q.name = v_lane.queue;
  select count(*) into in_flight
    from workerqueue.tasks t where t.counted_queue = v_lane.queue;
  kind_known := exists (
    select from workerqueue.servers s
     where s.kinds @> array[v_lane.kind]
       and s.seen_at > clock_timestamp() - workerqueue.server_patience());
  now := clock_timestamp();
  return next;
end
$$;

-- How many tasks a request takes from which lanes: `lanes` (null: none), with their cursors and counts.
-- Looks at p_ahead tasks of each lane. In a queue the order is that of priority and position over all of
-- its lanes, so what comes after the last task looked at in a lane that has more is left for another
-- look; `more` says that there is something of that kind. p_worker is null where tasks are shared among
-- workers: then queues that limit each worker are skipped. Without locks, so others may take what is
-- found here.
create function workerqueue.share_lanes(
  p_lanes integer[], p_cursors bigint[], p_worker text, p_wanted integer, p_ahead integer,
  p_now timestamptz, out lanes integer[], out cursors bigint[], out counts bigint[], out more boolean
) language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  with lane as (
    select w.id, w.read_to, w.turn, l.queue, l.priority, allowed.n as allowed,
           least(allowed.n, p_ahead) as looked_at
      from rows from (unnest(p_lanes), unnest(p_cursors)) with ordinality w(id, read_to, turn)
      join workerqueue.lanes l on l.lane_id = w.id
      join workerqueue.queues q on q.name = l.queue
     cross join lateral (
       select least(
         p_wanted,
         case when q.max_in_flight is not null then greatest(0, q.max_in_flight - (
           select count(*) from workerqueue.tasks t where t.counted_queue = q.name)) end,
         case when q.max_in_flight_per_worker is null then null
              when p_worker is not null then greatest(0, q.max_in_flight_per_worker - (
                select count(*) from workerqueue.tasks t
                 where t.counted_queue = q.name and t.counted_worker = p_worker))
              else 0 end)::integer as n
       -- Keeps the counts from being made once more for the condition below.
       offset 0) allowed
     where not q.paused and allowed.n > 0
  ), seen as (
    select lane.*, p.position, p.place = lane.looked_at and lane.looked_at < lane.allowed as has_more
      from lane
     cross join lateral (
       select t.position, row_number() over (order by t.position) as place
         from workerqueue.tasks t
        where t.lane_id = lane.id and t.phase = 'ready' and t.state = 'available'
          and t.position > lane.read_to
          and (t.expire_at is null or t.expire_at > p_now or t.attempt > 0)
        order by t.position
        limit lane.looked_at) p
  ), ahead as (
    select s.*, row_number() over in_order as queue_rank,
           min(s.turn) over (partition by s.queue) as queue_turn,
           coalesce(bool_or(s.has_more) over (
             in_order rows between unbounded preceding and 1 preceding), false) as is_unsure
      from seen s
    window in_order as (partition by s.queue order by s.priority desc, s.position)
  ), share as (
    select t.id, t.read_to, count(*) as n
      from (
        select a.id, a.read_to
          from ahead a
         where a.queue_rank <= a.allowed and not a.is_unsure
         order by a.queue_rank, a.queue_turn
         limit p_wanted) t
     group by t.id, t.read_to
  )
  select array_agg(s.id), array_agg(s.read_to), array_agg(s.n),
         (select coalesce(bool_or(a.has_more), false) from ahead a)
    into lanes, cursors, counts, more
    from share s;
end
$$;

-- For servers of earlier releases, which read every lane from its start.
create or replace function workerqueue.sweep_lanes()
returns table (lane_id integer, queue text, kind text, priority smallint, first_position bigint)
language sql stable
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
  select l.lane_id, l.queue, l.kind, l.priority,
         (select t.position from workerqueue.tasks t
           where t.lane_id = l.lane_id and t.phase = 'ready' and t.state = 'available'
           order by t.position limit 1)
    from workerqueue.lanes l
$$;

-- Compares what a server believes about lanes with the truth, a bounded piece at a time: a lane may hold
-- a hundred thousand running leases, and reading over them every second would be work for nothing.
-- p_lanes, p_cursors, p_starts: the lanes that the server knows, how far it has read each, and where
-- this look at what is behind the cursor begins; p_limit is how many tasks are looked at in front of
-- the cursor and behind it. One row for every lane that there is:
--   ahead      the first available position after the cursor; null: none among those looked at
--   passed     where `ahead` is null, and there is more to look at: how far that look came
--   behind     the first available position after the start, up to the cursor: it was missed
--   next_start where the next look begins
create function workerqueue.sweep_lanes(
  p_lanes integer[], p_cursors bigint[], p_starts bigint[], p_limit integer
) returns table (
  lane_id integer, queue text, kind text, priority smallint, ahead bigint, passed bigint,
  behind bigint, next_start bigint
)
language sql stable
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
  select l.lane_id, l.queue, l.kind, l.priority, a.first,
         case when a.first is null then (
           select case when count(*) = p_limit then max(q.position) end
             from (select t.position
                     from workerqueue.tasks t
                    where t.lane_id = l.lane_id and t.phase = 'ready' and t.position > c.read_to
                    order by t.position limit p_limit) q) end,
         b.first,
         case when b.first is not null then c.start else (
           select case when count(*) = p_limit then max(q.position) else 0 end
             from (select t.position
                     from workerqueue.tasks t
                    where t.lane_id = l.lane_id and t.phase = 'ready'
                      and t.position > c.start and t.position <= c.read_to
                    order by t.position limit p_limit) q) end
    from workerqueue.lanes l
    left join rows from (unnest(p_lanes), unnest(p_cursors), unnest(p_starts))
              k(lane_id, read_to, start) on k.lane_id = l.lane_id
   cross join lateral (
     select coalesce(k.read_to, 0) as read_to, coalesce(k.start, 0) as start) c
    left join lateral (
      select q.position as first
        from (select t.position, t.state
                from workerqueue.tasks t
               where t.lane_id = l.lane_id and t.phase = 'ready' and t.position > c.read_to
               order by t.position limit p_limit) q
       where q.state = 'available'
       limit 1) a on true
    left join lateral (
      select q.position as first
        from (select t.position, t.state
                from workerqueue.tasks t
               where t.lane_id = l.lane_id and t.phase = 'ready'
                 and t.position > c.start and t.position <= c.read_to
               order by t.position limit p_limit) q
       where q.state = 'available'
       limit 1) b on true
$$;
