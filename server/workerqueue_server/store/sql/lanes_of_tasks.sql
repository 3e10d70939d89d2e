-- The lanes of these tasks, whatever their state.
select t.id, l.lane_id, l.queue, l.kind, l.priority
  from unnest(%(ids)s) i(id)
  join workerqueue.tasks t on t.id = any (array[i.id])
  join workerqueue.lanes l using (lane_id)
union all
select h.id, l.lane_id, l.queue, l.kind, l.priority
  from unnest(%(ids)s) i(id)
  join workerqueue.history h on h.id = any (array[i.id])
  join workerqueue.lanes l using (lane_id)
