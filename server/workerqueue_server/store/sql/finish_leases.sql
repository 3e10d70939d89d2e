-- Finishes a batch of leased tasks; see workerqueue.finish_leases.
select lost, lanes, positions, freed_queues
  from workerqueue.finish_leases(%(ids)s, %(lease_ids)s, %(results)s)
