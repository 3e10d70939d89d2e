-- Forgets this server, which stops, and its sessions.
with gone as (
  delete from workerqueue.servers where server_id = %(server_id)s
)
delete from workerqueue.worker_sessions where server_id = %(server_id)s
