-- Ends a worker's drain.
delete from workerqueue.worker_drains where worker_id = %(worker_id)s
