-- Moves a waiting task to a time, or to so long from now; see workerqueue.reschedule_task.
select outcome, lanes, positions, wait_ms
  from workerqueue.reschedule_task(
    %(id)s,
    coalesce(%(run_at)s::timestamptz, clock_timestamp() + %(delay_ms)s * interval '1 millisecond'))
