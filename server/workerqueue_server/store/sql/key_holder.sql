-- The live task that has the unique key of a finished one.
select t.id
  from workerqueue.history h
  join workerqueue.tasks t on t.unique_key = h.unique_key
 where h.id = %(id)s
