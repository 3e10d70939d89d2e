-- The lanes of these tasks, whatever their state.
select id, lane_id from workerqueue.tasks where id = any (%(ids)s)
union all
select id, lane_id from workerqueue.history where id = any (%(ids)s)
