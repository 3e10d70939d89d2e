-- Lets successors pass that wait for nothing any more; see workerqueue.settle_successors.
select lanes, positions
  from workerqueue.settle_successors(%(behind)s)
