-- How long tasks waited for their last lease, in seconds; nothing of a task that waits for another.
select w.id, extract(epoch from w.started_at - w.run_at)::double precision as seconds
  from (select t.id, t.started_at, t.run_at
          from unnest(%(ids)s) i(id)
          join workerqueue.tasks t on t.id = any (array[i.id])
         union all
        select h.id, h.started_at, h.run_at
          from unnest(%(ids)s) i(id)
          join workerqueue.history h on h.id = any (array[i.id])) w
 where w.started_at >= w.run_at
