-- The tokens of these ids that exist. How long each is good is told in seconds: only the database's
-- clock counts.
select token_id, name, secret_hash, roles, queues, kinds, revoked_at is not null as revoked,
       extract(epoch from expires_at - clock_timestamp())::double precision as seconds_left
  from workerqueue.tokens
 where token_id = any (%(token_ids)s)
