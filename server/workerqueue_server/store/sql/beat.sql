-- A sign of life from this server; see workerqueue.beat.
select workerqueue.beat(%(server_id)s, %(kinds)s) as is_new
