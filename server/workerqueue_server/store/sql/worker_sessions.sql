-- The streams of workers, oldest first.
select worker_id, session_id, server_id, queues, kinds, max_in_flight, connected_at, draining
  from workerqueue.live_sessions
 where worker_id = any (%(worker_ids)s)
 order by connected_at, session_id
