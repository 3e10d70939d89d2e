-- Payloads in JSON form, for enqueues by SQL: keys from templates, and one spelling for equal payloads.
--
-- What a message type is made of comes with its kind (workerqueue.kinds.policy): `types` gives per
-- message the list of [number, proto name, JSON name, flags, value type, key type], `enums` the
-- numbers per enum. Flags: r repeated, m map, p explicit presence. The texts that the canonical_
-- functions make are described in queue/canonical.py, which makes the same from parsed messages.

create function workerqueue.refuse_payload(p_message text) returns text
language plpgsql as $$
begin
  raise exception using errcode = 'invalid_parameter_value',
    message = 'workerqueue: args: ' || p_message;
end
$$;

create function workerqueue.canonical_text(p_text text) returns text
language sql immutable as $$
  select 's' || octet_length(convert_to(p_text, 'UTF8')) || ':' || p_text
$$;

-- An integer as protobuf's JSON form may spell it: 5, 5.0 or "5".
create function workerqueue.canonical_integer(p_value jsonb) returns text
language sql stable as $$
  select case
    when jsonb_typeof(p_value) = 'number' and (p_value #>> '{}')::numeric % 1 = 0
      then trunc((p_value #>> '{}')::numeric)::text
    when jsonb_typeof(p_value) = 'string' and p_value #>> '{}' ~ '^[+-]?[0-9]+$'
      then (p_value #>> '{}')::numeric::text
    else workerqueue.refuse_payload(p_value::text || ' is no integer')
  end
$$;

create function workerqueue.canonical_double(p_value jsonb) returns text
language sql stable as $$
  select 'd' || encode(float8send((p_value #>> '{}')::float8 + 0), 'hex') || ';'
$$;

create function workerqueue.canonical_bytes(p_base64 text) returns text
language sql immutable as $$
  select 'b' || encode(decode(rpad(b.digits, (length(b.digits) + 3) / 4 * 4, '='), 'base64'), 'hex')
             || ';'
    from (select rtrim(translate(p_base64, '-_', '+/'), '=') as digits) b
$$;

create function workerqueue.canonical_timestamp(p_text text) returns text
language sql stable as $$
  select 'T' || extract(epoch from (p.parts[1] || p.parts[3])::timestamptz)::bigint || '.'
             || rpad(coalesce(p.parts[2], ''), 9, '0')::integer || ';'
    from (select regexp_match(p_text, '^([^.Z+]+?)(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})$')
                   as parts) p
$$;

create function workerqueue.canonical_json(p_value jsonb) returns text
language plpgsql stable as $$
declare
  v_text text;
begin
  case jsonb_typeof(p_value)
    when 'null' then return 'z';
    when 'boolean' then return case when p_value::boolean then 't' else 'f' end;
    when 'number' then return workerqueue.canonical_double(p_value);
    when 'string' then return workerqueue.canonical_text(p_value #>> '{}');
    when 'array' then
      select 'l' || count(*) || ':' || coalesce(
               string_agg(workerqueue.canonical_json(e.value), '' order by e.place), '')
        into v_text
        from jsonb_array_elements(p_value) with ordinality e(value, place);
    else
      select 'o' || count(*) || ':' || coalesce(
               string_agg(workerqueue.canonical_text(e.key) || workerqueue.canonical_json(e.value),
                          '' order by e.key collate "C"), '')
        into v_text
        from jsonb_each(p_value) e;
  end case;
  return v_text;
end
$$;

-- One value of a type such as `string`, `enum acme.Color` or `message acme.Job`.
create function workerqueue.canonical_value(p_kind jsonb, p_type text, p_value jsonb) returns text
language plpgsql stable as $$
declare
  v_of constant text := substr(p_type, strpos(p_type || ' ', ' ') + 1);
  v_text constant text := p_value #>> '{}';
begin
  case split_part(p_type, ' ', 1)
    when 'string' then return workerqueue.canonical_text(v_text);
    when 'bool' then return case when p_value::boolean then 't' else 'f' end;
    when 'integer' then return 'i' || workerqueue.canonical_integer(p_value) || ';';
    when 'enum' then
      return 'i' || coalesce(p_kind -> 'enums' -> v_of ->> v_text,
                             workerqueue.canonical_integer(p_value)) || ';';
    when 'double' then return workerqueue.canonical_double(p_value);
    when 'float' then
      return 'e' || encode(float4send((v_text::float8 + 0)::float4), 'hex') || ';';
    when 'bytes' then return workerqueue.canonical_bytes(v_text);
    when 'timestamp' then return workerqueue.canonical_timestamp(v_text);
    when 'duration' then
      return 'D' || trunc(rtrim(v_text, 's')::numeric * 1000000000)::text || ';';
    when 'mask' then return 'p' || v_text || ';';
    when 'wrapper' then return 'w' || workerqueue.canonical_value(p_kind, v_of, p_value);
    when 'json', 'value' then return workerqueue.canonical_json(p_value);
    else return workerqueue.canonical_message(p_kind, v_of, p_value);
  end case;
exception when others then
  return workerqueue.refuse_payload(format('%s is no %s', left(p_value::text, 100), p_type));
end
$$;

-- A field of a message; null if it is not set.
create function workerqueue.canonical_field(p_kind jsonb, p_field jsonb, p_message jsonb)
returns text
language plpgsql stable as $$
declare
  v_value constant jsonb := coalesce(p_message -> (p_field ->> 2), p_message -> (p_field ->> 1));
  v_flags constant text := p_field ->> 3;
  v_type constant text := p_field ->> 4;
  v_text text;
begin
  if v_value is null or (v_value = 'null' and (v_type <> 'value' or v_flags <> 'p')) then
    return null;
  end if;
  if v_flags = 'r' then
    select 'l' || count(*) || ':'
               || string_agg(workerqueue.canonical_value(p_kind, v_type, e.value), ''
                             order by e.place)
      into v_text
      from jsonb_array_elements(v_value) with ordinality e(value, place);
    return v_text;
  end if;
  if v_flags = 'm' then
    select 'k' || count(*) || ':'
               || string_agg(k.text || workerqueue.canonical_value(p_kind, v_type, e.value), ''
                             order by k.text collate "C")
      into v_text
      from jsonb_each(v_value) e
     cross join lateral workerqueue.canonical_value(
       p_kind, p_field ->> 5,
       case when p_field ->> 5 = 'bool' then e.key::jsonb else to_jsonb(e.key) end) k(text);
    return v_text;
  end if;
  v_text := workerqueue.canonical_value(p_kind, v_type, v_value);
  if v_flags <> 'p'
     and v_text in ('s0:', 'f', 'i0;', 'd0000000000000000;', 'e00000000;', 'b;') then
    return null;
  end if;
  return v_text;
end
$$;

create function workerqueue.canonical_message(p_kind jsonb, p_type text, p_value jsonb)
returns text
language plpgsql stable as $$
declare
  v_text text;
begin
  if p_type = 'google.protobuf.Any' or jsonb_typeof(p_value) <> 'object' then
    raise exception using errcode = 'invalid_parameter_value', message = 'not comparable';
  end if;
  select string_agg((f.field ->> 0) || '=' || c.text, '' order by f.place)
    into v_text
    from jsonb_array_elements(p_kind -> 'types' -> p_type) with ordinality f(field, place)
   cross join lateral workerqueue.canonical_field(p_kind, f.field, p_value) c(text)
   where c.text is not null;
  return 'm' || coalesce(v_text, '') || ';';
end
$$;

-- The canonical text of some fields, named by dotted paths of proto or JSON names.
create function workerqueue.canonical_selection(p_kind jsonb, p_args jsonb, p_paths text[])
returns text
language plpgsql stable as $$
declare
  v_path text;
  v_step text;
  v_type text;
  v_value jsonb;
  v_field jsonb;
  v_name text;
  v_content text;
  v_found jsonb := '{}';
  v_text text;
begin
  foreach v_path in array p_paths loop
    v_type := p_kind ->> 'root';
    v_value := p_args;
    v_field := null;
    v_name := null;
    foreach v_step in array regexp_split_to_array(v_path, '\.') loop
      if v_field is not null then
        v_value := coalesce(v_value -> (v_field ->> 2), v_value -> (v_field ->> 1));
        v_type := case when v_field ->> 3 = 'p' and v_field ->> 4 like 'message %'
                       then substr(v_field ->> 4, 9) end;
      end if;
      select f into v_field
        from jsonb_array_elements(p_kind -> 'types' -> v_type) f
       where v_step in (f ->> 1, f ->> 2)
       order by v_step <> f ->> 1
       limit 1;
      if not found then
        raise exception using errcode = 'invalid_parameter_value',
          message = format('workerqueue: unique.by_fields: %s has no field %s',
                           p_kind ->> 'root', v_path);
      end if;
      v_name := concat_ws('.', v_name, v_field ->> 1);
    end loop;
    v_content := case when jsonb_typeof(v_value) = 'object'
                      then workerqueue.canonical_field(p_kind, v_field, v_value) end;
    v_found := v_found || jsonb_build_object(v_name, coalesce(v_content, '-'));
  end loop;
  select string_agg(workerqueue.canonical_text(e.key) || '=' || e.value, ''
                    order by e.key collate "C")
    into v_text
    from jsonb_each_text(v_found) e;
  return v_text;
end
$$;

-- A key from a template's pieces; see KeyTemplate in queue/key_template.py.
create function workerqueue.render_key(p_pieces jsonb, p_args jsonb) returns text
language plpgsql stable as $$
declare
  v_piece jsonb;
  v_names jsonb;
  v_value jsonb;
  v_key text := '';
begin
  for v_piece in select p from jsonb_array_elements(p_pieces) p loop
    if jsonb_typeof(v_piece) = 'string' then
      v_key := v_key || (v_piece #>> '{}');
      continue;
    end if;
    v_value := p_args;
    for v_names in select n from jsonb_array_elements(v_piece -> 'path') n loop
      v_value := coalesce(v_value -> (v_names ->> 1), v_value -> (v_names ->> 0));
    end loop;
    v_key := v_key || case
      when v_value is null or v_value = 'null' then v_piece ->> 'default'
      when v_piece ->> 'type' = 'string' and jsonb_typeof(v_value) = 'string'
        then v_value #>> '{}'
      when v_piece ->> 'type' = 'bool' and jsonb_typeof(v_value) = 'boolean'
        then v_value #>> '{}'
      when v_piece ->> 'type' = 'integer' then workerqueue.canonical_integer(v_value)
      when v_piece ->> 'type' = 'enum'
        then coalesce(v_piece -> 'enum' ->> (v_value #>> '{}'),
                      workerqueue.canonical_integer(v_value))
      else workerqueue.refuse_payload(
        format('%s is no %s', left(v_value::text, 100), v_piece ->> 'type'))
    end;
  end loop;
  return v_key;
end
$$;
