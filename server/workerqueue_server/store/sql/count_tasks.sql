-- How many tasks of the queues are in each state; see workerqueue.count_tasks.
select queue, kind, state::text as state, n
  from workerqueue.count_tasks(%(queues)s)
