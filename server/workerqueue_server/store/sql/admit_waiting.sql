-- Admits tasks that wait for a concurrency key nobody holds; see workerqueue.admit_waiting.
select last_key, lanes, positions
  from workerqueue.admit_waiting(%(after)s, %(limit)s)
