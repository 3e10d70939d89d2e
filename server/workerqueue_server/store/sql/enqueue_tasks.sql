-- Stores a batch of tasks; see workerqueue.enqueue_tasks.
select stored_at, existed, lanes, positions, wait_ms
  from workerqueue.enqueue_tasks(
    %(ids)s, %(payloads)s, %(spec_nos)s, %(keys)s, %(specs)s, %(first_id)s, %(last_id)s)
