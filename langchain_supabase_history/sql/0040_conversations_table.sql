-- The table `conversations` of existing applications, as a view: what it shows. 0041 is what is written through it.
--
--   chat_history_read_message            a message of such an application as type and data
--   chat_history_show_message            a stored message as the application sees it
--   chat_history_same_message            whether a message of a list is the one that is stored
--   chat_history_conversation_messages   a session's messages as one list
--   chat_history_show_conversation       the other columns of a session's row
--   chat_history_jsonb, _message_form, _message_type, _message_fields, _openai_calls   parts of these
--
-- A message may be {"role", "content"}, {"type", "content"} or {"type", "data"}, its form: 'role', 'type' or 'data'.
-- What is stored is LangChain's, with a mark in additional_kwargs -> conversations_table that brings the original back:
-- {"form", "as": its role or type, "kwargs": whether it had additional_kwargs}, or, of all that LangChain has no field
-- for, {"message": the original}. Whatever somebody has written into their own rows, reading them raises nothing.

create type chat_history_conversation as (
  id uuid, session_id text, "timestamp" timestamptz, tokens_history jsonb, retriever_audits jsonb, analytics jsonb,
  metadata jsonb, form text);
create type chat_history_message as (type text, data jsonb);

-- json as jsonb; null where PostgreSQL cannot hold it so.
create function chat_history_jsonb(value json) returns jsonb
language plpgsql immutable set search_path from current as $$
begin
  return $1::jsonb;
exception when data_exception or program_limit_exceeded then
  return null;
end
$$;

-- The form of a message; null where it has none of the three.
create function chat_history_message_form(message jsonb) returns text
language sql immutable set search_path from current as $$
  select case when jsonb_typeof($1) <> 'object' then null
    when jsonb_typeof($1 -> 'type') = 'string' and jsonb_typeof($1 -> 'data') = 'object' then 'data'
    when jsonb_typeof($1 -> 'role') = 'string' then 'role'
    when jsonb_typeof($1 -> 'type') = 'string' then 'type' end
$$;

-- LangChain's type for a role or a type, of a message with these fields; 'chat' is that of any role.
create function chat_history_message_type(text, jsonb) returns text
language sql immutable set search_path from current as $$
  select case
    when n.name in ('user', 'human', 'humanmessage', 'humanmessagechunk') then 'human'
    when n.name in ('assistant', 'ai', 'aimessage', 'aimessagechunk') then 'ai'
    when n.name in ('system', 'developer', 'systemmessage', 'systemmessagechunk') then 'system'
    when n.name in ('tool', 'toolmessage') and jsonb_typeof($2 -> 'tool_call_id') = 'string' then 'tool'
    when n.name in ('function', 'functionmessage') and jsonb_typeof($2 -> 'name') = 'string' then 'function'
    else 'chat' end
    from (values (lower($1))) n (name)
$$;

-- Those fields of a message that LangChain has, with values that it accepts. The first argument is LangChain's type.
create function chat_history_message_fields(text, jsonb) returns jsonb
language sql immutable set search_path from current as $$
  select coalesce(jsonb_object_agg(f.key, f.value), '{}')
    from (select e.*, jsonb_typeof(e.value) as kind from jsonb_each($2) e) f
    where case
      when f.key = 'content' then f.kind = 'string' or f.kind = 'array' and not jsonb_path_exists(
        f.value, 'strict $[*] ? (@.type() != "string" && @.type() != "object")')
      when f.key in ('name', 'id') then f.kind = 'string' or f.kind = 'null' and $1 <> 'function'
      when f.key = 'type' then f.value = to_jsonb($1)
      when f.key = 'role' then $1 = 'chat' and f.kind = 'string'
      when f.key in ('additional_kwargs', 'response_metadata') then f.kind = 'object'
      when f.key = 'example' then $1 in ('human', 'ai') and f.value = 'false'
      when f.key = 'tool_call_id' then $1 = 'tool' and f.kind = 'string'
      when f.key = 'status' then $1 = 'tool' and f.value in ('"success"', '"error"')
      when f.key = 'artifact' then $1 = 'tool'
      when f.key = 'invalid_tool_calls' then $1 = 'ai' and f.value = '[]'
      when f.key = 'tool_calls' then $1 = 'ai' and f.kind = 'array' and not exists (
        select from jsonb_path_query(f.value, '$[*]') c (call)
          where (jsonb_typeof(call -> 'name') = 'string' and jsonb_typeof(call -> 'args') = 'object'
              and coalesce(jsonb_typeof(call -> 'id'), '') in ('string', 'null')
              and coalesce(call ->> 'type', 'tool_call') = 'tool_call') is not true)
      when f.key = 'usage_metadata' then $1 = 'ai' and (f.kind = 'null' or f.kind = 'object' and (
        select count(*) filter (where u.key in ('input_tokens', 'output_tokens', 'total_tokens')) = 3
            and bool_and(case when u.key in ('input_tokens', 'output_tokens', 'total_tokens') then u.value::text ~ '^\d{1,15}$'
              else u.key in ('input_token_details', 'output_token_details') and jsonb_typeof(u.value) = 'object' and not exists (
                select from jsonb_path_query(u.value, '$.*') d (count) where d.count::text !~ '^\d{1,15}$') end)
          from jsonb_each(f.value) u))
      else false end
$$;

-- Calls of tools as OpenAI writes them, [{"id", "function": {"name", "arguments": JSON as text}}], as LangChain's; null
-- where they are anything else.
create function chat_history_openai_calls(calls jsonb) returns jsonb
language plpgsql immutable set search_path from current as $$
begin
  return (
    select case when bool_and(jsonb_typeof(c.args) = 'object' and c.id is not null and c.name is not null) then
        jsonb_agg(jsonb_build_object('name', c.name, 'args', c.args, 'id', c.id, 'type', 'tool_call') order by c.n) end
      from (select e.n, e.item ->> 'id' as id, e.item #>> '{function,name}' as name,
              (e.item #>> '{function,arguments}')::jsonb as args
            from jsonb_array_elements($1) with ordinality e (item, n)) c);
exception when data_exception or program_limit_exceeded then
  return null;
end
$$;

-- A message in a form, with its role or type and its fields.
create function chat_history_in_form(text, text, jsonb) returns jsonb
language sql immutable set search_path from current as $$
  select case when $1 = 'data' then jsonb_build_object('type', $2, 'data', $3)
    else $3 || jsonb_build_object(case when $1 = 'type' then 'type' else 'role' end, $2) end
$$;

-- A message of an application as LangChain's type and data. Nothing of it is lost: see the mark above.
create function chat_history_read_message(message jsonb) returns chat_history_message
language plpgsql immutable set search_path from current as $$
declare
  form constant text := chat_history_message_form(message);
  named constant text := message ->> case form when 'role' then 'role' else 'type' end;
  fields constant jsonb := case when form is null and jsonb_typeof(message) <> 'object' then '{}'
    when form = 'data' then message -> 'data' else message - coalesce(form, '') end;
  read chat_history_message;
  calls jsonb;
  mark jsonb;
begin
  read.type := chat_history_message_type(named, fields);
  read.data := chat_history_message_fields(read.type, fields);
  if strpos(read.data::text, '"$type"') > 0 then  -- the library would take it for a value that JSON cannot hold
    read.data := jsonb_strip_nulls(jsonb_build_object(
      'content', fields::text, 'name', read.data -> 'name', 'tool_call_id', read.data -> 'tool_call_id'));
  end if;
  if read.type = 'ai' and not read.data ? 'tool_calls' then
    calls := chat_history_openai_calls(fields -> 'tool_calls');
    if calls is not null and strpos(calls::text, '"$type"') = 0 then
      read.data := read.data || jsonb_build_object('tool_calls', calls);
    end if;
  end if;
  if not read.data ? 'content' then
    read.data := read.data || jsonb_build_object('content', case
      when jsonb_typeof(message) = 'string' then message #>> '{}'
      when jsonb_typeof(fields -> 'content') = 'null' or read.data ? 'tool_calls' then ''
      when fields ? 'content' then (fields -> 'content')::text
      when jsonb_typeof(fields -> 'text') = 'string' then fields ->> 'text'
      else message::text end);
  end if;
  if form is not null and chat_history_in_form(form, named, read.data) = message
     and not coalesce(read.data -> 'additional_kwargs' ? 'conversations_table', false)
     and (read.type <> 'chat' or read.data ? 'role') then
    mark := jsonb_build_object('form', form, 'as', named, 'kwargs', read.data ? 'additional_kwargs');
  else
    mark := jsonb_build_object('message', message);
  end if;
  if read.type = 'chat' and not read.data ? 'role' then
    read.data := read.data || jsonb_build_object('role', coalesce(nullif(left(named, 1000), ''), 'unknown'));
  end if;
  read.data := read.data || jsonb_build_object('additional_kwargs',
    coalesce(read.data -> 'additional_kwargs', '{}') || jsonb_build_object('conversations_table', mark));
  return read;
end
$$;

-- The fields of a stored message without the mark.
create function chat_history_unmarked(data jsonb) returns jsonb
language sql immutable set search_path from current as $$
  select case when $1 #> '{additional_kwargs,conversations_table}' is null then $1
    when $1 #> '{additional_kwargs,conversations_table,kwargs}' = 'true'
      then $1 #- '{additional_kwargs,conversations_table}'
    else $1 - 'additional_kwargs' end
$$;

-- A stored message as the application sees it: as it was written, or, of one that the library has stored, in the form
-- given, with all its fields.
create function chat_history_show_message(text, json, text) returns jsonb
language plpgsql immutable set search_path from current as $$
declare
  data constant jsonb := chat_history_jsonb($2);
  mark constant jsonb := data #> '{additional_kwargs,conversations_table}';
  named text;
begin
  if mark ? 'message' then
    return mark -> 'message';
  elsif mark ->> 'form' in ('role', 'type', 'data') and mark ? 'as' then
    return chat_history_in_form(mark ->> 'form', mark ->> 'as', chat_history_unmarked(data));
  end if;
  named := case when $3 in ('type', 'data') then $1 when $1 = 'human' then 'user' when $1 = 'ai' then 'assistant'
    when $1 = 'chat' then coalesce(data ->> 'role', $1) else $1 end;
  return chat_history_in_form($3, named, case when $3 <> 'data' and jsonb_typeof(data -> 'content') = 'object'
    then data || jsonb_build_object('content', chat_history_text($2)) else data end);
exception when others then
  return jsonb_build_object('role', $1, 'content', '');
end
$$;

-- Whether a message of a list is the one that is stored, which the list's form would show: it is equal, or the library
-- has stored it and it says the same in other words, whatever defaults it names.
create function chat_history_same_message(text, json, text, jsonb) returns boolean
language plpgsql immutable set search_path from current as $$
declare
  stored constant jsonb := chat_history_jsonb($2);
  read chat_history_message;
begin
  if chat_history_show_message($1, $2, $3) = $4 then
    return true;
  elsif stored is null or jsonb_typeof(stored) <> 'object'
    or stored #> '{additional_kwargs,conversations_table}' is not null then
    return false;
  end if;
  read := chat_history_read_message($4);
  return read.type = $1 and not exists (
    select from jsonb_each(chat_history_unmarked(read.data)) e
      where e.key <> 'type' and stored -> e.key is distinct from e.value
        and not (not stored ? e.key and e.value in ('null', '{}', '[]', 'false', '"success"')));
end
$$;

-- A session's messages, in order.
create function chat_history_conversation_messages(chat_history_sessions, text) returns jsonb
language sql stable set search_path from current as $$
  select coalesce(jsonb_agg(chat_history_show_message(m.type, m.data, $2) order by m.position), '[]')
    from chat_history_messages m where m.session_key = $1.session_key and m.position > $1.cleared_position
$$;

-- The other columns of a session's row; none where the session is not shown: deleted, or without messages, title and
-- row. What has no column of its own is in the session's metadata, as conversations_table: {"id", "session_id", "form",
-- "timestamp" with "as_of": the session's updated_at that it belongs to, "tokens_history", "retriever_audits",
-- "analytics", "metadata" where that is no object}.
create function chat_history_show_conversation(chat_history_sessions)
returns setof chat_history_conversation
language plpgsql stable rows 1 set search_path from current as $$
declare
  whole constant jsonb := chat_history_jsonb($1.metadata);
  kept jsonb := whole -> 'conversations_table';
  shown chat_history_conversation;
begin
  if jsonb_typeof(kept) is distinct from 'object' then
    kept := null;
  end if;
  if $1.deleted_at is not null
     or $1.message_count = 0 and kept is null and ($1.title is null or $1.last_position > 0) then
    return;
  end if;
  begin
    shown.id := (kept ->> 'id')::uuid;
    shown."timestamp" := case when (kept ->> 'as_of')::timestamptz = $1.updated_at then kept ->> 'timestamp' end;
  exception when data_exception then
    shown."timestamp" := null;
  end;
  shown.id := coalesce(shown.id, $1.session_key);
  shown."timestamp" := coalesce(shown."timestamp", $1.updated_at);
  shown.session_id := case when kept is null then $1.session_id else kept ->> 'session_id' end;
  shown.tokens_history := kept -> 'tokens_history';
  shown.retriever_audits := kept -> 'retriever_audits';
  shown.analytics := kept -> 'analytics';
  shown.metadata := coalesce(chat_history_jsonb(chat_history_own_metadata($1.metadata)), kept -> 'metadata');
  shown.form := case when kept ->> 'form' in ('role', 'type', 'data') then kept ->> 'form' else 'role' end;
  return next shown;
end
$$;

select chat_history_grant();
