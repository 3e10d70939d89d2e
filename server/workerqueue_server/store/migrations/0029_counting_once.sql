-- Whether a statement counts its own moves is asked once a statement, not once a row.

-- Whether the running statement leaves it to the triggers to count what it moves; see count_move.
-- Called immutable so that the planner puts the answer in its place when a statement first meets a
-- trigger's condition: the setting belongs to the function around the statement and cannot change
-- while it runs. Asked for each row it was a tenth of what PostgreSQL does for a task.
create function workerqueue.is_counted_by_row() returns boolean
language sql immutable
as $$ select current_setting('workerqueue.counts_itself', true) is distinct from 'yes' $$;

drop trigger count_new on workerqueue.tasks;
drop trigger count_gone on workerqueue.tasks;
drop trigger count_changed on workerqueue.tasks;
drop trigger count_new on workerqueue.history;
drop trigger count_gone on workerqueue.history;

create trigger count_new after insert on workerqueue.tasks for each row
  when (workerqueue.is_counted_by_row()) execute function workerqueue.count_move('tasks');
create trigger count_gone after delete on workerqueue.tasks for each row
  when (workerqueue.is_counted_by_row()) execute function workerqueue.count_move('tasks');
create trigger count_changed after update of state, lane_id on workerqueue.tasks for each row
  when (workerqueue.is_counted_by_row()) execute function workerqueue.count_move('tasks');
create trigger count_new after insert on workerqueue.history for each row
  when (workerqueue.is_counted_by_row()) execute function workerqueue.count_move('history');
create trigger count_gone after delete on workerqueue.history for each row
  when (workerqueue.is_counted_by_row()) execute function workerqueue.count_move('history');
