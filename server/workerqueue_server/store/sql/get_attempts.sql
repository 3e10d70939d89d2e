-- Recorded attempts of tasks, oldest first.
select task_id, attempt, worker_id, started_at, finished_at, outcome::text as outcome, error
  from unnest(%(ids)s) i(id)
  join workerqueue.attempts a on a.task_id = any (array[i.id])
 order by a.lease_id
