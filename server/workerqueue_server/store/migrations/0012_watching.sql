-- Watching tasks.

-- One short text per task that differs whenever something about the task changed that a watcher wants
-- to hear of. Tasks that are nowhere are missing from the answer.
create function workerqueue.task_digests(p_ids uuid[])
returns table (id uuid, digest text)
language plpgsql stable
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_live uuid[];
begin
  return query
  select t.id, concat_ws(' ', t.state, t.attempt, t.max_attempts, t.lease_id, t.run_at, t.priority,
                         t.progress, t.progress_message)
    from unnest(p_ids) i(id)
    join workerqueue.tasks t on t.id = any (array[i.id]);
  return query
  select h.id, concat_ws(' ', h.state, h.attempt, h.finished_at)
    from unnest(p_ids) i(id)
    join workerqueue.history h on h.id = any (array[i.id]);
end
$$;
