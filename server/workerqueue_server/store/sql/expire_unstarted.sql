-- Drops tasks that were not started by their expire_at; see workerqueue.expire_unstarted.
select dropped, lanes, positions
  from workerqueue.expire_unstarted(%(limit)s)
