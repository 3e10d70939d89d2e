-- Deletes tasks and their attempts; see workerqueue.delete_tasks.
select ids, tokens, lanes, positions, freed_queues
  from workerqueue.delete_tasks(%(ids)s, %(states)s::workerqueue.task_state[])
