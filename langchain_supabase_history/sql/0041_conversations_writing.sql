-- The table `conversations` of existing applications, as a view: what is written through it.
--
--   chat_history_write_conversation   insert, update and delete on the view
--   chat_history_save_messages        makes a session's messages those of a list
--   chat_history_agreed               how many messages a list and a session begin with alike
--   chat_history_append_list          appends the rest of a list, turn by turn
--   chat_history_open_conversations   makes the view
--
-- Such an application inserts the whole list on every save. The rule: what the list and the session begin with alike is
-- stored once. Where the list goes on otherwise, what stood there becomes an alternative, or the alternative that the
-- list goes on with is put back. An insert with a list that ends earlier removes nothing, for it may come late; an
-- update does.

-- How many messages a session and a list begin with alike, where it is known of the first so many.
create function chat_history_agreed(chat_history_sessions, text, jsonb, integer) returns integer
language plpgsql stable set search_path from current as $$
declare
  session alias for $1;
  agreed integer := $4;
  message record;
begin
  for message in
    select m.type, m.data from chat_history_messages m
      where m.session_key = session.session_key and m.position > session.cleared_position + agreed
      order by m.position limit jsonb_array_length($3) - agreed
  loop
    exit when not chat_history_same_message(message.type, message.data, $2, $3 -> agreed);
    agreed := agreed + 1;
  end loop;
  return agreed;
end
$$;

-- Append the messages of a list after the first so many to a session that holds these. Each human message opens a turn.
-- Ids come from the session, the place and the content, and from how many messages were ever taken out: one that takes
-- the place of another has an id of its own, though it says the same.
create function chat_history_append_list(chat_history_sessions, jsonb, integer) returns void
language plpgsql set search_path from current as $$
declare
  session alias for $1;
  turn record;
begin
  for turn in
    select array_agg(o.id order by o.n) as ids, array_agg(o.type order by o.n) as types,
        array_agg(o.data::json order by o.n) as data, array_agg(o.tokens order by o.n) as tokens
      from (
        select e.n, r.type, r.data, 4 + octet_length(
              (chat_history_unmarked(r.data) -> 'content')::text || coalesce(r.data ->> 'tool_calls', '')) / 4 as tokens,
            encode(substr(sha256(convert_to(concat_ws(':', session.session_key, session.parked,
              session.cleared_position + e.n, e.message), 'UTF8')), 1, 16), 'hex')::uuid as id,
            count(*) filter (where r.type = 'human') over (order by e.n) as turn
          from jsonb_array_elements($2) with ordinality e (message, n)
            cross join lateral chat_history_read_message(e.message) r
          where e.n > $3) o
      group by o.turn order by o.turn
  loop
    perform chat_history_append(session.session_id, turn.ids, turn.types, turn.data, turn.tokens,
                                user_id => nullif(session.user_id, ''), replay => false);
  end loop;
end
$$;

-- Make the messages of a locked session those of a list.
--
--   second   the form in which messages of the library are shown
--   fourth   whether what the list ends before is taken out too
create function chat_history_save_messages(chat_history_sessions, text, jsonb, boolean) returns void
language plpgsql set search_path from current as $$
declare
  session chat_history_sessions := $1;
  form alias for $2;
  list alias for $3;
  wanted constant integer := jsonb_array_length(list);
  agreed integer := 0;
  chosen chat_history_alternatives;
begin
  loop
    agreed := chat_history_agreed(session, form, list, agreed);
    exit when agreed = wanted;
    select a.* into chosen from chat_history_alternatives a
        join chat_history_messages m on m.session_key = a.session_key and m.position = -a.parked
      where a.session_key = session.session_key and a.parked > session.cleared_parked
        and a.position = session.cleared_position + agreed + 1
        and a.follows is not distinct from (
          select b.id from chat_history_messages b
            where b.session_key = session.session_key and agreed > 0 and b.position = session.cleared_position + agreed)
        and chat_history_same_message(m.type, m.data, form, list -> agreed)
      order by a.parked desc limit 1;
    exit when not found;
    session := chat_history_branched(chat_history_put_back(session, chosen, gen_random_uuid()), gen_random_uuid());
  end loop;
  if session.last_position > session.cleared_position + agreed and (agreed < wanted or $4) then
    session := chat_history_branched(
      chat_history_take_out(session, session.cleared_position + agreed + 1, gen_random_uuid()), gen_random_uuid());
  end if;
  perform chat_history_append_list(session, list, agreed);
end
$$;

-- What is written through the view. It runs as who writes, so that policies hold in it.
create function chat_history_write_conversation() returns trigger
language plpgsql set search_path from current as $$
declare
  updates constant boolean := tg_op = 'UPDATE';
  session chat_history_sessions;
  was chat_history_conversation;
  kept jsonb;
begin
  if tg_op = 'DELETE' then
    perform chat_history_delete_session(old.conversation_id, old.user_id);
    return old;
  end if;
  if updates and (new.id, new.conversation_id, new.user_id) is distinct from (old.id, old.conversation_id, old.user_id) then
    raise exception 'the id, conversation_id and user_id of a conversation do not change: insert another' using errcode = 'PT400';
  elsif new.conversation_id is null then
    raise exception 'a conversation must have its conversation_id' using errcode = 'PT400';
  elsif jsonb_typeof(new.messages) <> 'array' then
    raise exception 'the messages of a conversation are a JSON list' using errcode = 'PT422';
  elsif least(new."timestamp", new.created_at) < '0001-01-01 00:00Z'
     or greatest(new."timestamp", new.created_at) >= '9999-12-31 00:00Z' then
    raise exception 'the times of a conversation are of the years 1 to 9999' using errcode = 'PT400';
  end if;
  session := chat_history_lock(chat_history_owner(nullif(new.user_id, '')), new.conversation_id);
  select c.* into was from chat_history_show_conversation(session) c;
  new.id := coalesce(was.id, new.id, session.session_key);
  if not updates then  -- what an insert does not name stays
    new.session_id := coalesce(new.session_id, was.session_id);
    new.tokens_history := coalesce(new.tokens_history, was.tokens_history);
    new.retriever_audits := coalesce(new.retriever_audits, was.retriever_audits);
    new.analytics := coalesce(new.analytics, was.analytics);
    new.metadata := coalesce(new.metadata, was.metadata);
  end if;
  was.form := coalesce(chat_history_jsonb(session.metadata) #>> '{conversations_table,form}', (
    select chat_history_message_form(e.message) from jsonb_array_elements(new.messages) with ordinality e (message, n)
      where chat_history_message_form(e.message) is not null order by e.n desc limit 1));
  if new.messages is not null and (not updates or new.messages is distinct from old.messages) then
    perform chat_history_save_messages(session, coalesce(was.form, 'role'), new.messages, updates);
  end if;

  select s.* into session from chat_history_sessions s where s.session_key = session.session_key;
  kept := (
    select jsonb_object_agg(k.key, k.value) from (values
        ('id', to_jsonb(new.id)), ('session_id', to_jsonb(new.session_id)), ('form', to_jsonb(was.form)),
        ('timestamp', to_jsonb(new."timestamp")), ('as_of', to_jsonb(session.updated_at)),
        ('tokens_history', new.tokens_history), ('retriever_audits', new.retriever_audits),
        ('analytics', new.analytics), ('metadata', new.metadata)) k (key, value)
      where k.value is not null);
  if jsonb_typeof(new.metadata) = 'object' and new.metadata <> '{}' and not new.metadata ? 'conversations_table' then
    kept := new.metadata || jsonb_build_object('conversations_table', kept - 'metadata');
  else
    kept := jsonb_build_object('conversations_table', kept);
  end if;
  update chat_history_sessions s set
      metadata = kept::json, deleted_at = null, revision = s.revision + 1,
      created_at = case when was.id is null or updates then coalesce(new.created_at, s.created_at) else s.created_at end
    where s.session_key = session.session_key returning s.* into session;
  select c.* into was from chat_history_show_conversation(session) c;
  new.user_id := nullif(session.user_id, '');
  new.session_id := was.session_id;
  new."timestamp" := was."timestamp";
  new.messages := chat_history_conversation_messages(session, was.form);
  new.created_at := session.created_at;
  return new;
end
$$;

-- Make the view, or make it again. For the tables' owner alone. A table or view of that name which this function did
-- not make is left as it is.
create function chat_history_open_conversations(name text default 'conversations') returns void
language plpgsql set search_path from current as $$
declare
  home constant text := (
    select p.pronamespace::regnamespace::text from pg_proc p where p.oid = 'chat_history_owner(text)'::regprocedure);
  view constant text := format('%s.%I', home, coalesce(name, ''));
begin
  if (name ~ '^[a-z_][a-z0-9_]{0,62}$' and name !~ '^chat_history_') is not true then
    raise exception 'the name of the view is made of a-z, 0-9 and _, and does not begin with chat_history_'
      using errcode = 'PT400';
  end if;
  if to_regclass(view) is not null and not exists (
    select from pg_trigger t where t.tgrelid = to_regclass(view) and t.tgfoid = 'chat_history_write_conversation()'::regprocedure)
  then
    raise exception '% is there and was not made by langchain_supabase_history: it is left as it is. First run "import '
      'table", then rename it and make the view in one transaction', view using errcode = '42P07';
  end if;
  -- Without these, who may see all rows would read all for one; the columns never change.
  create index if not exists chat_history_sessions_name on chat_history_sessions (session_id);
  create index if not exists chat_history_sessions_person on chat_history_sessions (nullif(user_id, ''));
  execute format(
    'create or replace view %s with (security_invoker = true) as
       select c.id, s.session_id as conversation_id, nullif(s.user_id, '''') as user_id, c.session_id, c."timestamp",
           chat_history_conversation_messages(s, c.form) as messages, c.tokens_history, c.retriever_audits, c.analytics,
           c.metadata, s.created_at
         from chat_history_sessions s cross join lateral chat_history_show_conversation(s) c', view);
  execute format('create or replace trigger chat_history_write_conversation instead of insert or update or delete
                  on %s for each row execute function chat_history_write_conversation()', view);
  perform chat_history_grant();
  perform pg_notify('pgrst', 'reload schema');
end
$$;

select chat_history_grant();
