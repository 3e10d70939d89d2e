-- Stores requests with job keys or uniqueness; see workerqueue.enqueue_keyed.
select stored_at, outcomes, task_ids, refused_by, behind, lanes, positions, wait_ms
  from workerqueue.enqueue_keyed(
    %(ids)s, %(payloads)s, %(spec_nos)s, %(keys)s, %(job_keys)s, %(unique_keys)s, %(client_ids)s,
    %(strict)s, %(ends)s, %(specs)s)
