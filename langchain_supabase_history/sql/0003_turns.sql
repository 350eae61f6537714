-- Turns: a question, what is done for it, and how it stands.
--
--   chat_history_begin             writes down the question and answers what the model should see
--   chat_history_interrupt_turns   marks turns that have been running for too long
--   chat_history_edit_messages     a turn's messages that have changed since they were stored
--   chat_history_check_question    refuses a question that could never be stored
--   chat_history_refuse            an error, as an expression; chat_history_json, _objects: json arguments
--   chat_history_lock              a session's row, locked, made where there is none
--   chat_history_put_turn          writes down how a turn stands
--   chat_history_first_token       the seconds to its first token, for analytics
--   chat_history_show_turn         whether the model is shown a turn's messages follows its status
--
-- Every function that writes locks its session's row first, before it touches turns or messages.

-- A json argument as it was meant: some servers between hand it on as a string that holds the document.
create function chat_history_json(value json) returns json
language sql immutable strict parallel safe set search_path from current as $$
  select case json_typeof(value) when 'string' then (value #>> '{}')::json when 'null' then null else value end
$$;

-- The same for an object, and for a list of objects, which the second argument names in the error.
create function chat_history_object(json, text) returns json
language plpgsql immutable set search_path from current as $$
declare
  value constant json := chat_history_json($1);
begin
  if json_typeof(value) is distinct from 'object' then
    raise exception '% must be a json object', $2 using errcode = 'PT422';
  end if;
  return value;
end
$$;

create function chat_history_objects(json, text) returns json
language plpgsql immutable set search_path from current as $$
declare
  list constant json := coalesce(chat_history_json($1), '[]');
begin
  if json_typeof(list) <> 'array'
     or exists (select from json_array_elements(list) e (item) where json_typeof(item) <> 'object') then
    raise exception '% must be a json list of objects', $2 using errcode = 'PT422';
  end if;
  return list;
end
$$;

-- Refuse the call with a code and a message, from within an expression.
create function chat_history_refuse(text, text) returns text
language plpgsql set search_path from current as $$
begin
  raise exception '%', $2 using errcode = $1;
end
$$;

-- Lock a session's row, making it where there is none.
create function chat_history_lock(text, text) returns chat_history_sessions
language plpgsql set search_path from current as $$
declare
  owner alias for $1;
  name alias for $2;
  of_session constant uuid := chat_history_key(owner, name);
  session chat_history_sessions;
begin
  select s.* into session from chat_history_sessions s where s.session_key = of_session for update;
  if not found then
    if name is null or length(name) not between 1 and 1000 or length(owner) > 1000 or octet_length(owner) > 2500 then
      raise exception 'a session id has 1 to 1000 characters, a user id at most 1000 characters and 2500 bytes of UTF-8'
        using errcode = 'PT400';
    end if;
    insert into chat_history_sessions as s (session_key, user_id, session_id) values (of_session, owner, name)
      on conflict do nothing  -- on either of its two keys
      returning s.* into session;
    if not found then  -- another was faster
      select s.* into strict session from chat_history_sessions s where s.session_key = of_session for update;
    end if;
  end if;
  return session;
end
$$;

-- The further of two statuses: one is never replaced by an earlier one, whatever the order in which they arrive.
create function chat_history_later_status(text, text) returns text
language sql immutable parallel safe set search_path from current as $$
  select case when array_position(o.steps, $2) > array_position(o.steps, $1) then $2 else $1 end
    from (values (array['running', 'interrupted', 'failed', 'completed'])) o (steps)
$$;

-- The seconds to the first token, as a turn's metadata says; null where it does not say a number that can be right.
create function chat_history_first_token(chat_history_turns) returns double precision
language plpgsql immutable set search_path from current as $$
begin
  return substring($1.metadata ->> 'first_token_seconds' from '^\d{1,9}(?:\.\d+)?(?:[eE]-\d{1,2})?$')::double precision;
end
$$;

-- Write down how a turn of a locked session stands; what is not said now stays as it was said before. A question that
-- was asked for, by "asked", waits no longer.
--
--   third    the position of its first message, where this call brings it
--   fourth   its question, where it begins
create function chat_history_put_turn(chat_history_sessions, json, bigint, json) returns chat_history_turns
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  session alias for $1;
  turn alias for $2;
  begins_at alias for $3;
  asks alias for $4;
  given constant chat_history_turns := json_populate_record(null::chat_history_turns, turn);
  put chat_history_turns;
begin
  if given.status not in ('running', 'interrupted', 'failed', 'completed')
     or least(given.input_tokens, given.output_tokens, given.total_tokens, given.total_cost) < 0
     or given.total_cost >= 'Infinity'
     or least(given.started_at, given.ended_at) < '0001-01-01 00:00Z'
     or greatest(given.started_at, given.ended_at) >= '9999-12-31 00:00Z' then
    raise exception 'a turn''s status is running, interrupted, failed or completed, its counts and its cost are 0 or '
      'more, its times are of the years 1 to 9999' using errcode = 'PT422';
  end if;
  insert into chat_history_turns as t (session_key, user_id, id, ordinal, status, first_position, question, trace_id,
      run_id, project, started_at, ended_at, model, input_tokens, output_tokens, total_tokens, token_details, documents,
      error, metadata, first_token_seconds, total_cost)
    values (session.session_key, session.user_id, given.id, session.last_turn + 1, coalesce(given.status, 'completed'),
      begins_at, asks, given.trace_id, given.run_id, given.project, given.started_at, given.ended_at, given.model,
      given.input_tokens, given.output_tokens, given.total_tokens, given.token_details, given.documents, given.error,
      given.metadata, case when given.metadata is not null then chat_history_first_token(given) end,
      given.total_cost)
    on conflict (session_key, id) do update set
      status = chat_history_later_status(t.status, excluded.status),
      first_position = coalesce(t.first_position, excluded.first_position),
      question = case when (turn ->> 'asked')::boolean then null else t.question end,
      trace_id = coalesce(excluded.trace_id, t.trace_id),
      run_id = coalesce(excluded.run_id, t.run_id),
      project = coalesce(excluded.project, t.project),
      started_at = coalesce(t.started_at, excluded.started_at),
      ended_at = coalesce(excluded.ended_at, t.ended_at),
      model = coalesce(excluded.model, t.model),
      input_tokens = coalesce(excluded.input_tokens, t.input_tokens),
      output_tokens = coalesce(excluded.output_tokens, t.output_tokens),
      total_tokens = coalesce(excluded.total_tokens, t.total_tokens),
      token_details = coalesce(excluded.token_details, t.token_details),
      documents = coalesce(excluded.documents, t.documents),
      error = coalesce(excluded.error, t.error),
      metadata = coalesce(excluded.metadata, t.metadata),
      first_token_seconds = case when excluded.metadata is null then t.first_token_seconds
                                 else excluded.first_token_seconds end,
      total_cost = coalesce(excluded.total_cost, t.total_cost)
    returning t.* into put;
  return put;
end
$$;

-- Whether the model is shown a turn's messages follows the turn's status, also for those that were stored before it
-- was known. Answers whether any of them changed.
create function chat_history_show_turn(chat_history_turns) returns boolean
language plpgsql set search_path from current as $$
begin
  update chat_history_messages m set in_context = not m.in_context
    where m.session_key = $1.session_key and m.position >= $1.first_position
      and m.turn_id = $1.id and m.in_context = ($1.status = 'failed');
  return found;
end
$$;

-- Messages of a turn that have changed since they were stored at an interrupt (a person has edited a call, a guard has
-- withheld a text) stay where they are and say what they say now: [{"id", "type", "data", "tokens"}]. Answers whether any
-- did.
create function chat_history_edit_messages(chat_history_turns, json) returns boolean
language plpgsql set search_path from current as $$
begin
  perform chat_history_check_question($1.id, $2);
  update chat_history_messages m set type = e.message ->> 'type', data = e.message -> 'data',
      tokens = coalesce((e.message ->> 'tokens')::integer, m.tokens)
    from json_array_elements($2) e (message)
    where m.session_key = $1.session_key and m.id = (e.message ->> 'id')::uuid and m.turn_id = $1.id
      and (m.data::text <> (e.message -> 'data')::text or m.type <> e.message ->> 'type');
  return found;
end
$$;

-- Refuse a question that could never be stored: then its turn could not be either. Each of its messages has an id of
-- its own, a type and data, perhaps tokens. The first argument is the turn's id.
create function chat_history_check_question(uuid, json) returns void
language plpgsql immutable set search_path from current as $$
begin
  if json_typeof($2) is distinct from 'array' or exists (
    select from json_array_elements($2) q (message)
      where (message ->> 'id' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
          and octet_length(message ->> 'type') between 1 and 100
          and json_typeof(message -> 'data') = 'object'
          and coalesce(message ->> 'tokens', '0') ~ '^[0-9]{1,9}$') is not true)
    or (select count(*) - count(distinct message ->> 'id') from json_array_elements($2) q (message)) <> 0 then
    raise exception 'a turn begins with its id and its question: messages with a uuid, a type and data each'
      using errcode = 'PT422';
  end if;
end
$$;

-- Begin a turn: write down its question, and answer what chat_history_load_rows does, all in one. The question waits on
-- the turn's row, status 'running', until the append that ends the turn puts it in front of the answer; so it is there
-- even where the application is killed in between. Doing it again with the same turn id changes nothing; where the
-- turn was cleared or deleted meanwhile, it is refused.
--
--   turn  {"id": uuid, "question": [{"id", "type", "data", "tokens"}], "started_at": ..., ...}
create function chat_history_begin_rows(
  session_id text, turn json, user_id text default null, max_messages integer default null,
  max_turns integer default null, max_tokens bigint default null, keep_system boolean default null)
returns table (type text, data json)
language plpgsql set search_path from current set plan_cache_mode to force_generic_plan as $$
#variable_conflict use_column
declare
  call constant json := chat_history_json(turn);
  session chat_history_sessions;
  begun chat_history_turns;
begin
  if call ->> 'id' is null then
    raise exception 'a turn must have its id' using errcode = 'PT422';
  end if;
  perform chat_history_check_question((call ->> 'id')::uuid, call -> 'question');
  session := chat_history_lock(chat_history_owner(chat_history_begin_rows.user_id), chat_history_begin_rows.session_id);
  if (call ->> 'id')::uuid = session.erased_turn_id then
    raise exception 'the session was cleared or deleted after the question was asked' using errcode = 'PT409';
  end if;
  if exists (select from chat_history_streams g where g.session_key = session.session_key) then
    perform chat_history_settle_streams(session);  -- what is left of an answer whose writer is gone comes before
    session := chat_history_lock(session.user_id, session.session_id);
  end if;
  begun := chat_history_put_turn(
    session, json_build_object('id', call -> 'id', 'status', 'running', 'started_at', call -> 'started_at',
                               'trace_id', call -> 'trace_id', 'run_id', call -> 'run_id', 'project', call -> 'project'),
    null, call -> 'question');
  if begun.ordinal <= session.cleared_turn or begun.alternative_id is not null then
    raise exception 'the session was cleared or taken back after the question was asked' using errcode = 'PT409';
  end if;
  if begun.ordinal > session.last_turn then
    update chat_history_sessions s set
        last_turn = begun.ordinal, turn_count = s.turn_count + 1, updated_at = clock_timestamp(), deleted_at = null
      where s.session_key = session.session_key;
  end if;
  return query select l.type, l.data from chat_history_load_rows(
    chat_history_begin_rows.session_id, chat_history_begin_rows.user_id, null, null, max_messages, max_turns, max_tokens,
    keep_system) l;
end
$$;

-- The same as one json value, like chat_history_load.
create function chat_history_begin(
  session_id text, turn json, user_id text default null, max_messages integer default null,
  max_turns integer default null, max_tokens bigint default null, keep_system boolean default null)
returns json
language sql set search_path from current as $$
  select json_build_object(
      'header', (array_agg(r.data) filter (where r.type = ''))[1],
      'messages', coalesce(json_agg(json_build_object('type', r.type, 'data', r.data)) filter (where r.type <> ''), '[]'))
    from chat_history_begin_rows(session_id, turn, user_id, max_messages, max_turns, max_tokens, keep_system) r
$$;

-- Mark turns that have been running for longer than so many seconds as interrupted. Only their status changes: the
-- question stays on the turn, and a late answer still completes it. Of an answer that was being written by somebody who is
-- gone, what is there is stored. Answers {"interrupted": how many}.
create function chat_history_interrupt_turns(session_id text, older_than double precision, user_id text default null)
returns json
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_interrupt_turns.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_interrupt_turns.session_id);
  session chat_history_sessions;
  settled integer;
  marked integer;
begin
  if (older_than between 0 and 1e9) is not true then  -- NaN is above all numbers
    raise exception 'older_than is a number of seconds from 0 to 1e9' using errcode = 'PT400';
  end if;
  select s.* into session from chat_history_sessions s where s.session_key = of_session for update;
  settled := chat_history_settle_streams(session);
  update chat_history_turns t set status = 'interrupted'
    where t.session_key = of_session and t.status = 'running'
      and t.created_at <= clock_timestamp() - make_interval(secs => older_than);
  get diagnostics marked = row_count;
  update chat_history_sessions s set revision = s.revision + 1 where s.session_key = of_session and marked > 0;
  return json_build_object('interrupted', marked + settled);
end
$$;

select chat_history_grant();
