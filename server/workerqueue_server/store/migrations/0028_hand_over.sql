-- Storing and granting in one call.
--
-- A task that a stream waits for is granted in the transaction that stores it. As statements of their own,
-- between begin and commit, these cost about as much time in round trips and parsing as in work.

-- Stores tasks as workerqueue.enqueue_tasks does and then grants leases as workerqueue.grant_runs does.
-- The first row tells of the tasks, the others of a run of leases each; what is not told is null.
create function workerqueue.enqueue_and_grant(
  p_ids uuid[], p_payloads bytea[], p_spec_nos integer[], p_keys text[], p_specs jsonb,
  p_first_id uuid, p_last_id uuid, p_requests jsonb
) returns table (
  stored_at timestamptz, existed uuid[], lanes integer[], positions bigint[],
  wait_ms double precision, request integer, place integer, lane_id integer, attempt smallint,
  max_attempts smallint, timeout_ms integer, lease_ms integer, created_at timestamptz,
  first_position bigint, last_position bigint, tokens bytea[], payloads bytea[],
  concurrency_keys text[], args jsonb, metadata jsonb, checkpoint bytea
)
language plpgsql as $$
begin
  -- As in grant_leases, and before the locks that storing takes: who pauses a queue waits for these.
  perform pg_advisory_xact_lock_shared(7706, 0);
  return query
  select s.stored_at, s.existed, s.lanes, s.positions, s.wait_ms, null::integer, null::integer,
         null::integer, null::smallint, null::smallint, null::integer, null::integer,
         null::timestamptz, null::bigint, null::bigint, null::bytea[], null::bytea[], null::text[],
         null::jsonb, null::jsonb, null::bytea
    from workerqueue.enqueue_tasks(
           p_ids, p_payloads, p_spec_nos, p_keys, p_specs, p_first_id, p_last_id) s;
  return query
  select null::timestamptz, null::uuid[], null::integer[], null::bigint[], null::double precision,
         g.*
    from workerqueue.grant_runs(p_requests) g;
end
$$;
