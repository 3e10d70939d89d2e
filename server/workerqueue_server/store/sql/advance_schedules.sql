-- Notes what became of the due ticks of schedules that the caller has locked.
update workerqueue.schedules s
   set next_tick = a.next_tick,
       last_tick = coalesce(a.last_tick, s.last_tick),
       last_problem = a.last_problem,
       task_ids = (s.task_ids || a.task_ids)[greatest(1, cardinality(s.task_ids || a.task_ids) - 19):],
       tasks_made = s.tasks_made + cardinality(a.task_ids),
       ticks_skipped = s.ticks_skipped + a.ticks_skipped
  from jsonb_to_recordset(%(advances)s) as a (
         schedule_id text, next_tick timestamptz, last_tick timestamptz, last_problem text,
         task_ids uuid[], ticks_skipped bigint)
 where s.schedule_id = a.schedule_id
