-- Stores a batch of tasks and grants leases in one transaction; see workerqueue.enqueue_and_grant.
select stored_at, existed, lanes, positions, wait_ms, request, place, lane_id, attempt,
       max_attempts, timeout_ms, lease_ms, created_at, first_position, last_position, tokens,
       payloads, concurrency_keys, args, metadata, checkpoint
  from workerqueue.enqueue_and_grant(
    %(ids)s, %(payloads)s, %(spec_nos)s, %(keys)s, %(specs)s, %(first_id)s, %(last_id)s,
    %(requests)s)
