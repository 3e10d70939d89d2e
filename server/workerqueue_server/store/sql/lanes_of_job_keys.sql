-- The lanes of the live tasks with these job keys, waiting successors included.
select t.job_key, l.queue, l.kind
  from unnest(%(job_keys)s::text[]) k(job_key)
  join workerqueue.tasks t on t.job_key = any (array[k.job_key])
  join workerqueue.lanes l using (lane_id)
