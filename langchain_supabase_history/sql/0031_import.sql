-- Import: whole conversations into the database, as they were exported.
--
--   chat_history_import           conversations, or pieces of them; each row is stored once
--   chat_history_import_one       one of these
--   chat_history_import_turns, _alternatives, _messages, _feedback   its rows

-- Store a session's turns that it does not have yet, and answer them. Ordinals are kept where they come after all that
-- there are, else counted on.
create function chat_history_import_turns(chat_history_sessions, json) returns setof chat_history_turns
language sql set search_path from current as $$
  insert into chat_history_turns (session_key, user_id, id, ordinal, status, question, trace_id, run_id, project,
      started_at, ended_at, model, input_tokens, output_tokens, total_tokens, token_details, total_cost, documents,
      error, metadata, first_token_seconds, alternative_id, branched, copied, created_at)
    select $1.session_key, $1.user_id, n.id,
        case when min(n.ordinal) over () > $1.last_turn then n.ordinal
             else $1.last_turn + row_number() over (order by n.ordinal) end,
        coalesce(n.status, 'completed'), n.question, n.trace_id, n.run_id, n.project, n.started_at, n.ended_at, n.model,
        n.input_tokens, n.output_tokens, n.total_tokens, n.token_details, n.total_cost, n.documents, n.error,
        n.metadata, chat_history_first_token(n), n.alternative_id, coalesce(n.branched, false), coalesce(n.copied, false),
        coalesce(n.created_at, clock_timestamp())
      from json_populate_recordset(null::chat_history_turns, $2) n
      where not exists (select from chat_history_turns t where t.session_key = $1.session_key and t.id = n.id)
    returning *
$$;

-- Store the alternatives of a session that it does not have yet, without their messages (the third argument): the room
-- for these is the one that they had, where it is free, else taken below all that there are. One whose messages are there
-- already was switched to, or taken out in another way since. Answers the session's `parked`.
create function chat_history_import_alternatives(chat_history_sessions, json, json) returns bigint
language plpgsql set search_path from current as $$
declare
  session alias for $1;
  highest bigint := session.parked;
  one record;
  follows_at bigint;
  room bigint;
begin
  for one in
    select a.* from json_array_elements($2) with ordinality e (item, n),
        json_populate_record(null::chat_history_alternatives, e.item) a
      where a.id is not null and a.message_count > 0 and not exists (
        select from chat_history_alternatives k where k.session_key = session.session_key and k.id = a.id)
        and not exists (
          select from json_array_elements($3) n (item)
            join chat_history_messages m on m.session_key = session.session_key and m.id = (n.item ->> 'id')::uuid
            where (n.item ->> 'alternative_id')::uuid = a.id)
      order by e.n
  loop
    room := one.parked;
    if (room between session.cleared_parked + one.message_count and highest + 1000000000) is not true or exists (
      select from chat_history_alternatives a
        where a.session_key = session.session_key and a.parked > room - one.message_count
          and a.parked - a.message_count < room)
    then
      room := highest + one.message_count;
    end if;
    highest := greatest(highest, room);
    follows_at := null;
    select case when m.position > 0 then m.position else a.position + a.parked + m.position end into follows_at
      from chat_history_messages m
        left join chat_history_alternatives a on a.session_key = m.session_key
          and m.position between -a.parked and a.message_count - a.parked - 1
      where m.session_key = session.session_key and m.id = one.follows;
    insert into chat_history_alternatives (session_key, user_id, id, position, message_count, parked, follows, created_at)
      values (session.session_key, session.user_id, one.id,
        coalesce(follows_at, case when one.follows is null then session.cleared_position end, one.position - 1) + 1,
        one.message_count, room, one.follows, coalesce(one.created_at, clock_timestamp()));
  end loop;
  return highest;
end
$$;

-- Store a session's messages that it does not have yet, and tell how many of the conversation itself these are: they
-- follow those that there are. Those of an alternative go to the room that was taken for it.
create function chat_history_import_messages(chat_history_sessions, json) returns bigint
language plpgsql set search_path from current as $$
declare
  session alias for $1;
  rows constant chat_history_messages[] := array(
    select n from json_populate_recordset(null::chat_history_messages, $2) n);
  stored bigint;
begin
  if exists (
    select from unnest(rows) n join chat_history_messages m on m.session_key = session.session_key and m.id = n.id
      where m.type <> n.type or case when m.data::text <> n.data::text then not chat_history_same_data(m.data, n.data)
                                     else false end
  ) then
    raise exception 'a message with this id is stored with other content' using errcode = 'PT409';
  end if;
  with new as (
    select n.*, o.alternative_id, a.parked, a.position as begins_at, (
          select count(*) from chat_history_messages m
            where m.session_key = session.session_key
              and m.position between -a.parked and a.message_count - a.parked - 1) as there
      from unnest(rows) with ordinality n (session_key, user_id, position, id, turn_id, type, data, tokens, in_context,
             context_position, begins_turn, created_at, n)
        join (select e.n, (e.item ->> 'alternative_id')::uuid as alternative_id
                from json_array_elements($2) with ordinality e (item, n)) o on o.n = n.n
        left join chat_history_alternatives a on a.session_key = session.session_key and a.id = o.alternative_id
      where (o.alternative_id is null or a.id is not null)
        and not exists (
          select from chat_history_messages m where m.session_key = session.session_key and m.id = n.id)),
  placed as (
    select n.*, row_number() over (partition by n.alternative_id order by n.position, n.n)
        + case when n.alternative_id is null then session.last_position else n.there - n.parked - 1 end as place
      from new n),
  inserted as (
    insert into chat_history_messages (session_key, user_id, position, id, turn_id, type, data, tokens, in_context,
        begins_turn, created_at)
      select session.session_key, session.user_id, p.place, p.id, p.turn_id, p.type, p.data,
          coalesce(p.tokens, 1 + octet_length(p.data::text) / 4), coalesce(p.in_context, true),
          coalesce(p.begins_turn, false), coalesce(p.created_at, clock_timestamp())
        from placed p),
  begun as (
    update chat_history_turns t set first_position = f.place
      from (select p.turn_id, min(p.place + coalesce(p.parked + p.begins_at, 0)) as place
              from placed p group by p.turn_id) f
      where t.session_key = session.session_key and t.id = f.turn_id and t.first_position is null)
  select count(*) filter (where p.alternative_id is null) into stored from placed p;
  return stored;
end
$$;

-- Store feedback on a session that it does not have yet, and tell how much that is. LangSmith is not sent it again.
create function chat_history_import_feedback(chat_history_sessions, json) returns bigint
language plpgsql set search_path from current as $$
declare
  session alias for $1;
  last constant bigint := (select max(f.ordinal) from chat_history_feedback f where f.session_key = $1.session_key);
  stored bigint;
begin
  insert into chat_history_feedback (session_key, user_id, id, turn_id, message_id, key, score, value, comment,
      metadata, created_at, updated_at, ordinal, sent_at, unsent)
    select session.session_key, session.user_id, n.id, n.turn_id, n.message_id, n.key, n.score, n.value, n.comment,
        n.metadata, coalesce(n.created_at, clock_timestamp()), coalesce(n.updated_at, clock_timestamp()),
        case when min(n.ordinal) over () > coalesce(last, 0) then n.ordinal
             else coalesce(last, 0) + row_number() over (order by n.ordinal) end, n.sent_at, false
      from json_populate_recordset(null::chat_history_feedback, $2) n
      where not exists (
        select from chat_history_feedback f where f.session_key = session.session_key and f.id = n.id);
  get diagnostics stored = row_count;
  return stored;
end
$$;

-- Store one conversation, or a piece of one that goes on: {"session", "turns", "messages", "alternatives", "feedback"}.
-- A dry run only counts. Answers {"sessions": 1 where it was not there before, "messages", "turns", "feedback",
-- "known": messages that were stored already}.
create function chat_history_import_one(json, text, boolean) returns json
language plpgsql set search_path from current as $$
declare
  header constant json := $1 -> 'session';
  messages constant json := coalesce($1 -> 'messages', '[]');
  alternatives constant json := coalesce($1 -> 'alternatives', '[]');
  turns constant json := coalesce($1 -> 'turns', '[]');
  feedback constant json := coalesce($1 -> 'feedback', '[]');
  owner constant text := chat_history_owner($2);
  session chat_history_sessions;
  is_new boolean;
  known bigint;
  stored_messages bigint;
  stored_turns bigint;
  counted_turns bigint;
  counted_tokens numeric;
  stored_feedback bigint;
  highest_parked bigint;
begin
  if header ->> 'session_id' is null or exists (
    select from json_populate_recordset(null::chat_history_messages, messages) n
      where n.id is null or n.turn_id is null or (octet_length(n.type) between 1 and 100) is not true or n.tokens < 0
        or json_typeof(n.data) is distinct from 'object')
  then
    raise exception 'a message must have its id, turn_id, type and data, and a session its session_id'
      using errcode = 'PT422';
  end if;
  select s.* into session from chat_history_sessions s
    where s.session_key = chat_history_key(owner, header ->> 'session_id');
  is_new := not found or session.deleted_at is not null
    or session.last_position = 0 and session.last_turn = 0 and session.title is null;
  select count(*) into known from json_array_elements(messages) n (item)
    join chat_history_messages m on m.session_key = session.session_key and m.id = (n.item ->> 'id')::uuid;
  if $3 then
    return json_build_object('sessions', is_new::integer, 'messages', json_array_length(messages) - known,
                             'turns', json_array_length(turns), 'feedback', json_array_length(feedback), 'known', known);
  end if;

  session := chat_history_lock(owner, header ->> 'session_id');
  if is_new then
    if session.deleted_at is not null then
      perform chat_history_sweep(session, null);
    else
      session.last_position := greatest(coalesce((header ->> 'cleared_position')::bigint, 0), 0);
      session.last_turn := greatest(coalesce((header ->> 'cleared_turn')::bigint, 0), 0);
    end if;
    session.cleared_position := session.last_position;
    session.cleared_turn := session.last_turn;
  end if;
  select count(*), count(*) filter (where t.alternative_id is null),
         sum(t.total_tokens) filter (where t.alternative_id is null)
    into stored_turns, counted_turns, counted_tokens from chat_history_import_turns(session, turns) t;
  highest_parked := chat_history_import_alternatives(session, alternatives, messages);
  stored_messages := chat_history_import_messages(session, messages);
  stored_feedback := chat_history_import_feedback(session, feedback);
  update chat_history_sessions s set
      title = case when is_new then header ->> 'title' else s.title end,
      metadata = case when is_new then chat_history_json(header -> 'metadata') else s.metadata end,
      tags = case when is_new and json_typeof(header -> 'tags') = 'array'
        then array(select json_array_elements_text(header -> 'tags')) else s.tags end,
      pinned = case when is_new then coalesce((header ->> 'pinned')::boolean, false) else s.pinned end,
      archived = case when is_new then coalesce((header ->> 'archived')::boolean, false) else s.archived end,
      forked_from = case when is_new then header ->> 'forked_from' else s.forked_from end,
      created_at = case when is_new then coalesce((header ->> 'created_at')::timestamptz, s.created_at)
        else s.created_at end,
      updated_at = case when is_new then coalesce((header ->> 'updated_at')::timestamptz, s.updated_at)
        else s.updated_at end,
      cleared_position = session.cleared_position, cleared_turn = session.cleared_turn,
      last_position = session.last_position + stored_messages,
      last_turn = greatest(session.last_turn, coalesce((
        select max(t.ordinal) from chat_history_turns t where t.session_key = s.session_key), 0)),
      last_turn_id = case when stored_messages > 0 then (
        select m.turn_id from chat_history_messages m
          where m.session_key = s.session_key and m.position = session.last_position + stored_messages)
        else s.last_turn_id end,
      message_count = s.message_count + stored_messages, turn_count = s.turn_count + counted_turns,
      total_tokens = case when counted_tokens is null then s.total_tokens
        else coalesce(s.total_tokens, 0) + counted_tokens end,
      parked = highest_parked, deleted_at = null, revision = s.revision + 1
    where s.session_key = session.session_key
      and (is_new or stored_messages + stored_turns + stored_feedback > 0 or highest_parked > s.parked);
  return json_build_object('sessions', is_new::integer, 'messages', json_array_length(messages) - known,
                           'turns', stored_turns, 'feedback', stored_feedback, 'known', known);
end
$$;

-- Store conversations, each as chat_history_import_one does, all in one transaction. What of a conversation cannot be
-- stored leaves the others as they are.
--
--   conversations  [{"session": {"session_id", "user_id", ...}, "turns", "messages", "alternatives", "feedback"}]
--   user_id        whose they become; null: those whom the conversations name
--
-- Answers {"sessions", "messages", "turns", "feedback", "known": the sums of their answers, "refused": [{"n": which one,
-- from 0, "code", "message"}]}.
create function chat_history_import(conversations json, user_id text default null, dry_run boolean default false)
returns json
language plpgsql set search_path from current set statement_timeout to '5min' as $$
#variable_conflict use_column
declare
  one record;
  reply json;
  replies json[] := '{}';
  refused json[] := '{}';
begin
  for one in
    select e.item, e.n - 1 as n
      from json_array_elements(chat_history_objects(conversations, 'conversations')) with ordinality e (item, n)
  loop
    begin
      reply := chat_history_import_one(one.item,
        coalesce(chat_history_import.user_id, one.item -> 'session' ->> 'user_id'), coalesce(dry_run, false));
      replies := replies || reply;
    exception when others then
      if sqlstate !~ '^(22|23|54|PT4)' then  -- not the conversation's fault
        raise;
      end if;
      refused := refused || json_build_object('n', one.n, 'code', sqlstate, 'message', sqlerrm);
    end;
  end loop;
  return (
    select json_build_object(
        'sessions', coalesce(sum((r ->> 'sessions')::bigint), 0), 'messages', coalesce(sum((r ->> 'messages')::bigint), 0),
        'turns', coalesce(sum((r ->> 'turns')::bigint), 0), 'feedback', coalesce(sum((r ->> 'feedback')::bigint), 0),
        'known', coalesce(sum((r ->> 'known')::bigint), 0), 'refused', refused)
      from unnest(replies) r);
end
$$;

select chat_history_grant();
