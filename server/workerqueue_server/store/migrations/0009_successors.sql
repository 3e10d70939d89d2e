-- Successors of job keys: letting them take their turn, removing, rescheduling.

-- Tasks that successors wait for although their leases are over, after the id p_after: what nobody
-- settled. `last_id` says where to go on; null at the end.
create function workerqueue.stuck_successors(p_after uuid, p_limit integer)
returns table (last_id uuid, behind uuid[])
language sql stable
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  with waiting as materialized (
    select w.behind
      from workerqueue.tasks w
     where w.behind > p_after
     order by w.behind
     limit p_limit
  )
  select case when count(*) = p_limit then (array_agg(w.behind order by w.behind desc))[1] end,
         array_agg(w.behind) filter (where not exists (
           select from workerqueue.tasks p where p.id = w.behind and p.state::text = 'leased'))
    from waiting w
$$;

-- One step of settle_successors: the successor p_id.
create function workerqueue.settle_successor(
  p_id uuid, p_now timestamptz,
  out lane_id integer, out "position" bigint, out keys text[]
) language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_successor workerqueue.tasks;
  v_before workerqueue.tasks;
  v_holder workerqueue.tasks;
  v_replaced constant jsonb[] := array[
    '{"type": "Replaced", "message": "A newer task with its job key took its place."}'::jsonb];
begin
  keys := '{}';
  select * into v_successor from workerqueue.tasks t
   where t.id = p_id and t.behind is not null
     for update skip locked;
  if not found then
    return;
  end if;
  -- Waits for a lease that is ending right now. Only servers lock leased tasks, and briefly.
  select * into v_before from workerqueue.tasks t
   where t.id = v_successor.behind
     for no key update;
  if v_before.state = 'leased' then
    return;
  end if;
  keys := array_remove(array[v_before.concurrency_key, v_successor.concurrency_key], null);
  if v_before.job_key = v_successor.job_key then
    -- Its lease ended, and it came back, before the successor was committed.
    perform workerqueue.bury(array[v_before.id], 'cancelled', p_now, v_replaced);
  end if;
  select * into v_holder from workerqueue.tasks t
   where t.job_key = v_successor.job_key and t.behind is null
     for no key update;
  if found then
    -- Stored while the successor was not committed. If it has not begun, it will see all that the
    -- successor's transaction did, so it can stand for both.
    if v_holder.state = 'leased' then
      update workerqueue.tasks t set behind = v_holder.id where t.id = p_id;
    else
      perform workerqueue.bury(array[p_id], 'cancelled', p_now, v_replaced);
    end if;
    return;
  end if;
  update workerqueue.tasks t
     set behind = null, position = nextval('workerqueue.position_seq') << 20,
         state = case when t.run_at > p_now then 'scheduled'
                      when t.concurrency_key is not null then 'blocked'
                      else 'available' end::workerqueue.task_state
   where t.id = p_id
  returning case when t.state = 'available' then t.lane_id end, t.position
    into lane_id, "position";
end
$$;

-- Lets the successors of the tasks p_behind take their turn if nothing is in their way any more. Rows
-- that others hold are left for the next call.
create function workerqueue.settle_successors(p_behind uuid[])
returns table (lanes integer[], positions bigint[])
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set lock_timeout = '1s'
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_id uuid;
  v_step record;
  v_keys text[] := '{}';
  v_lanes integer[] := '{}';
  v_positions bigint[] := '{}';
begin
  for v_id in
    select t.id from workerqueue.tasks t where t.behind = any (p_behind) order by t.id
  loop
    begin
      select * into v_step from workerqueue.settle_successor(v_id, v_now);
      v_keys := v_keys || v_step.keys;
      if v_step.lane_id is not null then
        v_lanes := v_lanes || v_step.lane_id;
        v_positions := v_positions || v_step.position;
      end if;
    exception when lock_not_available or deadlock_detected or unique_violation then
      null;
    end;
  end loop;
  perform set_config('lock_timeout', '5s', true);
  return query
  select v_lanes || array_agg(r.lane_id), v_positions || array_agg(r.position)
    from workerqueue.admit(v_keys) r;
end
$$;

-- Ends the job that has a key, as far as it can be ended: a waiting task (and a successor) is
-- cancelled; a leased one goes on without the key and never runs again. `cancelled` and `released`
-- name them; both null: nobody has the key.
create function workerqueue.remove_by_job_key(p_job_key text)
returns table (
  cancelled uuid, released uuid, lanes integer[], positions bigint[]
) language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_keys text[] := '{}';
  v_job record;
begin
  for v_job in
    select t.id, t.state, t.concurrency_key
      from workerqueue.tasks t
     where t.job_key = p_job_key and t.behind is not null
       for update
  loop
    cancelled := v_job.id;
    v_keys := v_keys || v_job.concurrency_key;
  end loop;
  for v_job in
    select t.id, t.state, t.concurrency_key
      from workerqueue.tasks t
     where t.job_key = p_job_key and t.behind is null
       for update
  loop
    if v_job.state = 'leased' then
      released := v_job.id;
      update workerqueue.tasks t
         set job_key = null, max_attempts = t.attempt
       where t.id = v_job.id;
    else
      if cancelled is not null then
        perform workerqueue.bury(array[v_job.id], 'cancelled', v_now, array[
          '{"type": "Replaced", "message": "A newer task with its job key took its place."}'::jsonb]);
      end if;
      cancelled := coalesce(cancelled, v_job.id);
      v_keys := v_keys || v_job.concurrency_key;
    end if;
  end loop;
  if cancelled is not null then
    perform workerqueue.bury(array[cancelled], 'cancelled', v_now, array[
      '{"type": "Removed", "message": "Removed by its job key."}'::jsonb]);
  end if;
  return query
  select cancelled, released, array_agg(r.lane_id), array_agg(r.position)
    from workerqueue.admit(array_remove(v_keys, null)) r;
end
$$;

-- Moves a task that waits to another time (p_run_at null, or in the past: now). `outcome` is done,
-- not_found, or wrong_state (leased or finished; `state` says which). A task behind another one's
-- lease stays behind it.
create function workerqueue.reschedule_task(p_id uuid, p_run_at timestamptz)
returns table (
  outcome text, state workerqueue.task_state, lanes integer[], positions bigint[],
  wait_ms double precision
) language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_run_at timestamptz := greatest(v_now, coalesce(p_run_at, v_now));
  v_task workerqueue.tasks;
  v_state workerqueue.task_state;
  v_position bigint := nextval('workerqueue.position_seq') << 20;
begin
  select * into v_task from workerqueue.tasks t where t.id = p_id for update;
  if not found then
    select h.state into v_state from workerqueue.history h where h.id = p_id;
    return query
    select case when v_state is null then 'not_found' else 'wrong_state' end, v_state,
           null::integer[], null::bigint[], null::double precision;
    return;
  end if;
  if v_task.state = 'leased' then
    return query select 'wrong_state', v_task.state, null::integer[], null::bigint[],
                        null::double precision;
    return;
  end if;
  v_state := case when v_task.behind is not null then 'blocked'
                  when v_run_at > v_now and v_task.state = 'retrying' then 'retrying'
                  when v_run_at > v_now then 'scheduled'
                  when v_task.state = 'available' then 'available'
                  when v_task.concurrency_key is not null then 'blocked'
                  else 'available' end;
  -- What is available or blocked already, and stays so, keeps its place in the line.
  update workerqueue.tasks t
     set run_at = v_run_at, state = v_state,
         position = case when t.state in ('scheduled', 'retrying') and t.behind is null
                         then v_position else t.position end
   where t.id = p_id
  returning t.position into v_position;
  return query
  with ready as (
    select v_task.lane_id as lane_id, v_position as position where v_state = 'available'
    union all
    select a.lane_id, a.position
      from workerqueue.admit(array_remove(array[v_task.concurrency_key], null)) a
  )
  select 'done', v_state, array_agg(r.lane_id), array_agg(r.position),
         case when v_run_at > v_now
              then (extract(epoch from v_run_at - v_now) * 1000)::double precision end
    from ready r;
end
$$;

-- Forgets up to p_limit requests older than an hour; how many.
create function workerqueue.forget_replaced(p_limit integer) returns integer
language plpgsql
set enable_seqscan = off
as $$
declare
  v_forgotten integer;
begin
  with old as materialized (
    select r.ctid from workerqueue.replaced_ids r
     where r.replaced_at < clock_timestamp() - interval '1 hour'
     order by r.replaced_at
     limit p_limit
       for update skip locked
  )
  delete from workerqueue.replaced_ids r using old where r.ctid = old.ctid;
  get diagnostics v_forgotten = row_count;
  return v_forgotten;
end
$$;
