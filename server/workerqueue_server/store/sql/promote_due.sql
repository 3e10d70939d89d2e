-- Makes due tasks available; see workerqueue.promote_due.
select promoted, lanes, positions, wait_ms
  from workerqueue.promote_due(%(limit)s)
