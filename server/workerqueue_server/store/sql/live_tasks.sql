-- Those of the tasks that are live.
select unnest(workerqueue.live_tasks(%(ids)s))
