-- Bearer tokens: who may call a server that wants to know.

create table workerqueue.tokens (
  -- Random, no secret.
  token_id text collate "C" primary key,
  -- For people; not unique, so that a token can be replaced by one of the same name.
  name text not null,
  -- SHA-256 of the secret. The secret itself is stored nowhere.
  secret_hash bytea not null check (octet_length(secret_hash) = 32),
  roles text[] not null check (
    cardinality(roles) > 0 and roles <@ array['producer', 'worker', 'operator']),
  -- The scope: names, or beginnings of names followed by *. Empty: any.
  queues text[] not null default '{}',
  kinds text[] not null default '{}',
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  -- To the minute.
  last_used_at timestamptz,
  -- What operators may do concerns everybody's tasks.
  check (not roles @> array['operator'] or (queues = '{}' and kinds = '{}'))
) with (fillfactor = 70);
