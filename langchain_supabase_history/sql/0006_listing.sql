-- Listing: what is stored, in pages.
--
--   chat_history_list_messages   a session's messages, those of failed turns included
--   chat_history_list_turns      its turns
--   chat_history_get_session     the session without its messages
--   chat_history_page_size       how many items a page has

-- How many items a page has that asks for so many: 100 unless told otherwise, 1,000 at the most.
create function chat_history_page_size(integer) returns integer
language plpgsql immutable parallel safe set search_path from current as $$
begin
  if $1 < 1 then
    raise exception 'a page has at least 1 item' using errcode = 'PT400';
  end if;
  return least(coalesce($1, 100), 1000);
end
$$;

-- A page of what is stored, failed turns included: {"items": [{"id", "position", "created_at", "turn_id", "type",
-- "data"}], "next": the position to go on from, or null}.
--
--   after  the `next` of the page before
create function chat_history_list_messages(
  session_id text, user_id text default null, after bigint default null, max_items integer default null,
  newest_first boolean default false)
returns json
language plpgsql stable set search_path from current
  set enable_seqscan to off set enable_bitmapscan to off set enable_sort to off as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_messages.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_list_messages.session_id);
  page_size constant integer := chat_history_page_size(max_items);
  hidden constant bigint :=
    coalesce((select s.cleared_position from chat_history_sessions s where s.session_key = of_session), 0);
  items json;
  counted integer;
  last bigint;
begin
  select json_agg(json_build_object('id', m.id, 'position', m.position, 'created_at', m.created_at,
           'turn_id', m.turn_id, 'type', m.type, 'data', m.data)),
         count(*), case when newest_first then min(m.position) else max(m.position) end
    into items, counted, last
    from (
      (select * from chat_history_messages m
         where newest_first and m.session_key = of_session and m.position > hidden
           and m.position < coalesce(after, 9223372036854775807)
         order by m.position desc limit page_size)
      union all
      (select * from chat_history_messages m
         where newest_first is not true and m.session_key = of_session and m.position > greatest(hidden, after)
         order by m.position limit page_size)) m;
  return json_build_object('items', coalesce(items, '[]'), 'next', case when counted = page_size then last end);
end
$$;

-- A page of turns, in the same manner.
create function chat_history_list_turns(
  session_id text, user_id text default null, after bigint default null, max_items integer default null,
  newest_first boolean default false)
returns json
language plpgsql stable set search_path from current
  set enable_seqscan to off set enable_bitmapscan to off set enable_sort to off as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_turns.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_list_turns.session_id);
  page_size constant integer := chat_history_page_size(max_items);
  hidden constant bigint :=
    coalesce((select s.cleared_turn from chat_history_sessions s where s.session_key = of_session), 0);
  items json;
  counted integer;
  last bigint;
begin
  select json_agg(to_json(t)), count(*), case when newest_first then min(t.ordinal) else max(t.ordinal) end
    into items, counted, last
    from (
      (select * from chat_history_turns t
         where newest_first and t.session_key = of_session and t.ordinal > hidden and t.alternative_id is null
           and t.ordinal < coalesce(after, 9223372036854775807)
         order by t.ordinal desc limit page_size)
      union all
      (select * from chat_history_turns t
         where newest_first is not true and t.session_key = of_session and t.ordinal > greatest(hidden, after)
           and t.alternative_id is null
         order by t.ordinal limit page_size)) t;
  return json_build_object('items', coalesce(items, '[]'), 'next', case when counted = page_size then last end);
end
$$;

-- A session without its messages; null where there is none.
create function chat_history_get_session(session_id text, user_id text default null) returns json
language plpgsql stable set search_path from current
  set enable_seqscan to off set enable_bitmapscan to off set enable_sort to off as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_get_session.user_id);
begin
  return (
    select chat_history_show_session(s) from chat_history_sessions s
      where s.session_key = chat_history_key(owner, chat_history_get_session.session_id) and s.deleted_at is null);
end
$$;

select chat_history_grant();
