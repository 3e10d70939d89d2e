-- Grants from several queues take as much from each without looking at their tasks first.

-- How to take p_wanted tasks from lanes of different queues if all of them have enough: as many from
-- each, the first ones one more. What share_lanes says, without its look at the tasks, which costs as
-- much as the grant. `more` says that, if some had less, others may have more. `lanes` is null where a
-- queue has several lanes, or where each lane's part is so small that many will have less.
create function workerqueue.share_evenly(
  p_lanes integer[], p_cursors bigint[], p_wanted integer,
  out lanes integer[], out cursors bigint[], out counts bigint[], out more boolean
) language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  c_least constant integer := 8;
  v_lanes constant integer := cardinality(p_lanes);
begin
  more := v_lanes > 1;
  if more then
    if p_wanted < c_least * v_lanes then
      return;
    end if;
    if v_lanes > (
      select count(distinct l.queue)
        from unnest(p_lanes) a(id)
        join workerqueue.lanes l on l.lane_id = a.id)
    then
      return;
    end if;
  end if;
  lanes := p_lanes;
  cursors := p_cursors;
  counts := array(
    select (p_wanted / v_lanes + (n.place <= p_wanted % v_lanes)::integer)::bigint
      from generate_series(1, v_lanes) n(place)
     order by n.place);
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
  v_granted integer := 0;
  v_rows integer;
  v_now timestamptz;
  v_special boolean;
  v_shares record;
  -- How far the lanes are looked at: 'none', 'short', 'far'.
  v_look text;
  -- How many tasks the request has got, and how many it still wants.
  v_taken integer;
  v_wanted integer;
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
    v_taken := 0;
    -- First without a look, where that can do; then after a short look, then as far as it takes.
    v_look := case when v_special then 'short' else 'none' end;
    loop
      if v_look = 'none' then
        v_shares := workerqueue.share_evenly(r.lanes, r.cursors, r.wanted);
      else
        v_wanted := r.wanted - v_taken;
        v_shares := workerqueue.share_lanes(
          r.lanes, r.cursors, case when r.single then r.workers[1] end, v_wanted,
          case when v_look = 'far' then v_wanted
               else greatest(4, 2 * ceil(v_wanted::numeric / cardinality(r.lanes)))::integer end,
          v_now);
      end if;
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
      ), base as materialized (
        -- After all rows are locked: whoever had one before took its number before.
        select nextval('workerqueue.lease_seq') << 20 as id from (select count(*) from candidate) locked
      ), watched as (
        insert into workerqueue.lease_checks (check_at, first_lease, last_lease, ids)
        select v_now + least(min(c.lasts_ms), c_first_check_ms) * interval '1 millisecond',
               (select b.id from base b) | (v_granted + min(c.rank)),
               (select b.id from base b) | (v_granted + max(c.rank)),
               array_agg(c.id)
          from candidate c
         group by c.rank / c_watched_together
      ), granted as (
        update workerqueue.tasks t
           set state = 'leased', attempt = t.attempt + 1,
               lease_id = (select b.id from base b) | (v_granted + c.rank), started_at = v_now,
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
      exit when v_look = 'far' or not v_shares.more or v_taken = r.wanted;
      v_look := case v_look when 'none' then 'short' else 'far' end;
    end loop;
  end loop;
end
$$;