-- A text per task that changes when the task does; see workerqueue.task_digests.
select id, digest
  from workerqueue.task_digests(%(ids)s)
