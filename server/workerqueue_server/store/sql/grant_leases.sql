-- Grants leases for a list of requests; see workerqueue.grant_leases.
select request, place, token, lane_id, position, attempt, max_attempts, timeout_ms, lease_ms,
       created_at, payload, args, concurrency_key, metadata, checkpoint
  from workerqueue.grant_leases(%(requests)s)
