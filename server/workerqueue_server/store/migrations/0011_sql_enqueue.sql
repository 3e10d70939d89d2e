-- Enqueue by SQL: inside the caller's transaction, in any language, with the rules of the RPC.
--
-- What the functions here leave to the servers, because the caller's transaction may stay open for
-- hours and nobody may have to wait for it:
--   * concurrency keys: a task with one is stored as blocked and admitted after the commit
--   * the queue's row: a server makes it when it learns of the lane
--   * the payload: the JSON form is converted, and its rules checked, when the task is leased
-- Row locks are taken on waiting tasks with the same job key only. Servers are woken by one
-- notification per call, which Postgres sends at the commit.

create function workerqueue.refuse_option(p_field text, p_message text) returns void
language plpgsql as $$
begin
  raise exception using errcode = 'invalid_parameter_value',
    message = format('workerqueue: %s: %s', p_field, p_message);
end
$$;

-- A whole number within limits; null stays null.
create function workerqueue.option_number(p_field text, p_value jsonb, p_low bigint, p_high bigint)
returns bigint
language plpgsql as $$
declare
  v_number numeric;
begin
  if p_value is null or p_value = 'null' then
    return null;
  end if;
  if jsonb_typeof(p_value) <> 'number' or (p_value #>> '{}')::numeric % 1 <> 0 then
    perform workerqueue.refuse_option(p_field, 'must be a whole number, not ' || p_value::text);
  end if;
  v_number := (p_value #>> '{}')::numeric;
  if v_number not between p_low and p_high then
    perform workerqueue.refuse_option(
      p_field, format('must be %s to %s, not %s', p_low, p_high, v_number));
  end if;
  return v_number;
end
$$;

-- A share or factor within limits; null stays null.
create function workerqueue.option_share(
  p_field text, p_value jsonb, p_low double precision, p_high double precision
) returns double precision
language plpgsql as $$
begin
  if p_value is null or p_value = 'null' then
    return null;
  end if;
  if jsonb_typeof(p_value) <> 'number'
     or (p_value #>> '{}')::double precision not between p_low and p_high then
    perform workerqueue.refuse_option(
      p_field, format('must be %s to %s, not %s', p_low, p_high, p_value));
  end if;
  return (p_value #>> '{}')::double precision;
end
$$;

-- Milliseconds of an interval such as '5 minutes', or of a number of seconds; null stays null.
create function workerqueue.option_ms(p_field text, p_value jsonb, p_low bigint, p_high bigint)
returns bigint
language plpgsql as $$
declare
  v_ms numeric;
begin
  if p_value is null or p_value = 'null' then
    return null;
  end if;
  begin
    v_ms := floor(1000 * case jsonb_typeof(p_value)
      when 'number' then (p_value #>> '{}')::numeric
      when 'string' then extract(epoch from (p_value #>> '{}')::interval) end);
  exception when data_exception then
    v_ms := null;
  end;
  if v_ms is null then
    perform workerqueue.refuse_option(
      p_field, 'must be an interval or a number of seconds, not ' || p_value::text);
  end if;
  if v_ms not between p_low and p_high then
    perform workerqueue.refuse_option(p_field, format(
      'must be %s to %s, not %s', p_low * interval '1 ms', p_high * interval '1 ms', p_value));
  end if;
  return v_ms;
end
$$;

-- A time; null stays null.
create function workerqueue.option_time(p_field text, p_value jsonb) returns timestamptz
language plpgsql as $$
declare
  v_time timestamptz;
begin
  if p_value is null or p_value = 'null' then
    return null;
  end if;
  begin
    v_time := p_value #>> '{}';
  exception when data_exception then
    perform workerqueue.refuse_option(p_field, 'must be a time, not ' || p_value::text);
  end;
  if v_time not between '0001-01-01 00:00:00+00' and '9999-12-31 23:59:59.999999+00' then
    perform workerqueue.refuse_option(p_field, 'must be a time between the years 1 and 9999');
  end if;
  return v_time;
end
$$;

-- A key; an empty one is none.
create function workerqueue.option_key(p_field text, p_key text) returns text
language plpgsql as $$
begin
  if octet_length(convert_to(p_key, 'UTF8')) > 512 then
    perform workerqueue.refuse_option(p_field, 'the key is longer than 512 bytes');
  end if;
  return nullif(p_key, '');
end
$$;

-- The key that the kind's policy makes of the payload; null if it has no template.
create function workerqueue.policy_key(p_policy jsonb, p_name text, p_args jsonb) returns text
language plpgsql as $$
declare
  v_pieces constant jsonb := p_policy -> 'templates' -> p_name;
  v_key text;
begin
  if v_pieces is null then
    return null;
  end if;
  v_key := workerqueue.option_key(p_name, workerqueue.render_key(v_pieces, p_args));
  if v_key is null then
    perform workerqueue.refuse_payload(format('makes the %s of this kind empty', p_name));
  end if;
  return v_key;
end
$$;

-- {initial ms, multiplier, maximum ms, jitter} as JSON; null without the option.
create function workerqueue.option_retry(p_retry jsonb) returns jsonb
language sql as $$
  select case when jsonb_typeof(p_retry) = 'object' then jsonb_build_array(
    coalesce(workerqueue.option_ms(
      'retry.initial_backoff', p_retry -> 'initial_backoff', 1, 86400000), 1000),
    coalesce(workerqueue.option_share('retry.multiplier', p_retry -> 'multiplier', 1, 100), 2),
    coalesce(workerqueue.option_ms(
      'retry.max_backoff', p_retry -> 'max_backoff', 1, 2592000000), 3600000),
    coalesce(workerqueue.option_share('retry.jitter', p_retry -> 'jitter', 0, 1), 0.1)) end
$$;

-- Seconds by state over the policy's, in the order of retention_of; null if all are default.
create function workerqueue.option_retention(p_retention jsonb, p_base jsonb) returns jsonb
language sql as $$
  select case when count(r.seconds) > 0 then jsonb_agg(r.seconds order by r.place) end
    from (
      select s.place, coalesce(
               workerqueue.option_ms(
                 'retention.' || s.state, p_retention -> s.state, 0, 2592000000) / 1000,
               (p_base ->> (s.place - 1)::integer)::bigint) as seconds
        from unnest(array['succeeded', 'cancelled', 'expired', 'dead'])
             with ordinality s(state, place)) r
$$;

create function workerqueue.option_tags(p_tags jsonb) returns jsonb
language plpgsql as $$
declare
  v_tags jsonb;
begin
  if p_tags is null or p_tags in ('null', '[]') then
    return null;
  end if;
  if jsonb_typeof(p_tags) <> 'array' or jsonb_array_length(p_tags) > 16
     or exists (select from jsonb_array_elements(p_tags) t
                 where jsonb_typeof(t) <> 'string'
                    or octet_length(convert_to(t #>> '{}', 'UTF8')) not between 1 and 128) then
    perform workerqueue.refuse_option('tags', 'must be up to 16 words of 1 to 128 bytes');
  end if;
  select jsonb_agg(t.tag order by t.place) into v_tags
    from (select e.tag, min(e.place) as place
            from jsonb_array_elements_text(p_tags) with ordinality e(tag, place)
           group by 1) t;
  return v_tags;
end
$$;

create function workerqueue.option_metadata(p_metadata jsonb) returns jsonb
language plpgsql as $$
begin
  if p_metadata is null or p_metadata in ('null', '{}') then
    return null;
  end if;
  if jsonb_typeof(p_metadata) <> 'object'
     or (select count(*) > 64
                or sum(octet_length(convert_to(m.key || (m.value #>> '{}'), 'UTF8'))) > 16384
                or bool_or(jsonb_typeof(m.value) <> 'string')
                or bool_or(octet_length(convert_to(m.key, 'UTF8')) not between 1 and 128)
           from jsonb_each(p_metadata) m) then
    perform workerqueue.refuse_option(
      'metadata', 'must be up to 64 strings by names of 1 to 128 bytes, 16 KiB in all');
  end if;
  return p_metadata;
end
$$;

-- The `unique` option's part of a spec, and in `key` the hash of what must be unique; null if the
-- option asks for nothing.
create function workerqueue.option_unique(
  p_unique jsonb, p_kind text, p_policy jsonb, p_args jsonb, p_queue text
) returns jsonb
language plpgsql as $$
declare
  v_live constant text[] := array['scheduled', 'available', 'blocked', 'leased', 'retrying'];
  v_finished constant text[] := array['succeeded', 'dead', 'cancelled', 'expired'];
  v_states text[] := v_live || array['succeeded'];
  v_fields text[];
  v_period_ms bigint;
  v_key text := 'u1' || workerqueue.canonical_text(p_kind);
  v_unknown text;
begin
  p_unique := jsonb_strip_nulls(p_unique);
  if p_unique is null or p_unique in ('null', '{}') then
    return null;
  end if;
  select k into v_unknown from jsonb_object_keys(p_unique) k
   where k not in ('by_args', 'by_fields', 'by_queue', 'by_period', 'by_states', 'on_conflict')
   limit 1;
  if v_unknown is not null then
    perform workerqueue.refuse_option('unique', 'unknown option ' || v_unknown);
  end if;
  if p_unique ->> 'on_conflict' not in ('keep_existing', 'fail') then
    perform workerqueue.refuse_option('unique.on_conflict', 'must be keep_existing or fail');
  end if;
  v_fields := array(select jsonb_array_elements_text(p_unique -> 'by_fields'));
  if p_unique ? 'by_states' then
    v_states := array(select jsonb_array_elements_text(p_unique -> 'by_states'));
    if not v_states @> v_live or not (v_live || v_finished) @> v_states then
      perform workerqueue.refuse_option('unique.by_states', format(
        'must name all live states (%s) and may name %s',
        array_to_string(v_live, ', '), array_to_string(v_finished, ', ')));
    end if;
  end if;
  v_period_ms := workerqueue.option_ms(
    'unique.by_period', p_unique -> 'by_period', 1000, 31622400000);
  if (p_unique ->> 'by_queue')::boolean then
    v_key := v_key || 'q' || workerqueue.canonical_text(p_queue);
  end if;
  if (p_unique ->> 'by_args')::boolean then
    if cardinality(v_fields) > 0 then
      perform workerqueue.refuse_option('unique', 'give by_args or by_fields, not both');
    end if;
    v_key := v_key || 'a' || workerqueue.canonical_message(p_policy, p_policy ->> 'root', p_args);
  end if;
  if cardinality(v_fields) > 0 then
    v_key := v_key || 'f' || workerqueue.canonical_selection(p_policy, p_args, v_fields);
  end if;
  if v_period_ms is not null then
    v_key := v_key || 'p' || v_period_ms || ';';
  elsif not (p_unique ? 'by_states') and cardinality(v_fields) = 0
        and not coalesce((p_unique ->> 'by_queue')::boolean, false)
        and not coalesce((p_unique ->> 'by_args')::boolean, false) then
    if p_unique ? 'on_conflict' then
      perform workerqueue.refuse_option('unique', 'does not say what must be unique');
    end if;
    return null;
  end if;
  return jsonb_build_object(
    'key', encode(sha256(convert_to(v_key, 'UTF8')), 'hex'),
    'unique_period_ms', v_period_ms,
    'unique_fail', p_unique ->> 'on_conflict' = 'fail',
    'unique_states', (select coalesce(jsonb_agg(s.state order by s.place), '[]')
                        from unnest(v_finished) with ordinality s(state, place)
                       where s.state = any (v_states)));
end
$$;

-- A lane by name. A new one is made inside the caller's transaction, without waiting for others who
-- make it too: two lanes of one name are one line.
create function workerqueue.lane_for(p_queue text, p_kind text, p_priority smallint)
returns integer
language plpgsql as $$
declare
  v_lane integer;
begin
  select l.lane_id into v_lane
    from workerqueue.lanes l
   where l.queue = p_queue and l.kind = p_kind and l.priority = p_priority
   order by l.lane_id
   limit 1;
  if not found then
    insert into workerqueue.lanes (queue, kind, priority)
    values (p_queue, p_kind, p_priority)
    returning lane_id into v_lane;
  end if;
  return v_lane;
end
$$;

-- A UUID version 7: ids made later sort later, which keeps the index compact.
create function workerqueue.new_task_id() returns uuid
language sql volatile as $$
  select encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
              placing substr(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint), 3)
              from 1 for 6),
      52, 1), 53, 1), 'hex')::uuid
$$;

-- Stores one task of an enqueue by SQL; the row's lane in `lane`.
create function workerqueue.enqueue_item(
  p_item jsonb, p_position bigint, p_now timestamptz,
  out result workerqueue.put_result, out lane integer
) language plpgsql as $$
declare
  v_kind constant text := p_item ->> 'kind';
  v_args constant jsonb := case when coalesce(p_item -> 'args', 'null') = 'null' then '{}'::jsonb
                                else p_item -> 'args' end;
  v_policy jsonb;
  v_unknown text;
  v_queue text;
  v_priority smallint;
  v_unique jsonb;
  v_mode text;
  v_row workerqueue.tasks;
begin
  select k.policy into v_policy from workerqueue.kinds k where k.kind = v_kind;
  if not found then
    raise exception using errcode = 'invalid_parameter_value',
      message = format('workerqueue: unknown task kind %s', coalesce(quote_literal(v_kind), 'null')),
      hint = coalesce(
        (select 'Did you mean ' || string_agg(n.kind, ', ' order by n.place) || '?'
           from (select k.kind,
                        row_number() over (order by abs(length(k.kind) - length(v_kind))) as place
                   from workerqueue.kinds k
                  where starts_with(lower(k.kind), lower(left(v_kind, 4)))) n
          where n.place <= 3),
        'A kind is known once a server that knows it has been started on this database.');
  end if;
  select k into v_unknown from jsonb_object_keys(p_item) k
   where k not in (
     'kind', 'args', 'task_id', 'queue', 'priority', 'max_attempts', 'timeout', 'lease_duration',
     'run_at', 'delay', 'expire_at', 'concurrency_key', 'concurrency_limit', 'job_key',
     'job_key_mode', 'unique', 'retry', 'retention', 'tags', 'metadata')
   limit 1;
  if v_unknown is not null then
    perform workerqueue.refuse_option(v_unknown, 'unknown option');
  end if;
  if jsonb_typeof(v_args) <> 'object' then
    perform workerqueue.refuse_payload('must be a JSON object');
  end if;
  if octet_length(v_args::text) > 2097152 then
    perform workerqueue.refuse_payload('must not be longer than 2 MiB');
  end if;
  select a into v_unknown from jsonb_object_keys(v_args) a
   where not exists (select from jsonb_array_elements(v_policy -> 'types' -> (v_policy ->> 'root')) f
                      where a in (f ->> 1, f ->> 2))
   limit 1;
  if v_unknown is not null then
    perform workerqueue.refuse_payload(format(
      '%s has no field %s', v_policy ->> 'root', quote_literal(v_unknown)));
  end if;
  select f ->> 1 into v_unknown
    from jsonb_array_elements(v_policy -> 'types' -> (v_policy ->> 'root')) f
   where f ->> 1 <> f ->> 2 and v_args ? (f ->> 1) and v_args ? (f ->> 2)
   limit 1;
  if v_unknown is not null then
    perform workerqueue.refuse_payload(format('%s is given under two names', v_unknown));
  end if;

  v_queue := coalesce(p_item ->> 'queue', v_policy ->> 'queue');
  if v_queue !~ '^[A-Za-z0-9._:/-]{1,128}$' then
    perform workerqueue.refuse_option(
      'queue', 'must be 1 to 128 letters, digits or any of ._:/-');
  end if;
  v_priority := coalesce(
    workerqueue.option_number('priority', p_item -> 'priority', -1000, 1000),
    (v_policy ->> 'priority')::bigint);
  v_mode := coalesce(p_item ->> 'job_key_mode', v_policy ->> 'job_key_mode');
  if v_mode not in ('replace', 'preserve_run_at', 'unsafe_dedupe') then
    perform workerqueue.refuse_option(
      'job_key_mode', 'must be replace, preserve_run_at or unsafe_dedupe');
  end if;
  if coalesce(p_item -> 'run_at', 'null') <> 'null' and coalesce(p_item -> 'delay', 'null') <> 'null'
  then
    perform workerqueue.refuse_option('run_at', 'give run_at or delay, not both');
  end if;
  v_unique := workerqueue.option_unique(p_item -> 'unique', v_kind, v_policy, v_args, v_queue);

  lane := workerqueue.lane_for(v_queue, v_kind, v_priority);
  v_row := workerqueue.row_of(
    jsonb_strip_nulls(jsonb_build_object(
      'lane_id', lane,
      'priority', v_priority,
      'max_attempts', coalesce(
        workerqueue.option_number('max_attempts', p_item -> 'max_attempts', 1, 1000),
        (v_policy ->> 'max_attempts')::bigint),
      'timeout_ms', coalesce(
        workerqueue.option_ms('timeout', p_item -> 'timeout', 100, 604800000),
        (v_policy ->> 'timeout_ms')::bigint),
      'lease_duration_ms', coalesce(
        workerqueue.option_ms('lease_duration', p_item -> 'lease_duration', 1000, 3600000),
        (v_policy ->> 'lease_duration_ms')::bigint),
      'concurrency_limit', coalesce(
        workerqueue.option_number('concurrency_limit', p_item -> 'concurrency_limit', 1, 1000),
        (v_policy ->> 'concurrency_limit')::bigint),
      'run_at', workerqueue.option_time('run_at', p_item -> 'run_at'),
      'delay_ms', workerqueue.option_ms('delay', p_item -> 'delay', 0, 31622400000),
      'expire_at', workerqueue.option_time('expire_at', p_item -> 'expire_at'),
      'retry_policy', coalesce(
        workerqueue.option_retry(p_item -> 'retry'), v_policy -> 'retry'),
      'tags', workerqueue.option_tags(p_item -> 'tags'),
      'unique_period_ms', v_unique -> 'unique_period_ms',
      'unique_states', v_unique -> 'unique_states'))
    -- Nulls count here: they mean a state's default.
    || jsonb_build_object(
      'retention', workerqueue.option_retention(p_item -> 'retention', v_policy -> 'retention'),
      'metadata', workerqueue.option_metadata(p_item -> 'metadata')),
    coalesce((p_item ->> 'task_id')::uuid, workerqueue.new_task_id()),
    null,
    case when coalesce(p_item -> 'concurrency_key', 'null') <> 'null'
         then workerqueue.option_key('concurrency_key', p_item ->> 'concurrency_key')
         else workerqueue.policy_key(v_policy, 'concurrency_key', v_args) end,
    case when coalesce(p_item -> 'job_key', 'null') <> 'null'
         then workerqueue.option_key('job_key', p_item ->> 'job_key')
         else workerqueue.policy_key(v_policy, 'job_key', v_args) end,
    decode(v_unique ->> 'key', 'hex'),
    p_position, p_now);
  v_row.args := v_args;
  if v_row.job_key is not null and v_unique is not null then
    perform workerqueue.refuse_option('unique', 'cannot be combined with a job key; where the '
      'kind''s policy has one, set job_key to an empty string');
  end if;

  select 0, p.* into result
    from workerqueue.put_task(
      v_row, v_mode, coalesce((v_unique ->> 'unique_fail')::boolean, false),
      coalesce(p_item -> 'task_id', 'null') <> 'null', false, true, p_now) p;
  if result.outcome = 'conflict' then
    raise exception using errcode = 'unique_violation',
      message = format('workerqueue: task %s is the same task', result.task_id),
      detail = result.task_id::text;
  end if;
end
$$;

-- Wakes the servers when the caller's transaction commits. The first position of the transaction
-- stands for all of them, so that many calls in one transaction send one notification: Postgres
-- drops repeats.
create function workerqueue.notify_stored(
  p_results workerqueue.put_result[], p_base bigint, p_now timestamptz
) returns void
language plpgsql as $$
declare
  v_first bigint := nullif(current_setting('workerqueue.first_position', true), '')::bigint;
  v_hint jsonb;
begin
  if v_first is null then
    v_first := p_base;
    perform set_config('workerqueue.first_position', p_base::text, true);
  end if;
  select jsonb_strip_nulls(jsonb_build_object(
           'from', 'sql',
           'lanes', (select jsonb_agg(distinct jsonb_build_array(r.lane_id,
                                                                 least(r.position, v_first)))
                       from unnest(p_results) r where r.lane_id is not null),
           'keys', (select jsonb_agg(distinct k) from unnest(p_results) r, unnest(r.keys) k),
           'behind', (select jsonb_agg(distinct r.behind)
                        from unnest(p_results) r where r.behind is not null),
           -- Later ones are found in time without being told.
           'due', (select greatest(0, ceil(extract(epoch from min(r.due_at) - p_now) * 1000))
                     from unnest(p_results) r
                    where r.due_at < p_now + interval '1 second')))
    into v_hint;
  -- A notification holds less than 8,000 bytes. The servers find out what is left out by themselves,
  -- within seconds.
  if octet_length(v_hint::text) > 7900 then
    v_hint := v_hint - 'behind' - 'keys';
  end if;
  if octet_length(v_hint::text) > 7900 then
    v_hint := v_hint - 'lanes';
  end if;
  if v_hint - 'from' <> '{}' then
    perform pg_notify('workerqueue', v_hint::text);
  end if;
end
$$;

-- Stores up to 10,000 tasks in the caller's transaction: queued when it commits, gone when it rolls
-- back. `tasks` is a JSON array of objects with kind, args, and the options of enqueue() by the same
-- names. One refused task fails the call. `place` counts from 1; see enqueue() for the rest.
create function workerqueue.enqueue_batch(tasks jsonb)
returns table (place integer, task_id uuid, outcome text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := clock_timestamp();
  v_base constant bigint := nextval('workerqueue.position_seq') << 20;
  v_results workerqueue.put_result[] := '{}';
  v_result workerqueue.put_result;
  v_item jsonb;
begin
  if jsonb_typeof(tasks) <> 'array' or jsonb_array_length(tasks) > 10000 then
    perform workerqueue.refuse_option('tasks', 'must be a JSON array of up to 10,000 tasks');
  end if;
  place := 0;
  for v_item in select t from jsonb_array_elements(tasks) t loop
    place := place + 1;
    v_result := (workerqueue.enqueue_item(v_item, v_base | place, v_now)).result;
    v_results := v_results || v_result;
    task_id := v_result.task_id;
    outcome := v_result.outcome;
    return next;
  end loop;
  perform workerqueue.notify_stored(v_results, v_base, v_now);
end
$$;

-- Stores one task in the caller's transaction. Null means the kind's policy.
--   task_id             yours, to make a repeat safe; null: a new one
--   timeout, lease_duration, delay   intervals
--   concurrency_key, job_key         the keys themselves; an empty string for none
--   job_key_mode        replace, preserve_run_at or unsafe_dedupe
--   unique_by           {"by_args": true, "by_fields": [..], "by_queue": true, "by_period": "1 hour",
--                        "by_states": [..], "on_conflict": "keep_existing" or "fail"}
--   retry               {"initial_backoff": "1s", "multiplier": 2, "max_backoff": "1 hour",
--                        "jitter": 0.1}
--   retention           {"succeeded": "1 day", "dead": ..., "cancelled": ..., "expired": ...}
-- outcome: created, existed (the task_id was known), replaced or kept (the job key, or the same task,
-- was: task_id is that task's). Refusals raise invalid_parameter_value (22023); a task that is not
-- unique with on_conflict "fail" raises unique_violation (23505) with the other's id as its detail.
create function workerqueue.enqueue(
  kind text,
  args jsonb default '{}',
  task_id uuid default null,
  queue text default null,
  priority integer default null,
  max_attempts integer default null,
  timeout interval default null,
  lease_duration interval default null,
  run_at timestamptz default null,
  delay interval default null,
  expire_at timestamptz default null,
  concurrency_key text default null,
  concurrency_limit integer default null,
  job_key text default null,
  job_key_mode text default null,
  unique_by jsonb default null,
  retry jsonb default null,
  retention jsonb default null,
  tags text[] default null,
  metadata jsonb default null,
  out id uuid,
  out outcome text
) language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_base constant bigint := nextval('workerqueue.position_seq') << 20;
  v_result workerqueue.put_result;
begin
  v_result := (workerqueue.enqueue_item(
    jsonb_build_object(
      'kind', enqueue.kind, 'args', enqueue.args, 'task_id', enqueue.task_id,
      'queue', enqueue.queue, 'priority', enqueue.priority, 'max_attempts', enqueue.max_attempts,
      'timeout', enqueue.timeout, 'lease_duration', enqueue.lease_duration,
      'run_at', enqueue.run_at, 'delay', enqueue.delay, 'expire_at', enqueue.expire_at,
      'concurrency_key', enqueue.concurrency_key,
      'concurrency_limit', enqueue.concurrency_limit, 'job_key', enqueue.job_key,
      'job_key_mode', enqueue.job_key_mode, 'unique', enqueue.unique_by,
      'retry', enqueue.retry, 'retention', enqueue.retention, 'tags', enqueue.tags,
      'metadata', enqueue.metadata),
    v_base, v_now)).result;
  id := v_result.task_id;
  outcome := v_result.outcome;
  perform workerqueue.notify_stored(array[v_result], v_base, v_now);
end
$$;

-- Nobody enqueues by SQL until the right to it is granted.
revoke execute on function workerqueue.enqueue_batch from public;
revoke execute on function workerqueue.enqueue from public;
