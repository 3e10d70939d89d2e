-- Phases: what indexes see of a task's state.
--
-- A grant changes the state of a task from 'available' to 'leased'. While `state` is in an index, or in
-- an index's condition, PostgreSQL must write every such update into all indexes of the row. `phase`
-- does not change with a grant, and neither does anything else here that is indexed: so grants update in
-- place (HOT), if the page has room. Migrations 0022 and 0023 make the functions use it.

-- In this order: 'ready' is all that is more than 'blocked'.
create type workerqueue.task_phase as enum ('waiting', 'blocked', 'ready');

-- Room for a second, somewhat longer version of every row: all tasks of a page are granted at about the
-- same moment. Measured with payloads of 50 bytes: at 50 % three of four grants find room, at 40 % all.
alter table workerqueue.tasks set (fillfactor = 40);

alter table workerqueue.tasks
  -- Ready: available or leased. Waiting: for a moment in time.
  add column phase workerqueue.task_phase not null generated always as (
    case when state in ('available', 'leased') then 'ready'::workerqueue.task_phase
         when state = 'blocked' then 'blocked'::workerqueue.task_phase
         else 'waiting'::workerqueue.task_phase end) stored,
  -- expire_at, while it can still come true.
  add column unstarted_until timestamptz generated always as (
    case when attempt = 0 and state <> 'leased' then expire_at end) stored,
  -- Who holds a lease that counts against a limit.
  add column counted_worker text collate "C" generated always as (
    case when counted_queue is not null then worker_id end) stored;

-- The old indexes stay until the functions no longer need them.
alter index workerqueue.tasks_due rename to tasks_due_by_state;
alter index workerqueue.tasks_unstarted_expiry rename to tasks_unstarted_by_state;
alter index workerqueue.tasks_blocked rename to tasks_blocked_by_state;
alter index workerqueue.tasks_key_holders rename to tasks_key_holders_by_state;
alter index workerqueue.tasks_counted rename to tasks_counted_by_state;

-- Tasks in the order in which they are granted, those that are leased among them: a reader skips these.
create index tasks_in_line on workerqueue.tasks (lane_id, position)
  where phase = 'ready';
create index tasks_due on workerqueue.tasks (run_at)
  where phase = 'waiting';
create index tasks_unstarted_expiry on workerqueue.tasks (unstarted_until)
  where unstarted_until is not null;
create index tasks_blocked on workerqueue.tasks (concurrency_key, priority desc, position)
  where phase = 'blocked' and behind is null;
-- Those that hold a key ask for `phase > 'blocked'`, not for 'ready': that would let a plan read all of
-- tasks_in_line.
create index tasks_key_holders on workerqueue.tasks (concurrency_key, priority)
  where concurrency_key is not null and phase > 'blocked';
create index tasks_counted on workerqueue.tasks (counted_queue, counted_worker)
  where counted_queue is not null;

-- A generated column takes no value from an insert, so this one names its columns. For the rules see
-- where the function was first made (0008).
create or replace function workerqueue.put_task(
  p_new workerqueue.tasks, p_mode text, p_fail boolean, p_client_id boolean, p_brief boolean,
  p_history boolean, p_now timestamptz,
  out outcome text, out task_id uuid, out lane_id integer, out "position" bigint,
  out due_at timestamptz, out keys text[], out behind uuid
) language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_job workerqueue.tasks;
  v_new workerqueue.tasks := p_new;
begin
  loop
    v_new.behind := null;
    if p_new.job_key is not null then
      v_job := workerqueue.find_job(p_new.job_key, p_mode <> 'unsafe_dedupe', p_brief);
    end if;
    if v_job.id is not null then
      -- Now that the job is locked, a concurrent repeat of this request is either done or waits.
      if p_client_id then
        select r.outcome, r.task_id into outcome, task_id
          from workerqueue.find_request(p_new.id, p_history) r;
        exit when outcome is not null;
      end if;
      if p_mode = 'unsafe_dedupe' then
        outcome := 'kept';
        task_id := v_job.id;
        exit;
      end if;
      if v_job.state <> 'leased' then
        outcome := 'replaced';
        task_id := v_job.id;
        behind := v_job.behind;
        select r.lane_id, r.position, r.due_at into lane_id, "position", due_at
          from workerqueue.replace_task(v_job, p_new, p_mode = 'preserve_run_at', p_now) r;
        keys := array_remove(array[v_job.concurrency_key, p_new.concurrency_key], null);
        if p_client_id then
          insert into workerqueue.replaced_ids (id, task_id, replaced_at)
          values (p_new.id, v_job.id, p_now)
          on conflict do nothing;
        end if;
        exit;
      end if;
      v_new.behind := v_job.id;
    end if;

    v_new.state := case when v_new.behind is not null then 'blocked'
                        when v_new.run_at > p_now then 'scheduled'
                        when v_new.concurrency_key is not null then 'blocked'
                        else 'available' end;
    insert into workerqueue.tasks (
      id, position, created_at, run_at, expire_at, lane_id, timeout_ms, lease_duration_ms, state,
      priority, attempt, max_attempts, concurrency_limit, concurrency_key, job_key, behind,
      unique_key, unique_states, payload, args, retention, retry_policy, tags, metadata)
    values (
      v_new.id, v_new.position, v_new.created_at, v_new.run_at, v_new.expire_at, v_new.lane_id,
      v_new.timeout_ms, v_new.lease_duration_ms, v_new.state, v_new.priority, v_new.attempt,
      v_new.max_attempts, v_new.concurrency_limit, v_new.concurrency_key, v_new.job_key,
      v_new.behind, v_new.unique_key, v_new.unique_states, v_new.payload, v_new.args,
      v_new.retention, v_new.retry_policy, v_new.tags, v_new.metadata)
    on conflict do nothing;
    if found then
      if p_client_id then
        select r.outcome, r.task_id into outcome, task_id
          from workerqueue.find_past_request(p_new.id, p_history) r;
      end if;
      if p_new.unique_key is not null and p_history and outcome is null then
        select case when p_fail then 'conflict' else 'kept' end, h.id into outcome, task_id
          from workerqueue.history h
         where h.unique_key = p_new.unique_key and h.state = any (h.unique_states)
           and h.retain_until > p_now
         limit 1;
      end if;
      if outcome is not null then
        delete from workerqueue.tasks t where t.id = p_new.id;
        exit;
      end if;
      outcome := 'created';
      task_id := p_new.id;
      behind := v_new.behind;
      "position" := v_new.position;
      lane_id := case when v_new.state = 'available' then v_new.lane_id end;
      due_at := case when v_new.state = 'scheduled' then v_new.run_at end;
      keys := array_remove(array[v_new.concurrency_key], null);
      exit;
    end if;

    -- A repeat is a repeat, even if its task is finished and another one is the same by now.
    if p_client_id then
      select r.outcome, r.task_id into outcome, task_id
        from workerqueue.find_request(p_new.id, p_history) r;
      exit when outcome is not null;
    end if;
    if p_new.unique_key is not null then
      select case when p_fail then 'conflict' else 'kept' end, t.id into outcome, task_id
        from workerqueue.tasks t where t.unique_key = p_new.unique_key;
      exit when found;
    end if;
    -- What stood in the way is gone again, or is a job that the next look finds.
  end loop;
end
$$;

-- The next two forget a column that goes with 0023.

-- Ends attempts that did not finish their task: records each, then retries or buries the task.
-- The caller has locked the rows and checked that (id, lease_id) is the live lease.
-- p_retry_ms overrides the backoff where it is not null; p_permanent buries at once. A task with a
-- successor is buried too; the caller lets that pass.
create or replace function workerqueue.end_attempts(
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
           lease_expires_at = null, attempt_deadline = null,
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
create or replace function workerqueue.return_leases(p_items jsonb)
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
           attempt = t.attempt - 1, lease_id = null, counted_queue = null,
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
