-- Rules shared by the functions: backoff, retention, and the hand-over of concurrency keys.

-- Plans. The live table swings between empty and millions of rows faster than statistics follow, so
-- the statements here and in the next migrations leave the planner one sensible plan each:
--   * rows chosen with `for update skip locked ... limit` sit in a materialized CTE, so that no plan
--     can evaluate the choice twice;
--   * chosen rows are reached by ctid, and the joining statement carries no condition that would
--     make a partial index usable: what remains is a TID scan per row;
--   * rows named by id are joined with `t.id = any (array[a.id])`: an index condition like `=`, but
--     not one that a merge join (and so a walk through the whole index) could be built on.

-- Waiting time in milliseconds before the attempt after p_attempt. Without a policy it is
-- exp(min(attempt, 10)) seconds with 10 % jitter, graphile-worker's and trigger.dev's curve.
create function workerqueue.backoff_ms(p_attempt integer, p_policy double precision[])
returns bigint language sql volatile as $$
  select case
    when p_policy is null then
      exp(least(p_attempt, 10)) * 1000 * (0.9 + 0.2 * random())
    else
      -- The exponent is cut off where a double would overflow; the longest wait is far below.
      least(p_policy[3], p_policy[1] * exp(least((p_attempt - 1) * ln(p_policy[2]), 600)))
        * (1 - p_policy[4] + 2 * p_policy[4] * random())
  end::bigint
$$;

-- How long a task that ended in p_state is kept. Defaults: 1 day, dead tasks 14 days.
create function workerqueue.retention_of(
  p_state workerqueue.task_state, p_retention integer[]
) returns interval language sql immutable as $$
  select make_interval(secs => case p_state
    when 'succeeded' then coalesce(p_retention[1], 86400)
    when 'cancelled' then coalesce(p_retention[2], 86400)
    when 'expired' then coalesce(p_retention[3], 86400)
    else coalesce(p_retention[4], 1209600)
  end)
$$;

-- Job keys.
--
-- Invariant: of the live tasks with one job key, at most one can be leased. One holds the key (behind
-- is null); if that one is leased, a newer one may wait for the end of its lease (behind names it).
-- The index on (job_key) where behind is null enforces the first, its twin the second.
--
-- A task with a successor never runs again after its lease: if it fails it is dead, if it is released
-- or snoozed it is cancelled, because what it was to do is the successor's now. Enqueuing never locks
-- a leased task, so that no open transaction can hold up its worker's answer. Instead both sides look
-- for each other: whoever ends a lease calls let_pass() afterwards, and whoever stored a successor
-- calls settle_successors() after its commit, which waits for a concurrent end of the lease.

-- Lets the successors of tasks that are gone take their turn. The caller removed the tasks in this
-- transaction, announces (lane_id, position) where lane_id is not null, and admits for the keys. A
-- successor that somebody has locked is left to settle_successors().
create function workerqueue.let_pass(p_ids uuid[])
returns table (lane_id integer, "position" bigint, concurrency_key text)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set workerqueue.counts_itself = 'no'
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_base bigint := nextval('workerqueue.position_seq') << 20;
begin
  return query
  with waiting as materialized (
    select c.ctid, row_number() over () as place
      from (select s.ctid
              from workerqueue.tasks s
             where s.behind = any (p_ids)
               and not exists (select from workerqueue.tasks p where p.id = s.behind)
               and not exists (select from workerqueue.tasks h
                                where h.job_key = s.job_key and h.behind is null)
               for update of s skip locked) c
  )
  update workerqueue.tasks t
     set behind = null, position = v_base | w.place,
         state = case when t.run_at > v_now then 'scheduled'
                      when t.concurrency_key is not null then 'blocked'
                      else 'available' end::workerqueue.task_state
    from waiting w
   where t.ctid = w.ctid
  returning case when t.state = 'available' then t.lane_id end, t.position, t.concurrency_key;
end
$$;

-- Whether a newer task waits to take a leased task's place.
create function workerqueue.has_successor(p_id uuid)
returns boolean language sql stable
set enable_seqscan = off
as $$
  select exists (select from workerqueue.tasks s where s.behind = p_id)
$$;

-- Concurrency keys.
--
-- Invariant: for every key, at most concurrency_limit tasks are 'available' or 'leased' (they hold
-- the key); if one is 'blocked', the key has no free place for it. A key is held from the moment its
-- task is available, so granting a lease never looks at keys and blocked tasks are in no ready index.
--
-- Every transaction that lets a keyed task enter 'blocked' or leave 'available'/'leased' calls
-- admit() for that key after the change. The lock makes these calls take turns per key; each
-- statement inside sees everything committed before the lock was granted (read committed: a new
-- snapshot per statement), so two callers can never give away the same place, and the last one to
-- leave always sees who waits. A transaction that dies takes its change and its admission with it.
--
-- The locks are 1,024 buckets, not one per key, so that a batch of 10,000 keys cannot exhaust the
-- lock table. They are taken in ascending order, after every row lock that can wait; once they are
-- held, rows are locked with skip locked only. So no cycle is possible. SQL-side enqueue never takes
-- them: a client's open transaction must not stop the servers.
create function workerqueue.admit(p_keys text[])
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
         where b.concurrency_key = key.k and b.state = 'blocked' and b.behind is null
         order by b.priority desc, b.position
         limit 1) head
      cross join lateral (
        select h.ctid
          from workerqueue.tasks h
         where h.concurrency_key = key.k and h.priority < head.priority
           and h.state in ('available', 'leased') and h.state::text = 'available'
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
         where h.concurrency_key = key.k and h.state in ('available', 'leased')) held
      cross join lateral (
        select w.concurrency_limit
          from workerqueue.tasks w
         where w.concurrency_key = key.k and w.state = 'blocked' and w.behind is null
         order by w.priority desc, w.position
         limit 1) head
      cross join lateral (
        select w.ctid, w.concurrency_limit, w.priority, w.position
          from workerqueue.tasks w
         where w.concurrency_key = key.k and w.state = 'blocked' and w.behind is null
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
