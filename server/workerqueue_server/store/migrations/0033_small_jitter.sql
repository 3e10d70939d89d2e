-- A jitter of next to nothing is none.
--
-- The product of a double near zero and a share of one is an error in PostgreSQL, not zero, and it failed
-- the statement for all tasks of its batch.

-- Waiting time in milliseconds before the attempt after p_attempt. Without a policy it is
-- exp(min(attempt, 10)) seconds with 10 % jitter, graphile-worker's and trigger.dev's curve.
create or replace function workerqueue.backoff_ms(p_attempt integer, p_policy double precision[])
returns bigint language sql volatile as $$
  select case
    when p_policy is null then
      exp(least(p_attempt, 10)) * 1000 * (0.9 + 0.2 * random())
    else
      -- The exponent is cut off where a double would overflow; the longest wait is far below.
      least(p_policy[3], p_policy[1] * exp(least((p_attempt - 1) * ln(p_policy[2]), 600)))
        * (1 + case when p_policy[4] < 1e-9 then 0 else p_policy[4] end * (2 * random() - 1))
  end::bigint
$$;
