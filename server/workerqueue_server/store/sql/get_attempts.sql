-- Recorded attempts of a task, oldest first.
select attempt, worker_id, started_at, finished_at, outcome::text as outcome, error
  from workerqueue.attempts
 where task_id = %(id)s
 order by lease_id
