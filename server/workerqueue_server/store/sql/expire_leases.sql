-- Ends leases whose clock has passed; see workerqueue.expire_leases.
select tokens, timed_out, lanes, positions, freed_queues, wait_ms
  from workerqueue.expire_leases(%(limit)s)
