-- Stores a new token.
insert into workerqueue.tokens (token_id, name, secret_hash, roles, queues, kinds, expires_at)
values (%(token_id)s, %(name)s, %(secret_hash)s, %(roles)s, %(queues)s, %(kinds)s,
        clock_timestamp() + %(seconds)s * interval '1 second')
returning expires_at
