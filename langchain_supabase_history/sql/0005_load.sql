-- Loading: what the model should see of a session.
--
--   chat_history_load_rows      a header and the messages, as rows
--   chat_history_load           the same as one json value
--   chat_history_window_start   where a window begins
--
-- A window reads no more of a long session than of a short one: each of its parts is a limited walk of an index.

-- Where a window begins: the position of its first message; null where no message fits. The messages after `after`
-- are walked backwards from the newest in context, and the first limit to be reached ends the walk; each is one
-- limited read of an index. Then the beginning is put right:
--   forward to the first human message in the window;
--   where there is none and it begins with a tool's result, back to the message that called the tool, or, where
--   the token budget does not reach that far, forward past the results.
create function chat_history_window_start(uuid, bigint, integer, integer, bigint) returns bigint
language plpgsql stable set search_path from current as $$
declare
  of_session alias for $1;
  after alias for $2;
  max_messages alias for $3;
  max_turns alias for $4;
  max_tokens alias for $5;
  start bigint;       -- of the messages that the limits admit
  found_at bigint;
  spent bigint := 0;
  truncated boolean := false;
  message record;
begin
  if max_messages is not null then
    select m.context_position into found_at from chat_history_messages m
      where m.session_key = of_session and m.context_position > after
      order by m.context_position desc offset max_messages - 1 limit 1;
    start := found_at;
  end if;
  if max_turns is not null then
    select m.context_position into found_at from chat_history_messages m
      where m.session_key = of_session and m.begins_turn and m.context_position > after
      order by m.context_position desc offset max_turns - 1 limit 1;
    start := greatest(start, found_at);
  end if;
  start := coalesce(start, after + 1);
  if max_tokens is not null then
    found_at := null;
    for message in
      select m.context_position as position, m.tokens from chat_history_messages m
        where m.session_key = of_session and m.context_position >= start
        order by m.context_position desc
    loop
      exit when spent + message.tokens > max_tokens;
      spent := spent + message.tokens;
      found_at := message.position;
    end loop;
    start := found_at;
  end if;

  select m.context_position as position, m.type into message from chat_history_messages m
    where m.session_key = of_session and m.context_position >= start order by m.context_position limit 1;
  if message.position is null then
    return null;
  end if;
  start := message.position;
  select true into truncated from chat_history_messages m
    where m.session_key = of_session and m.context_position > after and m.context_position < start
    order by m.context_position desc limit 1;
  if truncated is null then
    return start;
  end if;
  select m.context_position into found_at from chat_history_messages m
    where m.session_key = of_session and m.type = 'human' and m.context_position >= start
    order by m.context_position limit 1;
  if found_at is not null then
    return found_at;
  end if;
  if message.type <> 'tool' then
    return start;
  end if;
  found_at := null;
  for message in
    select m.context_position as position, m.type, m.tokens from chat_history_messages m
      where m.session_key = of_session and m.context_position > after and m.context_position < start
      order by m.context_position desc
  loop
    spent := spent + message.tokens;
    exit when spent > max_tokens;
    if message.type <> 'tool' then
      return message.position;
    end if;
  end loop;
  select m.context_position into found_at from chat_history_messages m
    where m.session_key = of_session and m.type <> 'tool' and m.context_position > start
    order by m.context_position limit 1;
  return found_at;
end
$$;

-- What the model should see, as rows. The first has type '' and the header as its data: {"epoch", "revision",
-- "last_position", "system", "fallback", "fallback_alone"}. Then, where the header says so, the system message that the session begins
-- with, kept in front of a window, and a fallback: the last human message that fits, for a window that would be empty
-- because all in it is tool calls without an answer or too large; alone, where the budget does not hold both. Then the messages, in order. Messages of failed
-- turns are left out.
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
  system chat_history_messages;
  fallback chat_history_messages;
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
    start := chat_history_window_start(of_session, coalesce(system.position, after), max_messages, max_turns,
                                       max_tokens - coalesce(system.tokens, 0));
    if start is null and system.position is not null then
      start := chat_history_window_start(of_session, after, max_messages, max_turns, max_tokens);
      if start > system.position then
        system := null;
      end if;
    end if;
    if start is null or not exists (
      select from chat_history_messages m
        where m.session_key = of_session and m.type = 'human' and m.context_position >= start)
    then
      select m.* into fallback from chat_history_messages m
        where m.session_key = of_session and m.type = 'human' and m.context_position > after
          and m.tokens <= coalesce(max_tokens, m.tokens)
        order by m.context_position desc limit 1;
    end if;
    start := coalesce(start, session.last_position + 1);
  end if;
  type := '';
  data := json_build_object(
    'epoch', coalesce(session.epoch, 0), 'revision', coalesce(session.revision, 0),
    'last_position', coalesce(session.last_position, 0),
    'system', (system.position < start), 'fallback', fallback.position is not null,
    'fallback_alone', coalesce(system.tokens + fallback.tokens > max_tokens, false));
  return next;
  if system.position < start then
    type := system.type;
    data := system.data;
    return next;
  end if;
  if fallback.position is not null then
    type := fallback.type;
    data := fallback.data;
    return next;
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
