-- Locks schedules that are due, the longest first; those that another server deals with are left out.
select s.schedule_id, s.uid, s.kind, s.file_owner, s.definition, s.paused, s.next_tick, s.last_tick,
       s.last_problem, s.task_ids, s.tasks_made, s.ticks_skipped, s.created_at, s.updated_at,
       clock_timestamp()
  from workerqueue.schedules s
 where not s.paused and s.next_tick <= clock_timestamp() and s.kind = any(%(kinds)s)
 order by s.next_tick
 limit %(limit)s
   for update of s skip locked
