-- Cancels live tasks; see workerqueue.cancel_tasks.
select ids, tokens, lanes, positions, freed_queues
  from workerqueue.cancel_tasks(%(ids)s, %(states)s::workerqueue.task_state[], %(reason)s)
