-- Writes sessions that are new or changed.
insert into workerqueue.worker_sessions (
  session_id, server_id, worker_id, queues, kinds, max_in_flight, connected_at, draining)
select s.session_id, %(server_id)s, s.worker_id, s.queues, s.kinds, s.max_in_flight,
       clock_timestamp(), s.draining
  from jsonb_to_recordset(%(sessions)s) as s(
         session_id text, worker_id text, queues text[], kinds text[], max_in_flight integer,
         draining boolean)
 order by s.session_id
on conflict (session_id) do update
   set max_in_flight = excluded.max_in_flight, draining = excluded.draining
