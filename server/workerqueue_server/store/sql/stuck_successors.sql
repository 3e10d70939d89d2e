-- Tasks that successors wait for in vain; see workerqueue.stuck_successors.
select last_id, behind
  from workerqueue.stuck_successors(%(after)s, %(limit)s)
