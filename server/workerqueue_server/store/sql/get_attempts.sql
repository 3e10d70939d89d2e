-- Recorded attempts of tasks, oldest first.
select task_id, attempt, worker_id, started_at, finished_at, outcome::text as outcome, error
  from workerqueue.attempts
 where task_id = any (%(ids)s)
 order by lease_id
