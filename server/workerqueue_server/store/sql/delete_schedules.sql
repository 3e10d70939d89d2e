-- Deletes schedules that the caller has locked.
delete from workerqueue.schedules where schedule_id = any(%(schedule_ids)s)
