-- Tables of conversations: sessions, their messages, the turns these belong to, and feedback on them.
--
--   chat_history_user, chat_history_key   who asks, and which session is meant
--   chat_history_sessions                 one row a conversation: its lock, its counters, its epoch
--   chat_history_messages                 what was said, by position
--   chat_history_turns                    a question, all that was done for it, and the answer
--   chat_history_feedback                 ratings of turns and messages
--   chat_history_alternatives             what was taken out of a conversation, and may be put back
--   chat_history_shares                   copies of conversations for whoever holds a token
--
-- Every migration runs with `search_path` set to the schema that the objects go to, and each function keeps that path
-- (`set search_path from current`). Functions run as their caller, so row level security holds inside them. Functions
-- that are only parts of others take arguments without names: the Data API neither lists nor calls such functions.
--
-- Row level security is on from here, and 0002 says who may see what: until then only the tables' owner.
--
-- Constraints have names that say what they guard. The functions check their arguments themselves and say more.

-- The user of the request's claims: Supabase's `sub`. Null, which equals nothing, where there are none.
create function chat_history_user() returns text
language plpgsql stable parallel safe set search_path from current as $$
begin
  return nullif(nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub', '');
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

-- The tables -----------------------------------------------------------------------------------------------

-- One row a conversation. It is also the lock and the counter of its conversation: whoever writes locks this row
-- first. A deleted session stays as a tombstone without content, for its epoch.
create table chat_history_sessions (
  session_key uuid primary key,
  user_id text not null,                          -- '' : the application itself
  session_id text not null,
  title text,                                     -- as somebody set it; null: the first question stands in for it
  metadata json,
  tags text[] not null default '{}',
  pinned boolean not null default false,
  archived boolean not null default false,
  forked_from text,                               -- the session_id of the one that it was copied from
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  deleted_at timestamptz,
  last_position bigint not null default 0,        -- of the newest message; goes back when messages are taken out
  last_turn bigint not null default 0,            -- ordinal of the newest turn; never goes back
  last_turn_id uuid,                              -- the turn that an append without one joins
  cleared_position bigint not null default 0,     -- messages up to here are hidden
  cleared_turn bigint not null default 0,         -- turns up to here are hidden
  message_count bigint not null default 0,        -- of the messages that are not hidden
  turn_count bigint not null default 0,           -- of the turns that are not hidden
  total_tokens numeric,                           -- that these used; null: of none it is known
  parked bigint not null default 0,               -- how many messages were ever taken out; see the alternatives
  cleared_parked bigint not null default 0,       -- of these so many are hidden
  branched_by uuid,                               -- the request that last made, switched or took out a branch
  epoch integer not null default 0,               -- raised when messages are cleared, deleted, trimmed or taken out
  erased_epoch integer not null default 0,        -- the epoch that the last clear, delete or branch has made
  erased_by uuid,                                 -- the request that did: its retry does nothing and is answered alike
  erased_count bigint,                            -- how many messages it hid
  erased_turn_id uuid,                            -- the last turn that it hid, which a late retry must not begin again
  revision bigint not null default 0,             -- raised by every change but an append
  unique (session_key, user_id),
  constraint names check (session_id <> '' and length(session_id) <= 1000 and octet_length(user_id) <= 2500),
  constraint key check (session_key = chat_history_key(user_id, session_id)),
  -- Of the years 1 to 9999: a time that programs cannot read would hide the lists that it is in.
  constraint times check (least(created_at, updated_at, deleted_at) >= to_timestamp(-62135596800)
    and greatest(created_at, updated_at, deleted_at) < to_timestamp(253402214400))
) with (fillfactor = 60);                         -- room for the counters' next version on the same page

-- One user's sessions, in the order in which they are walked. None of its columns ever changes, so appends stay cheap.
create index chat_history_sessions_user on chat_history_sessions (user_id, session_key);
create index chat_history_sessions_live on chat_history_sessions (user_id, session_key) where deleted_at is null;
-- The two orders of a list, each a limited walk. Sessions without a message appear only where they were given a title.
create index chat_history_sessions_activity on chat_history_sessions (user_id, archived, updated_at, session_key)
  where deleted_at is null and (message_count > 0 or title is not null and last_position = 0);
create index chat_history_sessions_created on chat_history_sessions (user_id, archived, created_at, session_key)
  where deleted_at is null and (message_count > 0 or title is not null and last_position = 0);

create table chat_history_messages (
  session_key uuid not null,
  user_id text not null,
  position bigint not null,                       -- below 0: taken out
  id uuid not null,                               -- minted by the writer before its first try
  turn_id uuid not null,
  type text not null,                             -- LangChain's message type: human, ai, tool, system, ...
  data json not null,                             -- LangChain's dictionary of it, without defaults
  tokens integer not null constraint tokens check (tokens >= 0),
  in_context boolean not null default true,       -- false: of a failed turn, the model is not shown it
  -- The same as `position` for the messages that the model is shown. A column of its own, because a window must walk
  -- an index that holds nothing else: offered the other too, the planner may take it and read all that failed.
  context_position bigint generated always as (case when in_context then position end) stored,
  begins_turn boolean not null default false,
  created_at timestamptz not null default clock_timestamp(),
  primary key (session_key, position),
  unique (session_key, id),
  foreign key (session_key, user_id) references chat_history_sessions (session_key, user_id) on delete cascade,
  constraint times check (created_at >= to_timestamp(-62135596800) and created_at < to_timestamp(253402214400))
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
  status text not null default 'completed',       -- running, interrupted, failed or completed
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
  total_cost numeric,                             -- US dollars: LangSmith's own figure, never computed here
  documents json,
  error text,
  metadata json,
  first_token_seconds double precision,           -- what the metadata says under this name
  alternative_id uuid,                            -- the alternative that it was taken out into; null: none
  branched boolean not null default false,        -- some of its messages were taken out: it gets no more by its id
  copied boolean not null default false,          -- of a fork: what it used was used once, by the original
  created_at timestamptz not null default clock_timestamp(),
  primary key (session_key, id),
  unique (session_key, ordinal),
  foreign key (session_key, user_id) references chat_history_sessions (session_key, user_id) on delete cascade,
  constraint times check (least(created_at, started_at, ended_at) >= to_timestamp(-62135596800)
    and greatest(created_at, started_at, ended_at) < to_timestamp(253402214400)),
  constraint status check (status in ('running', 'interrupted', 'failed', 'completed')),
  constraint counts check (least(input_tokens, output_tokens, total_tokens) >= 0),
  constraint cost check (total_cost >= 0 and total_cost < 'Infinity')  -- NaN is above both
);
create index chat_history_turns_running on chat_history_turns (session_key) where status = 'running';
create index chat_history_turns_alternative on chat_history_turns (session_key, alternative_id)
  where alternative_id is not null;
-- By the time at which a turn was held: as its caller says, else when it was stored.
create index chat_history_turns_time on chat_history_turns (user_id, (coalesce(started_at, created_at)));
-- Turns whose cost LangSmith is still to be asked for: none, where nothing is traced.
create index chat_history_turns_uncosted on chat_history_turns (id)
  where total_cost is null and coalesce(run_id, trace_id) is not null and project is not null;

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
  foreign key (session_key, user_id) references chat_history_sessions (session_key, user_id) on delete cascade,
  constraint times check (least(created_at, updated_at, sent_at) >= to_timestamp(-62135596800)
    and greatest(created_at, updated_at, sent_at) < to_timestamp(253402214400))
);

create index chat_history_feedback_turn on chat_history_feedback (session_key, turn_id, key);
create index chat_history_feedback_unsent on chat_history_feedback (user_id, refusals, updated_at) where unsent;

-- What was taken out of a conversation, in order to say something else in its place. Its messages stay in the table of
-- messages, at positions below 0, where nothing that reads a conversation meets them: the one at `position` is at
-- `-parked`, the next at `-parked + 1`. They go when the session is pruned.
create table chat_history_alternatives (
  session_key uuid not null,
  user_id text not null,
  id uuid not null,
  position bigint not null,                       -- of its first message, in the conversation
  message_count bigint not null,
  parked bigint not null,                         -- the session's counter when it was taken out
  follows uuid,                                   -- the message that it follows; null: it begins the conversation
  created_at timestamptz not null default clock_timestamp(),
  primary key (session_key, id),
  foreign key (session_key, user_id) references chat_history_sessions (session_key, user_id) on delete cascade,
  constraint times check (created_at >= to_timestamp(-62135596800) and created_at < to_timestamp(253402214400))
);

-- What is shared does not change when the conversation does; it goes when the conversation is cleared or deleted.
create table chat_history_shares (
  session_key uuid not null,
  user_id text not null,
  token_hash bytea not null,                      -- sha256; the token itself is stored nowhere
  messages json not null,                         -- as chat_history_list_messages answers them
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  primary key (session_key, token_hash),
  foreign key (session_key, user_id) references chat_history_sessions (session_key, user_id) on delete cascade
);
create index chat_history_shares_token on chat_history_shares (token_hash);

alter table chat_history_sessions enable row level security;
alter table chat_history_messages enable row level security;
alter table chat_history_turns enable row level security;
alter table chat_history_feedback enable row level security;
alter table chat_history_alternatives enable row level security;
alter table chat_history_shares enable row level security;
alter table chat_history_migrations enable row level security;
