-- Tasks whose ids the server has made are inserted without looking for them first.

-- The rows of a batch; for its parameters see enqueue_tasks. Inlined where it is used.
create function workerqueue.new_tasks(
  p_ids uuid[], p_payloads bytea[], p_spec_nos integer[], p_keys text[], p_specs jsonb,
  p_now timestamptz, p_base bigint
) returns table (
  id uuid, "position" bigint, created_at timestamptz, run_at timestamptz, expire_at timestamptz,
  lane_id integer, timeout_ms integer, lease_duration_ms integer, state workerqueue.task_state,
  priority smallint, max_attempts smallint, concurrency_limit smallint, concurrency_key text,
  payload bytea, retention integer[], retry_policy double precision[], tags text[], metadata jsonb
) language sql stable as $$
  select i.id, p_base | i.place, p_now, due.run_at, s.expire_at, s.lane_id, s.timeout_ms,
         s.lease_duration_ms,
         case when due.run_at > p_now then 'scheduled'
              when i.key is not null then 'blocked'
              else 'available' end::workerqueue.task_state,
         s.priority, s.max_attempts, s.concurrency_limit, i.key, i.payload, s.retention,
         s.retry_policy, s.tags, s.metadata
    from rows from (unnest(p_ids), unnest(p_payloads), unnest(p_spec_nos), unnest(p_keys))
         with ordinality i(id, payload, spec_no, key, place)
    join rows from (jsonb_to_recordset(p_specs) as (
           lane_id integer, priority smallint, max_attempts smallint, timeout_ms integer,
           lease_duration_ms integer, concurrency_limit smallint, run_at timestamptz,
           delay_ms bigint, expire_at timestamptz, retention integer[],
           retry_policy double precision[], tags text[], metadata jsonb))
         with ordinality s(
           lane_id, priority, max_attempts, timeout_ms, lease_duration_ms, concurrency_limit,
           run_at, delay_ms, expire_at, retention, retry_policy, tags, metadata, spec_no)
      on s.spec_no = i.spec_no + 1
   cross join lateral (
     select greatest(p_now, coalesce(
       s.run_at, p_now + s.delay_ms * interval '1 millisecond', p_now)) as run_at) due
$$;

-- Stores a batch of tasks. What tasks share (lane, options) comes once per distinct combination in
-- p_specs, a JSON array whose element n (from 0) belongs to the tasks with spec number n:
--   lane_id, priority, max_attempts, timeout_ms, lease_duration_ms, concurrency_limit,
--   run_at | delay_ms, expire_at, retention, retry_policy, tags, metadata
-- A new option is a new JSON field, so servers of two releases can share this function.
--
-- Idempotence: an id that is live or kept in history is not stored again and is returned in
-- `existed`. Insert first, look into history after: a task that finishes between the two has left
-- the live table for good, and the second statement's newer snapshot sees it in history.
-- p_first_id and p_last_id bound the ids made by clients; null: the server made all ids.
create or replace function workerqueue.enqueue_tasks(
  p_ids uuid[], p_payloads bytea[], p_spec_nos integer[], p_keys text[], p_specs jsonb,
  p_first_id uuid, p_last_id uuid
) returns table (
  stored_at timestamptz, existed uuid[], lanes integer[], positions bigint[],
  wait_ms double precision
)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set workerqueue.counts_itself = 'yes'
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_base bigint := nextval('workerqueue.position_seq') << 20;
  v_stored integer;
  v_existed uuid[];
  v_finished uuid[];
  v_seen integer;
  c_range constant integer := least(20000, 20 * cardinality(p_ids));
begin
  if p_first_id is null then
    -- Ids that servers make differ in 74 random bits.
    with stored as (
      insert into workerqueue.tasks (
        id, position, created_at, run_at, expire_at, lane_id, timeout_ms, lease_duration_ms, state,
        priority, max_attempts, concurrency_limit, concurrency_key, payload, retention, retry_policy,
        tags, metadata)
      select n.*
        from workerqueue.new_tasks(p_ids, p_payloads, p_spec_nos, p_keys, p_specs, v_now, v_base) n
      returning lane_id, state
    ), flow as (
      insert into workerqueue.task_flows (lane_id, entered_state, n)
      select s.lane_id, s.state, count(*) from stored s group by s.lane_id, s.state
    )
    select count(*) into v_stored from stored;
  else
    with stored as (
      insert into workerqueue.tasks (
        id, position, created_at, run_at, expire_at, lane_id, timeout_ms, lease_duration_ms, state,
        priority, max_attempts, concurrency_limit, concurrency_key, payload, retention, retry_policy,
        tags, metadata)
      select n.*
        from workerqueue.new_tasks(p_ids, p_payloads, p_spec_nos, p_keys, p_specs, v_now, v_base) n
      on conflict (id) do nothing
      returning lane_id, state
    ), flow as (
      insert into workerqueue.task_flows (lane_id, entered_state, n)
      select s.lane_id, s.state, count(*) from stored s group by s.lane_id, s.state
    )
    select count(*) into v_stored from stored;
  end if;

  if v_stored < cardinality(p_ids) then
    select array_agg(t.id) into v_existed
      from unnest(p_ids) i(id)
      join workerqueue.tasks t on t.id = any (array[i.id])
     where t.position not between v_base and v_base + 1048575;
  end if;
  if p_first_id is not null then
    -- Ids made in the order of time (UUIDv7) span a short range with few finished tasks in it, which
    -- one scan per partition reads. Looking up an id in each partition costs ten times as much as
    -- an entry of that scan, so that is left to ids that are spread out.
    select array_agg(r.id) filter (where r.id = any (p_ids)), count(*) into v_finished, v_seen
      from (select h.id from workerqueue.history h
             where h.id between p_first_id and p_last_id
             limit c_range + 1) r;
    if v_seen > c_range then
      select array_agg(h.id) into v_finished from workerqueue.history h where h.id = any (p_ids);
    end if;
    if v_finished is not null then
      with gone as (
        delete from workerqueue.tasks t
         where t.id = any (v_finished) and t.position between v_base and v_base + 1048575
        returning t.lane_id, t.state
      )
      insert into workerqueue.task_flows (lane_id, left_state, n)
      select g.lane_id, g.state, count(*) from gone g group by g.lane_id, g.state;
      v_existed := v_existed || v_finished;
    end if;
  end if;

  return query
  with admitted as (
    select a.lane_id, a.position
      from workerqueue.admit(array(select distinct k from unnest(p_keys) k where k is not null)) a
     where p_keys is not null
  ), ready as (
    select a.lane_id, min(a.position) as position from admitted a group by 1
    union all
    -- Waking a lane in vain is harmless, so this says "may have", without reading the rows again.
    select distinct (s ->> 'lane_id')::integer, v_base
      from jsonb_array_elements(p_specs) s
  )
  select v_now, v_existed, array_agg(r.lane_id), array_agg(r.position),
         (select min(coalesce(
                   (s ->> 'delay_ms')::double precision,
                   extract(epoch from (s ->> 'run_at')::timestamptz - v_now) * 1000))
            from jsonb_array_elements(p_specs) s)
    from ready r;
end
$$;
