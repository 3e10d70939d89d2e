-- Takes back failed, released and snoozed tasks; see workerqueue.return_leases.
select lost, lanes, positions, freed_queues, wait_ms
  from workerqueue.return_leases(%(items)s)
