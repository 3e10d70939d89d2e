-- Locks schedules: those with the given ids, and those that a file's owner declares.
select s.schedule_id, s.uid, s.kind, s.file_owner, s.definition, s.paused, s.next_tick, s.last_tick,
       s.last_problem, s.task_ids, s.tasks_made, s.ticks_skipped, s.created_at, s.updated_at,
       clock_timestamp()
  from workerqueue.schedules s
 where s.schedule_id = any(%(schedule_ids)s) or s.file_owner = %(file_owner)s
 order by s.schedule_id
   for update of s
