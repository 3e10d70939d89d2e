-- Workers that get no tasks.
select worker_id, grace_ms
  from workerqueue.worker_drains
 where until > clock_timestamp()
