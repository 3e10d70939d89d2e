-- Admits tasks that wait for the given concurrency keys; see workerqueue.admit.
select array_agg(lane_id), array_agg(position)
  from workerqueue.admit(%(keys)s)
