-- Streams: the text of answers that are still being written, for whoever wants to read along.
--
--   chat_history_write_deltas     adds text, gives a sign of life, and answers whether a stop was asked for
--   chat_history_follow_turn      the text of a turn after a position, while it is written and when it is stored
--   chat_history_stop_turn        asks for a stop
--   chat_history_settle_streams   stores what is there of answers whose writer is gone
--   chat_history_said             the text of an answer's message, as it was streamed
--
-- Whoever runs a turn in the background writes its text here and removes it when the turn is stored. Both tables are
-- unlogged: they cost no write-ahead log, and a crash of the database empties them; a writer that is still alive then
-- writes all of its text again. A position is the number of characters in front.
--
-- A writer locks its stream's row and never waits for the session's lock while it holds that; all others lock the
-- session's row first.

create unlogged table chat_history_streams (
  session_key uuid not null,
  user_id text not null,
  turn_id uuid not null,
  answer_id uuid not null,                        -- the row id of the answer's first message, whoever stores it
  written integer not null default 0,             -- how many characters
  open_at integer not null default 0,             -- the position of the delta that is being added to
  stopped boolean not null default false,         -- whether somebody has asked for a stop
  beat_at timestamptz not null,                   -- the writer's last sign of life
  lost_at timestamptz not null,                   -- without another one until then, the writer is gone
  created_at timestamptz not null default clock_timestamp(),
  primary key (session_key, turn_id),
  unique (session_key, turn_id, user_id),
  foreign key (session_key, turn_id) references chat_history_turns (session_key, id) on delete cascade,
  foreign key (session_key, user_id) references chat_history_sessions (session_key, user_id) on delete cascade
) with (fillfactor = 50);

create unlogged table chat_history_deltas (
  session_key uuid not null,
  user_id text not null,
  turn_id uuid not null,
  position integer not null,                      -- characters in front of it
  text text not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (session_key, turn_id, position),
  foreign key (session_key, turn_id, user_id) references chat_history_streams (session_key, turn_id, user_id)
    on delete cascade
) with (fillfactor = 50);

alter table chat_history_streams enable row level security;
alter table chat_history_deltas enable row level security;
create policy owner on chat_history_streams
  using (user_id = (select chat_history_user()))
  with check (user_id = (select chat_history_user()) and exists (
    select from chat_history_sessions s
      where s.session_key = chat_history_streams.session_key and s.user_id = chat_history_streams.user_id));
create policy owner on chat_history_deltas
  using (user_id = (select chat_history_user()))
  with check (user_id = (select chat_history_user()) and exists (
    select from chat_history_sessions s
      where s.session_key = chat_history_deltas.session_key and s.user_id = chat_history_deltas.user_id));

-- The text of an answer's message as it was streamed: its text parts without anything between them.
create function chat_history_said(chat_history_messages) returns text
language sql stable set search_path from current as $$
  select case when json_typeof($1.data -> 'content') = 'array' then coalesce((
      select string_agg(chat_history_text(json_build_object('content', case json_typeof(e.part)
          when 'string' then e.part when 'object' then e.part -> 'text' end)), '' order by e.n)
        from json_array_elements($1.data -> 'content') with ordinality e (part, n)
        where json_typeof(e.part) = 'string' or json_typeof(e.part) = 'object' and e.part ->> 'type' = 'text'), '')
    else chat_history_text($1.data) end
$$;

-- Store what is there of a locked session's answers whose writer is gone, each as its turn's interrupted answer, and
-- remove their streams. Answers how many.
create function chat_history_settle_streams(chat_history_sessions) returns integer
language plpgsql set search_path from current as $$
declare
  session alias for $1;
  lost record;
  said text;
  settled integer := 0;
begin
  for lost in
    select g.turn_id, g.answer_id, g.beat_at,
        t.question is not null and t.alternative_id is null and t.ordinal > session.cleared_turn as is_open
      from chat_history_streams g join chat_history_turns t on t.session_key = g.session_key and t.id = g.turn_id
      where g.session_key = session.session_key and g.lost_at < clock_timestamp()
      order by t.ordinal for update of g
  loop
    if lost.is_open then
      select string_agg(d.text, '' order by d.position) into said from chat_history_deltas d
        where d.session_key = session.session_key and d.turn_id = lost.turn_id;
      perform chat_history_append(
        session.session_id, user_id => session.user_id,
        ids => case when said is null then '{}'::uuid[] else array[lost.answer_id] end,
        types => case when said is null then '{}'::text[] else '{ai}' end,
        data => case when said is null then '{}'::json[] else array[json_build_object('content', said)] end,
        turn => json_build_object('id', lost.turn_id, 'status', 'interrupted', 'asked', true, 'ended_at', lost.beat_at));
      settled := settled + 1;
    end if;
    delete from chat_history_streams g where g.session_key = session.session_key and g.turn_id = lost.turn_id;
  end loop;
  return settled;
end
$$;

-- Add text to the answer of a turn that was begun, and give a sign of life. Done again it adds nothing twice. Answers
-- {"running", "stopped", "position"}: whether the turn is still to be stored, whether somebody has asked for a stop, and
-- how many characters are there now. Where these are fewer than the writer thinks, the database has lost some in a crash:
-- it goes on from there. A turn that was stored has no stream any more; one that was cleared, deleted or taken out is to
-- be stopped, too.
--
--   answer_id  the row id that the answer's first message is going to have, so that it is stored once, whoever does
--   after      how many characters are in front of the text
--   lease      seconds within which the writer is going to call again
create function chat_history_write_deltas(
  session_id text, turn_id uuid, answer_id uuid default null, after integer default 0, text text default '',
  lease double precision default 15, user_id text default null)
returns json
language plpgsql set search_path from current set plan_cache_mode to force_generic_plan as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_write_deltas.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_write_deltas.session_id);
  of_turn constant uuid := chat_history_write_deltas.turn_id;
  said constant text := coalesce(chat_history_write_deltas.text, '');
  at constant timestamptz := clock_timestamp();
  stream chat_history_streams;
  is_there boolean;
  is_open boolean;
begin
  if of_turn is null or (lease between 1 and 86400) is not true or length(said) > 100000
     or (chat_history_write_deltas.after between 0 and 100000000) is not true then
    raise exception 'deltas are of a turn, at most 100000 characters after 0 to 1e8 others, with a lease of 1 to '
      '86400 seconds' using errcode = 'PT422';
  end if;
  select t.alternative_id is null and t.ordinal > s.cleared_turn, t.question is not null into is_there, is_open
    from chat_history_turns t join chat_history_sessions s on s.session_key = t.session_key
    where t.session_key = of_session and t.id = of_turn;
  if (is_there and is_open) is not true then
    delete from chat_history_streams g where g.session_key = of_session and g.turn_id = of_turn;
    return json_build_object('running', false, 'stopped', is_there is not true, 'position', 0);
  end if;
  select g.* into stream from chat_history_streams g
    where g.session_key = of_session and g.turn_id = of_turn for update;
  if not found then
    begin
      insert into chat_history_streams (session_key, user_id, turn_id, answer_id, beat_at, lost_at)
        values (of_session, owner, of_turn, coalesce(chat_history_write_deltas.answer_id, gen_random_uuid()), at,
                at + make_interval(secs => lease))
        on conflict do nothing;
    exception when foreign_key_violation then  -- deleted just now
      return json_build_object('running', false, 'stopped', true, 'position', 0);
    end;
    select g.* into strict stream from chat_history_streams g
      where g.session_key = of_session and g.turn_id = of_turn for update;
  end if;
  if said <> '' and stream.written = chat_history_write_deltas.after then
    -- A row holds about a thousand characters, however often something is added.
    update chat_history_deltas d set text = d.text || said
      where d.session_key = of_session and d.turn_id = of_turn and d.position = stream.open_at and length(d.text) < 1000;
    if not found then
      insert into chat_history_deltas (session_key, user_id, turn_id, position, text)
        values (of_session, owner, of_turn, stream.written, said);
      stream.open_at := stream.written;
    end if;
    stream.written := stream.written + length(said);
  end if;
  update chat_history_streams g set
      written = stream.written, open_at = stream.open_at, beat_at = at, lost_at = at + make_interval(secs => lease)
    where g.session_key = of_session and g.turn_id = of_turn;
  return json_build_object('running', true, 'stopped', stream.stopped, 'position', stream.written);
end
$$;

-- The text of a turn's answer after a position: {"turn_id", "status", "running", "position", "text"}, the position that of
-- the text's end, and whether somebody is still writing; null where there is no such turn. Once the turn is stored, the
-- text is that of its messages. What was left by a writer that is gone is stored now.
--
--   turn_id   which; null for the newest that is being written
--   after     how many characters the caller has
create function chat_history_follow_turn(
  session_id text, turn_id uuid default null, after integer default 0, user_id text default null)
returns json
language plpgsql set search_path from current set plan_cache_mode to force_generic_plan as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_follow_turn.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_follow_turn.session_id);
  skipped constant integer := coalesce(chat_history_follow_turn.after, 0);
  followed uuid := chat_history_follow_turn.turn_id;
  session chat_history_sessions;
  turn chat_history_turns;
  is_written boolean := false;
  begins integer := 0;
  said text;
begin
  if skipped < 0 then
    raise exception 'after is 0 or more characters' using errcode = 'PT400';
  end if;
  if followed is null then
    select g.turn_id into followed from chat_history_streams g join chat_history_turns t
        on t.session_key = g.session_key and t.id = g.turn_id
      where g.session_key = of_session order by t.ordinal desc limit 1;
  end if;
  if exists (
    select from chat_history_streams g where g.session_key = of_session and g.lost_at < clock_timestamp()) then
    select s.* into session from chat_history_sessions s where s.session_key = of_session for update;
    perform chat_history_settle_streams(session);
  end if;
  select t.* into turn from chat_history_turns t join chat_history_sessions s on s.session_key = t.session_key
    where t.session_key = of_session and t.id = followed and t.alternative_id is null and t.ordinal > s.cleared_turn;
  if not found then
    return null;
  end if;
  if turn.question is null then
    select string_agg(chat_history_said(m), '' order by m.position) into said from chat_history_messages m
      where m.session_key = of_session and m.position >= turn.first_position and m.turn_id = turn.id and m.type = 'ai';
  else
    select min(d.position), string_agg(d.text, '' order by d.position) into begins, said from chat_history_deltas d
      where d.session_key = of_session and d.turn_id = turn.id and d.position + length(d.text) > skipped;
    is_written := exists (
      select from chat_history_streams g where g.session_key = of_session and g.turn_id = turn.id);
  end if;
  said := coalesce(substr(said, 1 + greatest(skipped - begins, 0)), '');
  return json_build_object('turn_id', turn.id, 'status', turn.status, 'running', is_written,
                           'position', skipped + length(said), 'text', said);
end
$$;

-- Ask whoever writes a turn's answer to stop; what is there of it is stored then. Answers {"stopping": how many}.
--
--   turn_id   which; null for all that are being written in the session
create function chat_history_stop_turn(session_id text, turn_id uuid default null, user_id text default null) returns json
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_stop_turn.user_id);
  session chat_history_sessions;
  settled integer;
  asked integer;
begin
  select s.* into session from chat_history_sessions s
    where s.session_key = chat_history_key(owner, chat_history_stop_turn.session_id) for update;
  settled := chat_history_settle_streams(session);
  update chat_history_streams g set stopped = true
    where g.session_key = session.session_key
      and g.turn_id = coalesce(chat_history_stop_turn.turn_id, g.turn_id);
  get diagnostics asked = row_count;
  return json_build_object('stopping', asked + settled);
end
$$;

select chat_history_grant();
