-- Work that time brings: leases that run out, due tasks, tasks not started in time. Any server may
-- call these at any moment; each claims rows with skip locked, so no leader is needed.

-- Ends up to p_limit leases whose clock has passed: lost (no heartbeat) or timed out (attempt
-- deadline). A lease that a heartbeat has moved on is only given its next time to look. A row, even
-- one without tokens, says that there may be more to look at.
create function workerqueue.expire_leases(p_limit integer)
returns table (
  tokens bytea[], timed_out boolean[], lanes integer[], positions bigint[], freed_queues text[],
  wait_ms double precision
)
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
  v_tokens bytea[];
  v_timed_out boolean[];
  v_keys text[];
  v_freed text[];
  v_wait_ms double precision;
  v_holders uuid[];
  v_lanes integer[];
  v_positions bigint[];
  v_looked bigint;
begin
  with due as materialized (
    select t.id, t.ctid, t.lease_id, t.concurrency_key, t.counted_queue, t.lease_expires_at,
           t.attempt_deadline, t.job_key
      from workerqueue.tasks t
     where t.state = 'leased' and t.expiry_check_at <= v_now
     order by t.expiry_check_at
     limit p_limit
       for update skip locked
  ), alive as (
    update workerqueue.tasks t
       set expiry_check_at = least(d.lease_expires_at, d.attempt_deadline)
      from due d
     where t.ctid = d.ctid and least(d.lease_expires_at, d.attempt_deadline) > v_now
  )
  select array_agg(d.id), array_agg(uuid_send(d.id) || int8send(d.lease_id)),
         array_agg(d.attempt_deadline <= v_now),
         array_agg(d.concurrency_key) filter (where d.concurrency_key is not null),
         array_agg(distinct d.counted_queue) filter (where d.counted_queue is not null),
         array_agg(d.id) filter (where d.job_key is not null),
         (select count(*) from due)
    into v_ids, v_tokens, v_timed_out, v_keys, v_freed, v_holders, v_looked
    from due d
   where least(d.lease_expires_at, d.attempt_deadline) <= v_now;
  if v_ids is null then
    if v_looked = p_limit then
      return query
      select '{}'::bytea[], '{}'::boolean[], null::integer[], null::bigint[], null::text[],
             null::double precision;
    end if;
    return;
  end if;

  perform workerqueue.end_attempts(
    v_ids,
    array(select case when x then 'timed_out' else 'lost' end::workerqueue.attempt_outcome
            from unnest(v_timed_out) with ordinality u(x, n) order by n),
    array(select case when x
                 then '{"type": "AttemptTimedOut", "message": "The attempt ran into its timeout."}'
                 else '{"type": "LeaseExpired", "message": "No heartbeat came within the lease duration."}'
                 end::jsonb
            from unnest(v_timed_out) with ordinality u(x, n) order by n),
    array_fill(null::bigint, array[cardinality(v_ids)]),
    array_fill(false, array[cardinality(v_ids)]), v_now);
  select extract(epoch from min(t.run_at) - clock_timestamp()) * 1000 into v_wait_ms
    from workerqueue.tasks t
   where t.id = any (v_ids);

  if v_holders is not null then
    select array_agg(p.lane_id) filter (where p.lane_id is not null),
           array_agg(p.position) filter (where p.lane_id is not null),
           v_keys || array_agg(p.concurrency_key) filter (where p.concurrency_key is not null)
      into v_lanes, v_positions, v_keys
      from workerqueue.let_pass(v_holders) p;
  end if;

  return query
  select v_tokens, v_timed_out, v_lanes || array_agg(r.lane_id),
         v_positions || array_agg(r.position), v_freed, v_wait_ms
    from (select a.lane_id, min(a.position) as position
            from workerqueue.admit(coalesce(v_keys, '{}')) a
           where v_keys is not null
           group by a.lane_id) r;
end
$$;

-- Makes up to p_limit due tasks available, in the order of their due times. `promoted` tells whether
-- to come again at once; `wait_ms` how long until the next one is due (null: none is waiting).
create function workerqueue.promote_due(p_limit integer)
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
              where t.state in ('scheduled', 'retrying') and t.run_at <= v_now) then
    v_base := nextval('workerqueue.position_seq') << 20;
    with due as materialized (
      select c.ctid, c.state, row_number() over () as place
        from (select t.ctid, t.state
                from workerqueue.tasks t
               where t.state in ('scheduled', 'retrying') and t.run_at <= v_now
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
           where t.state in ('scheduled', 'retrying')
           order by t.run_at limit 1)::double precision
    from first f;
end
$$;

-- Drops up to p_limit tasks that no attempt started by their expire_at.
create function workerqueue.expire_unstarted(p_limit integer)
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
           where t.expire_at is not null and t.attempt = 0 and t.state <> 'leased'
             and t.expire_at <= v_now
           order by t.expire_at
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
create function workerqueue.admit_waiting(p_after text, p_limit integer)
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
      where t.state = 'blocked' and t.behind is null and t.concurrency_key > p_after
      order by t.concurrency_key limit 1)
    union all
    select (select t.concurrency_key from workerqueue.tasks t
             where t.state = 'blocked' and t.behind is null and t.concurrency_key > key.k
             order by t.concurrency_key limit 1), key.n + 1
      from key where key.k is not null and key.n < p_limit
  )
  select array_agg(key.k) filter (
           where (select count(*) from workerqueue.tasks h
                   where h.concurrency_key = key.k and h.state in ('available', 'leased'))
               < (select t.concurrency_limit from workerqueue.tasks t
                   where t.state = 'blocked' and t.behind is null and t.concurrency_key = key.k
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

-- Lanes that hold available tasks, with the first position in each: what the dispatchers compare
-- their cursors with, about once a second, in case a notification was lost or a transaction that
-- took an early position committed late. One index probe per lane.
create function workerqueue.sweep_lanes()
returns table (lane_id integer, queue text, kind text, priority smallint, first_position bigint)
language sql stable
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
  select l.lane_id, l.queue, l.kind, l.priority,
         (select t.position from workerqueue.tasks t
           where t.lane_id = l.lane_id and t.state = 'available'
           order by t.position limit 1)
    from workerqueue.lanes l
$$;
