-- Queue and kind of tasks by id, live or finished.
select t.id, l.queue, l.kind
  from unnest(%(ids)s) i(id)
  join workerqueue.tasks t on t.id = any (array[i.id])
  join workerqueue.lanes l using (lane_id)
union all
select h.id, l.queue, l.kind
  from unnest(%(ids)s) i(id)
  join workerqueue.history h on h.id = any (array[i.id])
  join workerqueue.lanes l using (lane_id)
