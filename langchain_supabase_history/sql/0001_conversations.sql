-- Conversations: sessions, their messages, the turns these belong to, and feedback on them.
--
-- Everything here runs with `search_path` set to the schema the objects go to; each function keeps that path
-- (`set search_path from current`). Functions run as their caller, so row level security holds inside them.
-- The laws (order, exactly once, key, owner) are told where they are kept.

-- Who speaks -----------------------------------------------------------------------------------------------

-- The user of the request's claims: Supabase's `sub`. Null, which equals nothing, where there are none.
create function chat_history_user() returns text
language plpgsql stable parallel safe set search_path from current as $$
begin
  return nullif(nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub', '');
end
$$;

-- The owner a call works for: the user of the claims, else the one it names, else '' (the application itself).
-- A call that names another than its claims, or that row level security would leave with nothing, is refused:
-- an empty history must never stand for a forbidden one.
create function chat_history_owner(user_id text) returns text
language plpgsql stable set search_path from current as $$
declare
  claimed text := chat_history_user();
begin
  if claimed is null then
    if row_security_active('chat_history_sessions') then
      raise exception 'row level security applies to role % and the request carries no user', current_user
        using errcode = '42501', hint = 'Send the token of a signed-in user, or the secret key.';
    end if;
    return coalesce(user_id, '');
  end if;
  if user_id is not null and user_id <> claimed then
    raise exception 'the request names another user than its claims' using errcode = '42501';
  end if;
  return claimed;
end
$$;

-- A session's key. Each part is hashed by itself, so that no two pairs of user and session share one.
create function chat_history_key(user_id text, session_id text) returns uuid
language plpgsql immutable strict parallel safe set search_path from current as $$
begin
  return encode(substr(sha256(sha256(convert_to(user_id, 'UTF8')) || sha256(convert_to(session_id, 'UTF8'))), 1, 16),
                'hex')::uuid;
end
$$;

-- Tables ---------------------------------------------------------------------------------------------------

-- One row a conversation. It is also the lock and the counter of its conversation: whoever writes locks this row
-- first. A deleted session stays as a tombstone without content, for its epoch.
create table chat_history_sessions (
  session_key uuid primary key,
  user_id text not null,                          -- '' : the application itself
  session_id text not null check (session_id <> '' and length(session_id) <= 1000),
  title text,
  metadata json,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  deleted_at timestamptz,
  last_position bigint not null default 0,        -- of the newest message; never goes back
  last_turn bigint not null default 0,            -- ordinal of the newest turn; never goes back
  last_turn_id uuid,                              -- the turn that an append without one joins
  cleared_position bigint not null default 0,     -- messages up to here are hidden
  cleared_turn bigint not null default 0,         -- turns up to here are hidden
  message_count bigint not null default 0,        -- of the messages that are not hidden
  epoch integer not null default 0,               -- raised when messages are cleared, deleted or trimmed
  erased_epoch integer not null default 0,        -- the epoch that the last clear or delete has made
  erased_by uuid,                                 -- the request that did: its retry does nothing and is answered alike
  erased_count bigint,                            -- how many messages it hid
  erased_turn_id uuid,                            -- the last turn that it hid, which a late retry must not begin again
  revision bigint not null default 0,             -- raised by every change but an append
  unique (session_key, user_id),
  check (session_key = chat_history_key(user_id, session_id))
) with (fillfactor = 60);                         -- room for the counters' next version on the same page

create table chat_history_messages (
  session_key uuid not null,
  user_id text not null,
  position bigint not null,
  id uuid not null,                               -- minted by the writer before its first try
  turn_id uuid not null,
  type text not null,                             -- LangChain's message type: human, ai, tool, system, ...
  data json not null,                             -- LangChain's dictionary of it, without defaults
  tokens integer not null check (tokens >= 0),
  in_context boolean not null default true,       -- false: of a failed turn, the model is not shown it
  -- The same as `position` for the messages that the model is shown. A column of its own, because a window must walk
  -- an index that holds nothing else: offered the other too, the planner may take it and read all that failed.
  context_position bigint generated always as (case when in_context then position end) stored,
  begins_turn boolean not null default false,
  created_at timestamptz not null default clock_timestamp(),
  primary key (session_key, position),
  unique (session_key, id),
  foreign key (session_key, user_id) references chat_history_sessions (session_key, user_id) on delete cascade
);

-- What a window reads: the messages in context from the newest on, without touching their payload.
create index chat_history_messages_context on chat_history_messages (session_key, context_position)
  include (tokens, type) where context_position is not null;
create index chat_history_messages_turn_starts on chat_history_messages (session_key, context_position)
  where begins_turn and context_position is not null;

-- One row a turn: a question, all that was done for it, and the answer.
create table chat_history_turns (
  session_key uuid not null,
  user_id text not null,
  id uuid not null,
  ordinal bigint not null,
  status text not null default 'completed' check (status in ('running', 'interrupted', 'failed', 'completed')),
  first_position bigint,                          -- of its first message, once it has one
  question json,                                  -- messages that wait for the turn to end: [{id, type, data, tokens}]
  trace_id text,
  run_id text,
  project text,
  started_at timestamptz,
  ended_at timestamptz,
  model text,
  input_tokens bigint,
  output_tokens bigint,
  total_tokens bigint,
  token_details json,
  total_cost numeric check (total_cost >= 0),     -- US dollars: LangSmith's own figure, never computed here
  documents json,
  error text,
  metadata json,
  created_at timestamptz not null default clock_timestamp(),
  primary key (session_key, id),
  unique (session_key, ordinal),
  foreign key (session_key, user_id) references chat_history_sessions (session_key, user_id) on delete cascade
);
create index chat_history_turns_running on chat_history_turns (session_key) where status = 'running';

create table chat_history_feedback (
  session_key uuid not null,
  user_id text not null,
  id uuid not null,
  turn_id uuid not null,
  message_id uuid,
  key text not null,
  score double precision,
  value json,
  comment text,
  metadata json,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  ordinal bigint not null,                        -- its place among the session's feedback
  sent_at timestamptz,                            -- when LangSmith last took it; null: never
  unsent boolean not null default false,          -- whether LangSmith has yet to be told, of it or of its change
  refusals integer not null default 0,            -- how often LangSmith refused it; after ten it is left alone
  primary key (session_key, id),
  unique (session_key, ordinal),
  foreign key (session_key, user_id) references chat_history_sessions (session_key, user_id) on delete cascade
);

-- Row level security: a row is its user's, and nobody else's. Only in this form is the policy one comparison for
-- the whole query. Logins that own the tables or have `bypassrls` (service_role) are the application itself.
alter table chat_history_sessions enable row level security;
alter table chat_history_messages enable row level security;
alter table chat_history_turns enable row level security;
alter table chat_history_feedback enable row level security;
alter table chat_history_migrations enable row level security;
create policy owner on chat_history_sessions
  using (user_id = (select chat_history_user())) with check (user_id = (select chat_history_user()));
create policy owner on chat_history_messages
  using (user_id = (select chat_history_user())) with check (user_id = (select chat_history_user()));
create policy owner on chat_history_turns
  using (user_id = (select chat_history_user())) with check (user_id = (select chat_history_user()));
create policy owner on chat_history_feedback
  using (user_id = (select chat_history_user())) with check (user_id = (select chat_history_user()));

-- Writing --------------------------------------------------------------------------------------------------

-- A json argument as it was meant: some servers between hand it on as a string that holds the document.
create function chat_history_json(value json) returns json
language sql immutable strict parallel safe set search_path from current as $$
  select case json_typeof(value) when 'string' then (value #>> '{}')::json when 'null' then null else value end
$$;

-- Lock a session's row, making it where there is none. Every writing function begins with this.
create function chat_history_lock(owner text, name text) returns chat_history_sessions
language plpgsql set search_path from current as $$
declare
  of_session uuid := chat_history_key(owner, name);
  session chat_history_sessions;
begin
  select s.* into session from chat_history_sessions s where s.session_key = of_session for update;
  if not found then
    insert into chat_history_sessions as s (session_key, user_id, session_id) values (of_session, owner, name)
      on conflict do nothing  -- on either of its two keys
      returning s.* into session;
    if not found then  -- another was faster
      select s.* into strict session from chat_history_sessions s where s.session_key = of_session for update;
    end if;
  end if;
  return session;
end
$$;

-- How far along a turn is: a status is never replaced by an earlier one, whatever the order in which they arrive.
create function chat_history_turn_rank(status text) returns integer
language sql immutable parallel safe set search_path from current as $$
  select array_position(array['running', 'interrupted', 'failed', 'completed'], status)
$$;

-- Write down how a turn stands; what is not said now stays as it was said before.
create function chat_history_put_turn(session chat_history_sessions, turn json, first_position bigint)
returns chat_history_turns
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  put chat_history_turns;
begin
  insert into chat_history_turns as t (session_key, user_id, id, ordinal, status, first_position, trace_id, run_id,
      project, started_at, ended_at, model, input_tokens, output_tokens, total_tokens, token_details, documents,
      error, metadata, total_cost)
    select session.session_key, session.user_id, n.id, session.last_turn + 1, coalesce(n.status, 'completed'),
        chat_history_put_turn.first_position, n.trace_id, n.run_id, n.project, n.started_at, n.ended_at, n.model,
        n.input_tokens, n.output_tokens, n.total_tokens, n.token_details, n.documents, n.error, n.metadata, n.total_cost
      from json_populate_record(null::chat_history_turns, turn) n
    on conflict (session_key, id) do update set
      status = case when chat_history_turn_rank(excluded.status) > chat_history_turn_rank(t.status)
                    then excluded.status else t.status end,
      first_position = coalesce(t.first_position, excluded.first_position),
      trace_id = coalesce(excluded.trace_id, t.trace_id),
      run_id = coalesce(excluded.run_id, t.run_id),
      project = coalesce(excluded.project, t.project),
      started_at = coalesce(t.started_at, excluded.started_at),
      ended_at = coalesce(excluded.ended_at, t.ended_at),
      model = coalesce(excluded.model, t.model),
      input_tokens = coalesce(excluded.input_tokens, t.input_tokens),
      output_tokens = coalesce(excluded.output_tokens, t.output_tokens),
      total_tokens = coalesce(excluded.total_tokens, t.total_tokens),
      token_details = coalesce(excluded.token_details, t.token_details),
      documents = coalesce(excluded.documents, t.documents),
      error = coalesce(excluded.error, t.error),
      metadata = coalesce(excluded.metadata, t.metadata),
      total_cost = coalesce(excluded.total_cost, t.total_cost)
    returning t.* into put;
  return put;
end
$$;

-- Append messages to a session, and say how the turn they belong to stands.
--
--   ids    row ids, minted by the caller: a second try with the same ids changes nothing and gets the same answer
--   types, data, tokens   one each per id; tokens may be null (estimated from the payload)
--   turn   {"id": uuid, "status": ..., "trace_id": ..., ...}, or null: messages that begin with a human one open a
--          turn, others join that of the messages known already, else the session's last, unless it failed. With
--          "asked": true, the turn's question waits on it since chat_history_begin and is put in front of the messages
--          here; it need not be sent again
--   epoch  the session's epoch as the caller knows it: where messages were cleared or deleted since, new ids are
--          refused, so that nothing erased comes back, however late a request arrives
--   replay true where this may be a second try, which is refused too where messages were only trimmed since; false
--          where it is the first of ids that were minted for it: they are not looked up, and the unique key refuses
--          them should it arrive after its second try
--   replace  whether the messages take the place of all that there are
--
-- Answers {"epoch", "revision", "last_position", "first_position", "turn_id", "created_at", "known"}. The new messages
-- stand, in the order of ids, in one gapless run of positions from first_position on; those that were known already are
-- listed as they were answered the first time: [{"id", "position", "turn_id", "created_at"}].
create function chat_history_append(
  session_id text, ids uuid[] default '{}', types text[] default '{}', data json[] default '{}',
  tokens integer[] default null, turn json default null, user_id text default null, epoch integer default null,
  replace boolean default null, replay boolean default null)
returns json
language plpgsql set search_path from current set plan_cache_mode to force_generic_plan as $$
#variable_conflict use_column
declare
  -- Each expression here is made ready anew in every transaction, which costs as much as reading a row: few are
  -- evaluated on the usual way, of new messages that open a turn.
  owner constant text := chat_history_owner(chat_history_append.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_append.session_id);
  call json;
  added integer;
  known uuid[];
  session chat_history_sessions;
  current_turn chat_history_turns;
  opens boolean := false;
  before json;
  asked json;
  at timestamptz;
begin
  if ids is null or types is null or data is null or turn is not null then
    ids := coalesce(ids, '{}');
    types := coalesce(types, '{}');
    data := coalesce(data, '{}');
    call := chat_history_json(turn);
    if call is not null and call ->> 'id' is null then
      raise exception 'a turn must have its id' using errcode = 'PT422';
    end if;
  end if;
  added := cardinality(ids);
  if added <> cardinality(types) or added <> cardinality(data) or added <> cardinality(tokens)
     or array_position(ids, null) is not null or array_position(types, null) is not null then
    raise exception 'ids, types, data and tokens must have one entry a message' using errcode = 'PT422';
  end if;

  select s.* into session from chat_history_sessions s where s.session_key = of_session for update;
  if not found then
    session := chat_history_lock(owner, chat_history_append.session_id);
  end if;
  at := clock_timestamp();

  if call is not null and (call ->> 'asked')::boolean then
    select t.question into asked from chat_history_turns t
      where t.session_key = of_session and t.id = (call ->> 'id')::uuid and t.ordinal > session.cleared_turn;
    if not found then
      raise exception 'the session was cleared or deleted after the question was asked' using errcode = 'PT409';
    end if;
    if asked is not null then
      select array_agg((q ->> 'id')::uuid order by ord) || ids, array_agg(q ->> 'type' order by ord) || types,
             array_agg(q -> 'data' order by ord) || data,
             array_agg((q ->> 'tokens')::integer order by ord) || coalesce(tokens, array_fill(null::integer, array[added]))
        into ids, types, data, tokens from json_array_elements(asked) with ordinality e (q, ord);
      update chat_history_turns t set question = null where t.session_key = of_session and t.id = (call ->> 'id')::uuid;
      added := cardinality(ids);
    end if;
  end if;

  -- Exactly once. Known ids are looked up after the lock in a statement of its own, which therefore sees what a
  -- first try, still running when this one came, has committed meanwhile. One by one: for a list, the planner may
  -- read the whole session instead.
  if replay is distinct from false then
    select array_agg(k.id) into known from (
      select (select m.id from chat_history_messages m where m.session_key = of_session and m.id = n.id)
        from unnest(ids) n (id)) k (id)
      where k.id is not null;
  end if;
  if known is not null then
    if exists (
      select from unnest(ids, types, data) n (id, type, data)
        join chat_history_messages m on m.session_key = of_session and m.id = n.id
        where m.type <> n.type
           or case when m.data::text <> n.data::text then m.data::jsonb <> n.data::jsonb else false end
    ) then
      raise exception 'a message with this id is stored with other content' using errcode = 'PT409';
    end if;
    if cardinality(known) <> (select count(distinct k) from unnest(known) k) then  -- for new ids the unique key does it
      raise exception 'the same message id stands twice in one call' using errcode = 'PT409';
    end if;
    select json_agg(json_build_object('id', m.id, 'position', m.position, 'turn_id', m.turn_id,
                                      'created_at', m.created_at)) into before
      from chat_history_messages m where m.session_key = of_session and m.id = any (known);
    select coalesce(array_agg(n.id order by n.ord), '{}'), array_agg(n.type order by n.ord),
           array_agg(n.data order by n.ord), array_agg(n.tokens order by n.ord)
      into ids, types, data, tokens
      from unnest(ids, types, data, tokens) with ordinality n (id, type, data, tokens, ord)
      where n.id <> all (known);
    added := cardinality(ids);
  end if;
  if chat_history_append.epoch < (case when replay then session.epoch else session.erased_epoch end)
     and (added > 0 or known is null) then
    raise exception 'the session was cleared or deleted after these messages were made' using errcode = 'PT409';
  end if;

  if replace and added > 0 then
    perform chat_history_clear(session.session_id, chat_history_append.user_id);
    session := chat_history_lock(owner, session.session_id);
  end if;

  -- The turn: the one given; or for messages that go on with what is there, that of the known ones among them, else
  -- the session's last, unless it failed, which nobody would be shown; or a new one.
  if call is not null then
    current_turn := chat_history_put_turn(session, call, case when added > 0 then session.last_position + 1 end);
    if added > 0 and current_turn.ordinal <= session.cleared_turn then
      raise exception 'the turn was cleared' using errcode = 'PT409';
    end if;
    opens := current_turn.first_position = session.last_position + 1;
    if current_turn.ordinal > session.last_turn then
      session.last_turn := current_turn.ordinal;
    elsif current_turn.first_position is not null then
      update chat_history_messages m set in_context = not m.in_context
        where m.session_key = of_session and m.position >= current_turn.first_position
          and m.turn_id = current_turn.id and m.in_context = (current_turn.status = 'failed');
      if found then
        session.revision := session.revision + 1;
      end if;
    end if;
    if added > 0 or current_turn.ordinal = session.last_turn then  -- news of an older turn make it no newer
      session.last_turn_id := current_turn.id;
    end if;
  elsif added > 0 then
    if types[1] <> 'human' then
      select t.* into current_turn from chat_history_turns t
        where t.session_key = of_session and t.ordinal > session.cleared_turn
          and t.id = (select m.turn_id from chat_history_messages m
                        where m.session_key = of_session and m.id = any (known)
                        order by m.position desc limit 1);
      if not found then
        select t.* into current_turn from chat_history_turns t
          where t.session_key = of_session and t.id = session.last_turn_id and t.status <> 'failed';
      end if;
    end if;
    if current_turn.id is null then
      session.last_turn := session.last_turn + 1;
      insert into chat_history_turns (session_key, user_id, id, ordinal, first_position)
        values (of_session, owner, gen_random_uuid(), session.last_turn, session.last_position + 1)
        returning id, status into current_turn.id, current_turn.status;
      opens := true;
    end if;
    session.last_turn_id := current_turn.id;
  end if;

  if added > 0 then
    insert into chat_history_messages (session_key, user_id, position, id, turn_id, type, data, tokens, in_context,
        begins_turn, created_at)
      select of_session, owner, session.last_position + n.ord, n.id, current_turn.id, n.type, n.data,
          coalesce(n.tokens, 1 + octet_length(n.data::text) / 4), current_turn.status <> 'failed',
          opens and n.ord = 1, at
        from unnest(ids, types, data, tokens) with ordinality n (id, type, data, tokens, ord);
  end if;
  if added > 0 or call is not null then
    update chat_history_sessions s set
        last_position = s.last_position + added, message_count = s.message_count + added,
        last_turn = session.last_turn, last_turn_id = session.last_turn_id,
        revision = session.revision, updated_at = at, deleted_at = null
      where s.session_key = of_session;
  end if;
  return json_build_object(
    'epoch', session.epoch, 'revision', session.revision, 'last_position', session.last_position + added,
    'first_position', session.last_position + 1, 'turn_id', current_turn.id, 'created_at', at,
    'known', coalesce(before, '[]'));
end
$$;

-- A session as it stands once all that it holds is hidden by a request, which erases it.
create function chat_history_erased(session chat_history_sessions, request uuid) returns chat_history_sessions
language plpgsql stable set search_path from current as $$
begin
  session.erased_turn_id := (
    select t.id from chat_history_turns t where t.session_key = session.session_key order by t.ordinal desc limit 1);
  session.erased_count := session.message_count;
  session.erased_by := request;
  session.cleared_position := session.last_position;
  session.cleared_turn := session.last_turn;
  session.last_turn_id := null;
  session.message_count := 0;
  session.updated_at := clock_timestamp();
  session.epoch := session.epoch + 1;
  session.erased_epoch := session.epoch;
  session.revision := session.revision + 1;
  return session;
end
$$;

-- Write a session's row as one of the functions that make a new form of it has made it.
create function chat_history_settle(session chat_history_sessions) returns void
language sql set search_path from current as $$
  update chat_history_sessions s set
      title = session.title, metadata = session.metadata, deleted_at = session.deleted_at,
      updated_at = session.updated_at, cleared_position = session.cleared_position,
      cleared_turn = session.cleared_turn, last_turn_id = session.last_turn_id,
      message_count = session.message_count, epoch = session.epoch, revision = session.revision,
      erased_epoch = session.erased_epoch, erased_by = session.erased_by, erased_count = session.erased_count,
      erased_turn_id = session.erased_turn_id
    where s.session_key = session.session_key and s.revision <> session.revision
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

-- Reading --------------------------------------------------------------------------------------------------

-- Where a window begins: the position of its first message; null where no message fits. The messages after `after`
-- are walked backwards from the newest in context, and the first limit to be reached ends the walk; each is one
-- limited read of an index. Then the beginning is put right:
--   forward to the first human message in the window;
--   where there is none and it begins with a tool's result, back to the message that called the tool, or, where
--   the token budget does not reach that far, forward past the results.
create function chat_history_window_start(
  of_session uuid, after bigint, max_messages integer, max_turns integer, max_tokens bigint)
returns bigint
language plpgsql stable set search_path from current as $$
declare
  start bigint;       -- of the messages that the limits admit
  found_at bigint;
  spent bigint := 0;
  truncated boolean := false;
  message record;
begin
  if max_messages is not null then
    select m.context_position into found_at from chat_history_messages m
      where m.session_key = of_session and m.context_position > after
      order by m.context_position desc offset max_messages - 1 limit 1;
    start := found_at;
  end if;
  if max_turns is not null then
    select m.context_position into found_at from chat_history_messages m
      where m.session_key = of_session and m.begins_turn and m.context_position > after
      order by m.context_position desc offset max_turns - 1 limit 1;
    start := greatest(start, found_at);
  end if;
  start := coalesce(start, after + 1);
  if max_tokens is not null then
    found_at := null;
    for message in
      select m.context_position as position, m.tokens from chat_history_messages m
        where m.session_key = of_session and m.context_position >= start
        order by m.context_position desc
    loop
      exit when spent + message.tokens > max_tokens;
      spent := spent + message.tokens;
      found_at := message.position;
    end loop;
    start := found_at;
  end if;

  select m.context_position as position, m.type into message from chat_history_messages m
    where m.session_key = of_session and m.context_position >= start order by m.context_position limit 1;
  if message.position is null then
    return null;
  end if;
  start := message.position;
  select true into truncated from chat_history_messages m
    where m.session_key = of_session and m.context_position > after and m.context_position < start
    order by m.context_position desc limit 1;
  if truncated is null then
    return start;
  end if;
  select m.context_position into found_at from chat_history_messages m
    where m.session_key = of_session and m.type = 'human' and m.context_position >= start
    order by m.context_position limit 1;
  if found_at is not null then
    return found_at;
  end if;
  if message.type <> 'tool' then
    return start;
  end if;
  found_at := null;
  for message in
    select m.context_position as position, m.type, m.tokens from chat_history_messages m
      where m.session_key = of_session and m.context_position > after and m.context_position < start
      order by m.context_position desc
  loop
    spent := spent + message.tokens;
    exit when spent > max_tokens;
    if message.type <> 'tool' then
      return message.position;
    end if;
  end loop;
  select m.context_position into found_at from chat_history_messages m
    where m.session_key = of_session and m.type <> 'tool' and m.context_position > start
    order by m.context_position limit 1;
  return found_at;
end
$$;

-- What the model should see, as rows. The first has type '' and the header as its data: {"epoch", "revision",
-- "last_position", "system", "fallback", "fallback_alone"}. Then, where the header says so, the system message that the session begins
-- with, kept in front of a window, and a fallback: the last human message that fits, for a window that would be empty
-- because all in it is tool calls without an answer or too large; alone, where the budget does not hold both. Then the messages, in order. Messages of failed
-- turns are left out.
--
--   after_position, known_revision   what the caller has kept: where the revision is still the one known, only later
--          messages are sent; not together with a window
--   max_messages, max_turns, max_tokens   the window: at most so many of the latest, null for all
--   keep_system   whether a system message at the session's beginning stays in front of a window; its tokens count
create function chat_history_load_rows(
  session_id text, user_id text default null, after_position bigint default null,
  known_revision bigint default null, max_messages integer default null, max_turns integer default null,
  max_tokens bigint default null, keep_system boolean default null)
returns table (type text, data json)
language plpgsql stable set search_path from current set plan_cache_mode to force_generic_plan as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_load_rows.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_load_rows.session_id);
  session chat_history_sessions;
  after bigint;
  start bigint;
  system chat_history_messages;
  fallback chat_history_messages;
begin
  if least(max_messages, max_turns, max_tokens) < 1 then
    raise exception 'a window holds at least 1 of messages, turns or tokens' using errcode = 'PT400';
  end if;
  select s.* into session from chat_history_sessions s where s.session_key = of_session;
  after := coalesce(session.cleared_position, 0);
  if max_messages is null and max_turns is null and max_tokens is null then
    start := 1 + case when known_revision = session.revision then greatest(after, after_position) else after end;
  else
    if coalesce(keep_system, true) then
      select m.* into system from chat_history_messages m
        where m.session_key = of_session and m.context_position > after order by m.context_position limit 1;
      if system.type <> 'system' or system.tokens >= max_tokens then
        system := null;
      end if;
    end if;
    start := chat_history_window_start(of_session, coalesce(system.position, after), max_messages, max_turns,
                                       max_tokens - coalesce(system.tokens, 0));
    if start is null and system.position is not null then
      start := chat_history_window_start(of_session, after, max_messages, max_turns, max_tokens);
      if start > system.position then
        system := null;
      end if;
    end if;
    if start is null or not exists (
      select from chat_history_messages m
        where m.session_key = of_session and m.type = 'human' and m.context_position >= start)
    then
      select m.* into fallback from chat_history_messages m
        where m.session_key = of_session and m.type = 'human' and m.context_position > after
          and m.tokens <= coalesce(max_tokens, m.tokens)
        order by m.context_position desc limit 1;
    end if;
    start := coalesce(start, session.last_position + 1);
  end if;
  type := '';
  data := json_build_object(
    'epoch', coalesce(session.epoch, 0), 'revision', coalesce(session.revision, 0),
    'last_position', coalesce(session.last_position, 0),
    'system', (system.position < start), 'fallback', fallback.position is not null,
    'fallback_alone', coalesce(system.tokens + fallback.tokens > max_tokens, false));
  return next;
  if system.position < start then
    type := system.type;
    data := system.data;
    return next;
  end if;
  if fallback.position is not null then
    type := fallback.type;
    data := fallback.data;
    return next;
  end if;
  return query select m.type, m.data from chat_history_messages m
    where m.session_key = of_session and m.context_position >= start
    order by m.context_position;
end
$$;

-- The same as one json value: {"header": {...}, "messages": [{"type", "data"}]}, header row left out of the messages.
create function chat_history_load(
  session_id text, user_id text default null, after_position bigint default null,
  known_revision bigint default null, max_messages integer default null, max_turns integer default null,
  max_tokens bigint default null, keep_system boolean default null)
returns json
language sql stable set search_path from current as $$
  select json_build_object(
      'header', (array_agg(r.data) filter (where r.type = ''))[1],
      'messages', coalesce(json_agg(json_build_object('type', r.type, 'data', r.data)) filter (where r.type <> ''), '[]'))
    from chat_history_load_rows(session_id, user_id, after_position, known_revision, max_messages, max_turns,
                                max_tokens, keep_system) r
$$;

-- Begin a turn: write down its question, and answer what chat_history_load_rows does, all in one. The question waits on
-- the turn's row, status 'running', until the append that ends the turn puts it in front of the answer; so it is there
-- even where the application is killed in between. Doing it again with the same turn id changes nothing; where the
-- turn was cleared or deleted meanwhile, it is refused.
--
--   turn  {"id": uuid, "question": [{"id", "type", "data", "tokens"}], "started_at": ..., ...}
create function chat_history_begin_rows(
  session_id text, turn json, user_id text default null, max_messages integer default null,
  max_turns integer default null, max_tokens bigint default null, keep_system boolean default null)
returns table (type text, data json)
language plpgsql set search_path from current set plan_cache_mode to force_generic_plan as $$
#variable_conflict use_column
declare
  call constant json := chat_history_json(turn);
  session chat_history_sessions;
  begun chat_history_turns;
begin
  if call ->> 'id' is null or json_typeof(call -> 'question') is distinct from 'array' then
    raise exception 'a turn begins with its id and its question' using errcode = 'PT422';
  end if;
  session := chat_history_lock(chat_history_owner(chat_history_begin_rows.user_id), chat_history_begin_rows.session_id);
  if (call ->> 'id')::uuid = session.erased_turn_id then
    raise exception 'the session was cleared or deleted after the question was asked' using errcode = 'PT409';
  end if;
  begun := chat_history_put_turn(
    session, json_build_object('id', call -> 'id', 'status', 'running', 'started_at', call -> 'started_at',
                               'trace_id', call -> 'trace_id', 'run_id', call -> 'run_id', 'project', call -> 'project'),
    null);
  if begun.ordinal <= session.cleared_turn then
    raise exception 'the session was cleared after the question was asked' using errcode = 'PT409';
  end if;
  if begun.ordinal > session.last_turn then
    update chat_history_turns t set question = call -> 'question'
      where t.session_key = session.session_key and t.id = begun.id;
    update chat_history_sessions s set last_turn = begun.ordinal, updated_at = clock_timestamp(), deleted_at = null
      where s.session_key = session.session_key;
  end if;
  return query select l.type, l.data from chat_history_load_rows(
    chat_history_begin_rows.session_id, chat_history_begin_rows.user_id, null, null, max_messages, max_turns, max_tokens,
    keep_system) l;
end
$$;

-- The same as one json value, like chat_history_load.
create function chat_history_begin(
  session_id text, turn json, user_id text default null, max_messages integer default null,
  max_turns integer default null, max_tokens bigint default null, keep_system boolean default null)
returns json
language sql set search_path from current as $$
  select json_build_object(
      'header', (array_agg(r.data) filter (where r.type = ''))[1],
      'messages', coalesce(json_agg(json_build_object('type', r.type, 'data', r.data)) filter (where r.type <> ''), '[]'))
    from chat_history_begin_rows(session_id, turn, user_id, max_messages, max_turns, max_tokens, keep_system) r
$$;

-- Mark turns that have been running for longer than so many seconds as interrupted. Only their status changes: the
-- question stays on the turn, and a late answer still completes it. Answers {"interrupted": how many}.
create function chat_history_interrupt_turns(session_id text, older_than double precision, user_id text default null)
returns json
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_interrupt_turns.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_interrupt_turns.session_id);
  marked integer;
begin
  perform from chat_history_sessions s where s.session_key = of_session for update;
  update chat_history_turns t set status = 'interrupted'
    where t.session_key = of_session and t.status = 'running'
      and t.created_at <= clock_timestamp() - make_interval(secs => older_than);
  get diagnostics marked = row_count;
  update chat_history_sessions s set revision = s.revision + 1 where s.session_key = of_session and marked > 0;
  return json_build_object('interrupted', marked);
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
language plpgsql stable set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_messages.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_list_messages.session_id);
  hidden constant bigint :=
    coalesce((select s.cleared_position from chat_history_sessions s where s.session_key = of_session), 0);
  items json;
  counted integer;
  last bigint;
begin
  max_items := least(coalesce(max_items, 100), 1000);
  if newest_first then
    select json_agg(json_build_object('id', m.id, 'position', m.position, 'created_at', m.created_at,
             'turn_id', m.turn_id, 'type', m.type, 'data', m.data)), count(*), min(m.position)
      into items, counted, last
      from (select * from chat_history_messages m where m.session_key = of_session and m.position > hidden
              and m.position < coalesce(after, 9223372036854775807)
            order by m.position desc limit max_items) m;
  else
    select json_agg(json_build_object('id', m.id, 'position', m.position, 'created_at', m.created_at,
             'turn_id', m.turn_id, 'type', m.type, 'data', m.data)), count(*), max(m.position)
      into items, counted, last
      from (select * from chat_history_messages m where m.session_key = of_session and m.position > greatest(hidden, after)
            order by m.position limit max_items) m;
  end if;
  return json_build_object('items', coalesce(items, '[]'),
                           'next', case when counted = max_items then last end);
end
$$;

-- A page of turns, in the same manner.
create function chat_history_list_turns(
  session_id text, user_id text default null, after bigint default null, max_items integer default null,
  newest_first boolean default false)
returns json
language plpgsql stable set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_turns.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_list_turns.session_id);
  hidden constant bigint :=
    coalesce((select s.cleared_turn from chat_history_sessions s where s.session_key = of_session), 0);
  items json;
  counted integer;
  last bigint;
begin
  max_items := least(coalesce(max_items, 100), 1000);
  if newest_first then
    select json_agg(to_json(t)), count(*), min(t.ordinal) into items, counted, last
      from (select * from chat_history_turns t where t.session_key = of_session and t.ordinal > hidden
              and t.ordinal < coalesce(after, 9223372036854775807)
            order by t.ordinal desc limit max_items) t;
  else
    select json_agg(to_json(t)), count(*), max(t.ordinal) into items, counted, last
      from (select * from chat_history_turns t where t.session_key = of_session and t.ordinal > greatest(hidden, after)
            order by t.ordinal limit max_items) t;
  end if;
  return json_build_object('items', coalesce(items, '[]'),
                           'next', case when counted = max_items then last end);
end
$$;

-- A session without its messages; null where there is none.
create function chat_history_get_session(session_id text, user_id text default null) returns json
language plpgsql stable set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_get_session.user_id);
begin
  return (
    select json_build_object(
        'session_id', s.session_id, 'user_id', nullif(s.user_id, ''), 'title', s.title, 'metadata', s.metadata,
        'created_at', s.created_at, 'updated_at', s.updated_at, 'message_count', s.message_count,
        'last_position', s.last_position, 'epoch', s.epoch, 'revision', s.revision)
      from chat_history_sessions s
      where s.session_key = chat_history_key(owner, chat_history_get_session.session_id) and s.deleted_at is null);
end
$$;

-- Grants ---------------------------------------------------------------------------------------------------

-- Who may use what: Supabase's signed-in users and its service role, where these exist, and `extra_role` where one is
-- named (an application's login that does not own the tables). Run it again when such a role comes later, or when
-- something has granted more. All is revoked first: default privileges have often granted too much already, truncate
-- among it, which row level security does not hold back. Views may be read.
create function chat_history_grant(extra_role text default null) returns void
language plpgsql set search_path from current as $$
declare
  home constant oid := (select p.pronamespace from pg_proc p where p.oid = 'chat_history_grant'::regproc);
  tables constant text[] := array['chat_history_sessions', 'chat_history_messages', 'chat_history_turns',
                                  'chat_history_feedback'];
  views constant text[] := array(select c.relname::text from pg_class c where c.relnamespace = home
                                   and c.relkind = 'v' and c.relname like 'chat\_history\_%' order by 1);
  routine regprocedure;
  name text;
begin
  if extra_role is not null and to_regrole(quote_ident(extra_role)) is null then
    raise exception 'role % does not exist', extra_role using errcode = '42704';
  end if;
  foreach name in array tables || views || array['chat_history_migrations'] loop
    execute format('revoke all on table %I from public', name);
  end loop;
  for routine in
    select p.oid from pg_proc p where p.pronamespace = home and p.proname like 'chat\_history\_%'
  loop
    execute format('revoke all on function %s from public', routine);
  end loop;

  for name in
    select r.rolname from pg_roles r
      where r.rolname in ('anon', 'authenticated', 'service_role') or r.rolname = extra_role
  loop
    execute format('revoke all on table %s, chat_history_migrations from %I', array_to_string(tables || views, ', '), name);
    for routine in
      select p.oid from pg_proc p where p.pronamespace = home and p.proname like 'chat\_history\_%'
    loop
      execute format('revoke all on function %s from %I', routine, name);
      if name <> 'anon' and routine <> 'chat_history_grant(text)'::regprocedure then
        execute format('grant execute on function %s to %I', routine, name);
      end if;
    end loop;
    if name <> 'anon' then
      if not has_schema_privilege(name, home, 'usage') then
        execute format('grant usage on schema %s to %I', home::regnamespace, name);
      end if;
      execute format('grant select, insert, update, delete on table %s to %I', array_to_string(tables, ', '), name);
      if views <> '{}' then
        execute format('grant select on table %s to %I', array_to_string(views, ', '), name);
      end if;
    end if;
  end loop;
end
$$;

select chat_history_grant();
