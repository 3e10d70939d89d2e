-- Forgets sessions that ended.
delete from workerqueue.worker_sessions where session_id = any (%(session_ids)s)
