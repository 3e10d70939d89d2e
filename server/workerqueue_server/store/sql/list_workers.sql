-- Workers by id, after a given one; or those named: everyone connected, holding a task, or drained.
with held as materialized (
  select h.worker_id, sum(h.n)::integer as n, jsonb_object_agg(h.queue, h.n) as by_queue,
         min(h.oldest_lease_at) as oldest_lease_at
    from workerqueue.held_tasks() h
   group by h.worker_id
), worker as (
  select s.worker_id from workerqueue.live_sessions s
  union
  select h.worker_id from held h
  union
  select d.worker_id from workerqueue.worker_drains d where d.until > clock_timestamp()
)
select w.worker_id, coalesce(h.n, 0) as held, h.by_queue, h.oldest_lease_at, d.until as drained_until
  from worker w
  left join held h using (worker_id)
  left join workerqueue.worker_drains d on d.worker_id = w.worker_id and d.until > clock_timestamp()
 where (%(after)s::text is null or w.worker_id > %(after)s)
   and (%(names)s::text[] is null or w.worker_id = any (%(names)s))
 order by w.worker_id
 limit %(limit)s
