-- Leases: granting them, and the limits that count them.

-- Grants leases for a list of requests in one transaction. p_requests is a JSON array of
--   lanes, cursors   the lanes to read and the last position already read in each
--   workers          worker ids; the i-th task goes to workers[places[i]] (counted from 0), and all
--                    to the first where places is null
--   wanted           the most tasks this request may take
--   lease_ms         the stream's own lease duration, or null
--
-- Order: inside a queue larger priority first, then position; between queues in turn, starting where
-- the caller's order of lanes starts. Limits are counted here, in the granting transaction, from the
-- leases themselves: the advisory locks make grants from one limited queue (and grants to one worker
-- from it) take turns across servers, and the count that follows has a snapshot taken after the lock.
-- So no counter exists that could drift. A request with several workers skips queues that limit per
-- worker; the caller sends those one worker at a time.
create function workerqueue.grant_leases(p_requests jsonb)
returns table (
  request integer, place integer, token bytea, lane_id integer, "position" bigint,
  attempt smallint, max_attempts smallint, timeout_ms integer, lease_ms integer,
  created_at timestamptz, payload bytea, args jsonb, concurrency_key text, metadata jsonb,
  checkpoint bytea
)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set workerqueue.counts_itself = 'yes'
as $$
declare
  r record;
  v_base bigint := nextval('workerqueue.lease_seq') << 20;
  v_granted integer := 0;
  v_rows integer;
  v_now timestamptz;
  v_special boolean;
begin
  -- Whoever pauses or limits a queue takes this lock alone: when that is done, every grant either has
  -- committed (and its leases are counted) or sees the change.
  perform pg_advisory_xact_lock_shared(7706, 0);

  -- Queues that limit or pause, among those asked for: usually none.
  select exists (
    select
      from workerqueue.queues q
     where (q.paused or q.max_in_flight is not null or q.max_in_flight_per_worker is not null)
       and q.name in (
         select l.queue from jsonb_array_elements(p_requests) e,
                jsonb_array_elements_text(e -> 'lanes') a(id)
           join workerqueue.lanes l on l.lane_id = a.id::integer)
  ) into v_special;

  if v_special then
    perform pg_advisory_xact_lock(lock.class, lock.key) from (
      select distinct
             case when q.max_in_flight is not null then 7702 else 7703 end as class,
             case when q.max_in_flight is not null then hashtext(q.name)
                  else hashtext(w.id || ' ' || q.name) end as key
        from jsonb_array_elements(p_requests) e
       cross join jsonb_array_elements_text(e -> 'lanes') a(id)
       cross join jsonb_array_elements_text(e -> 'workers') w(id)
        join workerqueue.lanes l on l.lane_id = a.id::integer
        join workerqueue.queues q on q.name = l.queue
       where q.max_in_flight is not null or q.max_in_flight_per_worker is not null
       order by 1, 2) lock;
  end if;
  v_now := clock_timestamp();

  for r in
    select row_number() over ()::integer - 1 as number, x.lanes, x.cursors, x.workers, x.places,
           x.lease_ms, x.wanted, cardinality(x.workers) = 1 as single
      from jsonb_to_recordset(p_requests) as x(
             lanes integer[], cursors bigint[], workers text[], wanted integer, places integer[],
             lease_ms integer)
  loop
    if not v_special and cardinality(r.lanes) = 1 then
      return query
      with candidate as materialized (
        select c.ctid, row_number() over ()::integer as rank
          from (
            select t.ctid
              from workerqueue.tasks t
             where t.lane_id = r.lanes[1] and t.state = 'available'
               and t.position > r.cursors[1]
               and (t.expire_at is null or t.expire_at > v_now or t.attempt > 0)
             order by t.position
             limit r.wanted
               for update skip locked) c
      )
      update workerqueue.tasks t
         set state = 'leased', attempt = t.attempt + 1,
             lease_id = v_base | (v_granted + c.rank), started_at = v_now,
             worker_id = r.workers[coalesce(r.places[c.rank], 0) + 1],
             granted_lease_ms = coalesce(r.lease_ms, t.lease_duration_ms),
             attempt_deadline = v_now + t.timeout_ms * interval '1 millisecond',
             lease_expires_at = v_now + least(
               t.timeout_ms, coalesce(r.lease_ms, t.lease_duration_ms)) * interval '1 millisecond',
             expiry_check_at = v_now + least(
               t.timeout_ms, coalesce(r.lease_ms, t.lease_duration_ms)) * interval '1 millisecond'
        from candidate c
       where t.ctid = c.ctid
      returning r.number, coalesce(r.places[c.rank], 0), uuid_send(t.id) || int8send(t.lease_id), t.lane_id,
        t.position, t.attempt, t.max_attempts, t.timeout_ms, t.granted_lease_ms, t.created_at,
        t.payload, t.args, t.concurrency_key, t.metadata, t.checkpoint;
      get diagnostics v_rows = row_count;
      if v_rows > 0 then
        insert into workerqueue.task_flows (lane_id, left_state, entered_state, n)
        values (r.lanes[1], 'available', 'leased', v_rows);
      end if;
    else
      return query
      with lane as (
        select w.id, w.read_to, w.turn, l.queue, l.priority, allowed.n as allowed,
               q.max_in_flight is not null or q.max_in_flight_per_worker is not null as counted
          from rows from (unnest(r.lanes), unnest(r.cursors)) with ordinality w(id, read_to, turn)
          join workerqueue.lanes l on l.lane_id = w.id
          join workerqueue.queues q on q.name = l.queue
         cross join lateral (
           select least(
             r.wanted,
             case when q.max_in_flight is not null then greatest(0, q.max_in_flight - (
               select count(*) from workerqueue.tasks t where t.counted_queue = q.name)) end,
             case when q.max_in_flight_per_worker is null then null
                  when r.single then greatest(0, q.max_in_flight_per_worker - (
                    select count(*) from workerqueue.tasks t
                     where t.counted_queue = q.name and t.worker_id = r.workers[1]))
                  else 0 end)::integer as n
           -- Keeps the counts from being made once more for the condition below.
           offset 0) allowed
         where not q.paused and allowed.n > 0
      ), ahead as (
        select lane.id, lane.read_to, lane.turn, lane.allowed, lane.counted, lane.queue,
               lane.priority,
               row_number() over (
                 partition by lane.queue order by lane.priority desc, p.position) as queue_rank,
               min(lane.turn) over (partition by lane.queue) as queue_turn
          from lane
         cross join lateral (
           select t.position
             from workerqueue.tasks t
            where t.lane_id = lane.id and t.state = 'available' and t.position > lane.read_to
              and (t.expire_at is null or t.expire_at > v_now or t.attempt > 0)
            order by t.position
            limit lane.allowed) p
      ), share as (
        select s.id, s.read_to, s.counted, s.queue, s.priority, count(*) as n
          from (
            select * from ahead a
             where a.queue_rank <= a.allowed
             order by a.queue_rank, a.queue_turn
             limit r.wanted) s
         group by s.id, s.read_to, s.counted, s.queue, s.priority
      ), candidate as materialized (
        select c.ctid, share.counted, share.queue,
               row_number() over (order by share.priority desc, c.position)::integer as rank
          from share
         cross join lateral (
           select t.ctid, t.position
             from workerqueue.tasks t
            where t.lane_id = share.id and t.state = 'available' and t.position > share.read_to
              and (t.expire_at is null or t.expire_at > v_now or t.attempt > 0)
            order by t.position
            limit share.n
              for update skip locked) c
      ), granted as (
        update workerqueue.tasks t
           set state = 'leased', attempt = t.attempt + 1,
               lease_id = v_base | (v_granted + c.rank), started_at = v_now,
               worker_id = r.workers[coalesce(r.places[c.rank], 0) + 1],
               counted_queue = case when c.counted then c.queue end,
               granted_lease_ms = coalesce(r.lease_ms, t.lease_duration_ms),
               attempt_deadline = v_now + t.timeout_ms * interval '1 millisecond',
               lease_expires_at = v_now + least(
                 t.timeout_ms, coalesce(r.lease_ms, t.lease_duration_ms)) * interval '1 millisecond',
               expiry_check_at = v_now + least(
                 t.timeout_ms, coalesce(r.lease_ms, t.lease_duration_ms)) * interval '1 millisecond'
          from candidate c
         where t.ctid = c.ctid
        returning r.number, coalesce(r.places[c.rank], 0),
          uuid_send(t.id) || int8send(t.lease_id), t.lane_id, t.position, t.attempt,
          t.max_attempts, t.timeout_ms, t.granted_lease_ms, t.created_at, t.payload, t.args,
          t.concurrency_key, t.metadata, t.checkpoint
      ), flow as (
        insert into workerqueue.task_flows (lane_id, left_state, entered_state, n)
        select g.lane_id, 'available', 'leased', count(*) from granted g group by g.lane_id
      )
      select * from granted;
      get diagnostics v_rows = row_count;
    end if;
    v_granted := v_granted + v_rows;
  end loop;
end
$$;

-- Changes of a queue that grants must not overlook wait for the grants under way, and hold up new ones
-- until their transaction ends.
create function workerqueue.hold_grants() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock(7706, 0);
  return null;
end
$$;

create trigger queues_change_begins
  before update of max_in_flight, max_in_flight_per_worker, paused on workerqueue.queues
  for each statement
  execute function workerqueue.hold_grants();

-- A queue without limits marks no leases as counted. When it gets a limit, those that run count too.
create function workerqueue.count_running_leases() returns trigger
language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  -- Locked in the order of ids, as by everybody who locks several tasks.
  with running as materialized (
    select t.id
      from workerqueue.tasks t
      join workerqueue.lanes l on l.lane_id = t.lane_id and l.queue = new.name
     where t.state = 'leased' and t.counted_queue is null
     order by t.id
       for update of t
  )
  update workerqueue.tasks t
     set counted_queue = new.name
    from running r
   where t.id = any (array[r.id]);
  return null;
end
$$;

create trigger queues_limited
  after update of max_in_flight, max_in_flight_per_worker on workerqueue.queues
  for each row
  when (old.max_in_flight is null and old.max_in_flight_per_worker is null
        and (new.max_in_flight is not null or new.max_in_flight_per_worker is not null))
  execute function workerqueue.count_running_leases();
