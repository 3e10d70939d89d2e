-- Grants from many lanes look no further ahead than they need to.
--
-- A request that reads several lanes used to look at as many tasks in each as it wanted in all: thirty-two
-- times too many where every lane has enough.

-- How many tasks a request takes from which lanes: `lanes` (null: none), with their cursors and counts.
-- Looks at p_ahead tasks of each lane. In a queue the order is that of priority and position over all of
-- its lanes, so what comes after the last task looked at in a lane that has more is left for another
-- look; `more` says that there is something of that kind. p_worker is null where tasks are shared among
-- workers: then queues that limit each worker are skipped. Without locks, so others may take what is
-- found here.
create function workerqueue.share_lanes(
  p_lanes integer[], p_cursors bigint[], p_worker text, p_wanted integer, p_ahead integer,
  p_now timestamptz, out lanes integer[], out cursors bigint[], out counts bigint[], out more boolean
) language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  with lane as (
    select w.id, w.read_to, w.turn, l.queue, l.priority, allowed.n as allowed,
           least(allowed.n, p_ahead) as looked_at
      from rows from (unnest(p_lanes), unnest(p_cursors)) with ordinality w(id, read_to, turn)
      join workerqueue.lanes l on l.lane_id = w.id
      join workerqueue.queues q on q.name = l.queue
     cross join lateral (
       select least(
         p_wanted,
         case when q.max_in_flight is not null then greatest(0, q.max_in_flight - (
           select count(*) from workerqueue.tasks t where t.counted_queue = q.name)) end,
         case when q.max_in_flight_per_worker is null then null
              when p_worker is not null then greatest(0, q.max_in_flight_per_worker - (
                select count(*) from workerqueue.tasks t
                 where t.counted_queue = q.name and t.counted_worker = p_worker))
              else 0 end)::integer as n
       -- Keeps the counts from being made once more for the condition below.
       offset 0) allowed
     where not q.paused and allowed.n > 0
  ), seen as (
    select lane.*, p.position, p.place = lane.looked_at and lane.looked_at < lane.allowed as has_more
      from lane
     cross join lateral (
       select t.position, row_number() over (order by t.position) as place
         from workerqueue.tasks t
        where t.lane_id = lane.id and t.phase = 'ready' and t.state = 'available'
          and t.position > lane.read_to
          and (t.expire_at is null or t.expire_at > p_now or t.attempt > 0)
        order by t.position
        limit lane.looked_at) p
  ), ahead as (
    select s.*, row_number() over in_order as queue_rank,
           min(s.turn) over (partition by s.queue) as queue_turn,
           coalesce(bool_or(s.has_more) over (
             in_order rows between unbounded preceding and 1 preceding), false) as is_unsure
      from seen s
    window in_order as (partition by s.queue order by s.priority desc, s.position)
  ), share as (
    select t.id, t.read_to, count(*) as n
      from (
        select a.id, a.read_to
          from ahead a
         where a.queue_rank <= a.allowed and not a.is_unsure
         order by a.queue_rank, a.queue_turn
         limit p_wanted) t
     group by t.id, t.read_to
  )
  select array_agg(s.id), array_agg(s.read_to), array_agg(s.n),
         (select coalesce(bool_or(a.has_more), false) from ahead a)
    into lanes, cursors, counts, more
    from share s;
end
$$;

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
create or replace function workerqueue.grant_leases(p_requests jsonb)
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
  -- Most tasks are finished sooner, and need no second look.
  c_first_check_ms constant integer := 5000;
  -- So many ids fit in a row that is not stored elsewhere (TOAST).
  c_watched_together constant integer := 100;
  r record;
  v_base bigint := nextval('workerqueue.lease_seq') << 20;
  v_granted integer := 0;
  v_rows integer;
  v_now timestamptz;
  v_special boolean;
  v_shares record;
  -- How many tasks of each lane are looked at, and how many the request has got so far.
  v_ahead integer;
  v_taken integer;
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
        select c.ctid, c.id, c.lasts_ms, row_number() over ()::integer as rank
          from (
            select t.ctid, t.id,
                   least(t.timeout_ms, coalesce(r.lease_ms, t.lease_duration_ms)) as lasts_ms
              from workerqueue.tasks t
             where t.lane_id = r.lanes[1] and t.phase = 'ready' and t.state = 'available'
               and t.position > r.cursors[1]
               and (t.expire_at is null or t.expire_at > v_now or t.attempt > 0)
             order by t.position
             limit r.wanted
               for update skip locked) c
      ), watched as (
        insert into workerqueue.lease_checks (check_at, first_lease, last_lease, ids)
        select v_now + least(min(c.lasts_ms), c_first_check_ms) * interval '1 millisecond',
               v_base | (v_granted + min(c.rank)), v_base | (v_granted + max(c.rank)),
               array_agg(c.id)
          from candidate c
         group by c.rank / c_watched_together
      )
      update workerqueue.tasks t
         set state = 'leased', attempt = t.attempt + 1,
             lease_id = v_base | (v_granted + c.rank), started_at = v_now,
             worker_id = r.workers[coalesce(r.places[c.rank], 0) + 1],
             granted_lease_ms = coalesce(r.lease_ms, t.lease_duration_ms),
             attempt_deadline = v_now + t.timeout_ms * interval '1 millisecond',
             lease_expires_at = v_now + c.lasts_ms * interval '1 millisecond'
        from candidate c
       where t.ctid = c.ctid
      returning r.number, coalesce(r.places[c.rank], 0), uuid_send(t.id) || int8send(t.lease_id), t.lane_id,
        t.position, t.attempt, t.max_attempts, t.timeout_ms, t.granted_lease_ms, t.created_at,
        t.payload, t.args, t.concurrency_key, t.metadata, t.checkpoint;
      get diagnostics v_rows = row_count;
      v_granted := v_granted + v_rows;
      if v_rows > 0 then
        insert into workerqueue.task_flows (lane_id, left_state, entered_state, n)
        values (r.lanes[1], 'available', 'leased', v_rows);
      end if;
    else
      v_taken := 0;
      v_ahead := greatest(4, 2 * ceil(r.wanted::numeric / cardinality(r.lanes)))::integer;
      loop
        v_shares := workerqueue.share_lanes(
          r.lanes, r.cursors, case when r.single then r.workers[1] end, r.wanted - v_taken, v_ahead,
          v_now);
        exit when v_shares.lanes is null;
        return query
        with candidate as materialized (
          select c.ctid, c.id, c.lasts_ms, l.queue,
                 q.max_in_flight is not null or q.max_in_flight_per_worker is not null as counted,
                 row_number() over (order by l.priority desc, c.position)::integer as rank
            from rows from (
                   unnest(v_shares.lanes), unnest(v_shares.cursors), unnest(v_shares.counts))
                 share(id, read_to, n)
            join workerqueue.lanes l on l.lane_id = share.id
            join workerqueue.queues q on q.name = l.queue
           cross join lateral (
             select t.ctid, t.position, t.id,
                    least(t.timeout_ms, coalesce(r.lease_ms, t.lease_duration_ms)) as lasts_ms
               from workerqueue.tasks t
              where t.lane_id = share.id and t.phase = 'ready' and t.state = 'available'
                 and t.position > share.read_to
                and (t.expire_at is null or t.expire_at > v_now or t.attempt > 0)
              order by t.position
              limit share.n
                for update skip locked) c
        ), watched as (
          insert into workerqueue.lease_checks (check_at, first_lease, last_lease, ids)
          select v_now + least(min(c.lasts_ms), c_first_check_ms) * interval '1 millisecond',
                 v_base | (v_granted + min(c.rank)), v_base | (v_granted + max(c.rank)),
                 array_agg(c.id)
            from candidate c
           group by c.rank / c_watched_together
        ), granted as (
          update workerqueue.tasks t
             set state = 'leased', attempt = t.attempt + 1,
                 lease_id = v_base | (v_granted + c.rank), started_at = v_now,
                 worker_id = r.workers[coalesce(r.places[v_taken + c.rank], 0) + 1],
                 counted_queue = case when c.counted then c.queue end,
                 granted_lease_ms = coalesce(r.lease_ms, t.lease_duration_ms),
                 attempt_deadline = v_now + t.timeout_ms * interval '1 millisecond',
                 lease_expires_at = v_now + c.lasts_ms * interval '1 millisecond'
            from candidate c
           where t.ctid = c.ctid
          returning r.number, coalesce(r.places[v_taken + c.rank], 0),
            uuid_send(t.id) || int8send(t.lease_id), t.lane_id, t.position, t.attempt,
            t.max_attempts, t.timeout_ms, t.granted_lease_ms, t.created_at, t.payload, t.args,
            t.concurrency_key, t.metadata, t.checkpoint
        ), flow as (
          insert into workerqueue.task_flows (lane_id, left_state, entered_state, n)
          select g.lane_id, 'available', 'leased', count(*) from granted g group by g.lane_id
        )
        select * from granted;
        get diagnostics v_rows = row_count;
        v_granted := v_granted + v_rows;
        v_taken := v_taken + v_rows;
        exit when not v_shares.more or v_taken = r.wanted or v_ahead >= r.wanted;
        -- What was looked at did not do: now as far as it takes.
        v_ahead := r.wanted;
      end loop;
    end if;
  end loop;
end
$$;
