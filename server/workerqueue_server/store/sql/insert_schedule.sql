-- Stores a new schedule; no row: there is one with this id.
insert into workerqueue.schedules (schedule_id, kind, file_owner, definition, paused, next_tick)
values (%(schedule_id)s, %(kind)s, %(file_owner)s, %(definition)s, %(paused)s, %(next_tick)s)
on conflict (schedule_id) do nothing
returning schedule_id
