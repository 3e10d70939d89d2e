-- Schedules: tasks made by the clock.

create table workerqueue.schedules (
  schedule_id text collate "C" primary key,
  -- The ids of the tasks derive from it: a schedule that is deleted and made again under its old name
  -- is another one.
  uid uuid not null default gen_random_uuid(),
  kind text collate "C" not null,
  -- Who declares it in a file; null: made over the API.
  file_owner text collate "C",
  -- Serialized workerqueue.v1.Schedule without its output fields. In this form a server that does not
  -- know a newer field keeps it.
  definition bytea not null,
  paused boolean not null,
  -- The first tick that is not dealt with; null: there is none. Whoever deals with a tick locks the
  -- row, stores the tick's task and moves this on in one transaction.
  next_tick timestamptz,
  last_tick timestamptz,
  last_problem text,
  -- The last 20 tasks that it made, newest last.
  task_ids uuid[] not null default '{}',
  tasks_made bigint not null default 0,
  ticks_skipped bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create index schedules_due on workerqueue.schedules (next_tick) where not paused;

-- Those of the tasks that are live.
create function workerqueue.live_tasks(p_ids uuid[]) returns uuid[]
language sql stable
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  select coalesce(array_agg(t.id), '{}')
    from unnest(p_ids) i(id)
    join workerqueue.tasks t on t.id = any (array[i.id])
$$;
