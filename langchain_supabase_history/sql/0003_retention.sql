-- Retention and erasure: removing what is hidden, what nobody used for long, what is beyond a limit, and a person.
--
-- All goes in batches: a call is one short transaction that removes no more than it was told, and says where to go on.
-- Prune waits for nobody: a session that is being written to is passed over until the next time.

-- One user's sessions, in the order in which they are walked. None of its columns ever changes, so appends stay cheap.
create index chat_history_sessions_user on chat_history_sessions (user_id, session_key);

-- A session as it stands once only its newest messages are kept; as it is, where nothing is beyond them. The turn that
-- the oldest of these belongs to stays whole, unless that keeps more than as many again. Positions never go back, so
-- the rest is hidden like cleared messages are; the epoch is raised, so that a late replay brings none of it back.
create function chat_history_trimmed(session chat_history_sessions, keep_messages integer)
returns chat_history_sessions
language plpgsql stable set search_path from current as $$
declare
  oldest record;
  turn_start bigint;
  hidden bigint;
begin
  select m.position, m.turn_id into oldest from chat_history_messages m
    where m.session_key = session.session_key and m.position > session.cleared_position
    order by m.position desc offset keep_messages - 1 limit 1;
  select t.first_position into turn_start from chat_history_turns t
    where t.session_key = session.session_key and t.id = oldest.turn_id
      and t.first_position between oldest.position - keep_messages and oldest.position;
  oldest.position := coalesce(turn_start, oldest.position);
  select count(*) into hidden from chat_history_messages m
    where m.session_key = session.session_key and m.position > session.cleared_position and m.position < oldest.position;
  if hidden = 0 then
    return session;
  end if;
  session.message_count := session.message_count - hidden;
  session.cleared_position := oldest.position - 1;
  -- The turns that are kept: those of the messages that are, the one that the next append may join, and those that
  -- run and may hold a question; a day later they run no more.
  session.cleared_turn := greatest(session.cleared_turn, -1 + (
    select min(t.ordinal) from chat_history_turns t
      where t.session_key = session.session_key and t.ordinal > session.cleared_turn
        and (t.id = session.last_turn_id
          or t.status = 'running' and t.created_at > clock_timestamp() - interval '1 day'
          or t.id in (
            select m.turn_id from chat_history_messages m
              where m.session_key = session.session_key and m.position >= oldest.position))));
  session.epoch := session.epoch + 1;
  session.revision := session.revision + 1;
  return session;
end
$$;

-- A session as it stands once it is deleted: a tombstone without content.
create function chat_history_buried(session chat_history_sessions, request uuid default null)
returns chat_history_sessions
language plpgsql stable set search_path from current as $$
begin
  session := chat_history_erased(session, request);
  session.title := null;
  session.metadata := null;
  session.deleted_at := session.updated_at;
  return session;
end
$$;

-- Remove what a session hides: at most so many messages and turns (null: all), with the feedback on them. The caller
-- has locked the session's row. Answers {"messages", "turns", "feedback": how many rows, "more": whether the limit was
-- reached}. A dry run removes nothing and counts all.
create function chat_history_sweep(session chat_history_sessions, most integer, dry_run boolean) returns json
language plpgsql set search_path from current as $$
declare
  upto bigint := session.cleared_position;
  message_ids uuid[];
  turn_ids uuid[];
  messages integer;
  turns integer := 0;
  feedback integer;
begin
  if not dry_run and most is not null then
    select least(upto, m.position) into upto from chat_history_messages m
      where m.session_key = session.session_key and m.position <= session.cleared_position
      order by m.position offset most - 1 limit 1;
    upto := coalesce(upto, session.cleared_position);
  end if;
  select coalesce(array_agg(m.id), '{}') into message_ids from chat_history_messages m
    where m.session_key = session.session_key and m.position <= upto;
  messages := cardinality(message_ids);
  -- A turn goes when all of its messages have gone, unless the next append may join it.
  select coalesce(array_agg(h.id), '{}') into turn_ids from (
    select t.id from chat_history_turns t
      where t.session_key = session.session_key and t.ordinal <= session.cleared_turn
        and t.id is distinct from session.last_turn_id and t.id not in (
          select m.turn_id from chat_history_messages m
            where m.session_key = session.session_key and m.position > upto)
      order by t.ordinal limit case when not dry_run then most - messages end) h;
  turns := cardinality(turn_ids);

  if dry_run then
    select count(*) into feedback from chat_history_feedback f
      where f.session_key = session.session_key
        and (session.deleted_at is not null or f.turn_id = any (turn_ids) or f.message_id = any (message_ids));
  else
    delete from chat_history_feedback f
      where f.session_key = session.session_key
        and (session.deleted_at is not null or f.turn_id = any (turn_ids) or f.message_id = any (message_ids));
    get diagnostics feedback = row_count;
    delete from chat_history_messages m where m.session_key = session.session_key and m.position <= upto;
    delete from chat_history_turns t where t.session_key = session.session_key and t.id = any (turn_ids);
  end if;
  return json_build_object('messages', messages, 'turns', turns, 'feedback', feedback,
                           'more', coalesce(messages + turns >= most, false));
end
$$;

-- Remove all that a session holds. Its row stays as a tombstone without content: the epoch on it refuses what would
-- bring the conversation back.
--
--   request  minted by the caller: a second try is answered like the first, and goes on with what is left
--   batch    how much one call removes at most, in messages and turns together; null for everything at once
--
-- Answers {"deleted": whether there was one, "more": whether to call again with the same request}.
create function chat_history_delete_session(
  session_id text, user_id text default null, request uuid default null, batch integer default null)
returns json
language plpgsql set search_path from current set statement_timeout to '5min' as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_delete_session.user_id);
  session chat_history_sessions;
  there boolean;
  swept json;
begin
  select s.* into session from chat_history_sessions s
    where s.session_key = chat_history_key(owner, chat_history_delete_session.session_id) for update;
  if not found then
    return json_build_object('deleted', false, 'more', false);
  end if;
  there := session.deleted_at is null;
  if there then
    session := chat_history_buried(session, request);
    perform chat_history_settle(session);
  end if;
  swept := chat_history_sweep(session, batch, false);
  return json_build_object('deleted', there or coalesce(session.erased_by = request, false), 'more', swept -> 'more');
end
$$;

-- Remove one batch of what need not be kept. What `clear` has hidden always goes; further
--
--   idle_for   sessions without a write for so long: they are deleted, and stay as tombstones without content
--   keep_messages   of each session all but so many of the newest messages
--   dry_run    only count: nothing is changed and nothing locked
--   batch      how much one call removes at most, in sessions, messages and turns together
--   user_id    of this user only; null for all sessions that the caller may see
--   after_session   the `next` of the batch before
--
-- Answers {"sessions": deleted, "trimmed": sessions that lost their oldest messages, "messages", "turns", "feedback":
-- rows removed, "next": where to go on, or null}.
create function chat_history_prune(
  idle_for interval default null, keep_messages integer default null, dry_run boolean default true,
  batch integer default 500, user_id text default null, after_session uuid default null)
returns json
language plpgsql set search_path from current
  set statement_timeout to '60s' set plan_cache_mode to force_custom_plan as $$
#variable_conflict use_column
declare
  candidates constant integer := 1000;  -- looked at in one call, so that a call stays short where little is to be done
  owner constant text := chat_history_owner(chat_history_prune.user_id);
  everyone constant boolean := chat_history_prune.user_id is null and chat_history_user() is null;
  idle_before constant timestamptz := clock_timestamp() - idle_for;
  last uuid := coalesce(after_session, '00000000-0000-0000-0000-000000000000');
  seen integer := 0;
  spent integer := 0;
  found_key uuid;
  session chat_history_sessions;
  before bigint;
  swept json;
  deleted integer := 0;
  trimmed integer := 0;
  messages bigint := 0;
  turns bigint := 0;
  feedback bigint := 0;
begin
  dry_run := coalesce(dry_run, true);
  batch := coalesce(batch, 500);
  if idle_for <= interval '0' or keep_messages < 1 or batch not between 1 and 10000 then
    raise exception 'prune takes a time above 0, at least 1 message to keep, and a batch of 1 to 10000'
      using errcode = 'PT400';
  end if;
  for found_key in
    select s.session_key from chat_history_sessions s
      where (everyone or s.user_id = owner) and s.session_key > last
        and (s.deleted_at is null and (s.updated_at < idle_before or s.message_count > keep_messages)
          or s.cleared_position > 0 and exists (
            select from chat_history_messages m
              where m.session_key = s.session_key and m.position <= s.cleared_position)
          or s.cleared_turn > 0 and exists (
            select from chat_history_turns t
              where t.session_key = s.session_key and t.ordinal <= s.cleared_turn
                and t.id is distinct from s.last_turn_id))
      order by s.session_key limit candidates
  loop
    exit when spent >= batch;
    seen := seen + 1;
    if dry_run then
      select s.* into session from chat_history_sessions s where s.session_key = found_key;
    else
      select s.* into session from chat_history_sessions s where s.session_key = found_key for update skip locked;
    end if;
    if not found then
      last := found_key;
      continue;
    end if;
    -- As it stands now: it may have been written to since it was found.
    if session.deleted_at is null and session.updated_at < idle_before then
      session := chat_history_buried(session);
      deleted := deleted + 1;
      spent := spent + 1;
    elsif session.message_count > keep_messages then
      before := session.revision;
      session := chat_history_trimmed(session, keep_messages);
      trimmed := trimmed + (session.revision <> before)::integer;
      spent := spent + (session.revision <> before)::integer;
    end if;
    if dry_run then
      swept := chat_history_sweep(session, null, true);
    else
      perform chat_history_settle(session);
      swept := chat_history_sweep(session, greatest(batch - spent, 1), false);
    end if;
    messages := messages + (swept ->> 'messages')::bigint;
    turns := turns + (swept ->> 'turns')::bigint;
    feedback := feedback + (swept ->> 'feedback')::bigint;
    spent := spent + (swept ->> 'messages')::integer + (swept ->> 'turns')::integer;
    exit when (swept ->> 'more')::boolean;  -- the next call goes on with this session
    last := found_key;
  end loop;
  return json_build_object('sessions', deleted, 'trimmed', trimmed, 'messages', messages, 'turns', turns,
    'feedback', feedback, 'next', case when spent >= batch or seen = candidates then last end);
end
$$;

-- Remove all that there is of one person: every session with all it holds. Tombstones without content stay, for their
-- epochs: what was on its way when the person was deleted is refused. Sessions that are being written to are waited for.
--
--   user_id    whose; null for the user of the claims
--   batch      how much one call removes at most, in sessions, messages and turns together; null for everything at once
--
-- Answers {"sessions", "messages", "turns", "feedback": how many were removed, "more": whether to call again}.
create function chat_history_delete_user(user_id text default null, batch integer default null) returns json
language plpgsql set search_path from current set statement_timeout to '5min' as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_delete_user.user_id);
  spent integer := 0;
  found_key uuid;
  session chat_history_sessions;
  swept json;
  deleted integer := 0;
  messages bigint := 0;
  turns bigint := 0;
  feedback bigint := 0;
  more boolean := false;
begin
  if owner = '' or batch < 1 then
    raise exception 'delete_user takes the id of a user, and a batch of at least 1' using errcode = 'PT400';
  end if;
  for found_key in
    select s.session_key from chat_history_sessions s
      where s.user_id = owner
        and (s.deleted_at is null
          or exists (select from chat_history_messages m where m.session_key = s.session_key)
          or exists (select from chat_history_turns t where t.session_key = s.session_key)
          or exists (select from chat_history_feedback f where f.session_key = s.session_key))
      order by s.session_key
  loop
    more := spent >= batch;
    exit when more;
    select s.* into session from chat_history_sessions s where s.session_key = found_key for update;
    continue when not found;
    if session.deleted_at is null then
      session := chat_history_buried(session);
      deleted := deleted + 1;
      spent := spent + 1;
    end if;
    perform chat_history_settle(session);
    swept := chat_history_sweep(session, case when batch is not null then greatest(batch - spent, 1) end, false);
    messages := messages + (swept ->> 'messages')::bigint;
    turns := turns + (swept ->> 'turns')::bigint;
    feedback := feedback + (swept ->> 'feedback')::bigint;
    spent := spent + (swept ->> 'messages')::integer + (swept ->> 'turns')::integer;
    more := (swept ->> 'more')::boolean;
    exit when more;
  end loop;
  return json_build_object('sessions', deleted, 'messages', messages, 'turns', turns, 'feedback', feedback,
                           'more', coalesce(more, false));
end
$$;

select chat_history_grant();
