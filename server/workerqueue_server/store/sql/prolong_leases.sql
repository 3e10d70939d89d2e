-- Moves the ends of leases that sent a heartbeat; see workerqueue.prolong_leases.
select token, lease_expires_at
  from workerqueue.prolong_leases(
    %(ids)s, %(lease_ids)s, %(progress)s, %(messages)s, %(checkpoints)s)
