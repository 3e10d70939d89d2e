-- Leases: finish, give back, prolong, end.
--
-- Fencing: every function that answers for a lease names (id, lease_id) in the where clause of the
-- very statement that changes the task. Only a leased task has a lease_id (ending the lease clears
-- it), so a token that is not the live lease matches no row and changes nothing.
--
-- Batches arrive sorted by id, so two batches that share tasks lock them in the same order.

-- Finishes leased tasks. `lost` are the places (from 1) of tokens that are not live leases and were
-- not finished by this very token before: a repeated ack is answered like the first. Here and below,
-- lanes and positions say where tasks may have become available, freed_queues which limits have room.
create function workerqueue.finish_leases(p_ids uuid[], p_lease_ids bigint[], p_results bytea[])
returns table (lost integer[], lanes integer[], positions bigint[], freed_queues text[])
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set workerqueue.counts_itself = 'yes'
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_finished bigint[];
  v_keys text[];
  v_freed text[];
  v_lost integer[];
  v_holders uuid[];
  v_passed_keys text[];
  v_lanes integer[];
  v_positions bigint[];
begin
  with ended as (
    delete from workerqueue.tasks t
     using rows from (unnest(p_ids), unnest(p_lease_ids), unnest(p_results)) a(id, lease_id, result)
     where t.id = any (array[a.id]) and t.lease_id = a.lease_id
    returning t.*, a.result
  ), stored as (
    insert into workerqueue.history (
      id, lease_id, created_at, run_at, expire_at, started_at, finished_at, retain_until, lane_id,
      timeout_ms, lease_duration_ms, state, attempt, max_attempts, concurrency_limit, worker_id,
      concurrency_key, job_key, unique_key, unique_states, payload, args, retention, retry_policy,
      tags, metadata, last_error, progress, progress_message, checkpoint, result)
    select e.id, e.lease_id, e.created_at, e.run_at, e.expire_at, e.started_at, v_now,
           v_now + workerqueue.retention_of('succeeded', e.retention), e.lane_id, e.timeout_ms,
           e.lease_duration_ms, 'succeeded', e.attempt, e.max_attempts, e.concurrency_limit,
           e.worker_id, e.concurrency_key, e.job_key, e.unique_key, e.unique_states, e.payload,
           e.args, e.retention, e.retry_policy, e.tags, e.metadata, e.last_error, e.progress,
           e.progress_message, e.checkpoint, e.result
      from ended e
  ), flow as (
    insert into workerqueue.task_flows (lane_id, left_state, entered_state, retain_day, n)
    select e.lane_id, 'leased', 'succeeded',
           ((v_now + workerqueue.retention_of('succeeded', e.retention)) at time zone 'UTC')::date,
           count(*)
      from ended e
     group by e.lane_id, e.retention
  )
  select array_agg(e.lease_id),
         array_agg(e.concurrency_key) filter (where e.concurrency_key is not null),
         array_agg(distinct e.counted_queue) filter (where e.counted_queue is not null),
         array_agg(e.id) filter (where e.job_key is not null)
    into v_finished, v_keys, v_freed, v_holders
    from ended e;

  if coalesce(cardinality(v_finished), 0) < cardinality(p_ids) then
    -- A subquery with `not in` is hashed, and spares those just finished the look into history.
    select array_agg(a.place::integer) into v_lost
      from rows from (unnest(p_ids), unnest(p_lease_ids)) with ordinality a(id, lease_id, place)
     where a.lease_id not in (select unnest(v_finished)) and not exists (
       select from workerqueue.history h
        where h.id = any (array[a.id]) and h.lease_id = a.lease_id and h.state = 'succeeded');
  end if;

  if v_holders is not null then
    select array_agg(p.lane_id) filter (where p.lane_id is not null),
           array_agg(p.position) filter (where p.lane_id is not null),
           array_agg(p.concurrency_key) filter (where p.concurrency_key is not null)
      into v_lanes, v_positions, v_passed_keys
      from workerqueue.let_pass(v_holders) p;
    v_keys := v_keys || v_passed_keys;
  end if;

  if v_keys is null then
    return query select v_lost, v_lanes, v_positions, v_freed;
  else
    return query
    select v_lost, v_lanes || array_agg(r.lane_id), v_positions || array_agg(r.position), v_freed
      from (select a.lane_id, min(a.position) as position
              from workerqueue.admit(v_keys) a group by a.lane_id) r;
  end if;
end
$$;

-- Moves ended tasks to history. p_ended is a JSON array of {id, state, outcome, error}; the caller
-- holds the rows' locks (or knows that nobody else can want them).
create function workerqueue.bury(
  p_ids uuid[], p_state workerqueue.task_state, p_now timestamptz, p_errors jsonb[]
) returns void language sql
set enable_seqscan = off
set workerqueue.counts_itself = 'yes'
as $$
  with ended as (
    delete from workerqueue.tasks t
     using rows from (unnest(p_ids), unnest(p_errors)) a(id, error)
     where t.id = any (array[a.id])
    returning t.*, a.error as new_error
  ), flow as (
    insert into workerqueue.task_flows (lane_id, left_state, entered_state, retain_day, n)
    select e.lane_id, e.state, p_state,
           ((p_now + workerqueue.retention_of(p_state, e.retention)) at time zone 'UTC')::date,
           count(*)
      from ended e
     group by e.lane_id, e.state, e.retention
  )
  insert into workerqueue.history (
    id, lease_id, created_at, run_at, expire_at, started_at, finished_at, retain_until, lane_id,
    timeout_ms, lease_duration_ms, state, attempt, max_attempts, concurrency_limit, worker_id,
    concurrency_key, job_key, unique_key, unique_states, payload, args, retention, retry_policy,
    tags, metadata, last_error, progress, progress_message, checkpoint)
  select e.id, e.lease_id, e.created_at, e.run_at, e.expire_at, e.started_at, p_now,
         p_now + workerqueue.retention_of(p_state, e.retention), e.lane_id, e.timeout_ms,
         e.lease_duration_ms, p_state, e.attempt, e.max_attempts, e.concurrency_limit, e.worker_id,
         e.concurrency_key, e.job_key, e.unique_key, e.unique_states, e.payload, e.args,
         e.retention, e.retry_policy, e.tags, e.metadata, coalesce(e.new_error, e.last_error),
         e.progress, e.progress_message, e.checkpoint
    from ended e
$$;

-- Ends attempts that did not finish their task: records each, then retries or buries the task.
-- The caller has locked the rows and checked that (id, lease_id) is the live lease.
-- p_retry_ms overrides the backoff where it is not null; p_permanent buries at once. A task with a
-- successor is buried too; the caller lets that pass.
create function workerqueue.end_attempts(
  p_ids uuid[], p_outcomes workerqueue.attempt_outcome[], p_errors jsonb[], p_retry_ms bigint[],
  p_permanent boolean[], p_now timestamptz
) returns void language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set workerqueue.counts_itself = 'yes'
as $$
declare
  v_dead uuid[];
  v_errors jsonb[];
begin
  insert into workerqueue.attempts (
    task_id, lease_id, started_at, finished_at, attempt, outcome, worker_id, error)
  select t.id, t.lease_id, t.started_at, p_now, t.attempt, a.outcome, t.worker_id, a.error
    from rows from (unnest(p_ids), unnest(p_outcomes), unnest(p_errors)) a(id, outcome, error)
    join workerqueue.tasks t on t.id = any (array[a.id]);

  select array_agg(a.id), array_agg(a.error) into v_dead, v_errors
    from rows from (unnest(p_ids), unnest(p_errors), unnest(p_permanent)) a(id, error, permanent)
    join workerqueue.tasks t on t.id = any (array[a.id])
   where a.permanent or t.attempt >= t.max_attempts
      or (t.job_key is not null and workerqueue.has_successor(t.id));
  if v_dead is not null then
    perform workerqueue.bury(v_dead, 'dead', p_now, v_errors);
  end if;

  with moved as (
    update workerqueue.tasks t
       set state = 'retrying', lease_id = null, last_error = a.error, counted_queue = null,
           expiry_check_at = null, lease_expires_at = null, attempt_deadline = null,
           run_at = p_now + coalesce(a.retry_ms, workerqueue.backoff_ms(t.attempt, t.retry_policy))
                            * interval '1 millisecond'
      from rows from (unnest(p_ids), unnest(p_errors), unnest(p_retry_ms)) a(id, error, retry_ms)
     where t.id = any (array[a.id])
    returning t.lane_id
  )
  insert into workerqueue.task_flows (lane_id, left_state, entered_state, n)
  select m.lane_id, 'leased', 'retrying', count(*) from moved m group by m.lane_id;
end
$$;

-- Takes tasks back from their workers by the workers' own word. p_items is a JSON array, sorted by
-- id, of {id, lease_id, action: fail | release | snooze, error, retry_ms, permanent}; retry_ms is
-- also the snooze's delay. `lost` as in finish_leases; a repeated nack is answered like the first
-- where its attempt was recorded.
create function workerqueue.return_leases(p_items jsonb)
returns table (
  lost integer[], lanes integer[], positions bigint[], freed_queues text[], wait_ms double precision
)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set workerqueue.counts_itself = 'yes'
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_live integer[];
  v_live_ids uuid[];
  v_keys text[];
  v_lost integer[];
  v_freed text[];
  v_released_lanes integer[];
  v_released_positions bigint[];
  v_holders uuid[];
  v_replaced uuid[];
begin
  select array_agg(l.place), array_agg(l.id),
         array_agg(l.concurrency_key) filter (where l.concurrency_key is not null),
         array_agg(l.lane_id) filter (where l.action = 'release'),
         array_agg(l.position) filter (where l.action = 'release'),
         array_agg(distinct l.counted_queue) filter (where l.counted_queue is not null),
         array_agg(l.id) filter (where l.job_key is not null)
    into v_live, v_live_ids, v_keys, v_released_lanes, v_released_positions, v_freed, v_holders
    from (select i.place::integer, i.action, t.id, t.concurrency_key, t.lane_id, t.position,
                 t.counted_queue, t.job_key
            from rows from (jsonb_to_recordset(p_items)
                              as (id uuid, lease_id bigint, action text))
                 with ordinality i(id, lease_id, action, place)
            join workerqueue.tasks t
              on t.id = any (array[i.id]) and t.lease_id = i.lease_id
             for update of t) l;

  if coalesce(cardinality(v_live), 0) < jsonb_array_length(p_items) then
    select array_agg(i.place::integer) into v_lost
      from rows from (jsonb_to_recordset(p_items) as (id uuid, lease_id bigint, action text))
           with ordinality i(id, lease_id, action, place)
     where i.place <> all (coalesce(v_live, '{}'))
       and not exists (
         select from workerqueue.attempts a
          where a.task_id = any (array[i.id]) and a.lease_id = i.lease_id and a.outcome = 'failed'
            and i.action = 'fail');
  end if;
  if v_live is null then
    return query
    select v_lost, null::integer[], null::bigint[], null::text[], null::double precision;
    return;
  end if;

  perform workerqueue.end_attempts(
            array_agg(i.id), array_agg('failed'::workerqueue.attempt_outcome), array_agg(i.error),
            array_agg(i.retry_ms), array_agg(coalesce(i.permanent, false)), v_now)
     from rows from (jsonb_to_recordset(p_items) as (
                       id uuid, action text, error jsonb, retry_ms bigint, permanent boolean))
          with ordinality i(id, action, error, retry_ms, permanent, place)
    where i.action = 'fail' and i.place = any (v_live)
   having count(*) > 0;

  -- A task whose successor waits does not come back from a release or a snooze.
  if v_holders is not null then
    select array_agg(t.id) into v_replaced
      from workerqueue.tasks t
     where t.id = any (v_holders) and t.lease_id is not null
       and workerqueue.has_successor(t.id);
    if v_replaced is not null then
      perform workerqueue.bury(v_replaced, 'cancelled', v_now, array_fill(
        '{"type": "Replaced", "message": "A newer task with its job key took its place."}'::jsonb,
        array[cardinality(v_replaced)]));
    end if;
  end if;

  -- A release keeps its position: it is where it was before the grant. It keeps its concurrency key
  -- too, unless a task of a higher priority waits for it: admit() sees to that.
  with moved as (
    update workerqueue.tasks t
       set state = case i.action when 'release' then 'available' else 'scheduled' end
                   ::workerqueue.task_state,
           run_at = case i.action when 'release' then t.run_at
                    else v_now + i.retry_ms * interval '1 millisecond' end,
           attempt = t.attempt - 1, lease_id = null, counted_queue = null, expiry_check_at = null,
           lease_expires_at = null, attempt_deadline = null
      from rows from (jsonb_to_recordset(p_items) as (id uuid, action text, retry_ms bigint))
           with ordinality i(id, action, retry_ms, place)
     where i.action <> 'fail' and i.place = any (v_live) and t.id = any (array[i.id])
    returning t.lane_id, t.state
  )
  insert into workerqueue.task_flows (lane_id, left_state, entered_state, n)
  select m.lane_id, 'leased', m.state, count(*) from moved m group by m.lane_id, m.state;

  if v_holders is not null then
    select v_released_lanes || array_agg(p.lane_id) filter (where p.lane_id is not null),
           v_released_positions || array_agg(p.position) filter (where p.lane_id is not null),
           v_keys || array_agg(p.concurrency_key) filter (where p.concurrency_key is not null)
      into v_released_lanes, v_released_positions, v_keys
      from workerqueue.let_pass(v_holders) p;
  end if;

  return query
  with woken as (
    select a.lane_id, a.position from workerqueue.admit(coalesce(v_keys, '{}')) a
     where v_keys is not null
    union all
    select * from unnest(v_released_lanes, v_released_positions)
  ), first as (
    select w.lane_id, min(w.position) as position from woken w group by 1
  )
  select v_lost, array_agg(f.lane_id), array_agg(f.position), v_freed,
         (select extract(epoch from min(t.run_at) - clock_timestamp()) * 1000 from workerqueue.tasks t
           where t.id = any (v_live_ids) and t.state::text in ('scheduled', 'retrying'))::double precision
    from first f;
end
$$;

-- Moves lease_expires_at to now + lease duration (absolute, so repeats are harmless), never past the
-- attempt deadline; stores progress and checkpoint where given. Touches no indexed column. Returns
-- the leases that are alive.
create function workerqueue.prolong_leases(
  p_ids uuid[], p_lease_ids bigint[], p_progress double precision[], p_messages text[],
  p_checkpoints bytea[]
) returns table (token bytea, lease_expires_at timestamptz)
language sql volatile
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  update workerqueue.tasks t
     set lease_expires_at = least(
           clock_timestamp() + t.granted_lease_ms * interval '1 millisecond', t.attempt_deadline),
         progress = coalesce(a.progress, t.progress),
         progress_message = coalesce(a.message, t.progress_message),
         checkpoint = coalesce(a.checkpoint, t.checkpoint)
    from rows from (unnest(p_ids), unnest(p_lease_ids), unnest(p_progress), unnest(p_messages),
                    unnest(p_checkpoints)) a(id, lease_id, progress, message, checkpoint)
   where t.id = any (array[a.id]) and t.lease_id = a.lease_id
  returning uuid_send(t.id) || int8send(t.lease_id), t.lease_expires_at
$$;

-- Which of the given leases are alive, and until when. Changes nothing.
create function workerqueue.live_leases(p_ids uuid[], p_lease_ids bigint[])
returns table (token bytea, lease_expires_at timestamptz, lane_id integer, worker_id text)
language sql stable
set enable_seqscan = off
as $$
  select uuid_send(t.id) || int8send(t.lease_id), t.lease_expires_at, t.lane_id, t.worker_id
    from rows from (unnest(p_ids), unnest(p_lease_ids)) a(id, lease_id)
    join workerqueue.tasks t on t.id = any (array[a.id]) and t.lease_id = a.lease_id
$$;
