-- Grants leases for a list of requests, gathered in runs; see workerqueue.grant_runs.
select request, place, lane_id, attempt, max_attempts, timeout_ms, lease_ms, created_at,
       first_position, last_position, tokens, payloads, concurrency_keys, args, metadata, checkpoint
  from workerqueue.grant_runs(%(requests)s)
