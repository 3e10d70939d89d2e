-- Finds tasks that fit a filter, newest first, looking at a bounded number; see workerqueue.scan_tasks.
select ids, bytes, examined, last_id
  from workerqueue.scan_tasks(%(before)s, %(filter)s, %(wanted)s, %(scan)s)
