-- Tokens, the newest first; without %(all)s those that can be used.
select token_id, name, roles, queues, kinds, created_at, expires_at, revoked_at, last_used_at,
       case when revoked_at is not null then 'revoked'
            when expires_at <= clock_timestamp() then 'expired'
            else 'active' end as state
  from workerqueue.tokens
 where %(all)s or (revoked_at is null and (expires_at is null or expires_at > clock_timestamp()))
 order by created_at desc, token_id
