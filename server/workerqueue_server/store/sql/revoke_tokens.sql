-- Revokes tokens and tells the servers, with the commit; the ids of those that exist, whether or not
-- they were revoked before.
with revoked as (
  update workerqueue.tokens
     set revoked_at = coalesce(revoked_at, clock_timestamp())
   where token_id = any (%(token_ids)s)
  returning token_id
), told as (
  select pg_notify(%(channel)s, '{"signals":["tokens"]}') from (select from revoked limit 1) any_row
)
select token_id from revoked left join told on true
