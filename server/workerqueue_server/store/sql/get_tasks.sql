-- Tasks by id, live or finished, newest state first.
-- Joined id by id: of a table without statistics, `id = any (...)` would be taken for a large part.
select t.id, l.kind, l.queue, l.priority, t.state::text as state, t.attempt, t.max_attempts,
       t.payload, t.args, t.timeout_ms, t.lease_duration_ms, t.created_at, t.run_at, t.expire_at,
       t.started_at, null::timestamptz as finished_at, t.lease_expires_at, t.attempt_deadline,
       t.worker_id, t.concurrency_key, t.concurrency_limit, t.job_key, t.tags, t.metadata,
       t.retry_policy, t.retention, null::bytea as result, t.last_error, t.progress,
       t.progress_message, t.checkpoint
  from unnest(%(ids)s) i(id)
  join workerqueue.tasks t on t.id = any (array[i.id])
  join workerqueue.lanes l using (lane_id)
union all
select h.id, l.kind, l.queue, l.priority, h.state::text, h.attempt, h.max_attempts,
       h.payload, h.args, h.timeout_ms, h.lease_duration_ms, h.created_at, h.run_at, h.expire_at,
       h.started_at, h.finished_at, null, null,
       h.worker_id, h.concurrency_key, h.concurrency_limit, h.job_key, h.tags, h.metadata,
       h.retry_policy, h.retention, h.result, h.last_error, h.progress,
       h.progress_message, h.checkpoint
  from unnest(%(ids)s) i(id)
  join workerqueue.history h on h.id = any (array[i.id])
  join workerqueue.lanes l using (lane_id)
