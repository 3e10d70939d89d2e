-- Who is connected: servers and their workers' streams, for operators to look at and to drain.

-- Not logged: what a crash of the database empties, the servers write again within seconds.
create unlogged table workerqueue.servers (
  server_id text collate "C" primary key,
  -- The task kinds it knows.
  kinds text[] not null,
  started_at timestamptz not null,
  seen_at timestamptz not null
) with (fillfactor = 50);

create unlogged table workerqueue.worker_sessions (
  session_id text collate "C" primary key,
  server_id text collate "C" not null,
  worker_id text collate "C" not null,
  queues text[] not null,
  kinds text[] not null,
  max_in_flight integer not null,
  connected_at timestamptz not null,
  draining boolean not null
) with (fillfactor = 70);

create index worker_sessions_worker on workerqueue.worker_sessions (worker_id);

-- Workers that get no tasks, by an operator's will.
create table workerqueue.worker_drains (
  worker_id text collate "C" primary key,
  grace_ms integer not null,
  drained_at timestamptz not null,
  until timestamptz not null
);

-- A server that was not seen for so long is taken for dead.
create function workerqueue.server_patience() returns interval
language sql immutable as $$ select interval '15 seconds' $$;

-- A sign of life from a server; true if it was not known (any more), so that its sessions have to be
-- written anew. Forgets servers that are long dead.
create function workerqueue.beat(p_server text, p_kinds text[]) returns boolean
language plpgsql as $$
declare
  v_now timestamptz := clock_timestamp();
  v_known boolean;
begin
  update workerqueue.servers s set seen_at = v_now where s.server_id = p_server;
  v_known := found;
  if not v_known then
    insert into workerqueue.servers (server_id, kinds, started_at, seen_at)
    values (p_server, p_kinds, v_now, v_now)
    on conflict do nothing;
  end if;
  if exists (select from workerqueue.servers s
              where s.seen_at < v_now - 4 * workerqueue.server_patience()) then
    with dead as (
      delete from workerqueue.servers s
       where s.seen_at < v_now - 4 * workerqueue.server_patience()
      returning s.server_id
    )
    delete from workerqueue.worker_sessions w using dead where w.server_id = dead.server_id;
  end if;
  delete from workerqueue.worker_drains d where d.until <= v_now;
  return not v_known;
end
$$;

-- Sessions of servers that are alive.
create view workerqueue.live_sessions as
  select w.*
    from workerqueue.worker_sessions w
    join workerqueue.servers s using (server_id)
   where s.seen_at > clock_timestamp() - workerqueue.server_patience();

-- How many tasks each worker holds, by queue. Reads the leased tasks and no others.
create function workerqueue.held_tasks()
returns table (worker_id text, queue text, n bigint, oldest_lease_at timestamptz)
language sql stable
set enable_seqscan = off
set enable_bitmapscan = off
as $$
  select t.worker_id, l.queue, count(*), min(t.started_at)
    from workerqueue.tasks t
    join workerqueue.lanes l using (lane_id)
   where t.state = 'leased' and t.expiry_check_at > '-infinity'
   group by t.worker_id, l.queue
$$;

-- What decides whether a waiting task runs. `holders` have its concurrency key (at most 10 of
-- `held_by`); `ahead` come before it in its line (counted up to 1,000).
create function workerqueue.what_holds(p_id uuid)
returns table (
  behind uuid, holders uuid[], held_by bigint, ahead bigint, paused boolean, max_in_flight integer,
  max_in_flight_per_worker integer, in_flight bigint, kind_known boolean, now timestamptz
)
language plpgsql stable
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_task workerqueue.tasks;
  v_lane workerqueue.lanes;
begin
  select * into v_task from workerqueue.tasks t where t.id = p_id;
  if not found then
    return;
  end if;
  select * into v_lane from workerqueue.lanes l where l.lane_id = v_task.lane_id;
  behind := v_task.behind;
  select (array_agg(h.id order by h.state desc, h.priority desc))[1:10], count(*)
    into holders, held_by
    from workerqueue.tasks h
   where h.concurrency_key = v_task.concurrency_key and h.state in ('available', 'leased')
     and h.id <> p_id;
  if v_task.state = 'blocked' then
    select count(*) into ahead
      from (select from workerqueue.tasks b
             where b.concurrency_key = v_task.concurrency_key and b.state = 'blocked'
               and b.behind is null
               and (b.priority > v_task.priority
                    or b.priority = v_task.priority and b.position < v_task.position)
             limit 1000) x;
  else
    select count(*) into ahead
      from (select
              from workerqueue.lanes l
             cross join lateral (
               select from workerqueue.tasks a
                where a.lane_id = l.lane_id and a.state = 'available'
                  and (l.priority > v_lane.priority or a.position < v_task.position)
                order by a.position
                limit 1000) a
             where l.queue = v_lane.queue and l.priority >= v_lane.priority
             limit 1000) x;
  end if;
  select q.paused, q.max_in_flight, q.max_in_flight_per_worker
    into paused, max_in_flight, max_in_flight_per_worker
    from workerqueue.queues q where q.name = v_lane.queue;
  select count(*) into in_flight
    from workerqueue.tasks t where t.counted_queue = v_lane.queue;
  kind_known := exists (
    select from workerqueue.servers s
     where s.kinds @> array[v_lane.kind]
       and s.seen_at > clock_timestamp() - workerqueue.server_patience());
  now := clock_timestamp();
  return next;
end
$$;

-- The streams that take tasks of a queue and kind, and what their workers hold.
create function workerqueue.who_takes(p_queue text, p_kind text)
returns table (
  worker_id text, max_in_flight integer, draining boolean, held bigint, held_of_queue bigint
)
language sql stable as $$
  with taker as (
    select s.worker_id, sum(s.max_in_flight)::integer as max_in_flight,
           bool_and(s.draining) or exists (
             select from workerqueue.worker_drains d
              where d.worker_id = s.worker_id and d.until > clock_timestamp()) as draining
      from workerqueue.live_sessions s
     where (s.queues = '{}' or p_queue = any (s.queues))
       and (s.kinds = '{}' or p_kind = any (s.kinds))
     group by s.worker_id
  )
  select t.worker_id, t.max_in_flight, t.draining, coalesce(sum(h.n), 0)::bigint,
         coalesce(sum(h.n) filter (where h.queue = p_queue), 0)::bigint
    from taker t
    left join workerqueue.held_tasks() h on h.worker_id = t.worker_id
   group by t.worker_id, t.max_in_flight, t.draining
$$;
