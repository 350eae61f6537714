-- Search: messages by their words, over all conversations of a user.
--
--   chat_history_search          a page of what is found, the best first
--   chat_history_index_search    makes the index that answers it, in a language; off until it is called
--   chat_history_language        that language: a text search configuration
--   chat_history_words           what the index holds of a message
--   chat_history_blank           text with spaces in place of all punctuation; chat_history_plain folds it too
--   chat_history_search_query    the words of a query, and chat_history_search_parts what must be looked for in the text
--   chat_history_excerpt         the part of a text around what was found in it
--   chat_history_callers_owner   whose messages the caller may search
--
-- Only text is searched, no images, tool calls and the like. The index holds, beside the words of a message, one word for
-- its session and one for its user, so that a search of one user reads what is that user's only.

-- The text search configuration that words are made with. chat_history_index_search sets it; stable, so that no plan
-- remembers another.
create function chat_history_language() returns regconfig
language sql stable parallel safe set search_path from current as $$ select 'pg_catalog.simple'::regconfig $$;

-- Text with a space in place of each character of punctuation. It has as many characters.
create function chat_history_blank(value text) returns text
language sql immutable strict parallel safe set search_path from current as $$
  select regexp_replace(value, E'[\\x01-\\x1f!-/:-@\\[-`{-~«»“”‘’„–—…¿¡·、。，！？；：（）「」『』【】《》]', ' ', 'g')
$$;

-- Text as it is searched: folded, without punctuation.
create function chat_history_plain(value text) returns text
language sql immutable strict parallel safe set search_path from current as $$
  select chat_history_blank(chat_history_fold(value))
$$;

-- The word that stands for a user or a session in the index. No word of a text looks like it.
create function chat_history_mark(text, text) returns text
language sql immutable strict parallel safe set search_path from current as $$
  select '/' || $1 || '/' || encode(sha256(convert_to($2, 'UTF8')), 'hex')
$$;

-- What the index holds of a message of a user and a session: its words as they are, so that a beginning is found, and in a
-- language their stems, which are made of words with their accents. Of a very long one the beginning, for an index entry
-- has its limit.
create function chat_history_words(text, uuid, json) returns tsvector
language plpgsql immutable cost 5000 set search_path from current as $$
declare
  body constant text := left(chat_history_text($3), 100000);
  words tsvector := to_tsvector('pg_catalog.simple', chat_history_plain(body));
begin
  if chat_history_language() <> 'pg_catalog.simple'::regconfig then
    words := words || to_tsvector(chat_history_language(), chat_history_blank(lower(normalize(body, NFC))));
  end if;
  return words || array_to_tsvector(array[chat_history_mark('u', $1), chat_history_mark('s', $2::text)]);
end
$$;

-- Whether there is an index of words, whole.
create function chat_history_has_index() returns boolean
language sql stable set search_path from current as $$
  select exists (
    select from pg_index i where i.indexrelid = to_regclass('chat_history_messages_words') and i.indisvalid)
$$;

-- Make the index, in a language: a text search configuration such as 'simple', 'english' or 'portuguese'; null removes
-- it. Searches answer without the index too, by reading all of a user's messages. For the tables' owner alone. Nobody
-- can append while it is being made: where that is too long, `build => false` leaves the last statement to the caller,
-- who runs it beside the writers, in no transaction (as `migrate --search` does).
create function chat_history_index_search(
  configuration regconfig default 'pg_catalog.simple', build boolean default true)
returns void
language plpgsql set search_path from current as $$
begin
  if configuration is not null and configuration = chat_history_language() and chat_history_has_index() then
    return;
  end if;
  drop index if exists chat_history_messages_words;
  execute format('create or replace function chat_history_language() returns regconfig
                  language sql stable parallel safe set search_path from current as $code$ select %L::regconfig $code$',
                 coalesce(configuration, 'pg_catalog.simple'::regconfig)::text);
  if configuration is not null and build then
    create index chat_history_messages_words on chat_history_messages
      using gin (chat_history_words(user_id, session_key, data)) with (fastupdate = on);
  end if;
end
$$;

-- The words of a query that are parts of scripts without spaces between words: looked for in the text as they are.
create function chat_history_search_parts(query text) returns text[]
language sql immutable set search_path from current as $$
  select coalesce(array_agg(w.word), '{}')
    from regexp_split_to_table(btrim(regexp_replace(chat_history_plain(query), '\s+', ' ', 'g')), ' ') w (word)
    where w.word ~ U&'[\0E00-\0EFF\1000-\109F\1780-\17FF\2E80-\A4CF\AC00-\D7AF\F900-\FAFF\+020000-\+03FFFF]'
$$;

-- The other words, all of which must be there, as they are or in another form that the language knows; of the last one its
-- beginning is enough. Null where there is none.
create function chat_history_search_query(query text) returns tsquery
language plpgsql stable set search_path from current set client_min_messages to warning as $$
declare
  words constant text[] := array(
    select w.word
      from regexp_split_to_table(chat_history_blank(lower(normalize(query, NFC))), '\s+') with ordinality w (word, n)
      where w.word <> '' and chat_history_fold(w.word) <> all (chat_history_search_parts(query)) order by w.n);
  word text;
  ending text;
  stem tsquery;
  found_query tsquery := '';
begin
  for n in 1 .. cardinality(words) loop
    ending := case when n = cardinality(words) then ':*' else '' end;
    stem := to_tsquery(chat_history_language(), '''' || words[n] || '''' || ending);
    if numnode(stem) > 0 then  -- no word that the language passes over
      word := '''' || chat_history_fold(words[n]) || '''' || ending;
      found_query := found_query && (stem || to_tsquery('pg_catalog.simple', word));
    end if;
  end loop;
  return nullif(found_query, '');
end
$$;

-- The part of a text around what was found in it, as plain text: {"excerpt", "marks": [[start, end]]}, in characters.
create function chat_history_excerpt(text, tsquery, text[]) returns json
language plpgsql stable set search_path from current as $$
declare
  body text := left(normalize($1, NFC), 100000);
  plain text := chat_history_plain(body);
  rest text;
  places int4range[] := '{}';  -- of what was found, in characters of the text from 0 on
  part text;
  config regconfig;
  found integer;
  start integer;
  at integer := 0;
  first integer;               -- the excerpt's own beginning and end
  last integer;
  shift integer;
begin
  if length(plain) <> length(body) then
    body := chat_history_fold(body);  -- a character that folds to none or to two: then the folded text is shown
  end if;
  body := regexp_replace(body, '[\s\x01-\x1f]', ' ', 'g');
  foreach config in array array['pg_catalog.simple', chat_history_language()] loop
    -- The whole text with marks around what was found; all other characters stay where they are.
    rest := case when config = 'pg_catalog.simple'::regconfig then plain else chat_history_blank(lower(body)) end;
    continue when $2 is null or length(rest) <> length(body);
    rest := ts_headline(config, translate(rest, E'\x01\x02', '  '), $2,
                        E'HighlightAll=true, StartSel="\x01", StopSel="\x02"');
    at := 0;
    found := 0;
    while strpos(rest, E'\x02') > 0 and found < 100 loop
      start := strpos(rest, E'\x01');
      rest := substr(rest, start + 1);
      at := at + start - 1;
      places := places || int4range(at, at + strpos(rest, E'\x02') - 1);
      at := upper(places[cardinality(places)]);
      rest := substr(rest, strpos(rest, E'\x02') + 1);
      found := found + 1;
    end loop;
    exit when chat_history_language() = 'pg_catalog.simple'::regconfig;
  end loop;
  foreach part in array $3 loop
    at := 0;
    rest := chat_history_fold(body);
    while strpos(rest, part) > 0 and cardinality(places) < 300 loop
      at := at + strpos(rest, part) - 1;
      places := places || int4range(at, at + length(part));
      at := at + length(part);
      rest := substr(rest, strpos(rest, part) + length(part));
    end loop;
  end loop;

  first := greatest(coalesce((select min(lower(p.place)) from unnest(places) p (place)), 0) - 60, 0);
  if first > 0 then
    first := first + coalesce(nullif(strpos(substr(body, first + 1, 30), ' '), 0), 0);
  end if;
  last := least(first + 200, length(body));
  if last < length(body) then
    last := last - coalesce(nullif(strpos(reverse(substr(body, last - 29, 30)), ' '), 0), 0);
  end if;
  shift := (first > 0)::integer - first;
  return json_build_object(
    'excerpt', case when first > 0 then '…' else '' end || substr(body, first + 1, last - first)
      || case when last < length(body) then '…' else '' end,
    'marks', (
      select coalesce(json_agg(json_build_array(lower(p.place) + shift, upper(p.place) + shift) order by p.place), '[]')
        from unnest((select range_agg(q.place) from unnest(places) q (place))) p (place)
        where lower(p.place) >= first and upper(p.place) <= last));
end
$$;

-- The owner a call works for, like chat_history_owner, within a function that runs as the tables' owner: row level
-- security applies to whoever called that, who is known by the role that is set.
create function chat_history_callers_owner(user_id text) returns text
language plpgsql stable set search_path from current as $$
declare
  claimed constant text := chat_history_user();
  caller constant name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
begin
  if claimed is null and not exists (
      select from pg_roles r, pg_class c
        where r.rolname = caller and c.oid = 'chat_history_sessions'::regclass
          and (r.rolsuper or r.rolbypassrls or pg_has_role(r.oid, c.relowner, 'usage'))) then
    raise exception 'row level security applies to role % and the request carries no user', caller
      using errcode = '42501', hint = 'Send the token of a signed-in user, or the secret key.';
  end if;
  if user_id is not null and user_id <> claimed then
    raise exception 'the request names another user than its claims' using errcode = '42501';
  end if;
  return coalesce(claimed, user_id, '');
end
$$;

-- Search the messages of a user, or of one session: {"items": [{"session_id", "user_id", "title", "message": as
-- chat_history_list_messages, "excerpt", "marks", "score"}], "next": what to give as `after`, or null}. All words must be
-- in one message, in any form that the language knows; of the last one the beginning is enough. Without a word, or in
-- scripts without spaces between words, it is the text itself that is looked for. The best come first, then the newest;
-- of more than 1,000 that are found, the newest 1,000 are compared.
--
--   types          of messages; null for human and ai
--   since, until   when they were stored: from `since` on and before `until`
--
-- It runs as the tables' owner, because row level security forbids the index to others, and reads the messages of
-- chat_history_callers_owner only.
create function chat_history_search(
  query text, session_id text default null, types text[] default null, since timestamptz default null,
  until timestamptz default null, after json default null, max_items integer default null, user_id text default null)
returns json
language plpgsql stable security definer set search_path from current set statement_timeout to '30s'
  set enable_seqscan to off set enable_hashjoin to off set enable_mergejoin to off as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_callers_owner(chat_history_search.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_search.session_id);
  page_size constant integer := chat_history_page_size(max_items);
  words constant tsquery := chat_history_search_query(query);
  parts text[] := chat_history_search_parts(query);
  place constant json := chat_history_json(after);
  indexed constant boolean := chat_history_has_index();
  reply json;
begin
  if words is null and parts = '{}' then
    parts := array[nullif(btrim(chat_history_fold(query)), '')];
  end if;
  if array_position(parts, null) is not null or length(query) > 1000 then
    raise exception 'a query has 1 to 1000 characters, not all of them blank' using errcode = 'PT400';
  end if;
  execute format($sql$
    with %s found as materialized (
      select m.*, s.session_id, s as session, %s as score
        from chat_history_sessions s join %s m on m.session_key = s.session_key
        where s.user_id = $1 and s.deleted_at is null and m.position > s.cleared_position
          and m.type = any ($2) %s %s %s %s %s
        order by m.created_at desc, m.session_key, m.position desc limit 1000),
    page as (
      select f.*, row_number() over (order by f.score desc, f.created_at desc, f.session_key desc, f.position desc) as n
        from found f
        where $9 is null or (f.score, f.created_at, f.session_key, f.position)
          < (($9 ->> 'score')::numeric, ($9 ->> 'at')::timestamptz, ($9 ->> 'key')::uuid, ($9 ->> 'position')::bigint)
        order by n limit $10 + 1)
    select json_build_object(
        'items', coalesce(json_agg(json_build_object(
          'session_id', p.session_id, 'user_id', nullif(p.user_id, ''),
          'title', coalesce((p.session).title, chat_history_first_question(p.session)), 'score', p.score,
          'message', json_build_object('id', p.id, 'position', p.position, 'created_at', p.created_at,
                                       'turn_id', p.turn_id, 'type', p.type, 'data', p.data),
          'found', chat_history_excerpt(chat_history_text(p.data), $3, $4)) order by p.n) filter (where p.n <= $10), '[]'),
        'next', case when count(*) > $10 then (array_agg(json_build_object(
          'score', p.score, 'at', p.created_at, 'key', p.session_key, 'position', p.position)) filter (where p.n = $10))[1] end)
      from page p $sql$,
    -- By itself, so that nothing but the index can answer it, whatever the planner knows.
    case when indexed then
      'candidates as materialized (
         select m.* from chat_history_messages m where chat_history_words(m.user_id, m.session_key, m.data) @@ $5),' end,
    case when words is null then '0.0' else
      'round(ts_rank(chat_history_words(m.user_id, m.session_key, m.data), $3, 1)::numeric, 6)' end,
    case when indexed then 'candidates' else 'chat_history_messages' end,
    case when not indexed and words is not null then
      'and chat_history_words(m.user_id, m.session_key, m.data) @@ $3' end,
    case when of_session is not null then 'and s.session_key = $6' end,
    case when since is not null then 'and m.created_at >= $7' end,
    case when until is not null then 'and m.created_at < $8' end,
    case when parts <> '{}' then
      'and not exists (select from unnest($4) p (part) where strpos(chat_history_fold(chat_history_text(m.data)), p.part) = 0)'
    end)
    into reply
    using owner, coalesce(types, '{human,ai}'), words, parts,
      coalesce(words, '') && format('%L', chat_history_mark(
        case when of_session is null then 'u' else 's' end, coalesce(of_session::text, owner)))::tsquery,
      of_session, since, until, place, page_size;
  return reply;
end
$$;

select chat_history_grant();
