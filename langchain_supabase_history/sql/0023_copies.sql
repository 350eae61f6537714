-- Copies: a conversation continued under another name, or handed over to another user. A session itself never changes
-- its name or its owner.
--
--   chat_history_fork_session   copies a conversation up to a message into a new session
--   chat_history_reassign       hands one session, or all of a user's, over to another user
--   chat_history_hand_over      one session: a copy, and a tombstone in its place

-- Copy a conversation up to a message into a new session of the same user, with its turns and the feedback on them.
-- Answers the new session, as chat_history_get_session. One of that name that exists is a conflict.
--
--   upto     the position of the last message to copy, or, in `message_id`, its id; null for all
--   request  minted by the caller: a second try is answered like the first
create function chat_history_fork_session(
  session_id text, new_session_id text, upto bigint default null, message_id uuid default null,
  user_id text default null, request uuid default null)
returns json
language plpgsql set search_path from current set statement_timeout to '60s'
  set enable_seqscan to off set enable_bitmapscan to off set enable_hashjoin to off set enable_mergejoin to off as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_fork_session.user_id);
  name alias for session_id;
  source chat_history_sessions;
  target chat_history_sessions;
  last bigint;
  shift bigint;      -- from a position of the source to one of the copy
  turns uuid[];      -- those that go along
begin
  -- Both rows are locked in the order of their keys: two forks that cross each other do not wait for one another.
  if chat_history_key(owner, new_session_id) < chat_history_key(owner, name) then
    target := chat_history_lock(owner, new_session_id);
  end if;
  source := chat_history_lock_existing(owner, name);
  target := chat_history_lock(owner, new_session_id);
  if target.branched_by = request and target.forked_from = source.session_id then
    return chat_history_show_session(target);
  elsif target.deleted_at is null and (target.last_position > 0 or target.last_turn > 0 or target.title is not null) then
    raise exception 'a session of the new name exists' using errcode = 'PT409';
  elsif target.deleted_at is not null then
    perform chat_history_sweep(target, null);
  end if;
  last := source.last_position;
  if upto is not null or chat_history_fork_session.message_id is not null then
    last := least(last, chat_history_find_position(source, upto, chat_history_fork_session.message_id));
  end if;
  last := greatest(last, source.cleared_position);
  shift := target.last_position - source.cleared_position;
  select array_agg(distinct m.turn_id) into turns from chat_history_messages m
    where m.session_key = source.session_key and m.position > source.cleared_position and m.position <= last;

  insert into chat_history_turns
    select n.*
      from (select t as turn, row_number() over (order by t.ordinal) as place
              from unnest(turns) u (id) join chat_history_turns t on t.session_key = source.session_key and t.id = u.id) t,
        json_populate_record(t.turn, json_build_object(
          'session_key', target.session_key, 'ordinal', target.last_turn + t.place, 'question', null, 'copied', true,
          'first_position', (t.turn).first_position + shift,
          'status', case (t.turn).status when 'running' then 'interrupted' else (t.turn).status end)) n;
  insert into chat_history_messages (session_key, user_id, position, id, turn_id, type, data, tokens, in_context,
      begins_turn, created_at)
    select target.session_key, owner, m.position + shift, m.id, m.turn_id, m.type, m.data, m.tokens, m.in_context,
        m.begins_turn, m.created_at
      from chat_history_messages m
      where m.session_key = source.session_key and m.position > source.cleared_position and m.position <= last;
  insert into chat_history_feedback
    select n.* from unnest(turns) u (id)
        join chat_history_feedback f on f.session_key = source.session_key and f.turn_id = u.id,
      json_populate_record(f, json_build_object('session_key', target.session_key, 'unsent', false)) n
      where (f.message_id is null or exists (
          select from chat_history_messages m where m.session_key = target.session_key and m.id = f.message_id));

  update chat_history_sessions s set
      title = source.title, metadata = source.metadata, tags = source.tags, forked_from = source.session_id,
      branched_by = request, last_position = last + shift, message_count = last - source.cleared_position,
      (turn_count, total_tokens, last_turn) = (
        select count(*), sum(t.total_tokens), coalesce(max(t.ordinal), s.last_turn) from chat_history_turns t
          where t.session_key = s.session_key and t.ordinal > s.last_turn),
      last_turn_id = (
        select m.turn_id from chat_history_messages m where m.session_key = s.session_key and m.position = last + shift),
      created_at = clock_timestamp(), updated_at = clock_timestamp(), deleted_at = null, revision = s.revision + 1
    where s.session_key = target.session_key returning s.* into target;
  return chat_history_show_session(target);
end
$$;

-- Hand a locked session over to another user, under its name or, where they have one of that name, with a suffix: what
-- it shows and what was taken out of it is copied as it stands, and removed here. Answers the name.
create function chat_history_hand_over(chat_history_sessions, text) returns text
language plpgsql set search_path from current as $$
declare
  source alias for $1;
  target chat_history_sessions := source;
  other json;
  n integer := 1;
begin
  target.user_id := $2;
  loop
    target.session_key := chat_history_key(target.user_id, target.session_id);
    insert into chat_history_sessions select (target).* on conflict do nothing;
    exit when found;
    n := n + 1;
    target.session_id := left(source.session_id, 999 - length(n::text)) || '-' || n;
  end loop;
  other := json_build_object('session_key', target.session_key, 'user_id', target.user_id);
  insert into chat_history_turns
    select n.* from chat_history_turns t, json_populate_record(t, other) n
      where t.session_key = source.session_key and t.ordinal > source.cleared_turn;
  insert into chat_history_messages (session_key, user_id, position, id, turn_id, type, data, tokens, in_context,
      begins_turn, created_at)
    select target.session_key, target.user_id, m.position, m.id, m.turn_id, m.type, m.data, m.tokens, m.in_context,
        m.begins_turn, m.created_at
      from chat_history_messages m
      where m.session_key = source.session_key
        and (m.position > source.cleared_position or m.position < -source.cleared_parked);
  insert into chat_history_alternatives
    select n.* from chat_history_alternatives a, json_populate_record(a, other) n
      where a.session_key = source.session_key and a.parked > source.cleared_parked;
  insert into chat_history_shares
    select n.* from chat_history_shares h, json_populate_record(h, other) n where h.session_key = source.session_key;
  insert into chat_history_feedback
    select n.* from chat_history_feedback f, json_populate_record(f, other) n
      where f.session_key = source.session_key
        and exists (select from chat_history_turns t where t.session_key = target.session_key and t.id = f.turn_id);

  source := chat_history_buried(source, null);
  perform chat_history_settle(source);
  perform chat_history_sweep(source, null);
  return target.session_id;
end
$$;

-- Hand one session, or all of a user's that hold something, over to another user. Only the application itself may. What
-- is written to a session afterwards is the first user's again, and is handed over by the next call.
--
--   from_user_id   null or '': the application's own sessions
--   batch          so many sessions at the most in one call, which is one transaction
--   after_session  the `next` of the batch before
--
-- Answers {"sessions", "messages", "renamed": how many, "next": where to go on, or null}. A dry run changes nothing.
create function chat_history_reassign(
  to_user_id text, from_user_id text default null, session_id text default null, dry_run boolean default false,
  batch integer default null, after_session uuid default null)
returns json
language plpgsql set search_path from current set statement_timeout to '5min'
  set enable_seqscan to off set enable_sort to off as $$
#variable_conflict use_column
declare
  giver constant text := coalesce(from_user_id, '');
  most constant integer := coalesce(batch, 20);
  of_session constant uuid := chat_history_key(giver, chat_history_reassign.session_id);
  session chat_history_sessions;
  found_key uuid;
  last uuid;
  sessions integer := 0;
  messages bigint := 0;
  renamed integer := 0;
begin
  if chat_history_user() is not null or row_security_active('chat_history_sessions') then
    raise exception 'only the application itself may hand sessions over' using errcode = '42501';
  end if;
  if (to_user_id <> giver and length(to_user_id) between 1 and 1000 and octet_length(to_user_id) <= 2500
      and most between 1 and 1000) is not true then
    raise exception 'sessions are handed over to another user, whose id has 1 to 1000 characters, in batches of 1 to 1000'
      using errcode = 'PT400';
  end if;
  for found_key in
    select s.session_key from chat_history_sessions s
      where s.user_id = giver and s.deleted_at is null and (of_session is null or s.session_key = of_session)
        and s.session_key > coalesce(after_session, '00000000-0000-0000-0000-000000000000')
        and (s.message_count > 0 or s.title is not null)
      order by s.session_key limit most
  loop
    last := found_key;
    if dry_run then
      select s.* into session from chat_history_sessions s where s.session_key = found_key;
      renamed := renamed + exists (
        select from chat_history_sessions s
          where s.session_key = chat_history_key(to_user_id, session.session_id))::integer;
    else
      select s.* into session from chat_history_sessions s
        where s.session_key = found_key and s.deleted_at is null for update;
      continue when not found;
      renamed := renamed + (chat_history_hand_over(session, to_user_id) <> session.session_id)::integer;
    end if;
    sessions := sessions + 1;
    messages := messages + session.message_count;
    exit when messages >= 20000;
  end loop;
  return json_build_object('sessions', sessions, 'messages', messages, 'renamed', renamed, 'next', last);
end
$$;

select chat_history_grant();
