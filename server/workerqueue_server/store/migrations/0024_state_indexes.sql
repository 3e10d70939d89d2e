-- No index tells states apart any more.
drop index workerqueue.tasks_ready;
drop index workerqueue.tasks_due_by_state;
drop index workerqueue.tasks_unstarted_by_state;
drop index workerqueue.tasks_blocked_by_state;
drop index workerqueue.tasks_key_holders_by_state;
drop index workerqueue.tasks_counted_by_state;
