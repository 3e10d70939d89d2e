-- Runs tasks again, or now; see workerqueue.retry_tasks.
select ids, lanes, positions
  from workerqueue.retry_tasks(%(ids)s, %(states)s::workerqueue.task_state[], %(attempts)s)
