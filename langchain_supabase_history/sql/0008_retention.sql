-- Retention: removing what is hidden, what nobody used for long, and what is beyond a limit.
--
--   chat_history_prune     one batch of it
--   chat_history_trimmed   a session's row as it stands once only its newest messages are kept
--   chat_history_hidden    how much a session hides, for a dry run
--
-- It waits for nobody: a session that is being written to is passed over until the next time.

-- A session as it stands once only its newest messages are kept; as it is, where nothing is beyond them. The turn that
-- the oldest of these belongs to stays whole, unless that keeps more than as many again. Positions are kept, so
-- the rest is hidden like cleared messages are; the epoch is raised, so that a late replay brings none of it back.
create function chat_history_trimmed(chat_history_sessions, integer) returns chat_history_sessions
language plpgsql stable set search_path from current as $$
declare
  session alias for $1;
  keep_messages alias for $2;
  oldest record;
  turn_start bigint;
  hidden bigint;
  before bigint;
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
  session.cleared_parked := session.parked;
  before := session.cleared_turn;
  session.cleared_position := oldest.position - 1;
  -- The turns that are kept: those of the messages that are, the one that the next append may join, and those that
  -- run and may hold a question; a day later they run no more.
  session.cleared_turn := greatest(session.cleared_turn, -1 + least(
    (select min(t.ordinal) from chat_history_turns t
       where t.session_key = session.session_key and t.id in (
         select m.turn_id from chat_history_messages m
           where m.session_key = session.session_key and m.position >= oldest.position)),
    (select t.ordinal from chat_history_turns t
       where t.session_key = session.session_key and t.id = session.last_turn_id),
    (select min(t.ordinal) from chat_history_turns t
       where t.session_key = session.session_key and t.status = 'running'
         and t.created_at > clock_timestamp() - interval '1 day')));
  select session.turn_count - count(*), nullif(session.total_tokens - coalesce(sum(t.total_tokens), 0), 0)
    into session.turn_count, session.total_tokens from chat_history_turns t
    where t.session_key = session.session_key and t.ordinal > before and t.ordinal <= session.cleared_turn
      and t.alternative_id is null;
  session.epoch := session.epoch + 1;
  session.revision := session.revision + 1;
  return session;
end
$$;

-- How much chat_history_sweep would remove of a session: {"messages", "turns", "feedback", "more": false}.
create function chat_history_hidden(chat_history_sessions, boolean) returns json
language plpgsql stable set search_path from current as $$
declare
  session alias for $1;
  everything alias for $2;  -- as it would be once the session is deleted
  messages bigint;
  turns bigint;
  feedback bigint;
begin
  select count(*) into messages from chat_history_messages m
    where m.session_key = session.session_key and (everything or m.position <= session.cleared_position);
  select count(*) into turns from chat_history_turns t
    where t.session_key = session.session_key
      and (everything or t.alternative_id is not null
        or t.ordinal <= session.cleared_turn and t.id is distinct from session.last_turn_id);
  select count(*) into feedback from chat_history_feedback f
    where f.session_key = session.session_key and (everything
      or exists (
        select from chat_history_turns t
          where t.session_key = f.session_key and t.id = f.turn_id and (t.alternative_id is not null
            or t.ordinal <= session.cleared_turn and t.id is distinct from session.last_turn_id))
      or exists (
        select from chat_history_messages m
          where m.session_key = f.session_key and m.id = f.message_id and m.position <= session.cleared_position));
  return json_build_object('messages', messages, 'turns', turns, 'feedback', feedback, 'more', false);
end
$$;

-- Remove one batch of what need not be kept. What `clear` has hidden always goes, what was taken out, and shares that have
-- ended; further
--
--   idle_for   sessions without a write for so long: they are deleted, and stay as tombstones without content
--   keep_messages   of each session all but so many of the newest messages
--   dry_run    only count: nothing is changed and nothing locked
--   batch      how much one call removes at most, in sessions, messages and turns together
--   user_id    of this user only; null for all sessions that the caller may see
--   after_session   the `next` of the batch before
--
-- A call walks at most 1,000 sessions, tombstones included, in the order of their keys: so it stays short also where
-- there is nothing to do. Answers {"sessions": deleted, "trimmed": sessions that lost their oldest messages, "messages",
-- "turns", "feedback": rows removed, "next": where to go on, or null at the end}.
create function chat_history_prune(
  idle_for interval default null, keep_messages integer default null, dry_run boolean default true,
  batch integer default 500, user_id text default null, after_session uuid default null)
returns json
language plpgsql set search_path from current set statement_timeout to '60s' set plan_cache_mode to force_custom_plan
  set enable_seqscan to off set enable_sort to off as $$
#variable_conflict use_column
declare
  stride constant integer := 1000;
  owner constant text := chat_history_owner(chat_history_prune.user_id);
  everyone constant boolean := chat_history_prune.user_id is null and chat_history_user() is null;
  idle_before timestamptz;
  last uuid := coalesce(after_session, '00000000-0000-0000-0000-000000000000');
  stop uuid;  -- the last session of this call's stride, null where it reaches the end
  found_key uuid;
  session chat_history_sessions;
  before bigint;
  idle boolean;
  swept json;
  spent integer := 0;
  deleted integer := 0;
  trimmed integer := 0;
  messages bigint := 0;
  turns bigint := 0;
  feedback bigint := 0;
begin
  dry_run := coalesce(dry_run, true);
  batch := coalesce(batch, 500);
  if idle_for <= interval '0' or idle_for > interval '1000 years' or keep_messages < 1
     or batch not between 1 and 10000 then
    raise exception 'prune takes a time above 0 and of at most 1000 years, at least 1 message to keep, and a batch of 1 '
      'to 10000' using errcode = 'PT400';
  end if;
  idle_before := clock_timestamp() - idle_for;
  if after_session is null and not dry_run then  -- shares are few: all that have ended go with the first batch
    delete from chat_history_shares h
      where (everyone or h.user_id = owner) and (h.revoked_at is not null or h.expires_at < clock_timestamp());
    for session in  -- as few are the answers whose writer is gone
      select s.* from chat_history_sessions s
        where (everyone or s.user_id = owner) and s.session_key in (
          select g.session_key from chat_history_streams g where g.lost_at < clock_timestamp())
        order by s.session_key for update skip locked
    loop
      perform chat_history_settle_streams(session);
    end loop;
  end if;
  select s.session_key into stop from chat_history_sessions s
    where (everyone or s.user_id = owner) and s.session_key > last
    order by s.session_key offset stride - 1 limit 1;
  for found_key in
    select s.session_key from chat_history_sessions s
      where (everyone or s.user_id = owner) and s.session_key > last
        and s.session_key <= coalesce(stop, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        and (s.deleted_at is null and (s.updated_at < idle_before or s.message_count > keep_messages)
          or (s.cleared_position > 0 or s.parked > 0) and exists (
            select from chat_history_messages m
              where m.session_key = s.session_key and m.position <= s.cleared_position)
          or s.cleared_turn > 0 and exists (
            select from chat_history_turns t
              where t.session_key = s.session_key and t.ordinal <= s.cleared_turn
                and t.id is distinct from s.last_turn_id)
          or s.parked > 0 and exists (
            select from chat_history_turns t
              where t.session_key = s.session_key and t.alternative_id is not null))
      order by s.session_key limit stride
  loop
    if spent >= batch then
      stop := last;
      exit;
    end if;
    if dry_run then
      select s.* into session from chat_history_sessions s where s.session_key = found_key;
    else
      select s.* into session from chat_history_sessions s where s.session_key = found_key for update skip locked;
    end if;
    if found then
      -- As it stands now: it may have been written to since it was found.
      idle := coalesce(session.deleted_at is null and session.updated_at < idle_before, false);
      if idle then
        deleted := deleted + 1;
        spent := spent + 1;
      elsif session.message_count > keep_messages then
        before := session.revision;
        session := chat_history_trimmed(session, keep_messages);
        trimmed := trimmed + (session.revision <> before)::integer;
        spent := spent + (session.revision <> before)::integer;
      end if;
      if dry_run then
        swept := chat_history_hidden(session, idle or session.deleted_at is not null);
      else
        session := case when idle then chat_history_buried(session) else session end;
        perform chat_history_settle(session);
        swept := chat_history_sweep(session, greatest(batch - spent, 1));
      end if;
      messages := messages + (swept ->> 'messages')::bigint;
      turns := turns + (swept ->> 'turns')::bigint;
      feedback := feedback + (swept ->> 'feedback')::bigint;
      spent := spent + (swept ->> 'messages')::integer + (swept ->> 'turns')::integer;
      if (swept ->> 'more')::boolean then  -- the next call goes on with this session
        stop := last;
        exit;
      end if;
    end if;
    last := found_key;
  end loop;
  return json_build_object('sessions', deleted, 'trimmed', trimmed, 'messages', messages, 'turns', turns,
                           'feedback', feedback, 'next', stop);
end
$$;

select chat_history_grant();
