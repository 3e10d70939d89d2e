-- Grants update in place.
--
-- The end of a lease was found through an index on the task, an entry for every grant. It is now found
-- through a row for up to a hundred leases of one grant, in a table of its own. See 0021.

-- When to look at leases again.
--
-- Invariant: every leased task is in `ids` of a row whose leases, first_lease to last_lease, include its
-- own, and whose check_at is not after the end that the lease had when the row was written; a heartbeat
-- moves that end later, never sooner. So no lease ends unseen. The row is written by the grant; only
-- expire_leases() changes it, and deletes it when all of its leases are over.
create table workerqueue.lease_checks (
  check_at timestamptz not null,
  first_lease bigint not null,
  last_lease bigint not null,
  ids uuid[] not null
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);

create index lease_checks_due on workerqueue.lease_checks (check_at);

-- Nobody grants from here to the end of the migration.
lock table workerqueue.tasks in access exclusive mode;

insert into workerqueue.lease_checks (check_at, first_lease, last_lease, ids)
select t.expiry_check_at, t.lease_id, t.lease_id, array[t.id]
  from workerqueue.tasks t
 where t.state = 'leased';

-- A grant of the earlier function that waits for this migration must fail, not make leases that nobody
-- watches. Its server asks again.
alter table workerqueue.tasks drop column expiry_check_at;

-- Leased tasks, found through their checks.
create view workerqueue.leased_tasks as
  select t.*
    from workerqueue.lease_checks c
    join workerqueue.tasks t
      on t.id = any (c.ids) and t.lease_id between c.first_lease and c.last_lease;

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
      )
      update workerqueue.tasks t
         set state = 'leased', attempt = t.attempt + 1,
             lease_id = (select b.id from base b) | (v_granted + c.rank), started_at = v_now,
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
        exit when not v_shares.more or v_taken = r.wanted or v_ahead >= r.wanted;
        -- What was looked at did not do: now as far as it takes.
        v_ahead := r.wanted;
      end loop;
    end if;
  end loop;
end
$$;

-- A queue without limits marks no leases as counted. When it gets a limit, those that run count too.
create or replace function workerqueue.count_running_leases() returns trigger
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
     where t.id = any (array(
             select h.id
               from workerqueue.leased_tasks h
               join workerqueue.lanes l on l.lane_id = h.lane_id and l.queue = new.name))
       and t.state::text = 'leased' and t.counted_queue is null
     order by t.id
       for update
  )
  update workerqueue.tasks t
     set counted_queue = new.name
    from running r
   where t.id = any (array[r.id]);
  return null;
end
$$;

-- Ends up to p_limit leases whose clock has passed: lost (no heartbeat) or timed out (attempt
-- deadline). Checks whose leases are all over are deleted, the others moved on to the next end. A row,
-- even one without tokens, says that there may be more to look at.
create or replace function workerqueue.expire_leases(p_limit integer)
returns table (
  tokens bytea[], timed_out boolean[], lanes integer[], positions bigint[], freed_queues text[],
  wait_ms double precision
)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  -- How many checks one call makes.
  c_checks constant integer := 50;
  -- When to look again at what could not be locked.
  c_again constant interval := '100 milliseconds';
  v_now timestamptz := clock_timestamp();
  v_ids uuid[];
  v_tokens bytea[];
  v_timed_out boolean[];
  v_keys text[];
  v_freed text[];
  v_wait_ms double precision;
  v_holders uuid[];
  v_lanes integer[];
  v_positions bigint[];
  v_looked bigint;
begin
  -- A task whose row somebody has locked is left to the next look.
  with due as materialized (
    select c.ctid, c.first_lease, c.last_lease, c.ids
      from workerqueue.lease_checks c
     where c.check_at <= v_now
     order by c.check_at
     limit c_checks
       for update skip locked
  ), held as materialized (
    select d.ctid as check_row, t.id, t.lease_id, t.lease_expires_at as ends_at
      from due d
      join workerqueue.tasks t
        on t.id = any (d.ids) and t.lease_id between d.first_lease and d.last_lease
  ), over as materialized (
    select t.id, t.lease_id, t.attempt_deadline, t.concurrency_key, t.counted_queue, t.job_key
      from (select h.id, h.lease_id from held h where h.ends_at <= v_now
             order by h.ends_at limit p_limit) h
      join workerqueue.tasks t
        on t.id = any (array[h.id]) and t.lease_id = h.lease_id and t.lease_expires_at <= v_now
       for update of t skip locked
  ), kept as materialized (
    select h.check_row, array_agg(h.id) as ids,
           case when min(h.ends_at) > v_now then min(h.ends_at) else v_now + c_again end as check_at
      from held h
     where h.lease_id not in (select o.lease_id from over o)
     group by h.check_row
  ), moved as (
    update workerqueue.lease_checks c
       set check_at = k.check_at, ids = k.ids
      from kept k
     where c.ctid = k.check_row
  ), gone as (
    delete from workerqueue.lease_checks c
     using due d
     where c.ctid = d.ctid and d.ctid not in (select k.check_row from kept k)
  )
  select array_agg(o.id), array_agg(uuid_send(o.id) || int8send(o.lease_id)),
         array_agg(o.attempt_deadline <= v_now),
         array_agg(o.concurrency_key) filter (where o.concurrency_key is not null),
         array_agg(distinct o.counted_queue) filter (where o.counted_queue is not null),
         array_agg(o.id) filter (where o.job_key is not null),
         (select count(*) from due)
    into v_ids, v_tokens, v_timed_out, v_keys, v_freed, v_holders, v_looked
    from over o;
  if v_ids is null then
    if v_looked = c_checks then
      return query
      select '{}'::bytea[], '{}'::boolean[], null::integer[], null::bigint[], null::text[],
             null::double precision;
    end if;
    return;
  end if;

  perform workerqueue.end_attempts(
    v_ids,
    array(select case when x then 'timed_out' else 'lost' end::workerqueue.attempt_outcome
            from unnest(v_timed_out) with ordinality u(x, n) order by n),
    array(select case when x
                 then '{"type": "AttemptTimedOut", "message": "The attempt ran into its timeout."}'
                 else '{"type": "LeaseExpired", "message": "No heartbeat came within the lease duration."}'
                 end::jsonb
            from unnest(v_timed_out) with ordinality u(x, n) order by n),
    array_fill(null::bigint, array[cardinality(v_ids)]),
    array_fill(false, array[cardinality(v_ids)]), v_now);
  select extract(epoch from min(t.run_at) - clock_timestamp()) * 1000 into v_wait_ms
    from workerqueue.tasks t
   where t.id = any (v_ids);

  if v_holders is not null then
    select array_agg(p.lane_id) filter (where p.lane_id is not null),
           array_agg(p.position) filter (where p.lane_id is not null),
           v_keys || array_agg(p.concurrency_key) filter (where p.concurrency_key is not null)
      into v_lanes, v_positions, v_keys
      from workerqueue.let_pass(v_holders) p;
  end if;

  return query
  select v_tokens, v_timed_out, v_lanes || array_agg(r.lane_id),
         v_positions || array_agg(r.position), v_freed, v_wait_ms
    from (select a.lane_id, min(a.position) as position
            from workerqueue.admit(coalesce(v_keys, '{}')) a
           where v_keys is not null
           group by a.lane_id) r;
end
$$;

-- Goes through tasks in descending order of ids; the filter's fields are told where this was first made
-- (0014).
create or replace function workerqueue.scan_tasks(
  p_before uuid, p_filter jsonb, p_wanted integer, p_scan integer
) returns table (ids uuid[], bytes bigint[], examined integer, last_id uuid)
language plpgsql stable
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set max_parallel_workers_per_gather = 0
set jit = off
as $$
declare
  f record;
  v_lanes integer[];
  v_live constant text := 'select t.id, t.state, t.lane_id, t.concurrency_key, t.job_key, '
    't.worker_id, t.tags, t.created_at, null::timestamptz as finished_at, t.last_error, t.payload, '
    't.args, t.checkpoint, null::bytea as result from workerqueue.tasks t '
    'where ($1 is null or t.id < $1)';
  v_leased constant text := replace(v_live, 'workerqueue.tasks', 'workerqueue.leased_tasks');
  v_finished constant text := 'select h.id, h.state, h.lane_id, h.concurrency_key, h.job_key, '
    'h.worker_id, h.tags, h.created_at, h.finished_at, h.last_error, h.payload, h.args, '
    'h.checkpoint, h.result from workerqueue.history h where ($1 is null or h.id < $1)';
  v_sources text[] := '{}';
  v_chunk integer := least(p_scan, 2 * p_wanted);
  v_found record;
begin
  select * into f from jsonb_to_record(p_filter) as x(
    states workerqueue.task_state[], queues text[], kinds text[], tags text[],
    concurrency_key text, job_key text, worker_id text, error_type text,
    created_after timestamptz, created_before timestamptz,
    finished_after timestamptz, finished_before timestamptz);
  if f.queues is not null or f.kinds is not null then
    select coalesce(array_agg(l.lane_id), '{}') into v_lanes
      from workerqueue.lanes l
     where (f.queues is null or l.queue = any (f.queues))
       and (f.kinds is null or l.kind = any (f.kinds));
  end if;

  if f.finished_after is null and f.finished_before is null
     and (f.states is null or 'succeeded' > any (f.states)) then
    v_sources := v_sources || case
      -- Few by nature and reached by an index, so they are all read, whatever else is in the table.
      when f.job_key is not null then
        format('select * from (%1$s and t.job_key = %2$L and t.behind is null '
               'union all %1$s and t.job_key = %2$L and t.behind is not null) j',
               v_live, f.job_key)
      when f.states = '{leased}' then
        format('select * from (%s offset 0) l', v_leased)
      else v_live end;
  end if;
  if f.states is null or 'succeeded' <= any (f.states) then
    v_sources := v_sources || case
      when f.states is null or 'succeeded' = any (f.states) then v_finished
      else format('%s and h.state <> %L', v_finished, 'succeeded') end;
  end if;

  ids := '{}';
  bytes := '{}';
  examined := 0;
  if v_sources = '{}' or v_lanes = '{}' then
    return next;
    return;
  end if;
  last_id := p_before;
  -- Chunks grow, so that a page that fills soon reads little and one that does not fill reads fast.
  loop
    execute format($query$
      with part as materialized (
        select u.id,
               ($2 is null or u.state = any ($2)) and ($3 is null or u.lane_id = any ($3))
               and ($4 is null or u.concurrency_key = $4) and ($5 is null or u.job_key = $5)
               and ($6 is null or u.worker_id = $6)
               and ($7 is null or u.last_error ->> 'type' = $7)
               and ($8 is null or u.tags @> $8)
               and ($9 is null or u.created_at >= $9) and ($10 is null or u.created_at < $10)
               and ($11 is null or u.finished_at >= $11)
               and ($12 is null or u.finished_at < $12) as fits,
               coalesce(octet_length(u.payload), 0) + coalesce(pg_column_size(u.args), 0)
               + coalesce(octet_length(u.checkpoint), 0) + coalesce(octet_length(u.result), 0)
                 as bytes
          from (%s) u
      ), placed as (
        select p.*, row_number() over (order by p.id desc) as place from part p
      ), seen as materialized (
        select * from placed p where p.place <= $13
      ), hit as materialized (
        select s.*, row_number() over (order by s.place) as n from seen s where s.fits
      )
      select (select array_agg(h.id order by h.n) from hit h where h.n <= $14) as ids,
             (select array_agg(h.bytes::bigint order by h.n) from hit h where h.n <= $14) as bytes,
             (select h.place from hit h where h.n = $14) as full_at,
             (select count(*) from seen) as n,
             (select s.id from seen s order by s.place desc limit 1) as last_id
      $query$,
      (select string_agg(format('(select * from (%s) s order by s.id desc limit $13)', q),
                         ' union all ')
         from unnest(v_sources) q))
      into v_found
      using last_id, f.states, v_lanes, f.concurrency_key, f.job_key, f.worker_id, f.error_type,
            f.tags, f.created_after, f.created_before, f.finished_after, f.finished_before,
            v_chunk, p_wanted - cardinality(ids);
    ids := ids || v_found.ids;
    bytes := bytes || v_found.bytes;
    if v_found.full_at is not null then
      examined := examined + v_found.full_at;
      last_id := ids[p_wanted];
      exit;
    end if;
    examined := examined + v_found.n;
    last_id := case when v_found.n = v_chunk then v_found.last_id end;
    exit when last_id is null or examined >= p_scan;
    v_chunk := least(4 * v_chunk, p_scan - examined);
  end loop;
  return next;
end
$$;

-- How many tasks each worker holds, by queue. Reads the leased tasks and no others.
create or replace function workerqueue.held_tasks()
returns table (worker_id text, queue text, n bigint, oldest_lease_at timestamptz)
language sql stable
set enable_seqscan = off
set enable_bitmapscan = off
as $$
  select t.worker_id, l.queue, count(*), min(t.started_at)
    from workerqueue.leased_tasks t
    join workerqueue.lanes l using (lane_id)
   group by t.worker_id, l.queue
$$;
