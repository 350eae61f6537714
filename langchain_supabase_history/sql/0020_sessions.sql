-- Sessions: list them, name and label them.
--
--   chat_history_list_sessions    a page of them, in one of five orders
--   chat_history_update_session   sets title, tags, metadata, pinned, archived
--   chat_history_text             the text parts of a message
--   chat_history_fold             text as it is compared: without case and accents
--   chat_history_shorten          text on one line, cut at a word
--   chat_history_first_question   what stands in for a title that nobody set
--   chat_history_last_text        the excerpt of its end
--   chat_history_show_session     a session as all of these answer it
--   chat_history_own_metadata     its metadata as the application set it
--   chat_history_lock_existing    a session's row, locked, where there is one
--   chat_history_find_position    where a message stands in a conversation

-- The text parts of a message's payload, without images, tool calls and the like; '' where there are none. A payload
-- that PostgreSQL cannot read (another program may have written a lone surrogate) has no text.
create function chat_history_text(data json) returns text
language plpgsql immutable set search_path from current as $$
declare
  content json;
begin
  content := data -> 'content';
  return case json_typeof(content)
    when 'string' then content #>> '{}'
    -- Text with NUL or lone surrogates is an object: {"$type": "str", "value": "... \\uXXXX ..."}.
    when 'object' then coalesce(regexp_replace(content ->> 'value', '\\(?:u[0-9a-f]{4}|(\\))', '\1', 'g'), '')
    when 'array' then coalesce((
      select string_agg(case json_typeof(e.part) when 'string' then e.part #>> '{}' else e.part ->> 'text' end, E'\n')
        from json_array_elements(content) e (part)
        where json_typeof(e.part) = 'string' or json_typeof(e.part) = 'object' and e.part ->> 'type' = 'text'), '')
    else '' end;
exception when sqlstate '22P02' or sqlstate '22P05' then
  return '';
end
$$;

-- Text as it is compared: without case and accents. Everything is built in, no extension is needed. A database whose
-- locale is C knows no letters but those of ASCII, so the others that are in use are named here.
create function chat_history_fold(value text) returns text
language sql immutable strict parallel safe set search_path from current as $$
  select case when octet_length(value) = length(value) then lower(value)  -- nothing but ASCII
    else (
      select case when f.folded ~ '[Α-ΩЂ-ЯԱ-ՖŁłĐđØøĦħŦŧıÆŒÞÐŊҐς]'
        then translate(f.folded,
          'ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩς'
          'ЂЄЅІЈЉЊЋЏАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯҐ'
          'ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖ'
          'ŁłĐđØøĦħŦŧıÆŒÞÐŊ',
          'αβγδεζηθικλμνξοπρστυφχψωσ'
          'ђєѕіјљњћџабвгдежзийклмнопрстуфхцчшщъыьэюяґ'
          'աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆ'
          'llddoohhttiæœþðŋ')
        else f.folded end
        from (select lower(normalize(regexp_replace(normalize(value, NFD), U&'[\0300-\036F]', '', 'g'), NFC))) f (folded))
    end
$$;

-- Text on one line, cut at a word where it has more characters than the second argument; null where it has none.
create function chat_history_shorten(text, integer) returns text
language plpgsql immutable set search_path from current as $$
declare
  line constant text := btrim(regexp_replace(left($1, 10 * $2), '\s+', ' ', 'g'));
  cut text := left(line, $2 - 1);
begin
  if length(line) <= $2 then
    return nullif(line, '');
  end if;
  if substr(line, $2, 1) <> ' ' and strpos(cut, ' ') > 0 then
    cut := regexp_replace(cut, ' [^ ]*$', '');
    if length(cut) < $2 / 2 then  -- a word that long is cut in the middle
      cut := left(line, $2 - 1);
    end if;
  end if;
  return rtrim(cut) || '…';
end
$$;

-- What stands in for a title that nobody set: the first question, shortened. It is among the first messages or nowhere.
create function chat_history_first_question(chat_history_sessions) returns text
language sql stable set search_path from current as $$
  select chat_history_shorten(chat_history_text(m.data), 60)
    from (select * from chat_history_messages m
            where m.session_key = $1.session_key and m.position > $1.cleared_position order by m.position limit 10) m
    where m.type = 'human' order by m.position limit 1
$$;

-- The text of the last message that has one, shortened.
create function chat_history_last_text(chat_history_sessions) returns text
language sql stable set search_path from current as $$
  select chat_history_shorten(chat_history_text(m.data), 200)
    from (select * from chat_history_messages m
            where m.session_key = $1.session_key and m.position > $1.cleared_position
            order by m.position desc limit 10) m
    where m.type in ('human', 'ai') and chat_history_text(m.data) ~ '\S' order by m.position desc limit 1
$$;

-- A session's metadata without what the view `conversations` keeps there.
create function chat_history_own_metadata(metadata json) returns json
language sql immutable set search_path from current as $$
  select case when json_typeof($1) <> 'object' or strpos($1::text, '"conversations_table"') = 0 then $1 else (
    select json_object_agg(e.key, e.value order by e.n)
      from json_each($1) with ordinality e (key, value, n) where e.key <> 'conversations_table') end
$$;

-- A session as the functions answer it.
create function chat_history_show_session(chat_history_sessions) returns json
language plpgsql stable set search_path from current as $$
declare
  session alias for $1;
begin
  return json_build_object(
    'session_id', session.session_id, 'user_id', nullif(session.user_id, ''),
    'title', coalesce(session.title, chat_history_first_question(session)),
    'metadata', chat_history_own_metadata(session.metadata),
    'created_at', session.created_at, 'updated_at', session.updated_at, 'message_count', session.message_count,
    'last_position', session.last_position, 'epoch', session.epoch, 'revision', session.revision,
    'tags', session.tags, 'pinned', session.pinned, 'archived', session.archived, 'turn_count', session.turn_count,
    'total_tokens', session.total_tokens, 'excerpt', chat_history_last_text(session), 'forked_from', session.forked_from,
    'deleted_at', session.deleted_at);
end
$$;

-- A page of sessions: {"items": [as chat_history_get_session], "next": what to give as `after`, or null}. Deleted and
-- cleared ones are left out, and those that have neither a message nor a title.
--
--   sort       activity, created: the newest first; -activity, -created: the oldest first; title
--   query      part of the title or the session id, whatever its case and accents
--   tags       all of them; metadata: an object that must be contained; prefix: of the session id
--   since, until   when the session was last active: from `since` on and before `until`
--   archived   true: only these, false: only the others, null: both
--   hidden     deleted, cleared and empty ones too, which reads all of the user's sessions
--   all_users  everybody's sessions, which only the application may ask for; else those of the user, or its own
--
-- The first four orders are a limited walk of an index for one user's sessions. What `query`, `tags`, `metadata` and
-- `prefix` leave out is read and passed over; the order by title reads all of the user's.
create function chat_history_list_sessions(
  query text default null, tags text[] default null, metadata json default null, since timestamptz default null,
  until timestamptz default null, archived boolean default null, prefix text default null, sort text default null,
  after json default null, max_items integer default null, user_id text default null, all_users boolean default null,
  hidden boolean default null)
returns json
language plpgsql stable set search_path from current set statement_timeout to '30s'
  set enable_seqscan to off set enable_bitmapscan to off set enable_sort to off as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_sessions.user_id);
  page_size constant integer := chat_history_page_size(max_items);
  start constant json := chat_history_json(chat_history_list_sessions.after);
  way constant text := case when sort like '-%' or sort = 'title' then 'asc' else 'desc' end;
  value constant text := case coalesce(sort, 'activity')
    when 'activity' then 's.updated_at' when '-activity' then 's.updated_at'
    when 'created' then 's.created_at' when '-created' then 's.created_at'
    when 'title' then 'chat_history_fold(coalesce(s.title, chat_history_first_question(s), '''')) collate "C"' end;
  after_value constant text := case sort when 'title' then '$8 collate "C"' else '$8::timestamptz' end;
  conditions text;
  walks text;
  items json;
  following json;
  more boolean;
begin
  if value is null then
    raise exception 'sort is activity, -activity, created, -created or title' using errcode = 'PT400';
  end if;
  if all_users and (chat_history_user() is not null or row_security_active('chat_history_sessions')) then
    raise exception 'only the application itself may list the sessions of all users' using errcode = '42501';
  end if;
  conditions := concat_ws(' and ',
    case when hidden is not true then
      's.deleted_at is null and (s.message_count > 0 or s.title is not null and s.last_position = 0)' end,
    'true',
    case when all_users is not true then 's.user_id = $1' end,
    case when since is not null then 's.updated_at >= $2' end,
    case when until is not null then 's.updated_at < $3' end,
    case when tags <> '{}' then 's.tags @> $4' end,
    case when chat_history_json(metadata) is not null then 'chat_history_jsonb(s.metadata) @> $5::jsonb' end,
    case when prefix <> '' then 'starts_with(s.session_id, $6)' end,
    case when query <> '' then
      '(strpos(chat_history_fold(s.session_id), $7) > 0
        or strpos(chat_history_fold(coalesce(s.title, chat_history_first_question(s))), $7) > 0)' end,
    case when start is not null then
      format('(%s, s.session_key) %s (%s, $9)', value, case way when 'asc' then '>' else '<' end, after_value) end);
  -- Archived ones and the others are two walks of one index.
  select string_agg(format(
        '(select s as session, %1$s as value from chat_history_sessions s where %2$s and s.archived = %3$L
           order by %1$s %4$s, s.session_key %4$s limit $10)', value, conditions, a.archived, way), ' union all ')
    into walks from unnest(array[false, true]) a (archived)
    where a.archived = coalesce(chat_history_list_sessions.archived, a.archived);
  execute format(
    'select json_agg(chat_history_show_session(p.session) order by p.n) filter (where p.n < $10),
            (array_agg(json_build_object(''at'', p.value, ''key'', (p.session).session_key))
              filter (where p.n = $10 - 1))[1],
            count(*) = $10
       from (select w.*, row_number() over (order by w.value %1$s, (w.session).session_key %1$s) as n
               from (%2$s) w order by n limit $10) p', way, walks)
    into items, following, more
    using owner, since, until, tags, chat_history_json(metadata), prefix, chat_history_fold(query), start ->> 'at',
      (start ->> 'key')::uuid, page_size + 1;
  return json_build_object('items', coalesce(items, '[]'), 'next', case when more then following end);
end
$$;

-- Where a message stands in the conversation: at the position given, or wherever the one with this id is.
create function chat_history_find_position(chat_history_sessions, bigint, uuid) returns bigint
language plpgsql stable set search_path from current as $$
declare
  found_at bigint := $2;
begin
  if $3 is not null then
    select m.position into found_at from chat_history_messages m
      where m.session_key = $1.session_key and m.id = $3 and m.position > $1.cleared_position;
    if not found then
      raise exception 'the conversation has no such message any more' using errcode = 'PT404';
    end if;
  end if;
  if (found_at >= 1) is not true then
    raise exception 'a position is 1 or more' using errcode = 'PT400';
  end if;
  return found_at;
end
$$;

-- Lock a session that exists.
create function chat_history_lock_existing(text, text) returns chat_history_sessions
language plpgsql set search_path from current as $$
declare
  session chat_history_sessions;
begin
  select s.* into session from chat_history_sessions s
    where s.session_key = chat_history_key($1, $2) and s.deleted_at is null for update;
  if not found then
    raise exception 'there is no session of this name' using errcode = 'PT404';
  end if;
  return session;
end
$$;

-- Change what is said about a session; what `changes` does not name stays as it is. Answers the session.
--
--   changes  {"title": text, or null for the first question, "default_title": text, where there is no title, "tags": [text], "metadata": {...}: merged into what there
--            is, a null removes its key, "pinned": boolean, "archived": boolean}
create function chat_history_update_session(session_id text, changes json, user_id text default null) returns json
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_update_session.user_id);
  given constant json := chat_history_object(changes, 'changes');
  session chat_history_sessions := chat_history_lock_existing(owner, chat_history_update_session.session_id);
  one record;
begin
  for one in select e.key, e.value, e.value #>> '{}' as text, json_typeof(e.value) as kind from json_each(given) e loop
    if one.key = 'title' and (one.kind = 'null' or one.kind = 'string' and length(one.text) between 1 and 1000) then
      session.title := one.text;
    elsif one.key = 'default_title' and one.kind = 'string' and length(one.text) between 1 and 1000 then
      session.title := coalesce(session.title, one.text);
    elsif one.key = 'tags' and one.kind = 'array' and json_array_length(one.value) <= 100 and not exists (
        select from json_array_elements(one.value) t (tag)
          where json_typeof(tag) <> 'string' or length(tag #>> '{}') not between 1 and 200) then
      session.tags := array(
        select t.tag from json_array_elements_text(one.value) with ordinality t (tag, n) group by t.tag order by min(t.n));
    elsif one.key = 'metadata' and one.kind = 'object' then
      session.metadata := (
        select json_object_agg(m.key, m.value order by m.n) from (
          select e.key, e.value, e.n from json_each(session.metadata) with ordinality e (key, value, n)
            where not exists (select from json_object_keys(one.value) k (key) where k.key = e.key)
          union all
          select e.key, e.value, 100000 + e.n from json_each(one.value) with ordinality e (key, value, n)
            where json_typeof(e.value) <> 'null') m);
    elsif one.key = 'pinned' and one.kind = 'boolean' then
      session.pinned := one.text::boolean;
    elsif one.key = 'archived' and one.kind = 'boolean' then
      session.archived := one.text::boolean;
    else
      raise exception 'changes are a title of 1 to 1000 characters, at most 100 tags of 1 to 200, metadata as an object, '
        'pinned and archived as true or false' using errcode = 'PT400';
    end if;
  end loop;
  if octet_length(chat_history_own_metadata(session.metadata)::jsonb::text) > 65536 then
    raise exception 'the metadata of a session may have 64 KB' using errcode = 'PT400';
  end if;
  update chat_history_sessions s set
      title = session.title, tags = session.tags, metadata = session.metadata, pinned = session.pinned,
      archived = session.archived, revision = s.revision + 1
    where s.session_key = session.session_key returning s.* into session;
  return chat_history_show_session(session);
end
$$;

select chat_history_grant();
