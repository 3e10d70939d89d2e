-- Gives a waiting task another priority; see workerqueue.set_task_priority.
select done, lanes, positions
  from workerqueue.set_task_priority(%(id)s, %(priority)s)
