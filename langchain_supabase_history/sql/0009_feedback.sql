-- Feedback: what people thought of turns and messages, and what LangSmith has been sent of it.
--
--   chat_history_add_feedback      stores it, or what it was changed to
--   chat_history_list_feedback     a page of a session's
--   chat_history_unsent_feedback   what LangSmith has not been sent yet
--   chat_history_feedback_sent     notes what LangSmith has taken
--   chat_history_find_feedback     the row that a feedback replaces

-- What LangSmith has not been sent yet of an owner's feedback, at most so many: a row each with all that sending needs.
-- The one of the session and id given comes first, then what was refused the least often, the oldest first.
create function chat_history_unsent_feedback(text, uuid, uuid, integer) returns json
language sql stable set search_path from current set enable_seqscan to off set enable_bitmapscan to off as $$
  select coalesce(json_agg(u), '[]') from (
    select s.session_id, f.id, f.key, f.score, f.value, f.comment, f.updated_at, f.sent_at,
        coalesce(t.run_id, t.trace_id) as run_id, t.project, t.metadata ->> 'trace_started_at' as run_started_at
      from (
        (select * from chat_history_feedback f where f.session_key = $2 and f.id = $3 and f.unsent)
        union all
        (select * from chat_history_feedback f
           where f.user_id = $1 and f.unsent and (f.session_key, f.id) is distinct from ($2, $3)
           order by f.refusals, f.updated_at limit $4 - 1)) f
        join chat_history_turns t on t.session_key = f.session_key and t.id = f.turn_id
        join chat_history_sessions s on s.session_key = f.session_key
      order by f.id <> $3, f.refusals, f.updated_at) u
$$;

-- The row that a feedback replaces: the one with its id, else, unless it comes from LangSmith, the newest of its key on
-- the same turn or message.
create function chat_history_find_feedback(uuid, chat_history_feedback) returns chat_history_feedback
language plpgsql stable set search_path from current set enable_seqscan to off as $$
declare
  of_session alias for $1;
  given alias for $2;
  stored chat_history_feedback;
begin
  select f.* into stored from chat_history_feedback f where f.session_key = of_session and f.id = given.id;
  if not found and given.sent_at is null then
    select f.* into stored from chat_history_feedback f
      where f.session_key = of_session and f.turn_id = given.turn_id and f.key = given.key
        and f.message_id is not distinct from given.message_id
      order by f.ordinal desc limit 1;
  end if;
  return stored;
end
$$;

-- Store what somebody thought of a turn, or of one message of it. There is one feedback of each key on a turn, and on
-- a message: giving it again, which is a changed mind, replaces it.
--
--   feedback  {"id": minted by the caller, "turn_id" or "message_id", "key", "score", "value", "comment", "metadata",
--             "created_at", "sent_at"}; value is any json, wrapped: {"value": ...}. With sent_at it comes from
--             LangSmith, where there may be several of one key: it replaces the one with its id only.
--
-- Answers {"feedback": the row, "unsent": what LangSmith has not been sent yet, this one first}.
create function chat_history_add_feedback(session_id text, feedback json, user_id text default null) returns json
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_add_feedback.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_add_feedback.session_id);
  given chat_history_feedback :=
    json_populate_record(null::chat_history_feedback, chat_history_object(feedback, 'feedback'));
  session chat_history_sessions;
  of_turn chat_history_turns;
  stored chat_history_feedback;
begin
  if given.id is null or (octet_length(given.key) between 1 and 1000) is not true
     or given.score in ('NaN', 'Infinity', '-Infinity')
     or least(given.created_at, given.sent_at) < '0001-01-01 00:00Z'
     or greatest(given.created_at, given.sent_at) >= '9999-12-31 00:00Z' then
    raise exception 'feedback needs an id, a key of at most 1000 bytes, and a finite score if any' using errcode = 'PT422';
  end if;
  select s.* into session from chat_history_sessions s
    where s.session_key = of_session and s.deleted_at is null for update;
  if given.message_id is not null then
    select m.turn_id into given.turn_id from chat_history_messages m
      where m.session_key = of_session and m.id = given.message_id and m.position > session.cleared_position;
    if not found then
      raise exception 'the session has no such message' using errcode = 'PT404';
    end if;
  end if;
  select t.* into of_turn from chat_history_turns t where t.session_key = of_session and t.id = given.turn_id;
  if (of_turn.ordinal > session.cleared_turn) is not true then
    raise exception 'the session has no such turn' using errcode = 'PT404';
  end if;

  stored := chat_history_find_feedback(of_session, given);
  if stored.id is null then
    insert into chat_history_feedback (session_key, user_id, id, turn_id, message_id, key, score, value, comment,
        metadata, created_at, updated_at, ordinal, sent_at, unsent)
      select of_session, owner, given.id, given.turn_id, given.message_id, given.key, given.score, given.value,
          given.comment, given.metadata, coalesce(given.created_at, clock_timestamp()), clock_timestamp(),
          1 + coalesce((select max(f.ordinal) from chat_history_feedback f where f.session_key = of_session), 0),
          given.sent_at, given.sent_at is null and coalesce(of_turn.run_id, of_turn.trace_id) is not null
      returning * into stored;
  elsif (stored.score, stored.value::text, stored.comment)
      is distinct from (given.score, given.value::text, given.comment) then
    update chat_history_feedback f set
        score = given.score, value = given.value, comment = given.comment,
        metadata = coalesce(given.metadata, f.metadata), updated_at = clock_timestamp(),
        sent_at = coalesce(given.sent_at, f.sent_at), refusals = 0,
        unsent = given.sent_at is null and coalesce(of_turn.run_id, of_turn.trace_id) is not null
      where f.session_key = of_session and f.id = stored.id
      returning * into stored;
  end if;
  return json_build_object('feedback', stored, 'unsent',
    case when given.sent_at is null then chat_history_unsent_feedback(owner, of_session, stored.id, 20) else '[]' end);
end
$$;

-- Note what LangSmith has taken: [{"session_id", "id", "updated_at", "refused": where it has not}]. Feedback that was
-- changed since stays unsent; so does what was refused, for its run may not have arrived yet. Answers {"sent": how many
-- rows there were}.
create function chat_history_feedback_sent(feedback json, user_id text default null) returns json
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_feedback_sent.user_id);
  one record;
  counted bigint := 0;
begin
  for one in
    select chat_history_key(owner, n.session_id) as session_key, n.id, n.updated_at,
        coalesce(n.refused, false) as refused
      from json_to_recordset(chat_history_objects(feedback, 'feedback'))
        n (session_id text, id uuid, updated_at timestamptz, refused boolean)
      order by 1
  loop
    perform from chat_history_sessions s where s.session_key = one.session_key for update;
    update chat_history_feedback f set
        sent_at = case when one.refused then f.sent_at else clock_timestamp() end,
        refusals = f.refusals + one.refused::integer,
        unsent = f.updated_at is distinct from one.updated_at or (one.refused and f.refusals < 9)
      where f.session_key = one.session_key and f.id = one.id;
    counted := counted + found::integer;
  end loop;
  return json_build_object('sent', counted);
end
$$;

-- A page of a session's feedback: {"items": [...], "next"}; arguments as for chat_history_list_messages.
create function chat_history_list_feedback(
  session_id text, user_id text default null, after bigint default null, max_items integer default null)
returns json
language plpgsql stable set search_path from current
  set enable_seqscan to off set enable_bitmapscan to off set enable_sort to off set enable_hashjoin to off
  set enable_mergejoin to off as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_feedback.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_list_feedback.session_id);
  page_size constant integer := chat_history_page_size(max_items);
  hidden constant bigint :=
    coalesce((select s.cleared_turn from chat_history_sessions s where s.session_key = of_session), 0);
  items json;
  counted integer;
  last bigint;
begin
  select json_agg(to_json(f)), count(*), max(f.ordinal) into items, counted, last
    from (select f.* from chat_history_feedback f
            join chat_history_turns t on t.session_key = f.session_key and t.id = f.turn_id and t.ordinal > hidden
          where f.session_key = of_session and f.ordinal > coalesce(after, 0)
          order by f.ordinal limit page_size) f;
  return json_build_object('items', coalesce(items, '[]'), 'next', case when counted = page_size then last end);
end
$$;

select chat_history_grant();
