-- Pauses or resumes a schedule that the caller has locked.
update workerqueue.schedules
   set paused = %(paused)s, next_tick = %(next_tick)s
 where schedule_id = %(schedule_id)s
