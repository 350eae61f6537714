-- Turns: a question, what is done for it, and how it stands.
--
--   chat_history_begin             writes down the question and answers what the model should see
--   chat_history_interrupt_turns   marks turns that have been running for too long
--   chat_history_lock              a session's row, locked, made where there is none
--   chat_history_put_turn          writes down how a turn stands
--   chat_history_show_turn         whether the model is shown a turn's messages follows its status
--
-- Every function that writes locks its session's row first, before it touches turns or messages.

-- A json argument as it was meant: some servers between hand it on as a string that holds the document.
create function chat_history_json(value json) returns json
language sql immutable strict parallel safe set search_path from current as $$
  select case json_typeof(value) when 'string' then (value #>> '{}')::json when 'null' then null else value end
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
  put chat_history_turns;
begin
  insert into chat_history_turns as t (session_key, user_id, id, ordinal, status, first_position, question, trace_id,
      run_id, project, started_at, ended_at, model, input_tokens, output_tokens, total_tokens, token_details, documents,
      error, metadata, total_cost)
    select session.session_key, session.user_id, n.id, session.last_turn + 1, coalesce(n.status, 'completed'),
        begins_at, asks, n.trace_id, n.run_id, n.project, n.started_at, n.ended_at, n.model, n.input_tokens,
        n.output_tokens, n.total_tokens, n.token_details, n.documents, n.error, n.metadata, n.total_cost
      from json_populate_record(null::chat_history_turns, turn) n
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
  if call ->> 'id' is null or json_typeof(call -> 'question') is distinct from 'array' then
    raise exception 'a turn begins with its id and its question' using errcode = 'PT422';
  end if;
  session := chat_history_lock(chat_history_owner(chat_history_begin_rows.user_id), chat_history_begin_rows.session_id);
  if (call ->> 'id')::uuid = session.erased_turn_id then
    raise exception 'the session was cleared or deleted after the question was asked' using errcode = 'PT409';
  end if;
  begun := chat_history_put_turn(
    session, json_build_object('id', call -> 'id', 'status', 'running', 'started_at', call -> 'started_at',
                               'trace_id', call -> 'trace_id', 'run_id', call -> 'run_id', 'project', call -> 'project'),
    null, call -> 'question');
  if begun.ordinal <= session.cleared_turn then
    raise exception 'the session was cleared after the question was asked' using errcode = 'PT409';
  end if;
  if begun.ordinal > session.last_turn then
    update chat_history_sessions s set last_turn = begun.ordinal, updated_at = clock_timestamp(), deleted_at = null
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
-- question stays on the turn, and a late answer still completes it. Answers {"interrupted": how many}.
create function chat_history_interrupt_turns(session_id text, older_than double precision, user_id text default null)
returns json
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_interrupt_turns.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_interrupt_turns.session_id);
  marked integer;
begin
  perform from chat_history_sessions s where s.session_key = of_session for update;
  update chat_history_turns t set status = 'interrupted'
    where t.session_key = of_session and t.status = 'running'
      and t.created_at <= clock_timestamp() - make_interval(secs => older_than);
  get diagnostics marked = row_count;
  update chat_history_sessions s set revision = s.revision + 1 where s.session_key = of_session and marked > 0;
  return json_build_object('interrupted', marked);
end
$$;

select chat_history_grant();
