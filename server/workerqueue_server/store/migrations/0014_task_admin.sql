-- What operators do with tasks: list, cancel, retry, delete, reschedule.
--
-- Functions that change tasks lock them in ascending order of ids (like every batch of answers from
-- workers) and end with let_pass() and admit(), so successors and the next of a key go on at once.

-- Lists of finished tasks that did not succeed skip those that did. Costs a success nothing: the
-- index holds none of them.
create index history_unsuccessful on workerqueue.history (id) where state <> 'succeeded';

-- Goes through tasks in descending order of ids, from p_before (exclusive; null: from the end), looks
-- at up to p_scan of them and finds up to p_wanted that fit the filter. `bytes` are the sizes of what
-- a full view of each carries; `last_id` is where to go on, null at the end. p_filter is a JSON object:
--   states, queues, kinds, tags                arrays; null or missing: any
--   concurrency_key, job_key, worker_id, error_type
--   created_after, created_before, finished_after, finished_before
create function workerqueue.scan_tasks(
  p_before uuid, p_filter jsonb, p_wanted integer, p_scan integer
) returns table (ids uuid[], bytes bigint[], examined integer, last_id uuid)
language plpgsql stable
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set max_parallel_workers_per_gather = 0
set jit = off
as $$
declare
  f record;
  v_lanes integer[];
  v_live constant text := 'select t.id, t.state, t.lane_id, t.concurrency_key, t.job_key, '
    't.worker_id, t.tags, t.created_at, null::timestamptz as finished_at, t.last_error, t.payload, '
    't.args, t.checkpoint, null::bytea as result from workerqueue.tasks t '
    'where ($1 is null or t.id < $1)';
  v_finished constant text := 'select h.id, h.state, h.lane_id, h.concurrency_key, h.job_key, '
    'h.worker_id, h.tags, h.created_at, h.finished_at, h.last_error, h.payload, h.args, '
    'h.checkpoint, h.result from workerqueue.history h where ($1 is null or h.id < $1)';
  v_sources text[] := '{}';
  v_chunk integer := least(p_scan, 2 * p_wanted);
  v_found record;
begin
  select * into f from jsonb_to_record(p_filter) as x(
    states workerqueue.task_state[], queues text[], kinds text[], tags text[],
    concurrency_key text, job_key text, worker_id text, error_type text,
    created_after timestamptz, created_before timestamptz,
    finished_after timestamptz, finished_before timestamptz);
  if f.queues is not null or f.kinds is not null then
    select coalesce(array_agg(l.lane_id), '{}') into v_lanes
      from workerqueue.lanes l
     where (f.queues is null or l.queue = any (f.queues))
       and (f.kinds is null or l.kind = any (f.kinds));
  end if;

  if f.finished_after is null and f.finished_before is null
     and (f.states is null or 'succeeded' > any (f.states)) then
    v_sources := v_sources || case
      -- Few by nature and reached by an index, so they are all read, whatever else is in the table.
      when f.job_key is not null then
        format('select * from (%1$s and t.job_key = %2$L and t.behind is null '
               'union all %1$s and t.job_key = %2$L and t.behind is not null) j',
               v_live, f.job_key)
      when f.states = '{leased}' then
        format('select * from (%s and t.state = %L and t.expiry_check_at > %L offset 0) l',
               v_live, 'leased', '-infinity')
      else v_live end;
  end if;
  if f.states is null or 'succeeded' <= any (f.states) then
    v_sources := v_sources || case
      when f.states is null or 'succeeded' = any (f.states) then v_finished
      else format('%s and h.state <> %L', v_finished, 'succeeded') end;
  end if;

  ids := '{}';
  bytes := '{}';
  examined := 0;
  if v_sources = '{}' or v_lanes = '{}' then
    return next;
    return;
  end if;
  last_id := p_before;
  -- Chunks grow, so that a page that fills soon reads little and one that does not fill reads fast.
  loop
    execute format($query$
      with part as materialized (
        select u.id,
               ($2 is null or u.state = any ($2)) and ($3 is null or u.lane_id = any ($3))
               and ($4 is null or u.concurrency_key = $4) and ($5 is null or u.job_key = $5)
               and ($6 is null or u.worker_id = $6)
               and ($7 is null or u.last_error ->> 'type' = $7)
               and ($8 is null or u.tags @> $8)
               and ($9 is null or u.created_at >= $9) and ($10 is null or u.created_at < $10)
               and ($11 is null or u.finished_at >= $11)
               and ($12 is null or u.finished_at < $12) as fits,
               coalesce(octet_length(u.payload), 0) + coalesce(pg_column_size(u.args), 0)
               + coalesce(octet_length(u.checkpoint), 0) + coalesce(octet_length(u.result), 0)
                 as bytes
          from (%s) u
      ), placed as (
        select p.*, row_number() over (order by p.id desc) as place from part p
      ), seen as materialized (
        select * from placed p where p.place <= $13
      ), hit as materialized (
        select s.*, row_number() over (order by s.place) as n from seen s where s.fits
      )
      select (select array_agg(h.id order by h.n) from hit h where h.n <= $14) as ids,
             (select array_agg(h.bytes::bigint order by h.n) from hit h where h.n <= $14) as bytes,
             (select h.place from hit h where h.n = $14) as full_at,
             (select count(*) from seen) as n,
             (select s.id from seen s order by s.place desc limit 1) as last_id
      $query$,
      (select string_agg(format('(select * from (%s) s order by s.id desc limit $13)', q),
                         ' union all ')
         from unnest(v_sources) q))
      into v_found
      using last_id, f.states, v_lanes, f.concurrency_key, f.job_key, f.worker_id, f.error_type,
            f.tags, f.created_after, f.created_before, f.finished_after, f.finished_before,
            v_chunk, p_wanted - cardinality(ids);
    ids := ids || v_found.ids;
    bytes := bytes || v_found.bytes;
    if v_found.full_at is not null then
      examined := examined + v_found.full_at;
      last_id := ids[p_wanted];
      exit;
    end if;
    examined := examined + v_found.n;
    last_id := case when v_found.n = v_chunk then v_found.last_id end;
    exit when last_id is null or examined >= p_scan;
    v_chunk := least(4 * v_chunk, p_scan - examined);
  end loop;
  return next;
end
$$;

-- Locks those of the live tasks p_ids that are in one of p_states (null: any).
create function workerqueue.lock_tasks(p_ids uuid[], p_states workerqueue.task_state[])
returns setof workerqueue.tasks
language sql
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  select t.*
    from (select distinct i from unnest(p_ids) i) named
    join workerqueue.tasks t on t.id = any (array[named.i])
   where p_states is null or t.state = any (p_states)
   order by t.id
     for update of t
$$;

-- Lets those go on who waited for tasks that this transaction ended or moved: successors of p_jobs, and
-- the next of p_keys.
create function workerqueue.let_others_on(p_jobs uuid[], p_keys text[])
returns table (lanes integer[], positions bigint[])
language plpgsql as $$
declare
  v_keys text[] := coalesce(p_keys, '{}');
  v_lanes integer[];
  v_positions bigint[];
begin
  if p_jobs is not null then
    select array_agg(p.lane_id) filter (where p.lane_id is not null),
           array_agg(p.position) filter (where p.lane_id is not null),
           v_keys || array_agg(p.concurrency_key) filter (where p.concurrency_key is not null)
      into v_lanes, v_positions, v_keys
      from workerqueue.let_pass(p_jobs) p;
  end if;
  return query
  select v_lanes || array_agg(r.lane_id), v_positions || array_agg(r.position)
    from (select a.lane_id, min(a.position) as position
            from workerqueue.admit(coalesce(v_keys, '{}')) a
           group by a.lane_id) r;
end
$$;

-- Cancels live tasks, leased ones too, and records the attempts that this ends. `tokens` are the
-- leases that ended.
create function workerqueue.cancel_tasks(
  p_ids uuid[], p_states workerqueue.task_state[], p_reason text
) returns table (
  ids uuid[], tokens bytea[], lanes integer[], positions bigint[], freed_queues text[]
) language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_error constant jsonb := jsonb_build_object(
    'type', 'Cancelled', 'message', coalesce(p_reason, 'Cancelled by a caller.'));
  v_keys text[];
  v_jobs uuid[];
begin
  with locked as materialized (
    select * from workerqueue.lock_tasks(p_ids, p_states)
  ), ended as (
    insert into workerqueue.attempts (
      task_id, lease_id, started_at, finished_at, attempt, outcome, worker_id, error)
    select l.id, l.lease_id, l.started_at, v_now, l.attempt, 'cancelled', l.worker_id, v_error
      from locked l where l.lease_id is not null
  )
  select array_agg(l.id),
         array_agg(uuid_send(l.id) || int8send(l.lease_id)) filter (where l.lease_id is not null),
         array_agg(distinct l.counted_queue) filter (where l.counted_queue is not null),
         array_agg(l.concurrency_key) filter (where l.concurrency_key is not null),
         array_agg(l.id) filter (where l.job_key is not null)
    into ids, tokens, freed_queues, v_keys, v_jobs
    from locked l;
  if ids is null then
    return;
  end if;
  perform workerqueue.bury(
    ids, 'cancelled', v_now,
    array_fill(case when p_reason is not null then v_error end, array[cardinality(ids)]));
  select o.lanes, o.positions into lanes, positions
    from workerqueue.let_others_on(v_jobs, v_keys) o;
  return next;
end
$$;

-- Deletes tasks, live and finished, and their attempts. As cancel_tasks otherwise.
create function workerqueue.delete_tasks(p_ids uuid[], p_states workerqueue.task_state[])
returns table (
  ids uuid[], tokens bytea[], lanes integer[], positions bigint[], freed_queues text[]
) language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set workerqueue.counts_itself = 'yes'
as $$
#variable_conflict use_column
declare
  v_live uuid[];
  v_finished uuid[];
  v_tokens bytea[];
  v_freed text[];
  v_keys text[];
  v_jobs uuid[];
begin
  select array_agg(l.id),
         array_agg(uuid_send(l.id) || int8send(l.lease_id)) filter (where l.lease_id is not null),
         array_agg(distinct l.counted_queue) filter (where l.counted_queue is not null),
         array_agg(l.concurrency_key) filter (where l.concurrency_key is not null),
         array_agg(l.id) filter (where l.job_key is not null)
    into v_live, v_tokens, v_freed, v_keys, v_jobs
    from workerqueue.lock_tasks(p_ids, p_states) l;
  with gone as (
    delete from workerqueue.tasks t where t.id = any (v_live) returning t.lane_id, t.state
  )
  insert into workerqueue.task_flows (lane_id, left_state, n)
  select g.lane_id, g.state, count(*) from gone g group by 1, 2;

  with gone as (
    delete from workerqueue.history h
     where h.id = any (p_ids) and (p_states is null or h.state = any (p_states))
    returning h.id, h.lane_id, h.state, h.retain_until
  ), flow as (
    insert into workerqueue.task_flows (lane_id, left_state, retain_day, n)
    select g.lane_id, g.state, (g.retain_until at time zone 'UTC')::date, count(*)
      from gone g group by 1, 2, 3
  )
  select array_agg(g.id) into v_finished from gone g;
  delete from workerqueue.attempts a where a.task_id = any (v_live || v_finished);

  return query
  select v_live || v_finished, v_tokens, o.lanes, o.positions, v_freed
    from workerqueue.let_others_on(v_jobs, v_keys) o;
end
$$;

-- Makes waiting tasks run now, and dead, cancelled and expired ones live again. Each gets at least
-- p_attempts more attempts. A finished task whose unique key a live one has stays finished; one whose
-- job key a live one has comes back without it.
create function workerqueue.retry_tasks(
  p_ids uuid[], p_states workerqueue.task_state[], p_attempts integer
) returns table (ids uuid[], lanes integer[], positions bigint[])
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set workerqueue.counts_itself = 'yes'
as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_base bigint := nextval('workerqueue.position_seq') << 20;
  v_waiting uuid[];
  v_revived uuid[];
  v_lanes integer[];
  v_keys text[];
begin
  with locked as materialized (
    select l.id, l.state, row_number() over (order by l.run_at, l.position) as place
      from workerqueue.lock_tasks(
             p_ids, array(select s from unnest(array['scheduled', 'retrying']::workerqueue.task_state[]) s
                           where p_states is null or s = any (p_states))) l
  ), moved as (
    update workerqueue.tasks t
       set state = case when t.concurrency_key is null then 'available' else 'blocked' end
                   ::workerqueue.task_state,
           run_at = v_now, position = v_base | l.place,
           max_attempts = greatest(t.max_attempts, least(t.attempt + p_attempts, 32767))
      from locked l
     where t.id = any (array[l.id])
    returning t.id, t.lane_id, t.concurrency_key, l.state as left_state, t.state
  ), flow as (
    insert into workerqueue.task_flows (lane_id, left_state, entered_state, n)
    select m.lane_id, m.left_state, m.state, count(*) from moved m group by 1, 2, 3
  )
  select array_agg(m.id), array_agg(distinct m.lane_id) filter (where m.concurrency_key is null),
         array_agg(m.concurrency_key) filter (where m.concurrency_key is not null)
    into v_waiting, v_lanes, v_keys
    from moved m;

  with chosen as materialized (
    select h.*
      from workerqueue.history h
     where h.id = any (p_ids) and h.state in ('dead', 'cancelled', 'expired')
       and (p_states is null or h.state = any (p_states))
     order by h.id
       for update
  ), ranked as (
    select c.*, row_number() over (order by c.created_at, c.id) as place,
           row_number() over (partition by c.job_key order by c.id desc) as job_rank
      from chosen c
  ), revived as (
    insert into workerqueue.tasks (
      id, position, created_at, run_at, expire_at, started_at, lane_id, timeout_ms,
      lease_duration_ms, state, priority, attempt, max_attempts, concurrency_limit, worker_id,
      concurrency_key, job_key, unique_key, unique_states, payload, args, retention, retry_policy,
      tags, metadata, last_error, checkpoint)
    select r.id, v_base | (500000 + r.place), r.created_at, v_now,
           case when r.expire_at > v_now then r.expire_at end, r.started_at, r.lane_id,
           r.timeout_ms, r.lease_duration_ms,
           case when r.concurrency_key is null then 'available' else 'blocked' end
             ::workerqueue.task_state,
           l.priority, r.attempt,
           greatest(r.max_attempts, least(r.attempt + p_attempts, 32767)), r.concurrency_limit,
           r.worker_id, r.concurrency_key,
           case when r.job_rank = 1 and not exists (
                  select from workerqueue.tasks t where t.job_key = r.job_key and t.behind is null)
                then r.job_key end,
           r.unique_key, r.unique_states, r.payload, r.args, r.retention, r.retry_policy, r.tags,
           r.metadata, r.last_error, r.checkpoint
      from ranked r
      join workerqueue.lanes l on l.lane_id = r.lane_id
    on conflict do nothing
    returning id, lane_id, concurrency_key, state
  ), flow as (
    insert into workerqueue.task_flows (lane_id, left_state, entered_state, retain_day, n)
    select v.lane_id, c.state, v.state, (c.retain_until at time zone 'UTC')::date, count(*)
      from revived v join chosen c on c.id = v.id
     group by 1, 2, 3, 4
  )
  select array_agg(v.id),
         v_lanes || array_agg(distinct v.lane_id) filter (where v.concurrency_key is null),
         v_keys || array_agg(v.concurrency_key) filter (where v.concurrency_key is not null)
    into v_revived, v_lanes, v_keys
    from revived v;
  delete from workerqueue.history h where h.id = any (v_revived);

  return query
  with woken as (
    select unnest(v_lanes) as lane_id, v_base as position
    union all
    select a.lane_id, a.position from workerqueue.admit(coalesce(v_keys, '{}')) a
  ), first as (
    select w.lane_id, min(w.position) as position from woken w group by 1
  )
  select v_waiting || v_revived, array_agg(f.lane_id), array_agg(f.position) from first f;
end
$$;

-- Gives a waiting task another priority. The lane for it must exist. Not done: there is no such task
-- that waits.
create function workerqueue.set_task_priority(p_id uuid, p_priority smallint)
returns table (done boolean, lanes integer[], positions bigint[])
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_task workerqueue.tasks;
  v_lane integer;
begin
  select * into v_task from workerqueue.lock_tasks(array[p_id], null) t where t.state <> 'leased';
  select new.lane_id into v_lane
    from workerqueue.lanes old
    join workerqueue.lanes new
      on new.queue = old.queue and new.kind = old.kind and new.priority = p_priority
   where old.lane_id = v_task.lane_id
   order by new.lane_id
   limit 1;
  if v_lane is null then
    return query select false, null::integer[], null::bigint[];
    return;
  end if;
  update workerqueue.tasks t set lane_id = v_lane, priority = p_priority where t.id = p_id;
  return query
  with ready as (
    select v_lane as lane_id, v_task.position as position where v_task.state = 'available'
    union all
    select a.lane_id, a.position
      from workerqueue.admit(array_remove(array[v_task.concurrency_key], null)) a
  )
  select true, array_agg(r.lane_id), array_agg(r.position) from ready r;
end
$$;
