-- Enqueues that look at other tasks first: job keys and uniqueness.

-- Ids of requests that changed an existing task instead of making their own, so that a repeat of such
-- a request changes nothing. Forgotten after an hour.
create table workerqueue.replaced_ids (
  id uuid primary key,
  task_id uuid not null,
  replaced_at timestamptz not null
);

create index replaced_ids_age on workerqueue.replaced_ids (replaced_at);

-- What a request with this id did before, if it is a repeat and its task is not live. Without
-- p_history finished tasks are left out.
create function workerqueue.find_past_request(
  p_id uuid, p_history boolean, out outcome text, out task_id uuid)
language plpgsql stable
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
begin
  select 'replaced', r.task_id into outcome, task_id
    from workerqueue.replaced_ids r where r.id = p_id;
  if not found and p_history then
    select 'existed', h.id into outcome, task_id from workerqueue.history h where h.id = p_id;
  end if;
end
$$;

-- The same, live tasks included.
create function workerqueue.find_request(
  p_id uuid, p_history boolean, out outcome text, out task_id uuid)
language plpgsql stable
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
begin
  select 'existed', t.id into outcome, task_id from workerqueue.tasks t where t.id = p_id;
  if not found then
    select r.outcome, r.task_id into outcome, task_id
      from workerqueue.find_past_request(p_id, p_history) r;
  end if;
end
$$;

-- The task that has a job key and that a newer request may change or wait behind: the successor if
-- there is one, else the holder. It is locked unless it is leased: the answer of a leased task's
-- worker must not wait for the caller's transaction. With p_brief the caller's transaction ends at
-- once, so that a task leased while we waited for its lock may keep it. Without p_change nothing is
-- locked.
create function workerqueue.find_job(p_job_key text, p_change boolean, p_brief boolean)
returns workerqueue.tasks
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
  v_job workerqueue.tasks;
begin
  loop
    select * into v_job from workerqueue.tasks t
     where t.job_key = p_job_key and t.behind is not null;
    if not found then
      select * into v_job from workerqueue.tasks t
       where t.job_key = p_job_key and t.behind is null;
    end if;
    if not found or v_job.state = 'leased' or not p_change then
      return v_job;
    end if;
    if p_brief then
      select * into v_job from workerqueue.tasks t
       where t.id = v_job.id and t.job_key = p_job_key
         for update;
      if found then
        return v_job;
      end if;
    else
      begin
        select * into v_job from workerqueue.tasks t
         where t.id = v_job.id and t.job_key = p_job_key
           for update;
        if found and v_job.state <> 'leased' then
          return v_job;
        end if;
        -- The rollback of this block gives the lock back.
        raise exception using errcode = 'WQ002';
      exception when sqlstate 'WQ002' then
        null;
      end;
    end if;
  end loop;
end
$$;

-- Makes a waiting task what p_new is, except for its id and its time of creation.
create function workerqueue.replace_task(
  p_old workerqueue.tasks, p_new workerqueue.tasks, p_preserve_run_at boolean, p_now timestamptz,
  out lane_id integer, out "position" bigint, out due_at timestamptz
) language plpgsql
set enable_seqscan = off
as $$
declare
  -- As in graphile-worker: a task that was tried starts anew in both modes.
  v_keep_time constant boolean := p_preserve_run_at and p_old.attempt = 0;
  v_run_at constant timestamptz := case when v_keep_time then p_old.run_at else p_new.run_at end;
  -- An available task holds its concurrency key and need not queue for it again.
  v_state constant workerqueue.task_state :=
    case when p_old.behind is not null then 'blocked'
         when v_run_at > p_now then 'scheduled'
         when p_new.concurrency_key is null then 'available'
         when p_old.state = 'available' and p_old.concurrency_key = p_new.concurrency_key
           then 'available'
         else 'blocked' end;
begin
  update workerqueue.tasks t
     set position = case when v_keep_time then t.position else p_new.position end,
         run_at = v_run_at, state = v_state, expire_at = p_new.expire_at, lane_id = p_new.lane_id,
         timeout_ms = p_new.timeout_ms, lease_duration_ms = p_new.lease_duration_ms,
         priority = p_new.priority, max_attempts = p_new.max_attempts,
         concurrency_limit = p_new.concurrency_limit, concurrency_key = p_new.concurrency_key,
         payload = p_new.payload, args = p_new.args, retention = p_new.retention,
         retry_policy = p_new.retry_policy, tags = p_new.tags, metadata = p_new.metadata,
         attempt = 0, started_at = null, worker_id = null, granted_lease_ms = null,
         last_error = null, progress = null, progress_message = null, checkpoint = null
   where t.id = p_old.id
  returning case when v_state = 'available' then t.lane_id end, t.position,
            case when v_state = 'scheduled' then v_run_at end
    into lane_id, "position", due_at;
end
$$;

-- Stores one task by the rules of job keys and uniqueness, as if alone. p_new is complete but for
-- state and behind; a job key and a unique key exclude each other. Outcomes:
--   created    p_new is stored
--   existed    its id is known (p_client_id: a client made the id)
--   replaced   task_id had the job key, waited, and is now what p_new says
--   kept       task_id has the job key, or is the same task
--   conflict   as kept, where p_fail asks for a refusal
-- keys are the concurrency keys to admit for; behind the task that the stored one waits for. Without
-- p_history the caller looks for finished tasks itself, for many at once.
--
-- Races end at the unique indexes: an insert that meets a concurrent one waits for it, inserts nothing
-- and looks again. A finished task is looked for after the insert: it left the live table before its
-- key was free, so the newer snapshot sees it in history.
create function workerqueue.put_task(
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
    insert into workerqueue.tasks values (v_new.*) on conflict do nothing;
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

-- The row that item p_place of a batch asks for. The spec is that of enqueue_tasks, and beside it
--   job_key_mode, unique_states, unique_period_ms, unique_fail
-- p_unique_key lacks the period, which depends on this database's clock.
create function workerqueue.row_of(
  p_spec jsonb, p_id uuid, p_payload bytea, p_key text, p_job_key text, p_unique_key bytea,
  p_position bigint, p_now timestamptz
) returns workerqueue.tasks
language plpgsql stable as $$
declare
  v_row workerqueue.tasks := jsonb_populate_record(null::workerqueue.tasks, p_spec);
  v_period_ms constant bigint := p_spec ->> 'unique_period_ms';
begin
  v_row.id := p_id;
  v_row.position := p_position;
  v_row.created_at := p_now;
  v_row.run_at := greatest(p_now, coalesce(
    v_row.run_at, p_now + (p_spec ->> 'delay_ms')::bigint * interval '1 millisecond', p_now));
  v_row.attempt := 0;
  v_row.payload := p_payload;
  v_row.concurrency_key := p_key;
  v_row.job_key := p_job_key;
  v_row.unique_key := p_unique_key;
  if v_period_ms is not null then
    v_row.unique_key := p_unique_key
      || int8send(floor(extract(epoch from v_row.run_at) * 1000 / v_period_ms)::bigint);
  end if;
  return v_row;
end
$$;

create type workerqueue.put_result as (
  place integer, outcome text, task_id uuid, lane_id integer, "position" bigint,
  due_at timestamptz, keys text[], behind uuid
);

-- Stores the items p_from to p_to of a batch, one after the other. A conflict in an all-or-nothing
-- request raises WQ001 with the item's place and the existing id as its detail.
create function workerqueue.put_range(
  p_from integer, p_to integer, p_base bigint, p_now timestamptz, p_ids uuid[], p_payloads bytea[],
  p_spec_nos integer[], p_keys text[], p_job_keys text[], p_unique_keys bytea[],
  p_client_ids boolean[], p_strict boolean[], p_specs jsonb, p_history boolean
) returns setof workerqueue.put_result
language plpgsql
set plan_cache_mode = force_generic_plan
as $$
declare
  v_place integer;
  v_spec jsonb;
  v_result workerqueue.put_result;
begin
  for v_place in p_from .. p_to loop
    v_spec := p_specs -> p_spec_nos[v_place];
    select v_place, p.* into v_result
      from workerqueue.put_task(
        workerqueue.row_of(
          v_spec, p_ids[v_place], p_payloads[v_place], p_keys[v_place], p_job_keys[v_place],
          p_unique_keys[v_place], p_base | v_place, p_now),
        coalesce(v_spec ->> 'job_key_mode', 'replace'),
        coalesce((v_spec ->> 'unique_fail')::boolean, false), p_client_ids[v_place], true,
        p_history, p_now) p;
    if v_result.outcome = 'conflict' and p_strict[v_place] then
      raise exception using
        errcode = 'WQ001', detail = format('%s %s', v_place, v_result.task_id);
    end if;
    return next v_result;
  end loop;
end
$$;

-- Whether a finished task would have changed what put_range did without looking at history: an id is
-- a repeat, or a stored task is the same as one that counts.
create function workerqueue.meets_history(
  p_results workerqueue.put_result[], p_ids uuid[], p_client_ids boolean[], p_now timestamptz
) returns boolean language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
  v_ids uuid[];
  v_created uuid[];
  v_keys bytea[];
begin
  select array_agg(p_ids[r.place]) filter (where p_client_ids[r.place] and r.outcome <> 'existed'),
         array_agg(r.task_id) filter (where r.outcome = 'created')
    into v_ids, v_created
    from unnest(p_results) r;
  if exists (select from workerqueue.history h where h.id = any (v_ids)) then
    return true;
  end if;
  select array_agg(t.unique_key) into v_keys
    from workerqueue.tasks t
   where t.id = any (v_created) and t.unique_key is not null;
  return exists (
    select from workerqueue.history h
     where h.unique_key = any (v_keys) and h.state = any (h.unique_states)
       and h.retain_until > p_now);
end
$$;

-- Stores requests that use job keys or uniqueness, in one transaction. Items run from 1; p_ends[n] is
-- the last item of request n, and a request is stored as a whole or not at all. More outcomes:
--   busy       somebody's open transaction has the key: the request was not stored, try again
--   refused    item refused_by of the all-or-nothing request conflicts
-- behind names the tasks whose successors may need settle_successors().
--
-- All requests are tried together first, and as if no finished task mattered. Only if that fails
-- does each get a savepoint of its own (a transaction with many savepoints makes everybody's
-- snapshots dearer) and look into history for itself (which has many partitions).
create function workerqueue.enqueue_keyed(
  p_ids uuid[], p_payloads bytea[], p_spec_nos integer[], p_keys text[], p_job_keys text[],
  p_unique_keys bytea[], p_client_ids boolean[], p_strict boolean[], p_ends integer[],
  p_specs jsonb
) returns table (
  stored_at timestamptz, outcomes text[], task_ids uuid[], refused_by integer[], behind uuid[],
  lanes integer[], positions bigint[], wait_ms double precision
) language plpgsql
set plan_cache_mode = force_generic_plan
-- Shorter than any sensible deadlock_timeout, so it is never a producer's transaction that fails.
set lock_timeout = '100ms'
set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_base bigint := nextval('workerqueue.position_seq') << 20;
  v_size constant integer := cardinality(p_ids);
  v_outcomes text[] := array_fill(null::text, array[v_size]);
  v_task_ids uuid[] := array_fill(null::uuid, array[v_size]);
  v_refused_by integer[] := array_fill(null::integer, array[v_size]);
  v_results workerqueue.put_result[];
  v_more workerqueue.put_result[];
  v_result workerqueue.put_result;
  v_from integer := 1;
  v_to integer;
  v_culprit integer;
  v_detail text;
begin
  begin
    select array_agg(r::workerqueue.put_result) into v_results
      from workerqueue.put_range(
        1, v_size, v_base, v_now, p_ids, p_payloads, p_spec_nos, p_keys, p_job_keys, p_unique_keys,
        p_client_ids, p_strict, p_specs, false) r;
    if workerqueue.meets_history(v_results, p_ids, p_client_ids, v_now) then
      raise exception using errcode = 'WQ003';
    end if;
  exception
    when lock_not_available or deadlock_detected or sqlstate 'WQ001' or sqlstate 'WQ003' then
      v_results := null;
  end;

  if v_results is null then
    foreach v_to in array p_ends loop
      begin
        select array_agg(r::workerqueue.put_result) into v_more
          from workerqueue.put_range(
            v_from, v_to, v_base, v_now, p_ids, p_payloads, p_spec_nos, p_keys, p_job_keys,
            p_unique_keys, p_client_ids, p_strict, p_specs, true) r;
        v_results := v_results || v_more;
      exception
        when lock_not_available or deadlock_detected then
          v_outcomes[v_from:v_to] := array_fill('busy'::text, array[v_to - v_from + 1]);
        when sqlstate 'WQ001' then
          get stacked diagnostics v_detail = pg_exception_detail;
          v_culprit := split_part(v_detail, ' ', 1)::integer;
          v_outcomes[v_from:v_to] := array_fill('refused'::text, array[v_to - v_from + 1]);
          v_refused_by[v_from:v_to] := array_fill(
            v_culprit - v_from, array[v_to - v_from + 1]);
          v_outcomes[v_culprit] := 'conflict';
          v_task_ids[v_culprit] := split_part(v_detail, ' ', 2)::uuid;
      end;
      v_from := v_to + 1;
    end loop;
  end if;

  foreach v_result in array coalesce(v_results, '{}') loop
    v_outcomes[v_result.place] := v_result.outcome;
    v_task_ids[v_result.place] := v_result.task_id;
  end loop;

  -- Admission waits only for other servers, and for as long as they need.
  perform set_config('lock_timeout', '5s', true);
  return query
  with put as materialized (
    select r.* from unnest(v_results) r
  ), ready as (
    select p.lane_id, p.position from put p where p.lane_id is not null
    union all
    select a.lane_id, a.position
      from workerqueue.admit(array(select distinct k from put p, unnest(p.keys) k)) a
  ), first as (
    select r.lane_id, min(r.position) as position from ready r group by 1
  )
  select v_now, v_outcomes, v_task_ids, v_refused_by,
         array(select p.behind from put p where p.behind is not null),
         array_agg(f.lane_id), array_agg(f.position),
         (select extract(epoch from min(p.due_at) - v_now) * 1000 from put p)::double precision
    from first f;
end
$$;
