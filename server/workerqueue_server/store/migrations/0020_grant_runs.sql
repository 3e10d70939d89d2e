-- Granted leases, gathered in runs: what tasks share comes once.
--
-- Most of a batch's leases are alike but for token and payload: same lane, attempt, timeouts, moment of
-- creation. A row for each of them costs the server more than all else it does for a lease, so they
-- come as one row with arrays. A task that has what few have (arguments to convert, metadata, a
-- checkpoint) comes as a run of its own.

-- Grants as workerqueue.grant_leases does, for the same requests. Elements of a run's arrays belong
-- together and are in the order of lease ids; the rows are in no order.
create function workerqueue.grant_runs(p_requests jsonb)
returns table (
  request integer, place integer, lane_id integer, attempt smallint, max_attempts smallint,
  timeout_ms integer, lease_ms integer, created_at timestamptz, first_position bigint,
  last_position bigint, tokens bytea[], payloads bytea[], concurrency_keys text[], args jsonb,
  metadata jsonb, checkpoint bytea
)
language sql
-- A hashed aggregate takes its rows in the order in which grant_leases returns them, that of lease ids.
set enable_sort = off
as $$
  select g.request, g.place, g.lane_id, g.attempt, g.max_attempts, g.timeout_ms, g.lease_ms,
         g.created_at, min(g.position), max(g.position), array_agg(g.token), array_agg(g.payload),
         array_agg(g.concurrency_key) filter (where g.concurrency_key is not null),
         (array_agg(g.args) filter (where g.args is not null))[1],
         (array_agg(g.metadata) filter (where g.metadata is not null))[1],
         (array_agg(g.checkpoint) filter (where g.checkpoint is not null))[1]
    from workerqueue.grant_leases(p_requests) g
   group by g.request, g.place, g.lane_id, g.attempt, g.max_attempts, g.timeout_ms, g.lease_ms,
            g.created_at, g.concurrency_key is null,
            case when g.payload is null or g.metadata is not null or g.checkpoint is not null
                 then g.token end
$$;
