-- Tables of the queue: lanes, live tasks, attempts, history, queues, kinds.

-- Names are compared byte by byte everywhere (collate "C"): index order must not depend on the
-- cluster's locale.

create type workerqueue.task_state as enum (
  'scheduled', 'available', 'blocked', 'leased', 'retrying',
  'succeeded', 'dead', 'cancelled', 'expired'
);

create type workerqueue.attempt_outcome as enum (
  'succeeded', 'failed', 'timed_out', 'lost', 'cancelled'
);

-- A position is `nextval(position_seq) << 20 | place`: one call of the sequence orders a whole batch.
-- It orders tasks by when they became available. Lease ids come from the same construction over
-- lease_seq, so a later lease always has the larger id.
create sequence workerqueue.position_seq as bigint cache 1;
create sequence workerqueue.lease_seq as bigint cache 1;

create table workerqueue.queues (
  name text collate "C" primary key,
  max_in_flight_per_worker integer check (max_in_flight_per_worker > 0),
  max_in_flight integer check (max_in_flight > 0),
  paused boolean not null default false,
  -- True once an operator changed the limits: the contract's declaration no longer applies.
  operator_limits boolean not null default false,
  created_at timestamptz not null default now()
);

create table workerqueue.kinds (
  kind text collate "C" primary key,
  type_name text collate "C" not null,
  policy jsonb not null,
  declared_at timestamptz not null default now()
);

-- A lane is what shares one line: a queue, a kind and a priority. Leasing reads lanes, so a kind that
-- nobody takes or a priority that nobody uses costs nothing to those somebody takes.
create table workerqueue.lanes (
  lane_id integer generated always as identity primary key,
  queue text collate "C" not null,
  kind text collate "C" not null,
  priority smallint not null
);

-- Not unique: an enqueue by SQL that needs a new lane makes it inside its caller's transaction, and
-- nobody else may have to wait for that. Two lanes of one name are one line all the same.
create index lanes_name on workerqueue.lanes (queue, kind, priority);

-- Live tasks only: a finished task moves to history. Columns are ordered by width, which spares
-- padding; fillfactor leaves room for heartbeats to update in place (HOT).
create table workerqueue.tasks (
  id uuid not null,
  position bigint not null,
  -- The live lease; null unless leased.
  lease_id bigint,
  created_at timestamptz not null,
  run_at timestamptz not null,
  expire_at timestamptz,
  started_at timestamptz,
  -- Moves with heartbeats and is therefore in no index.
  lease_expires_at timestamptz,
  attempt_deadline timestamptz,
  -- When to look at this lease next; at or before the moment it can end. Indexed, and moved at most
  -- once per lease duration.
  expiry_check_at timestamptz,
  lane_id integer not null,
  timeout_ms integer not null,
  lease_duration_ms integer not null,
  -- The lease duration of the current lease: the stream's own, or lease_duration_ms.
  granted_lease_ms integer,
  state workerqueue.task_state not null,
  priority smallint not null,
  attempt smallint not null default 0,
  max_attempts smallint not null,
  concurrency_limit smallint not null default 1,
  worker_id text collate "C",
  -- The queue's name while this lease counts against a limit of it.
  counted_queue text collate "C",
  concurrency_key text collate "C",
  job_key text collate "C",
  -- The task whose lease this one waits for; see let_pass.
  behind uuid,
  -- Tasks with the same unique key are the same; the finished states in which this one still counts.
  unique_key bytea,
  unique_states workerqueue.task_state[],
  -- Serialized payload message; null for a task enqueued by SQL, whose args are converted at grant.
  payload bytea,
  args jsonb,
  -- Seconds: {succeeded, cancelled, expired, dead}; null elements mean the defaults.
  retention integer[],
  -- {initial ms, multiplier, max ms, jitter}; null means the default curve.
  retry_policy double precision[],
  tags text[],
  metadata jsonb,
  last_error jsonb,
  progress double precision,
  progress_message text,
  -- Serialized google.protobuf.Any.
  checkpoint bytea,
  constraint tasks_pkey primary key (id)
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

create index tasks_ready on workerqueue.tasks (lane_id, position)
  where state = 'available';
create index tasks_due on workerqueue.tasks (run_at)
  where state in ('scheduled', 'retrying');
create index tasks_expiry_check on workerqueue.tasks (expiry_check_at)
  where state = 'leased';
create index tasks_unstarted_expiry on workerqueue.tasks (expire_at)
  where expire_at is not null and attempt = 0 and state <> 'leased';
create index tasks_blocked on workerqueue.tasks (concurrency_key, priority desc, position)
  where state = 'blocked' and behind is null;
create index tasks_key_holders on workerqueue.tasks (concurrency_key, priority)
  where concurrency_key is not null and state in ('available', 'leased');
create index tasks_counted on workerqueue.tasks (counted_queue, worker_id)
  where counted_queue is not null;
-- One task holds a job key; while it is leased, one more may wait behind it.
create unique index tasks_job_key on workerqueue.tasks (job_key)
  where job_key is not null and behind is null;
create unique index tasks_job_key_successor on workerqueue.tasks (job_key)
  where behind is not null;
create index tasks_behind on workerqueue.tasks (behind)
  where behind is not null;
create unique index tasks_unique_key on workerqueue.tasks (unique_key)
  where unique_key is not null;

-- Attempts that did not finish their task (and the final attempt of a dead one). The attempt that
-- succeeded is the history row itself, so the common case writes nothing here.
create table workerqueue.attempts (
  task_id uuid not null,
  lease_id bigint not null,
  started_at timestamptz not null,
  finished_at timestamptz not null,
  attempt smallint not null,
  outcome workerqueue.attempt_outcome not null,
  worker_id text collate "C",
  error jsonb
) partition by range (finished_at);

create index attempts_task on workerqueue.attempts (task_id);

-- Finished tasks. Partitioned by the day they may be forgotten, not the day they finished: whatever
-- the kind and state, retention is the drop of one partition.
create table workerqueue.history (
  id uuid not null,
  lease_id bigint,
  created_at timestamptz not null,
  run_at timestamptz not null,
  expire_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz not null,
  retain_until timestamptz not null,
  lane_id integer not null,
  timeout_ms integer not null,
  lease_duration_ms integer not null,
  state workerqueue.task_state not null,
  attempt smallint not null,
  max_attempts smallint not null,
  concurrency_limit smallint not null,
  worker_id text collate "C",
  concurrency_key text collate "C",
  job_key text collate "C",
  unique_key bytea,
  unique_states workerqueue.task_state[],
  payload bytea,
  args jsonb,
  retention integer[],
  retry_policy double precision[],
  tags text[],
  metadata jsonb,
  last_error jsonb,
  progress double precision,
  progress_message text,
  checkpoint bytea,
  -- Serialized google.protobuf.Any.
  result bytea
) partition by range (retain_until);

create index history_id on workerqueue.history (id);
create index history_unique_key on workerqueue.history (unique_key)
  where unique_key is not null;

-- How many tasks moved between states, by lane: one row per statement that moved some. Statistics are
-- sums over these rows, so they cost no scan and are exact: a flow commits with the move it tells of.
-- Null on the left: new tasks; null in entered: deleted ones. retain_day is the history partition
-- (UTC day) that the terminal side of the move belongs to.
create table workerqueue.task_flows (
  at timestamptz not null default clock_timestamp(),
  lane_id integer not null,
  left_state workerqueue.task_state,
  entered_state workerqueue.task_state,
  retain_day date,
  n integer not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0);

-- Counts moves row by row. Functions on the hot path do it once per statement instead, and say so with
-- `set workerqueue.counts_itself`; whatever else changes tasks, a psql session too, is counted here.
create function workerqueue.count_move() returns trigger language plpgsql as $$
declare
  -- The row that has the terminal side, if there is one.
  v_day date;
begin
  if tg_argv[0] = 'history' then
    v_day := (coalesce(new.retain_until, old.retain_until) at time zone 'UTC')::date;
  end if;
  if old.lane_id is distinct from new.lane_id and tg_op = 'UPDATE' then
    insert into workerqueue.task_flows (lane_id, left_state, entered_state, retain_day, n)
    values (old.lane_id, old.state, null, v_day, 1), (new.lane_id, null, new.state, v_day, 1);
  elsif old.state is distinct from new.state then
    insert into workerqueue.task_flows (lane_id, left_state, entered_state, retain_day, n)
    values (coalesce(new.lane_id, old.lane_id), old.state, new.state, v_day, 1);
  end if;
  return null;
end
$$;

create trigger count_new after insert on workerqueue.tasks for each row
  when (current_setting('workerqueue.counts_itself', true) is distinct from 'yes')
  execute function workerqueue.count_move('tasks');
create trigger count_gone after delete on workerqueue.tasks for each row
  when (current_setting('workerqueue.counts_itself', true) is distinct from 'yes')
  execute function workerqueue.count_move('tasks');
create trigger count_changed after update of state, lane_id on workerqueue.tasks for each row
  when (current_setting('workerqueue.counts_itself', true) is distinct from 'yes')
  execute function workerqueue.count_move('tasks');
create trigger count_new after insert on workerqueue.history for each row
  when (current_setting('workerqueue.counts_itself', true) is distinct from 'yes')
  execute function workerqueue.count_move('history');
create trigger count_gone after delete on workerqueue.history for each row
  when (current_setting('workerqueue.counts_itself', true) is distinct from 'yes')
  execute function workerqueue.count_move('history');
