-- Replaces the definition of a schedule that the caller has locked.
update workerqueue.schedules
   set kind = %(kind)s, definition = %(definition)s, next_tick = %(next_tick)s, last_problem = null,
       updated_at = clock_timestamp()
 where schedule_id = %(schedule_id)s
