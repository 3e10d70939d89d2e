-- Which of the given leases are alive.
select token, lease_expires_at, lane_id, worker_id
  from workerqueue.live_leases(%(ids)s, %(lease_ids)s)
