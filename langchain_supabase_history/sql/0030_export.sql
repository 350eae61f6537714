-- Export: whole conversations out of the database, as they are.
--
--   chat_history_export           the parts of conversations, in pages of bounded size
--   chat_history_export_rows      some rows of one kind of one conversation
--
-- A conversation is its session, its turns, its messages, what was taken out of it, and feedback. A page may end
-- anywhere in it.

create type chat_history_part as (place bigint, kind text, part json);

-- Rows of one kind of a session after a place, up to another: the place of each, its kind and the row as JSON. What was
-- taken out goes by alternatives, the newest first, each in front of its messages: what an alternative follows is then
-- in the conversation or in an alternative before it.
create function chat_history_export_rows(text, chat_history_sessions, bigint, bigint, integer)
returns setof chat_history_part
language plpgsql stable set search_path from current
  set enable_seqscan to off set enable_bitmapscan to off set enable_sort to off as $$
#variable_conflict use_column
declare
  session alias for $2;
begin
  if $1 = 'turn' then
    return query select t.ordinal, $1, to_json(t) from chat_history_turns t
      where t.session_key = session.session_key and t.ordinal > $3 and t.ordinal <= $4 order by t.ordinal limit $5;
  elsif $1 = 'message' then
    return query select m.position, $1, json_build_object('id', m.id, 'position', m.position, 'turn_id', m.turn_id,
          'type', m.type, 'data', m.data, 'tokens', m.tokens, 'in_context', m.in_context, 'begins_turn', m.begins_turn,
          'created_at', m.created_at)
      from chat_history_messages m
      where m.session_key = session.session_key and m.position > $3 and m.position <= $4 order by m.position limit $5;
  elsif $1 = 'alternative' then
    -- Places are doubled positions, so that an alternative has one in front of its first message.
    return query select p.place, p.kind, p.part from (
      (select -2 * a.parked - 1, 'alternative', json_build_object('id', a.id, 'position', a.position,
           'parked', a.parked, 'message_count', a.message_count, 'follows', a.follows, 'created_at', a.created_at)
         from chat_history_alternatives a
         where a.session_key = session.session_key and a.parked > session.cleared_parked
           and -2 * a.parked - 1 > $3)
      union all
      (select 2 * m.position, 'message', json_build_object('id', m.id, 'alternative_id', a.id,
           'position', m.position + a.parked + a.position, 'turn_id', m.turn_id, 'type', m.type, 'data', m.data,
           'tokens', m.tokens, 'in_context', m.in_context, 'begins_turn', m.begins_turn, 'created_at', m.created_at)
         from chat_history_messages m
           join chat_history_alternatives a on a.session_key = m.session_key
             and m.position between -a.parked and a.message_count - a.parked - 1
         where m.session_key = session.session_key and m.position < -session.cleared_parked
           and m.position > div($3 - 1, 2) and 2 * m.position > $3
         order by m.position limit $5)) p (place, kind, part)
      order by p.place limit $5;
  else
    return query select f.ordinal, $1, to_json(f) from chat_history_feedback f
      where f.session_key = session.session_key and f.ordinal > $3 order by f.ordinal limit $5;
  end if;
end
$$;

-- A page of the parts of conversations, in the order in which these are named: {"parts": [{"kind": "session", "turn",
-- "message", "alternative" or "feedback", "row": {...}}], "next": where to go on, or null}. Sessions that do not exist
-- are passed over.
--
--   user_ids   whose each session is; null for the caller's own
--   after      the `next` of the page before. It also holds up to where the open session's turns and messages reached
--              when its export began, so that a turn that is stored meanwhile is not exported by half
--   max_bytes  the page ends after the row that reaches so many bytes
create function chat_history_export(
  session_ids text[], user_ids text[] default null, after json default null, max_bytes integer default null)
returns json
language plpgsql stable set search_path from current set statement_timeout to '60s' as $$
#variable_conflict use_column
declare
  chunk constant integer := 500;
  budget constant bigint := least(coalesce(max_bytes, 4000000), 16000000);
  start constant json := chat_history_json(chat_history_export.after);
  n integer := coalesce((start ->> 'session')::integer, 1);
  kind text := start ->> 'kind';           -- null: at the beginning of the session
  place bigint := (start ->> 'place')::bigint;
  upto_turn bigint := (start ->> 'upto_turn')::bigint;
  upto_position bigint := (start ->> 'upto_position')::bigint;
  session chat_history_sessions;
  entry record;
  found_rows integer;
  spent bigint := 0;
  parts json[] := '{}';
begin
  if n < 1 or kind not in ('turn', 'message', 'alternative', 'feedback') or (kind is not null) <> (place is not null) then
    raise exception 'after is the "next" of the page before' using errcode = 'PT400';
  end if;
  while n <= cardinality(session_ids) loop
    select s.* into session from chat_history_sessions s
      where s.session_key = chat_history_key(chat_history_owner(user_ids[n]), session_ids[n]) and s.deleted_at is null;
    if not found then
      n := n + 1;
      kind := null;
      continue;
    end if;
    if kind is null then
      parts := parts || json_build_object('kind', 'session', 'row', json_build_object(
        'session_id', session.session_id, 'user_id', nullif(session.user_id, ''), 'title', session.title,
        'metadata', session.metadata, 'tags', session.tags, 'pinned', session.pinned, 'archived', session.archived,
        'forked_from', session.forked_from, 'cleared_position', session.cleared_position,
        'cleared_turn', session.cleared_turn, 'created_at', session.created_at, 'updated_at', session.updated_at));
      spent := spent + 500;
      kind := 'turn';
      place := session.cleared_turn;
      upto_turn := session.last_turn;
      upto_position := session.last_position;
    end if;
    while kind is not null loop
      found_rows := 0;
      for entry in
        select r.place, r.kind, r.part from chat_history_export_rows(
          kind, session, place, case kind when 'turn' then upto_turn else upto_position end, chunk) r
      loop
        parts := parts || json_build_object('kind', entry.kind, 'row', entry.part);
        spent := spent + octet_length(entry.part::text);
        place := entry.place;
        found_rows := found_rows + 1;
        if spent >= budget then
          return json_build_object('parts', parts, 'next', json_build_object(
            'session', n, 'kind', kind, 'place', place, 'upto_turn', upto_turn, 'upto_position', upto_position));
        end if;
      end loop;
      if found_rows < chunk then
        place := case kind when 'turn' then session.cleared_position when 'message' then -2 * session.parked - 2 else 0 end;
        kind := case kind when 'turn' then 'message' when 'message' then 'alternative'
                          when 'alternative' then 'feedback' end;
      end if;
    end loop;
    n := n + 1;
  end loop;
  return json_build_object('parts', parts, 'next', null);
end
$$;

select chat_history_grant();
