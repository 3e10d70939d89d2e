-- Schedules by id: those with the given ids, or (null) a page of all.
select s.schedule_id, s.uid, s.kind, s.file_owner, s.definition, s.paused, s.next_tick, s.last_tick,
       s.last_problem, s.task_ids, s.tasks_made, s.ticks_skipped, s.created_at, s.updated_at,
       clock_timestamp() as read_at
  from workerqueue.schedules s
 where s.schedule_id > %(after)s
   and (%(schedule_ids)s::text[] is null or s.schedule_id = any(%(schedule_ids)s))
 order by s.schedule_id
 limit %(limit)s
