-- Gives a worker no more tasks for a while.
insert into workerqueue.worker_drains (worker_id, grace_ms, drained_at, until)
values (%(worker_id)s, %(grace_ms)s, clock_timestamp(),
        clock_timestamp() + %(duration_ms)s * interval '1 millisecond')
on conflict (worker_id) do update
   set grace_ms = excluded.grace_ms, drained_at = excluded.drained_at, until = excluded.until
