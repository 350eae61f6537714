-- Erasure: hiding what a session holds, and removing it.
--
--   chat_history_clear            hides all; `prune` removes it later
--   chat_history_delete_session   removes all that a session holds
--   chat_history_delete_user      removes all that there is of one person
--   chat_history_erased, _buried  a session's row as it stands once it is cleared, or deleted
--   chat_history_settle           writes such a row
--   chat_history_sweep            removes what a session hides, at most so many rows
--
-- Both raise the session's epoch, which refuses what was still on its way. What takes long goes in batches: a call is one
-- short transaction that removes no more than its limit, and says whether to call again.

-- A session as it stands once all that it holds is hidden by a request, which erases it.
create function chat_history_erased(chat_history_sessions, uuid) returns chat_history_sessions
language plpgsql stable set search_path from current as $$
declare
  session alias for $1;
  request alias for $2;
begin
  session.erased_turn_id := (
    select t.id from chat_history_turns t where t.session_key = session.session_key order by t.ordinal desc limit 1);
  session.erased_count := session.message_count;
  session.erased_by := request;
  session.cleared_position := session.last_position;
  session.cleared_turn := session.last_turn;
  session.last_turn_id := null;
  session.cleared_parked := session.parked;
  session.message_count := 0;
  session.turn_count := 0;
  session.total_tokens := null;
  session.updated_at := clock_timestamp();
  session.epoch := session.epoch + 1;
  session.erased_epoch := session.epoch;
  session.revision := session.revision + 1;
  return session;
end
$$;

-- Write a session's row as one of the functions that make a new form of it has made it. What was erased is no longer
-- shared either.
create function chat_history_settle(chat_history_sessions) returns void
language sql set search_path from current as $$
  delete from chat_history_shares h using chat_history_sessions s
    where h.session_key = $1.session_key and s.session_key = $1.session_key and s.erased_epoch < $1.erased_epoch;
  update chat_history_sessions s set
      title = $1.title, metadata = $1.metadata, tags = $1.tags, pinned = $1.pinned, archived = $1.archived,
      forked_from = $1.forked_from, deleted_at = $1.deleted_at,
      updated_at = $1.updated_at, cleared_position = $1.cleared_position,
      cleared_turn = $1.cleared_turn, last_turn_id = $1.last_turn_id,
      message_count = $1.message_count, turn_count = $1.turn_count, total_tokens = $1.total_tokens,
      cleared_parked = $1.cleared_parked, epoch = $1.epoch, revision = $1.revision,
      erased_epoch = $1.erased_epoch, erased_by = $1.erased_by, erased_count = $1.erased_count,
      erased_turn_id = $1.erased_turn_id
    where s.session_key = $1.session_key and s.revision <> $1.revision
$$;

-- Hide all messages and turns of a session; `prune` removes them later. Answers {"epoch", "revision", "cleared"}.
--
--   request  minted by the caller: a second try, which may come after others have written again, hides nothing more
create function chat_history_clear(session_id text, user_id text default null, request uuid default null) returns json
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_clear.user_id);
  session chat_history_sessions;
begin
  select s.* into session from chat_history_sessions s
    where s.session_key = chat_history_key(owner, chat_history_clear.session_id) for update;
  if found and session.erased_by is distinct from coalesce(request, gen_random_uuid()) then
    session := chat_history_erased(session, request);
    perform chat_history_settle(session);
  end if;
  return json_build_object('epoch', coalesce(session.epoch, 0), 'revision', coalesce(session.revision, 0),
                           'cleared', coalesce(session.erased_count, 0));
end
$$;

-- A session as it stands once it is deleted: a tombstone without content.
create function chat_history_buried(chat_history_sessions, uuid default null) returns chat_history_sessions
language plpgsql stable set search_path from current as $$
declare
  session alias for $1;
  request alias for $2;
begin
  session := chat_history_erased(session, request);
  session.title := null;
  session.metadata := null;
  session.tags := '{}';
  session.pinned := false;
  session.archived := false;
  session.forked_from := null;
  session.deleted_at := session.updated_at;
  return session;
end
$$;

-- Remove what a session hides, all of it where the session is deleted: at most so many messages and turns (null: all),
-- with the feedback on them. The caller has locked the session's row. Answers {"messages", "turns", "feedback": how many
-- rows, "more": whether the limit was reached}.
--
-- What was taken out of the conversation goes with it. Turns go once all hidden messages are gone: a hidden turn has no
-- message that is not hidden.
create function chat_history_sweep(chat_history_sessions, integer) returns json
language plpgsql set search_path from current as $$
declare
  session alias for $1;
  most alias for $2;
  everything constant boolean := session.deleted_at is not null;
  hidden constant bigint := case when everything then 9223372036854775807 else session.cleared_position end;
  upto bigint;
  message_ids uuid[];
  turns_of_messages uuid[];
  turn_ids uuid[] := '{}';
  messages integer;
  feedback integer;
  more boolean;
begin
  select m.position into upto from chat_history_messages m
    where most is not null and m.session_key = session.session_key and m.position <= hidden
    order by m.position offset most - 1 limit 1;
  select coalesce(array_agg(m.id), '{}'), coalesce(array_agg(distinct m.turn_id), '{}')
    into message_ids, turns_of_messages
    from chat_history_messages m where m.session_key = session.session_key and m.position <= coalesce(upto, hidden);
  messages := cardinality(message_ids);
  if upto is null then
    select coalesce(array_agg(h.id), '{}') into turn_ids from (
      (select t.id from chat_history_turns t
         where t.session_key = session.session_key and (everything or t.ordinal <= session.cleared_turn)
           and t.id is distinct from session.last_turn_id  -- the next append may join it
         order by t.ordinal limit most - messages)
      union
      (select t.id from chat_history_turns t
         where t.session_key = session.session_key and t.alternative_id is not null limit most - messages)
      limit most - messages) h;
  end if;
  more := coalesce(messages + cardinality(turn_ids) >= most, false);

  delete from chat_history_feedback f
    where f.session_key = session.session_key and (f.turn_id = any (turn_ids)
      or f.turn_id = any (turns_of_messages) and f.message_id = any (message_ids) or everything and not more);
  get diagnostics feedback = row_count;
  delete from chat_history_alternatives a where a.session_key = session.session_key;  -- all of them are hidden now
  delete from chat_history_messages m where m.session_key = session.session_key and m.position <= coalesce(upto, hidden);
  delete from chat_history_turns t where t.session_key = session.session_key and t.id = any (turn_ids);
  return json_build_object('messages', messages, 'turns', cardinality(turn_ids), 'feedback', feedback, 'more', more);
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
language plpgsql set search_path from current
  set statement_timeout to '5min' set enable_seqscan to off set enable_sort to off as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_delete_session.user_id);
  session chat_history_sessions;
  there boolean;
  swept json;
begin
  if batch < 1 then
    raise exception 'a batch is at least 1' using errcode = 'PT400';
  end if;
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
  swept := chat_history_sweep(session, batch);
  return json_build_object('deleted', there or coalesce(session.erased_by = request, false), 'more', swept -> 'more');
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
language plpgsql set search_path from current
  set statement_timeout to '5min' set enable_seqscan to off set enable_sort to off as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_delete_user.user_id);
  session chat_history_sessions;
  swept json;
  spent integer := 0;
  deleted integer := 0;
  messages bigint := 0;
  turns bigint := 0;
  feedback bigint := 0;
begin
  if owner = '' or batch < 1 then
    raise exception 'delete_user takes the id of a user, and a batch of at least 1' using errcode = 'PT400';
  end if;
  loop
    exit when spent >= batch;
    select s.* into session from chat_history_sessions s
      where s.user_id = owner and s.deleted_at is null order by s.session_key limit 1 for update;
    if found then
      session := chat_history_buried(session);
      perform chat_history_settle(session);
      deleted := deleted + 1;
      spent := spent + 1;
    else  -- what an earlier call has left of sessions that it deleted: their turns go last
      select s.* into session from chat_history_sessions s
        where s.session_key = (select t.session_key from chat_history_turns t where t.user_id = owner limit 1) for update;
      exit when not found;
    end if;
    swept := chat_history_sweep(session, case when batch is not null then greatest(batch - spent, 1) end);
    messages := messages + (swept ->> 'messages')::bigint;
    turns := turns + (swept ->> 'turns')::bigint;
    feedback := feedback + (swept ->> 'feedback')::bigint;
    spent := spent + (swept ->> 'messages')::integer + (swept ->> 'turns')::integer;
  end loop;
  return json_build_object('sessions', deleted, 'messages', messages, 'turns', turns, 'feedback', feedback,
                           'more', coalesce(spent >= batch, false));
end
$$;

select chat_history_grant();
