-- Branches: take messages out of a conversation, say something else in their place, and go back to them.
--
--   chat_history_rewind_session      takes a message and all after it out: they become an alternative
--   chat_history_pop_messages        the same for the last n messages, which it answers
--   chat_history_list_alternatives   the alternatives, and chat_history_list_alternative their messages
--   chat_history_switch_to           puts one back in the place of what is there now
--   chat_history_take_out, _put_back the two steps that these are made of
--   chat_history_branched            writes a session's row after them
--
-- A conversation is a tree of which the session shows one path, at positions 1, 2, 3 ... Messages that are off the path
-- stand at positions below 0. An alternative knows the message that it follows: where that is off the path too, it is
-- put back first. Each of these raises the epoch like an erasure does: a turn that began before is refused.

-- Take the messages at a position and after it out of a locked session, into an alternative with the id given. Turns
-- that lie there go with them, and those that have begun and have no message yet. Nothing is made of no messages.
create function chat_history_take_out(chat_history_sessions, bigint, uuid) returns chat_history_sessions
language plpgsql set search_path from current
  set enable_seqscan to off set enable_bitmapscan to off set enable_sort to off as $$
declare
  session alias for $1;
  start constant bigint := $2;
  alternative alias for $3;
  taken constant bigint := greatest(session.last_position - start + 1, 0);
  before chat_history_messages;
  last_kept bigint;            -- ordinal of the turn before
  here uuid[];                 -- turns with a message among those that go
  gone uuid[];
  turns bigint;
  tokens numeric;
begin
  select m.* into before from chat_history_messages m
    where m.session_key = session.session_key and m.position = start - 1 and start - 1 > session.cleared_position;
  select t.ordinal into last_kept from chat_history_turns t
    where t.session_key = session.session_key and t.id = before.turn_id;
  select coalesce(array_agg(distinct m.turn_id), '{}') into here from chat_history_messages m
    where m.session_key = session.session_key and m.position >= start;
  select array(
    select t.id from chat_history_turns t
      where t.session_key = session.session_key and t.id = any (here) and t.first_position >= start
    union
    select t.id from chat_history_turns t
      where t.session_key = session.session_key and t.status = 'running' and t.first_position is null
        and t.alternative_id is null and t.ordinal > session.cleared_turn
    union
    select t.id from chat_history_turns t
      where t.session_key = session.session_key and t.ordinal > greatest(session.cleared_turn, last_kept)
        and t.first_position is null and t.alternative_id is null) into gone;
  update chat_history_turns t set branched = true
    where t.session_key = session.session_key and t.id = any (here) and t.id <> all (gone);
  with changed as (
    update chat_history_turns t set alternative_id = alternative
      where t.session_key = session.session_key and t.id = any (gone) returning t.total_tokens)
  select count(*), sum(c.total_tokens) into turns, tokens from changed c;
  session.turn_count := session.turn_count - turns;
  session.total_tokens := nullif(session.total_tokens - coalesce(tokens, 0), 0);
  if taken > 0 then
    session.parked := session.parked + taken;
    insert into chat_history_alternatives (session_key, user_id, id, position, message_count, parked, follows)
      values (session.session_key, session.user_id, alternative, start, taken, session.parked, before.id);
    update chat_history_messages m set position = m.position - start - session.parked
      where m.session_key = session.session_key and m.position >= start;
    session.last_position := start - 1;
    session.message_count := session.message_count - taken;
  end if;
  session.last_turn_id := before.turn_id;
  return session;
end
$$;

-- Put an alternative of a locked session back where it was, in the place of what is there now, which becomes an
-- alternative with the id given. What it follows is put back before it.
create function chat_history_put_back(chat_history_sessions, chat_history_alternatives, uuid)
returns chat_history_sessions
language plpgsql set search_path from current
  set enable_seqscan to off set enable_bitmapscan to off set enable_sort to off as $$
declare
  session alias for $1;
  chosen alias for $2;
  alternative alias for $3;
  before_at bigint;
  parent chat_history_alternatives;
  turns bigint;
  tokens numeric;
begin
  if chosen.follows is not null then
    select m.position into before_at from chat_history_messages m
      where m.session_key = session.session_key and m.id = chosen.follows;
    if before_at < 0 then
      select a.* into parent from chat_history_alternatives a
        where a.session_key = session.session_key and before_at between -a.parked and a.message_count - a.parked - 1;
      session := chat_history_put_back(session, parent, alternative);
      alternative := gen_random_uuid();
      before_at := chosen.position - 1;
    end if;
    if before_at is null then
      raise exception 'what the alternative follows was removed' using errcode = 'PT404';
    end if;
  end if;
  session := chat_history_take_out(session, chosen.position, alternative);
  update chat_history_messages m set
      position = m.position + chosen.position + chosen.parked,
      in_context = coalesce((
        select t.status <> 'failed' from chat_history_turns t
          where t.session_key = m.session_key and t.id = m.turn_id), true)
    where m.session_key = session.session_key
      and m.position between -chosen.parked and chosen.message_count - chosen.parked - 1;
  with changed as (
    update chat_history_turns t set alternative_id = null
      where t.session_key = session.session_key and t.alternative_id = chosen.id
        and t.first_position is not null returning t.total_tokens)
  select count(*), sum(c.total_tokens) into turns, tokens from changed c;
  session.turn_count := session.turn_count + turns;
  session.total_tokens := nullif(coalesce(session.total_tokens, 0) + coalesce(tokens, 0), 0);
  session.last_position := chosen.position + chosen.message_count - 1;
  session.message_count := session.message_count + chosen.message_count;
  session.last_turn_id := (
    select m.turn_id from chat_history_messages m
      where m.session_key = session.session_key and m.position = session.last_position);
  delete from chat_history_alternatives a where a.session_key = session.session_key and a.id = chosen.id;
  return session;
end
$$;

-- Write a session's row as a branch has left it, and answer it.
create function chat_history_branched(chat_history_sessions, uuid) returns chat_history_sessions
language sql set search_path from current as $$
  update chat_history_sessions s set
      last_position = $1.last_position, last_turn_id = $1.last_turn_id, message_count = $1.message_count,
      turn_count = $1.turn_count, total_tokens = $1.total_tokens, parked = $1.parked, branched_by = $2,
      updated_at = clock_timestamp(), epoch = s.epoch + 1, erased_epoch = s.epoch + 1, revision = s.revision + 1
    where s.session_key = $1.session_key returning s.*
$$;

-- An alternative as the functions answer it: {"id", "position", "created_at", "message_count", "excerpt": the beginning
-- of its first text, "follows"}.
create function chat_history_show_alternative(chat_history_alternatives) returns json
language sql stable set search_path from current as $$
  select json_build_object('id', $1.id, 'position', $1.position, 'created_at', $1.created_at,
    'message_count', $1.message_count, 'follows', $1.follows, 'excerpt', (
      select chat_history_shorten(chat_history_text(m.data), 200) from chat_history_messages m
        where m.session_key = $1.session_key and m.position between -$1.parked and least($1.message_count, 10) - $1.parked - 1
          and chat_history_text(m.data) ~ '\S'
        order by m.position limit 1))
$$;

-- Take a message and all after it out of a conversation. Answers the alternative that they are now; null where there is
-- nothing to take out.
--
--   before       the position of that message, or, in `message_id`, its id
--   alternative  the new alternative's id, minted by the caller: a second try is answered like the first
create function chat_history_rewind_session(
  session_id text, before bigint default null, message_id uuid default null, alternative uuid default null,
  user_id text default null)
returns json
language plpgsql set search_path from current set statement_timeout to '60s' as $$
#variable_conflict use_column
declare
  session chat_history_sessions;
  made chat_history_alternatives;
  start bigint;
begin
  session := chat_history_lock_existing(
    chat_history_owner(chat_history_rewind_session.user_id), chat_history_rewind_session.session_id);
  select a.* into made from chat_history_alternatives a where a.session_key = session.session_key and a.id = alternative;
  if not found then
    start := greatest(
      chat_history_find_position(session, before, chat_history_rewind_session.message_id), session.cleared_position + 1);
    if start > session.last_position then
      return null;
    end if;
    alternative := coalesce(alternative, gen_random_uuid());
    session := chat_history_branched(chat_history_take_out(session, start, alternative), alternative);
    select a.* into made from chat_history_alternatives a
      where a.session_key = session.session_key and a.id = alternative;
  end if;
  return chat_history_show_alternative(made);
end
$$;

-- The messages of an alternative, at the positions that they had in the conversation: {"items": [as
-- chat_history_list_messages]}.
create function chat_history_list_alternative(session_id text, alternative uuid, user_id text default null) returns json
language plpgsql stable set search_path from current
  set enable_seqscan to off set enable_bitmapscan to off set enable_sort to off as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_alternative.user_id);
  chosen chat_history_alternatives;
begin
  select a.* into chosen from chat_history_alternatives a join chat_history_sessions s on s.session_key = a.session_key
    where a.session_key = chat_history_key(owner, chat_history_list_alternative.session_id) and a.id = alternative
      and a.parked > s.cleared_parked;
  if not found then
    raise exception 'the conversation has no such alternative any more' using errcode = 'PT404';
  end if;
  return json_build_object('items', (
    select json_agg(json_build_object('id', m.id, 'position', m.position + chosen.position + chosen.parked,
        'created_at', m.created_at, 'turn_id', m.turn_id, 'type', m.type, 'data', m.data))
      from (select * from chat_history_messages m
              where m.session_key = chosen.session_key
                and m.position between -chosen.parked and chosen.message_count - chosen.parked - 1
              order by m.position) m));
end
$$;

-- Take the last n messages out of a conversation, and answer them like chat_history_list_alternative. A second try with
-- the same id for the alternative is answered like the first.
create function chat_history_pop_messages(
  session_id text, n integer default 1, alternative uuid default null, user_id text default null)
returns json
language plpgsql set search_path from current set statement_timeout to '60s' as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_pop_messages.user_id);
  session chat_history_sessions;
  made uuid := coalesce(alternative, gen_random_uuid());
begin
  if (n between 1 and 1000) is not true then
    raise exception 'n is a number of messages from 1 to 1000' using errcode = 'PT400';
  end if;
  select s.* into session from chat_history_sessions s
    where s.session_key = chat_history_key(owner, chat_history_pop_messages.session_id) for update;
  if not exists (
    select from chat_history_alternatives a where a.session_key = session.session_key and a.id = made)
  then
    if coalesce(session.message_count, 0) = 0 then
      return json_build_object('items', json_build_array());
    end if;
    perform chat_history_branched(
      chat_history_take_out(session, greatest(session.last_position - n, session.cleared_position) + 1, made), made);
  end if;
  return chat_history_list_alternative(session.session_id, made, nullif(session.user_id, ''));
end
$$;

-- What was taken out of a conversation and may be put back, the oldest first: [as chat_history_rewind_session].
create function chat_history_list_alternatives(session_id text, user_id text default null) returns json
language plpgsql stable set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_alternatives.user_id);
begin
  return coalesce((
    select json_agg(chat_history_show_alternative(a) order by a.created_at, a.parked)
      from chat_history_alternatives a join chat_history_sessions s on s.session_key = a.session_key
      where a.session_key = chat_history_key(owner, chat_history_list_alternatives.session_id)
        and a.parked > s.cleared_parked), '[]');
end
$$;

-- Put an alternative back in the place of what is in the conversation now, which becomes an alternative in its turn.
-- Answers the session, as chat_history_get_session.
--
--   request  minted by the caller: a second try changes nothing
create function chat_history_switch_to(
  session_id text, alternative uuid, request uuid default null, user_id text default null)
returns json
language plpgsql set search_path from current set statement_timeout to '60s' as $$
#variable_conflict use_column
declare
  session chat_history_sessions;
  chosen chat_history_alternatives;
begin
  session := chat_history_lock_existing(
    chat_history_owner(chat_history_switch_to.user_id), chat_history_switch_to.session_id);
  if session.branched_by is distinct from coalesce(request, gen_random_uuid()) then
    select a.* into chosen from chat_history_alternatives a
      where a.session_key = session.session_key and a.id = alternative and a.parked > session.cleared_parked;
    if not found then
      raise exception 'the conversation has no such alternative any more' using errcode = 'PT404';
    end if;
    session := chat_history_branched(chat_history_put_back(session, chosen, gen_random_uuid()), request);
  end if;
  return chat_history_show_session(session);
end
$$;

select chat_history_grant();
