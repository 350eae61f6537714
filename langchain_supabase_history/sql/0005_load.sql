-- Loading: what the model should see of a session.
--
--   chat_history_load_rows      a header and the messages, as rows
--   chat_history_load           the same as one json value
--   chat_history_window_start   where a window begins
--
-- A window reads no more of a long session than of a short one: each of its parts is a limited walk of an index.

-- Where a window begins. The messages after `after` are walked backwards from the newest in context, and the first
-- limit to be reached ends the walk; each is one limited read of an index. Where that is not all of them, the beginning
-- is put right, for providers refuse a conversation that does not begin with a human message:
--   forward to the first human message in the window;
--   where there is none (a long tool loop), the last human message stands in front, within the limits, and behind it as
--   many of the latest messages as fit, from one that is no tool's result; at least the newest call with its results.
--
-- Answers the position of the first message, null where none fits, and that of the human message in front of it.
create function chat_history_window_start(uuid, bigint, integer, integer, bigint) returns bigint[]
language plpgsql stable set search_path from current as $$
declare
  of_session alias for $1;
  after alias for $2;
  max_messages alias for $3;
  max_turns alias for $4;
  max_tokens alias for $5;
  start_at bigint;
  question_at bigint;
  earliest bigint;  -- of the messages that the limits admit
  found_at bigint;
  spent bigint := 0;
  taken bigint := 0;
  message record;
begin
  if max_messages is not null then
    select m.context_position into earliest from chat_history_messages m
      where m.session_key = of_session and m.context_position > after
      order by m.context_position desc offset max_messages - 1 limit 1;
  end if;
  if max_turns is not null then
    select m.context_position into found_at from chat_history_messages m
      where m.session_key = of_session and m.begins_turn and m.context_position > after
      order by m.context_position desc offset max_turns - 1 limit 1;
    earliest := greatest(earliest, found_at);
  end if;
  earliest := coalesce(earliest, after + 1);
  if max_tokens is null then
    start_at := earliest;
  else
    for message in
      select m.context_position as position, m.tokens from chat_history_messages m
        where m.session_key = of_session and m.context_position >= earliest
        order by m.context_position desc
    loop
      exit when spent + message.tokens > max_tokens;
      spent := spent + message.tokens;
      start_at := message.position;
    end loop;
  end if;

  select m.context_position into start_at from chat_history_messages m
    where m.session_key = of_session and m.context_position >= start_at order by m.context_position limit 1;
  perform from chat_history_messages m
    where m.session_key = of_session and m.context_position > after and m.context_position < start_at
    order by m.context_position desc limit 1;
  if start_at is not null and not found then
    return array[start_at, null];  -- all of them
  end if;
  select m.context_position into found_at from chat_history_messages m
    where m.session_key = of_session and m.type = 'human' and m.context_position >= start_at
    order by m.context_position limit 1;
  if found_at is not null then
    return array[found_at, null];
  end if;

  select m.context_position as position, m.tokens into message from chat_history_messages m
    where m.session_key = of_session and m.type = 'human' and m.context_position > after
    order by m.context_position desc limit 1;
  spent := coalesce(message.tokens, 0);
  taken := case when message.position is null then 0 else 1 end;
  start_at := null;
  if spent > max_tokens then  -- the question alone is too large: an earlier one stands for the conversation
    select m.context_position into question_at from chat_history_messages m
      where m.session_key = of_session and m.type = 'human' and m.context_position > after and m.tokens <= max_tokens
      order by m.context_position desc limit 1;
    return array[null, question_at];
  end if;
  question_at := message.position;
  for message in
    select m.context_position as position, m.tokens from chat_history_messages m
      where m.session_key = of_session and m.context_position >= greatest(earliest, question_at + 1)
      order by m.context_position desc
  loop
    exit when spent + message.tokens > max_tokens or (start_at is not null and taken >= max_messages);
    spent := spent + message.tokens;
    taken := taken + 1;
    start_at := message.position;
  end loop;
  select m.context_position into found_at from chat_history_messages m
    where m.session_key = of_session and m.type <> 'tool' and m.context_position >= start_at
    order by m.context_position limit 1;
  if found_at is not null or start_at is null then
    return array[found_at, question_at];
  end if;
  for message in  -- results alone: back to the message that called
    select m.context_position as position, m.type, m.tokens from chat_history_messages m
      where m.session_key = of_session and m.context_position > coalesce(question_at, after)
        and m.context_position < start_at
      order by m.context_position desc
  loop
    spent := spent + message.tokens;
    exit when spent > max_tokens;
    found_at := message.position;
    exit when message.type <> 'tool';
    found_at := null;
  end loop;
  return array[found_at, question_at];
end
$$;

-- What the model should see, as rows. The first has type '' and the header as its data: {"epoch", "revision",
-- "last_position"}. Then the messages, in order, those of failed turns left out; of a window, the system message that the
-- session begins with and the question may stand in front of the latest.
--
--   after_position, known_revision   what the caller has kept: where the revision is still the one known, only later
--          messages are sent; not together with a window
--   max_messages, max_turns, max_tokens   the window: at most so many of the latest, null for all
--   keep_system   whether a system message at the session's beginning stays in front of a window; its tokens count
create function chat_history_load_rows(
  session_id text, user_id text default null, after_position bigint default null,
  known_revision bigint default null, max_messages integer default null, max_turns integer default null,
  max_tokens bigint default null, keep_system boolean default null)
returns table (type text, data json)
language plpgsql stable set search_path from current set plan_cache_mode to force_generic_plan
  set enable_seqscan to off set enable_bitmapscan to off set enable_sort to off as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_load_rows.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_load_rows.session_id);
  session chat_history_sessions;
  after bigint;
  start bigint;
  beginning bigint[];
  system chat_history_messages;
begin
  if least(max_messages, max_turns, max_tokens) < 1 then
    raise exception 'a window holds at least 1 of messages, turns or tokens' using errcode = 'PT400';
  end if;
  select s.* into session from chat_history_sessions s where s.session_key = of_session;
  after := coalesce(session.cleared_position, 0);
  if max_messages is null and max_turns is null and max_tokens is null then
    start := 1 + case when known_revision = session.revision then greatest(after, least(after_position, session.last_position)) else after end;
  else
    if coalesce(keep_system, true) then
      select m.* into system from chat_history_messages m
        where m.session_key = of_session and m.context_position > after order by m.context_position limit 1;
      if system.type <> 'system' or system.tokens >= max_tokens then
        system := null;
      end if;
    end if;
    beginning := chat_history_window_start(
      of_session, coalesce(system.position, after), max_messages, max_turns, max_tokens - coalesce(system.tokens, 0));
    if coalesce(beginning[1], beginning[2]) is null and system.position is not null then
      beginning := chat_history_window_start(of_session, after, max_messages, max_turns, max_tokens);
      if beginning[1] > system.position or beginning[2] is not null then
        system := null;
      end if;
    end if;
    start := beginning[1];
    start := coalesce(start, session.last_position + 1);
  end if;
  type := '';
  data := json_build_object(
    'epoch', coalesce(session.epoch, 0), 'revision', coalesce(session.revision, 0),
    'last_position', coalesce(session.last_position, 0));
  return next;
  if system.position < start then
    type := system.type;
    data := system.data;
    return next;
  end if;
  if beginning[2] is not null then
    return query select m.type, m.data from chat_history_messages m
      where m.session_key = of_session and m.context_position = beginning[2];
  end if;
  return query select m.type, m.data from chat_history_messages m
    where m.session_key = of_session and m.context_position >= start
    order by m.context_position;
end
$$;

-- The same as one json value: {"header": {...}, "messages": [{"type", "data"}]}, header row left out of the messages.
create function chat_history_load(
  session_id text, user_id text default null, after_position bigint default null,
  known_revision bigint default null, max_messages integer default null, max_turns integer default null,
  max_tokens bigint default null, keep_system boolean default null)
returns json
language sql stable set search_path from current as $$
  select json_build_object(
      'header', (array_agg(r.data) filter (where r.type = ''))[1],
      'messages', coalesce(json_agg(json_build_object('type', r.type, 'data', r.data)) filter (where r.type <> ''), '[]'))
    from chat_history_load_rows(session_id, user_id, after_position, known_revision, max_messages, max_turns,
                                max_tokens, keep_system) r
$$;

select chat_history_grant();
