-- The schema as all migrations together leave it: made by `python -m scripts.schema`, to be read. The migrations beside
-- this file install it, say why, and grant the rights, which depend on the roles that a database has.

CREATE TYPE public.chat_history_batch AS (
	ids uuid[],
	types text[],
	data json[],
	tokens integer[]
);

CREATE TYPE public.chat_history_conversation AS (
	id uuid,
	session_id text,
	"timestamp" timestamp with time zone,
	tokens_history jsonb,
	retriever_audits jsonb,
	analytics jsonb,
	metadata jsonb,
	form text
);

CREATE TYPE public.chat_history_message AS (
	type text,
	data jsonb
);

CREATE TYPE public.chat_history_part AS (
	place bigint,
	kind text,
	part json
);

CREATE FUNCTION public.chat_history_add_feedback(session_id text, feedback json, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_add_feedback.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_add_feedback.session_id);
  given chat_history_feedback :=
    json_populate_record(null::chat_history_feedback, chat_history_object(feedback, 'feedback'));
  session chat_history_sessions;
  of_turn chat_history_turns;
  stored chat_history_feedback;
begin
  if given.id is null or (octet_length(given.key) between 1 and 1000) is not true
     or given.score in ('NaN', 'Infinity', '-Infinity')
     or least(given.created_at, given.sent_at) < '0001-01-01 00:00Z'
     or greatest(given.created_at, given.sent_at) >= '9999-12-31 00:00Z' then
    raise exception 'feedback needs an id, a key of at most 1000 bytes, and a finite score if any' using errcode = 'PT422';
  end if;
  select s.* into session from chat_history_sessions s
    where s.session_key = of_session and s.deleted_at is null for update;
  if given.message_id is not null then
    select m.turn_id into given.turn_id from chat_history_messages m
      where m.session_key = of_session and m.id = given.message_id and m.position > session.cleared_position;
    if not found then
      raise exception 'the session has no such message' using errcode = 'PT404';
    end if;
  end if;
  select t.* into of_turn from chat_history_turns t where t.session_key = of_session and t.id = given.turn_id;
  if (of_turn.ordinal > session.cleared_turn) is not true then
    raise exception 'the session has no such turn' using errcode = 'PT404';
  end if;

  stored := chat_history_find_feedback(of_session, given);
  if stored.id is null then
    insert into chat_history_feedback (session_key, user_id, id, turn_id, message_id, key, score, value, comment,
        metadata, created_at, updated_at, ordinal, sent_at, unsent)
      select of_session, owner, given.id, given.turn_id, given.message_id, given.key, given.score, given.value,
          given.comment, given.metadata, coalesce(given.created_at, clock_timestamp()), clock_timestamp(),
          1 + coalesce((select max(f.ordinal) from chat_history_feedback f where f.session_key = of_session), 0),
          given.sent_at, given.sent_at is null and coalesce(of_turn.run_id, of_turn.trace_id) is not null
      returning * into stored;
  elsif (stored.score, stored.value::text, stored.comment)
      is distinct from (given.score, given.value::text, given.comment) then
    update chat_history_feedback f set
        score = given.score, value = given.value, comment = given.comment,
        metadata = coalesce(given.metadata, f.metadata), updated_at = clock_timestamp(),
        sent_at = coalesce(given.sent_at, f.sent_at), refusals = 0,
        unsent = given.sent_at is null and coalesce(of_turn.run_id, of_turn.trace_id) is not null
      where f.session_key = of_session and f.id = stored.id
      returning * into stored;
  end if;
  return json_build_object('feedback', stored, 'unsent',
    case when given.sent_at is null then chat_history_unsent_feedback(owner, of_session, stored.id, 20) else '[]' end);
end
$$;

CREATE FUNCTION public.chat_history_key(user_id text, session_id text) RETURNS uuid
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
    AS $$
begin
  return encode(substr(sha256(sha256(convert_to(user_id, 'UTF8')) || sha256(convert_to(session_id, 'UTF8'))), 1, 16),
                'hex')::uuid;
end
$$;

CREATE TABLE public.chat_history_sessions (
    session_key uuid NOT NULL,
    user_id text NOT NULL,
    session_id text NOT NULL,
    title text,
    metadata json,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    pinned boolean DEFAULT false NOT NULL,
    archived boolean DEFAULT false NOT NULL,
    forked_from text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    deleted_at timestamp with time zone,
    last_position bigint DEFAULT 0 NOT NULL,
    last_turn bigint DEFAULT 0 NOT NULL,
    last_turn_id uuid,
    cleared_position bigint DEFAULT 0 NOT NULL,
    cleared_turn bigint DEFAULT 0 NOT NULL,
    message_count bigint DEFAULT 0 NOT NULL,
    turn_count bigint DEFAULT 0 NOT NULL,
    total_tokens numeric,
    parked bigint DEFAULT 0 NOT NULL,
    cleared_parked bigint DEFAULT 0 NOT NULL,
    branched_by uuid,
    epoch integer DEFAULT 0 NOT NULL,
    erased_epoch integer DEFAULT 0 NOT NULL,
    erased_by uuid,
    erased_count bigint,
    erased_turn_id uuid,
    revision bigint DEFAULT 0 NOT NULL,
    CONSTRAINT key CHECK ((session_key = public.chat_history_key(user_id, session_id))),
    CONSTRAINT names CHECK (((session_id <> ''::text) AND (length(session_id) <= 1000) AND (octet_length(user_id) <= 2500))),
    CONSTRAINT times CHECK (((LEAST(created_at, updated_at, deleted_at) >= to_timestamp(('-62135596800'::bigint)::double precision)) AND (GREATEST(created_at, updated_at, deleted_at) < to_timestamp(('253402214400'::bigint)::double precision))))
)
WITH (fillfactor='60');

CREATE FUNCTION public.chat_history_agreed(public.chat_history_sessions, text, jsonb, integer) RETURNS integer
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_analytics(since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, time_zone text DEFAULT NULL::text, max_documents integer DEFAULT NULL::integer, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '60s'
    SET plan_cache_mode TO 'force_custom_plan'
    SET work_mem TO '32MB'
    AS $$  -- each figure of each group is a sort: a quarter of a million turns in memory
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_analytics.user_id);
  whose constant text := case when chat_history_analytics.user_id is not null or chat_history_user() is not null then owner end;
  zone constant text := coalesce(nullif(time_zone, ''), 'UTC');
  most constant integer := coalesce(max_documents, 20);
  groups json;
  read_since timestamptz;
begin
  if most not between 0 and 1000 then
    raise exception 'max_documents is 0 to 1000' using errcode = 'PT400';
  end if;
  begin
    perform now() at time zone zone;
  exception when invalid_parameter_value then
    raise exception 'there is no time zone of this name' using errcode = 'PT400';
  end;
  groups := (
    select coalesce(json_agg(g), '[]') from (
      select case when grouping(t.day) = 0 then 'day' when grouping(t.model) = 0 then 'model' else 'total' end as kind,
          t.day, t.model, count(*) as turns, count(*) filter (where t.status = 'failed') as failed_turns,
          count(*) filter (where t.status = 'interrupted') as interrupted_turns,
          count(*) filter (where t.total_tokens is null) as unmeasured_turns,
          count(distinct t.session_key) as sessions, count(distinct nullif(t.user_id, '') collate "C") as users,
          sum(t.input_tokens) as input_tokens, sum(t.output_tokens) as output_tokens,
          sum(t.total_tokens) as total_tokens, sum(t.total_cost) as total_cost,
          percentile_cont(array[0.5, 0.95]) within group (order by t.seconds) as seconds,
          percentile_cont(array[0.5, 0.95]) within group (order by t.first_token) as first_token_seconds
        from (
          select s.*, (coalesce(s.started_at, s.created_at) at time zone zone)::date as day,
              case s.status when 'completed' then date_part('epoch', s.ended_at - s.started_at) end as seconds,
              case s.status when 'completed' then s.first_token_seconds end as first_token
            from chat_history_turns s
            where not s.copied and (whose is null or s.user_id = whose)
              and (since is null or coalesce(s.started_at, s.created_at) >= since)
              and (until is null or coalesce(s.started_at, s.created_at) < until)) t
        group by grouping sets ((), (t.day), (t.model))
        order by kind desc, t.day, turns desc, t.model) g);
  -- Documents are the larger part: those of the newest days that together have enough turns.
  read_since := (
    select d.day::timestamp at time zone zone from (
      select e.g ->> 'day' as day, sum((e.g ->> 'turns')::bigint) over (order by e.g ->> 'day' desc) as turns,
          min(e.g ->> 'day') over () as first_day
        from json_array_elements(groups) e (g) where e.g ->> 'kind' = 'day') d
      where d.turns >= 50000 and d.day > d.first_day order by d.day desc limit 1);
  return json_build_object(
    'groups', groups,
    'feedback', (
      select coalesce(json_agg(f), '[]') from (
        select f.key, count(*) as given, avg(f.score) as average_score, count(f.comment) as comments
          from chat_history_feedback f
          where (whose is null or f.user_id = whose)
            and (since is null or f.created_at >= since) and (until is null or f.created_at < until)
          group by f.key order by given desc, f.key) f),
    'documents', chat_history_used_documents(whose, greatest(since, read_since), until, most),
    'documents_since', read_since);
end
$$;

CREATE FUNCTION public.chat_history_append(session_id text, ids uuid[] DEFAULT '{}'::uuid[], types text[] DEFAULT '{}'::text[], data json[] DEFAULT '{}'::json[], tokens integer[] DEFAULT NULL::integer[], turn json DEFAULT NULL::json, user_id text DEFAULT NULL::text, epoch integer DEFAULT NULL::integer, replace boolean DEFAULT NULL::boolean, replay boolean DEFAULT NULL::boolean, whole boolean DEFAULT NULL::boolean) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  -- Each expression here is prepared again in every transaction, which costs as much as reading a row: few are
  -- evaluated on the usual way, of new messages that open a turn.
  owner constant text := chat_history_owner(chat_history_append.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_append.session_id);
  call json;
  added integer;
  session chat_history_sessions;
  known json;
  current_turn chat_history_turns;
  counted numeric;             -- the tokens that the turn used, as far as they were known before
  opens boolean := false;      -- whether the first of the new messages is the first of its turn
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
  if array_ndims(ids) > 1 or array_ndims(types) > 1 or added <> cardinality(types) or added <> cardinality(data)
     or added <> cardinality(tokens) or array_position(ids, null) is not null then
    raise exception 'ids, types, data and tokens must have one entry a message' using errcode = 'PT422';
  end if;

  select s.* into session from chat_history_sessions s where s.session_key = of_session for update;
  if not found then
    session := chat_history_lock(owner, chat_history_append.session_id);
  end if;
  at := clock_timestamp();

  if call is not null and (call ->> 'asked')::boolean then
    select b.* into ids, types, data, tokens
      from chat_history_take_question(
        session, (call ->> 'id')::uuid, row(ids, types, data, tokens), call -> 'question') b;
    added := cardinality(ids);
  end if;
  if replay is distinct from false then
    known := chat_history_known_messages(of_session, ids, types, data);
    if whole and json_array_length(known) < added then
      raise exception 'the ids were given to fewer messages before' using errcode = 'PT409';
    elsif known is not null then
      select b.* into ids, types, data, tokens
        from chat_history_new_messages(row(ids, types, data, tokens), known) b;
      added := cardinality(ids);
    end if;
  end if;
  if chat_history_append.epoch < (case when replay then session.epoch else session.erased_epoch end)
     and (added > 0 or known is null) then
    raise exception 'the session was taken back, cleared or deleted after these messages were made' using errcode = 'PT409';
  end if;
  if replace and added > 0 then
    perform chat_history_clear(session.session_id, chat_history_append.user_id);
    session := chat_history_lock(owner, session.session_id);
  end if;

  if call is not null then
    if call ->> 'total_tokens' is not null then
      select t.total_tokens into counted from chat_history_turns t
        where t.session_key = of_session and t.id = (call ->> 'id')::uuid;
    end if;
    current_turn := chat_history_put_turn(session, call, case when added > 0 then session.last_position + 1 end, null);
    if added > 0 and current_turn.ordinal <= session.cleared_turn then
      raise exception 'the turn was cleared' using errcode = 'PT409';
    elsif added > 0 and (current_turn.alternative_id is not null or current_turn.branched) then
      raise exception 'the turn was taken out of the conversation' using errcode = 'PT409';
    end if;
    if call ->> 'total_tokens' is not null and current_turn.alternative_id is null
       and current_turn.ordinal > session.cleared_turn then
      session.total_tokens := coalesce(session.total_tokens, 0) + current_turn.total_tokens - coalesce(counted, 0);
    end if;
    if call ->> 'edited' is not null and chat_history_edit_messages(current_turn, call -> 'edited') then
      session.revision := session.revision + 1;
    end if;
    opens := current_turn.first_position = session.last_position + 1;
    if current_turn.first_position <= session.last_position and chat_history_show_turn(current_turn) then
      session.revision := session.revision + 1;
    end if;
    -- News of an older turn, or of one that was taken out, make it no newer.
    if added > 0 or current_turn.ordinal >= session.last_turn and current_turn.alternative_id is null then
      session.last_turn_id := current_turn.id;
    end if;
    session.last_turn := greatest(session.last_turn, current_turn.ordinal);
  elsif added > 0 then
    if types[1] <> 'human' then
      current_turn := chat_history_joined_turn(session, known);
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
      select of_session, owner, session.last_position + n.ord, n.id, current_turn.id,
          case when octet_length(n.type) between 1 and 100 then n.type
            else chat_history_refuse('PT422', 'the type of a message has 1 to 100 bytes') end,
          case when json_typeof(n.data) = 'object' then n.data
            else chat_history_refuse('PT422', 'the data of a message is a json object')::json end,
          case when n.tokens is null then 1 + octet_length(n.data::text) / 4 when n.tokens >= 0 then n.tokens
            else chat_history_refuse('PT422', 'the tokens of a message are 0 or more')::integer end,
          current_turn.status <> 'failed', opens and n.ord = 1, at
        from unnest(ids, types, data, tokens) with ordinality n (id, type, data, tokens, ord);
  end if;
  if added > 0 or call is not null then
    update chat_history_sessions s set
        last_position = s.last_position + added, message_count = s.message_count + added,
        last_turn = session.last_turn, last_turn_id = session.last_turn_id,
        turn_count = s.turn_count + session.last_turn - s.last_turn, total_tokens = session.total_tokens,
        revision = session.revision, updated_at = at, deleted_at = null
      where s.session_key = of_session;
  end if;
  return json_build_object(
    'epoch', session.epoch, 'revision', session.revision, 'last_position', session.last_position + added,
    'first_position', session.last_position + 1, 'turn_id', current_turn.id, 'created_at', at,
    'known', coalesce(known, '[]'));
end
$$;

CREATE FUNCTION public.chat_history_append_list(public.chat_history_sessions, jsonb, integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_begin(session_id text, turn json, user_id text DEFAULT NULL::text, max_messages integer DEFAULT NULL::integer, max_turns integer DEFAULT NULL::integer, max_tokens bigint DEFAULT NULL::bigint, keep_system boolean DEFAULT NULL::boolean) RETURNS json
    LANGUAGE sql
    SET search_path TO 'public', 'pg_temp'
    AS $$
  select json_build_object(
      'header', (array_agg(r.data) filter (where r.type = ''))[1],
      'messages', coalesce(json_agg(json_build_object('type', r.type, 'data', r.data)) filter (where r.type <> ''), '[]'))
    from chat_history_begin_rows(session_id, turn, user_id, max_messages, max_turns, max_tokens, keep_system) r
$$;

CREATE FUNCTION public.chat_history_begin_rows(session_id text, turn json, user_id text DEFAULT NULL::text, max_messages integer DEFAULT NULL::integer, max_turns integer DEFAULT NULL::integer, max_tokens bigint DEFAULT NULL::bigint, keep_system boolean DEFAULT NULL::boolean) RETURNS TABLE(type text, data json)
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  call constant json := chat_history_json(turn);
  session chat_history_sessions;
  begun chat_history_turns;
begin
  if call ->> 'id' is null then
    raise exception 'a turn must have its id' using errcode = 'PT422';
  end if;
  perform chat_history_check_question((call ->> 'id')::uuid, call -> 'question');
  session := chat_history_lock(chat_history_owner(chat_history_begin_rows.user_id), chat_history_begin_rows.session_id);
  if (call ->> 'id')::uuid = session.erased_turn_id then
    raise exception 'the session was cleared or deleted after the question was asked' using errcode = 'PT409';
  end if;
  if exists (select from chat_history_streams g where g.session_key = session.session_key) then
    perform chat_history_settle_streams(session);  -- what is left of an answer whose writer is gone comes before
    session := chat_history_lock(session.user_id, session.session_id);
  end if;
  begun := chat_history_put_turn(
    session, json_build_object('id', call -> 'id', 'status', 'running', 'started_at', call -> 'started_at',
                               'trace_id', call -> 'trace_id', 'run_id', call -> 'run_id', 'project', call -> 'project'),
    null, call -> 'question');
  if begun.ordinal <= session.cleared_turn or begun.alternative_id is not null then
    raise exception 'the session was cleared or taken back after the question was asked' using errcode = 'PT409';
  end if;
  if begun.ordinal > session.last_turn then
    update chat_history_sessions s set
        last_turn = begun.ordinal, turn_count = s.turn_count + 1, updated_at = clock_timestamp(), deleted_at = null
      where s.session_key = session.session_key;
  end if;
  return query select l.type, l.data from chat_history_load_rows(
    chat_history_begin_rows.session_id, chat_history_begin_rows.user_id, null, null, max_messages, max_turns, max_tokens,
    keep_system) l;
end
$$;

CREATE FUNCTION public.chat_history_blank(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
    AS $$
  select regexp_replace(value, E'[\\x01-\\x1f!-/:-@\\[-`{-~«»“”‘’„–—…¿¡·、。，！？；：（）「」『』【】《》]', ' ', 'g')
$$;

CREATE FUNCTION public.chat_history_branched(public.chat_history_sessions, uuid) RETURNS public.chat_history_sessions
    LANGUAGE sql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  update chat_history_sessions s set
      last_position = $1.last_position, last_turn_id = $1.last_turn_id, message_count = $1.message_count,
      turn_count = $1.turn_count, total_tokens = $1.total_tokens, parked = $1.parked, branched_by = $2,
      updated_at = clock_timestamp(), epoch = s.epoch + 1, erased_epoch = s.epoch + 1, revision = s.revision + 1
    where s.session_key = $1.session_key returning s.*
$_$;

CREATE FUNCTION public.chat_history_buried(public.chat_history_sessions, uuid DEFAULT NULL::uuid) RETURNS public.chat_history_sessions
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_callers_owner(user_id text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
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

CREATE FUNCTION public.chat_history_check_question(uuid, json) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
begin
  if json_typeof($2) is distinct from 'array' or exists (
    select from json_array_elements($2) q (message)
      where (message ->> 'id' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
          and octet_length(message ->> 'type') between 1 and 100
          and json_typeof(message -> 'data') = 'object'
          and coalesce(message ->> 'tokens', '0') ~ '^[0-9]{1,9}$') is not true)
    or (select count(*) - count(distinct message ->> 'id') from json_array_elements($2) q (message)) <> 0 then
    raise exception 'a turn begins with its id and its question: messages with a uuid, a type and data each'
      using errcode = 'PT422';
  end if;
end
$_$;

CREATE FUNCTION public.chat_history_clear(session_id text, user_id text DEFAULT NULL::text, request uuid DEFAULT NULL::uuid) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
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

CREATE FUNCTION public.chat_history_conversation_messages(public.chat_history_sessions, text) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select coalesce(jsonb_agg(chat_history_show_message(m.type, m.data, $2) order by m.position), '[]')
    from chat_history_messages m where m.session_key = $1.session_key and m.position > $1.cleared_position
$_$;

CREATE FUNCTION public.chat_history_delete_session(session_id text, user_id text DEFAULT NULL::text, request uuid DEFAULT NULL::uuid, batch integer DEFAULT NULL::integer) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '5min'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
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

CREATE FUNCTION public.chat_history_delete_user(user_id text DEFAULT NULL::text, batch integer DEFAULT NULL::integer) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '5min'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
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

CREATE TABLE public.chat_history_turns (
    session_key uuid NOT NULL,
    user_id text NOT NULL,
    id uuid NOT NULL,
    ordinal bigint NOT NULL,
    status text DEFAULT 'completed'::text NOT NULL,
    first_position bigint,
    question json,
    trace_id text,
    run_id text,
    project text,
    started_at timestamp with time zone,
    ended_at timestamp with time zone,
    model text,
    input_tokens bigint,
    output_tokens bigint,
    total_tokens bigint,
    token_details json,
    total_cost numeric,
    documents json,
    error text,
    metadata json,
    first_token_seconds double precision,
    alternative_id uuid,
    branched boolean DEFAULT false NOT NULL,
    copied boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT cost CHECK (((total_cost >= (0)::numeric) AND (total_cost < 'Infinity'::numeric))),
    CONSTRAINT counts CHECK ((LEAST(input_tokens, output_tokens, total_tokens) >= 0)),
    CONSTRAINT status CHECK ((status = ANY (ARRAY['running'::text, 'interrupted'::text, 'failed'::text, 'completed'::text]))),
    CONSTRAINT times CHECK (((LEAST(created_at, started_at, ended_at) >= to_timestamp(('-62135596800'::bigint)::double precision)) AND (GREATEST(created_at, started_at, ended_at) < to_timestamp(('253402214400'::bigint)::double precision))))
);

CREATE FUNCTION public.chat_history_edit_messages(public.chat_history_turns, json) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
begin
  perform chat_history_check_question($1.id, $2);
  update chat_history_messages m set type = e.message ->> 'type', data = e.message -> 'data',
      tokens = coalesce((e.message ->> 'tokens')::integer, m.tokens)
    from json_array_elements($2) e (message)
    where m.session_key = $1.session_key and m.id = (e.message ->> 'id')::uuid and m.turn_id = $1.id
      and (m.data::text <> (e.message -> 'data')::text or m.type <> e.message ->> 'type');
  return found;
end
$_$;

CREATE FUNCTION public.chat_history_erased(public.chat_history_sessions, uuid) RETURNS public.chat_history_sessions
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_excerpt(text, tsquery, text[]) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_export(session_ids text[], user_ids text[] DEFAULT NULL::text[], after json DEFAULT NULL::json, max_bytes integer DEFAULT NULL::integer) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '60s'
    AS $$
#variable_conflict use_column
declare
  chunk constant integer := 500;
  budget constant bigint := least(coalesce(max_bytes, 4000000), 16000000);
  start constant json := chat_history_json(chat_history_export.after);
  n integer := coalesce((start ->> 'session')::integer, 1);
  kind text := start ->> 'kind';           -- null: at the beginning of the session
  place bigint := (start ->> 'place')::bigint;
  upto_turn bigint := (start ->> 'upto_turn')::bigint;
  upto_position bigint := (start ->> 'upto_position')::bigint;
  session chat_history_sessions;
  entry record;
  found_rows integer;
  spent bigint := 0;
  parts json[] := '{}';
begin
  if n < 1 or kind not in ('turn', 'message', 'alternative', 'feedback') or (kind is not null) <> (place is not null) then
    raise exception 'after is the "next" of the page before' using errcode = 'PT400';
  end if;
  while n <= cardinality(session_ids) loop
    select s.* into session from chat_history_sessions s
      where s.session_key = chat_history_key(chat_history_owner(user_ids[n]), session_ids[n]) and s.deleted_at is null;
    if not found then
      n := n + 1;
      kind := null;
      continue;
    end if;
    if kind is null then
      parts := parts || json_build_object('kind', 'session', 'row', json_build_object(
        'session_id', session.session_id, 'user_id', nullif(session.user_id, ''), 'title', session.title,
        'metadata', session.metadata, 'tags', session.tags, 'pinned', session.pinned, 'archived', session.archived,
        'forked_from', session.forked_from, 'cleared_position', session.cleared_position,
        'cleared_turn', session.cleared_turn, 'created_at', session.created_at, 'updated_at', session.updated_at));
      spent := spent + 500;
      kind := 'turn';
      place := session.cleared_turn;
      upto_turn := session.last_turn;
      upto_position := session.last_position;
    end if;
    while kind is not null loop
      found_rows := 0;
      for entry in
        select r.place, r.kind, r.part from chat_history_export_rows(
          kind, session, place, case kind when 'turn' then upto_turn else upto_position end, chunk) r
      loop
        parts := parts || json_build_object('kind', entry.kind, 'row', entry.part);
        spent := spent + octet_length(entry.part::text);
        place := entry.place;
        found_rows := found_rows + 1;
        if spent >= budget then
          return json_build_object('parts', parts, 'next', json_build_object(
            'session', n, 'kind', kind, 'place', place, 'upto_turn', upto_turn, 'upto_position', upto_position));
        end if;
      end loop;
      if found_rows < chunk then
        place := case kind when 'turn' then session.cleared_position when 'message' then -2 * session.parked - 2 else 0 end;
        kind := case kind when 'turn' then 'message' when 'message' then 'alternative'
                          when 'alternative' then 'feedback' end;
      end if;
    end loop;
    n := n + 1;
  end loop;
  return json_build_object('parts', parts, 'next', null);
end
$$;

CREATE FUNCTION public.chat_history_export_rows(text, public.chat_history_sessions, bigint, bigint, integer) RETURNS SETOF public.chat_history_part
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $_$
#variable_conflict use_column
declare
  session alias for $2;
begin
  if $1 = 'turn' then
    return query select t.ordinal, $1, to_json(t) from chat_history_turns t
      where t.session_key = session.session_key and t.ordinal > $3 and t.ordinal <= $4 order by t.ordinal limit $5;
  elsif $1 = 'message' then
    return query select m.position, $1, json_build_object('id', m.id, 'position', m.position, 'turn_id', m.turn_id,
          'type', m.type, 'data', m.data, 'tokens', m.tokens, 'in_context', m.in_context, 'begins_turn', m.begins_turn,
          'created_at', m.created_at)
      from chat_history_messages m
      where m.session_key = session.session_key and m.position > $3 and m.position <= $4 order by m.position limit $5;
  elsif $1 = 'alternative' then
    -- Places are doubled positions, so that an alternative has one in front of its first message.
    return query select p.place, p.kind, p.part from (
      (select -2 * a.parked - 1, 'alternative', json_build_object('id', a.id, 'position', a.position,
           'parked', a.parked, 'message_count', a.message_count, 'follows', a.follows, 'created_at', a.created_at)
         from chat_history_alternatives a
         where a.session_key = session.session_key and a.parked > session.cleared_parked
           and -2 * a.parked - 1 > $3)
      union all
      (select 2 * m.position, 'message', json_build_object('id', m.id, 'alternative_id', a.id,
           'position', m.position + a.parked + a.position, 'turn_id', m.turn_id, 'type', m.type, 'data', m.data,
           'tokens', m.tokens, 'in_context', m.in_context, 'begins_turn', m.begins_turn, 'created_at', m.created_at)
         from chat_history_messages m
           join chat_history_alternatives a on a.session_key = m.session_key
             and m.position between -a.parked and a.message_count - a.parked - 1
         where m.session_key = session.session_key and m.position < -session.cleared_parked
           and m.position > div($3 - 1, 2) and 2 * m.position > $3
         order by m.position limit $5)) p (place, kind, part)
      order by p.place limit $5;
  else
    return query select f.ordinal, $1, to_json(f) from chat_history_feedback f
      where f.session_key = session.session_key and f.ordinal > $3 order by f.ordinal limit $5;
  end if;
end
$_$;

CREATE FUNCTION public.chat_history_feedback_sent(feedback json, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_feedback_sent.user_id);
  one record;
  counted bigint := 0;
begin
  for one in
    select chat_history_key(owner, n.session_id) as session_key, n.id, n.updated_at,
        coalesce(n.refused, false) as refused
      from json_to_recordset(chat_history_objects(feedback, 'feedback'))
        n (session_id text, id uuid, updated_at timestamptz, refused boolean)
      order by 1
  loop
    perform from chat_history_sessions s where s.session_key = one.session_key for update;
    update chat_history_feedback f set
        sent_at = case when one.refused then f.sent_at else clock_timestamp() end,
        refusals = f.refusals + one.refused::integer,
        unsent = f.updated_at is distinct from one.updated_at or (one.refused and f.refusals < 9)
      where f.session_key = one.session_key and f.id = one.id;
    counted := counted + found::integer;
  end loop;
  return json_build_object('sent', counted);
end
$$;

CREATE TABLE public.chat_history_feedback (
    session_key uuid NOT NULL,
    user_id text NOT NULL,
    id uuid NOT NULL,
    turn_id uuid NOT NULL,
    message_id uuid,
    key text NOT NULL,
    score double precision,
    value json,
    comment text,
    metadata json,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ordinal bigint NOT NULL,
    sent_at timestamp with time zone,
    unsent boolean DEFAULT false NOT NULL,
    refusals integer DEFAULT 0 NOT NULL,
    CONSTRAINT times CHECK (((LEAST(created_at, updated_at, sent_at) >= to_timestamp(('-62135596800'::bigint)::double precision)) AND (GREATEST(created_at, updated_at, sent_at) < to_timestamp(('253402214400'::bigint)::double precision))))
);

CREATE FUNCTION public.chat_history_find_feedback(uuid, public.chat_history_feedback) RETURNS public.chat_history_feedback
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $_$
declare
  of_session alias for $1;
  given alias for $2;
  stored chat_history_feedback;
begin
  select f.* into stored from chat_history_feedback f where f.session_key = of_session and f.id = given.id;
  if not found and given.sent_at is null then
    select f.* into stored from chat_history_feedback f
      where f.session_key = of_session and f.turn_id = given.turn_id and f.key = given.key
        and f.message_id is not distinct from given.message_id
      order by f.ordinal desc limit 1;
  end if;
  return stored;
end
$_$;

CREATE FUNCTION public.chat_history_find_position(public.chat_history_sessions, bigint, uuid) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  found_at bigint := $2;
begin
  if $3 is not null then
    select m.position into found_at from chat_history_messages m
      where m.session_key = $1.session_key and m.id = $3 and m.position > $1.cleared_position;
    if not found then
      raise exception 'the conversation has no such message any more' using errcode = 'PT404';
    end if;
  end if;
  if (found_at >= 1) is not true then
    raise exception 'a position is 1 or more' using errcode = 'PT400';
  end if;
  return found_at;
end
$_$;

CREATE FUNCTION public.chat_history_first_question(public.chat_history_sessions) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select chat_history_shorten(chat_history_text(m.data), 60)
    from (select * from chat_history_messages m
            where m.session_key = $1.session_key and m.position > $1.cleared_position order by m.position limit 10) m
    where m.type = 'human' order by m.position limit 1
$_$;

CREATE FUNCTION public.chat_history_first_token(public.chat_history_turns) RETURNS double precision
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
begin
  return substring($1.metadata ->> 'first_token_seconds' from '^\d{1,9}(?:\.\d+)?(?:[eE]-\d{1,2})?$')::double precision;
end
$_$;

CREATE FUNCTION public.chat_history_fold(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
    AS $$
  select case when octet_length(value) = length(value) then lower(value)  -- nothing but ASCII
    else (
      select case when f.folded ~ '[Α-ΩЂ-ЯԱ-ՖŁłĐđØøĦħŦŧıÆŒÞÐŊҐς]'
        then translate(f.folded,
          'ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩς'
          'ЂЄЅІЈЉЊЋЏАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯҐ'
          'ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖ'
          'ŁłĐđØøĦħŦŧıÆŒÞÐŊ',
          'αβγδεζηθικλμνξοπρστυφχψωσ'
          'ђєѕіјљњћџабвгдежзийклмнопрстуфхцчшщъыьэюяґ'
          'աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆ'
          'llddoohhttiæœþðŋ')
        else f.folded end
        from (select lower(normalize(regexp_replace(normalize(value, NFD), U&'[\0300-\036F]', '', 'g'), NFC))) f (folded))
    end
$$;

CREATE FUNCTION public.chat_history_follow_turn(session_id text, turn_id uuid DEFAULT NULL::uuid, after integer DEFAULT 0, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION public.chat_history_fork_session(session_id text, new_session_id text, upto bigint DEFAULT NULL::bigint, message_id uuid DEFAULT NULL::uuid, user_id text DEFAULT NULL::text, request uuid DEFAULT NULL::uuid) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '60s'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
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

CREATE FUNCTION public.chat_history_get_session(session_id text, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_get_session.user_id);
begin
  return (
    select chat_history_show_session(s) from chat_history_sessions s
      where s.session_key = chat_history_key(owner, chat_history_get_session.session_id) and s.deleted_at is null);
end
$$;

CREATE FUNCTION public.chat_history_grant(extra_role text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
declare
  home constant oid := (select p.pronamespace from pg_proc p where p.oid = 'chat_history_grant'::regproc);
  ours constant text := 'chat\_history\_%';
  kept constant text[] := '{chat_history_grant,chat_history_open_shares,chat_history_index_search,chat_history_open_conversations}';  -- the owner's
  opened constant oid[] := array(
    select t.tgrelid from pg_trigger t where t.tgfoid = to_regproc('chat_history_write_conversation'));
  relations text;
  readable text;
  writable text;
  functions text;
  callable text;
  role record;
begin
  if extra_role is not null and not exists (select from pg_roles r where r.rolname = extra_role) then
    raise exception 'role % does not exist', extra_role using errcode = '42704', hint = 'Create the role first.';
  end if;
  select string_agg(c.oid::regclass::text, ', '), string_agg(c.oid::regclass::text, ', ') filter (where c.relkind = 'v'
           or exists (select from pg_policy p where p.polrelid = c.oid and p.polcmd in ('r', '*'))),
         string_agg(c.oid::regclass::text, ', ') filter (
           where c.oid = any (opened) or exists (select from pg_policy p where p.polrelid = c.oid and p.polcmd = '*'))
    into relations, readable, writable
    from pg_class c
    where c.relnamespace = home and c.relkind in ('r', 'p', 'v') and (c.relname like ours or c.oid = any (opened));
  select string_agg(p.oid::regprocedure::text, ', '), string_agg(p.oid::regprocedure::text, ', ') filter (
           where p.prorettype <> 'trigger'::regtype and p.proname <> all (kept))
    into functions, callable
    from pg_proc p where p.pronamespace = home and p.proname like ours;

  execute format('revoke all on table %s from public', relations);
  execute format('revoke all on function %s from public', functions);
  for role in
    select r.rolname as name, r.rolname in ('anon', 'authenticated', 'service_role') or r.rolname = extra_role as reset
      from pg_roles r
      where r.rolname in ('anon', 'authenticated', 'service_role') or r.rolname = extra_role
        or r.oid in (select a.grantee from pg_class c, aclexplode(c.relacl) a
                       where c.oid = 'chat_history_sessions'::regclass and a.privilege_type = 'INSERT'
                         and a.grantee <> c.relowner)
  loop
    if role.reset then
      execute format('revoke all on table %s from %I', relations, role.name);
      execute format('revoke all on function %s from %I', functions, role.name);
    end if;
    continue when role.name = 'anon' and not chat_history_shares_open();
    if not has_schema_privilege(role.name, home, 'usage') then
      execute format('grant usage on schema %s to %I', home::regnamespace, role.name);
    end if;
    if role.name = 'anon' then
      execute 'grant execute on function chat_history_shared(text) to anon';
      continue;
    end if;
    execute format('grant select on table %s to %I', readable, role.name);
    execute format('grant insert, update, delete on table %s to %I', writable, role.name);
    execute format('grant execute on function %s to %I', callable, role.name);
  end loop;
end
$$;

CREATE FUNCTION public.chat_history_guards() RETURNS json
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
  with home as (
    select p.pronamespace as oid from pg_proc p where p.oid = 'chat_history_guards()'::regprocedure
  ), role as (
    select r.name, r.name = 'public' or to_regrole(r.name) is not null as found
      from unnest(array['public', 'anon', 'authenticated', 'service_role']) r (name)
  )
  select json_build_object(
    'role', current_user,
    'user', chat_history_user(),
    'bypasses', not row_security_active('chat_history_sessions'),
    'server_version', current_setting('server_version'),
    'shares_open', chat_history_shares_open(),
    'roles', (select json_agg(r.name) from role r where r.found),
    'relations', (
      select json_agg(json_build_object(
          'name', c.relname, 'kind', c.relkind,
          'row_security', c.relrowsecurity or coalesce(c.reloptions @> array['security_invoker=true'], false),
          'policies', (
            select coalesce(json_agg(json_build_object(
                'name', p.polname, 'command', p.polcmd, 'permissive', p.polpermissive, 'roles', p.polroles::text,
                'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))
                order by p.polname), '[]')
              from pg_policy p where p.polrelid = c.oid),
          'privileges', (
            select json_object_agg(r.name, (
                select coalesce(json_agg(a.name), '[]')
                  from unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) a (name)
                  where has_table_privilege(r.name, c.oid, a.name)))
              from role r where r.found))
          order by c.relname)
        from pg_class c join home h on h.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'v') and (c.relname like 'chat\_history\_%' or exists (
          select from pg_trigger t where t.tgrelid = c.oid and t.tgfoid = to_regproc('chat_history_write_conversation')))),
    'functions', (
      select json_agg(json_build_object(
          'name', p.proname, 'execute', (
            select coalesce(json_agg(r.name), '[]') from role r
              where r.found and has_function_privilege(r.name, p.oid, 'execute')))
          order by p.proname)
        from pg_proc p join home h on h.oid = p.pronamespace
        where p.proname like 'chat\_history\_%'))
$$;

CREATE FUNCTION public.chat_history_hand_over(public.chat_history_sessions, text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_has_index() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
  select exists (
    select from pg_index i where i.indexrelid = to_regclass('chat_history_messages_words') and i.indisvalid)
$$;

CREATE FUNCTION public.chat_history_hidden(public.chat_history_sessions, boolean) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_import(conversations json, user_id text DEFAULT NULL::text, dry_run boolean DEFAULT false) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '5min'
    AS $$
#variable_conflict use_column
declare
  one record;
  reply json;
  replies json[] := '{}';
  refused json[] := '{}';
begin
  for one in
    select e.item, e.n - 1 as n
      from json_array_elements(chat_history_objects(conversations, 'conversations')) with ordinality e (item, n)
  loop
    begin
      reply := chat_history_import_one(one.item,
        coalesce(chat_history_import.user_id, one.item -> 'session' ->> 'user_id'), coalesce(dry_run, false));
      replies := replies || reply;
    exception when others then
      if sqlstate !~ '^(22|23|54|PT4)' then  -- not the conversation's fault
        raise;
      end if;
      refused := refused || json_build_object('n', one.n, 'code', sqlstate, 'message', sqlerrm);
    end;
  end loop;
  return (
    select json_build_object(
        'sessions', coalesce(sum((r ->> 'sessions')::bigint), 0), 'messages', coalesce(sum((r ->> 'messages')::bigint), 0),
        'turns', coalesce(sum((r ->> 'turns')::bigint), 0), 'feedback', coalesce(sum((r ->> 'feedback')::bigint), 0),
        'known', coalesce(sum((r ->> 'known')::bigint), 0), 'refused', refused)
      from unnest(replies) r);
end
$$;

CREATE FUNCTION public.chat_history_import_alternatives(public.chat_history_sessions, json, json) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  session alias for $1;
  highest bigint := session.parked;
  one record;
  follows_at bigint;
  room bigint;
begin
  for one in
    select a.* from json_array_elements($2) with ordinality e (item, n),
        json_populate_record(null::chat_history_alternatives, e.item) a
      where a.id is not null and a.message_count > 0 and not exists (
        select from chat_history_alternatives k where k.session_key = session.session_key and k.id = a.id)
        and not exists (
          select from json_array_elements($3) n (item)
            join chat_history_messages m on m.session_key = session.session_key and m.id = (n.item ->> 'id')::uuid
            where (n.item ->> 'alternative_id')::uuid = a.id)
      order by e.n
  loop
    room := one.parked;
    if (room between session.cleared_parked + one.message_count and highest + 1000000000) is not true or exists (
      select from chat_history_alternatives a
        where a.session_key = session.session_key and a.parked > room - one.message_count
          and a.parked - a.message_count < room)
    then
      room := highest + one.message_count;
    end if;
    highest := greatest(highest, room);
    follows_at := null;
    select case when m.position > 0 then m.position else a.position + a.parked + m.position end into follows_at
      from chat_history_messages m
        left join chat_history_alternatives a on a.session_key = m.session_key
          and m.position between -a.parked and a.message_count - a.parked - 1
      where m.session_key = session.session_key and m.id = one.follows;
    insert into chat_history_alternatives (session_key, user_id, id, position, message_count, parked, follows, created_at)
      values (session.session_key, session.user_id, one.id,
        coalesce(follows_at, case when one.follows is null then session.cleared_position end, one.position - 1) + 1,
        one.message_count, room, one.follows, coalesce(one.created_at, clock_timestamp()));
  end loop;
  return highest;
end
$_$;

CREATE FUNCTION public.chat_history_import_feedback(public.chat_history_sessions, json) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  session alias for $1;
  last constant bigint := (select max(f.ordinal) from chat_history_feedback f where f.session_key = $1.session_key);
  stored bigint;
begin
  insert into chat_history_feedback (session_key, user_id, id, turn_id, message_id, key, score, value, comment,
      metadata, created_at, updated_at, ordinal, sent_at, unsent)
    select session.session_key, session.user_id, n.id, n.turn_id, n.message_id, n.key, n.score, n.value, n.comment,
        n.metadata, coalesce(n.created_at, clock_timestamp()), coalesce(n.updated_at, clock_timestamp()),
        case when min(n.ordinal) over () > coalesce(last, 0) then n.ordinal
             else coalesce(last, 0) + row_number() over (order by n.ordinal) end, n.sent_at, false
      from json_populate_recordset(null::chat_history_feedback, $2) n
      where not exists (
        select from chat_history_feedback f where f.session_key = session.session_key and f.id = n.id);
  get diagnostics stored = row_count;
  return stored;
end
$_$;

CREATE FUNCTION public.chat_history_import_messages(public.chat_history_sessions, json) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  session alias for $1;
  rows constant chat_history_messages[] := array(
    select n from json_populate_recordset(null::chat_history_messages, $2) n);
  stored bigint;
begin
  if exists (
    select from unnest(rows) n join chat_history_messages m on m.session_key = session.session_key and m.id = n.id
      where m.type <> n.type or case when m.data::text <> n.data::text then not chat_history_same_data(m.data, n.data)
                                     else false end
  ) then
    raise exception 'a message with this id is stored with other content' using errcode = 'PT409';
  end if;
  with new as (
    select n.*, o.alternative_id, a.parked, a.position as begins_at, (
          select count(*) from chat_history_messages m
            where m.session_key = session.session_key
              and m.position between -a.parked and a.message_count - a.parked - 1) as there
      from unnest(rows) with ordinality n (session_key, user_id, position, id, turn_id, type, data, tokens, in_context,
             context_position, begins_turn, created_at, n)
        join (select e.n, (e.item ->> 'alternative_id')::uuid as alternative_id
                from json_array_elements($2) with ordinality e (item, n)) o on o.n = n.n
        left join chat_history_alternatives a on a.session_key = session.session_key and a.id = o.alternative_id
      where (o.alternative_id is null or a.id is not null)
        and not exists (
          select from chat_history_messages m where m.session_key = session.session_key and m.id = n.id)),
  placed as (
    select n.*, row_number() over (partition by n.alternative_id order by n.position, n.n)
        + case when n.alternative_id is null then session.last_position else n.there - n.parked - 1 end as place
      from new n),
  inserted as (
    insert into chat_history_messages (session_key, user_id, position, id, turn_id, type, data, tokens, in_context,
        begins_turn, created_at)
      select session.session_key, session.user_id, p.place, p.id, p.turn_id, p.type, p.data,
          coalesce(p.tokens, 1 + octet_length(p.data::text) / 4), coalesce(p.in_context, true),
          coalesce(p.begins_turn, false), coalesce(p.created_at, clock_timestamp())
        from placed p),
  begun as (
    update chat_history_turns t set first_position = f.place
      from (select p.turn_id, min(p.place + coalesce(p.parked + p.begins_at, 0)) as place
              from placed p group by p.turn_id) f
      where t.session_key = session.session_key and t.id = f.turn_id and t.first_position is null)
  select count(*) filter (where p.alternative_id is null) into stored from placed p;
  return stored;
end
$_$;

CREATE FUNCTION public.chat_history_import_one(json, text, boolean) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  header constant json := $1 -> 'session';
  messages constant json := coalesce($1 -> 'messages', '[]');
  alternatives constant json := coalesce($1 -> 'alternatives', '[]');
  turns constant json := coalesce($1 -> 'turns', '[]');
  feedback constant json := coalesce($1 -> 'feedback', '[]');
  owner constant text := chat_history_owner($2);
  session chat_history_sessions;
  is_new boolean;
  known bigint;
  stored_messages bigint;
  stored_turns bigint;
  counted_turns bigint;
  counted_tokens numeric;
  stored_feedback bigint;
  highest_parked bigint;
begin
  if header ->> 'session_id' is null or exists (
    select from json_populate_recordset(null::chat_history_messages, messages) n
      where n.id is null or n.turn_id is null or (octet_length(n.type) between 1 and 100) is not true or n.tokens < 0
        or json_typeof(n.data) is distinct from 'object')
  then
    raise exception 'a message must have its id, turn_id, type and data, and a session its session_id'
      using errcode = 'PT422';
  end if;
  select s.* into session from chat_history_sessions s
    where s.session_key = chat_history_key(owner, header ->> 'session_id');
  is_new := not found or session.deleted_at is not null
    or session.last_position = 0 and session.last_turn = 0 and session.title is null;
  select count(*) into known from json_array_elements(messages) n (item)
    join chat_history_messages m on m.session_key = session.session_key and m.id = (n.item ->> 'id')::uuid;
  if $3 then
    return json_build_object('sessions', is_new::integer, 'messages', json_array_length(messages) - known,
                             'turns', json_array_length(turns), 'feedback', json_array_length(feedback), 'known', known);
  end if;

  session := chat_history_lock(owner, header ->> 'session_id');
  if is_new then
    if session.deleted_at is not null then
      perform chat_history_sweep(session, null);
    else
      session.last_position := greatest(coalesce((header ->> 'cleared_position')::bigint, 0), 0);
      session.last_turn := greatest(coalesce((header ->> 'cleared_turn')::bigint, 0), 0);
    end if;
    session.cleared_position := session.last_position;
    session.cleared_turn := session.last_turn;
  end if;
  select count(*), count(*) filter (where t.alternative_id is null),
         sum(t.total_tokens) filter (where t.alternative_id is null)
    into stored_turns, counted_turns, counted_tokens from chat_history_import_turns(session, turns) t;
  highest_parked := chat_history_import_alternatives(session, alternatives, messages);
  stored_messages := chat_history_import_messages(session, messages);
  stored_feedback := chat_history_import_feedback(session, feedback);
  update chat_history_sessions s set
      title = case when is_new then header ->> 'title' else s.title end,
      metadata = case when is_new then chat_history_json(header -> 'metadata') else s.metadata end,
      tags = case when is_new and json_typeof(header -> 'tags') = 'array'
        then array(select json_array_elements_text(header -> 'tags')) else s.tags end,
      pinned = case when is_new then coalesce((header ->> 'pinned')::boolean, false) else s.pinned end,
      archived = case when is_new then coalesce((header ->> 'archived')::boolean, false) else s.archived end,
      forked_from = case when is_new then header ->> 'forked_from' else s.forked_from end,
      created_at = case when is_new then coalesce((header ->> 'created_at')::timestamptz, s.created_at)
        else s.created_at end,
      updated_at = case when is_new then coalesce((header ->> 'updated_at')::timestamptz, s.updated_at)
        else s.updated_at end,
      cleared_position = session.cleared_position, cleared_turn = session.cleared_turn,
      last_position = session.last_position + stored_messages,
      last_turn = greatest(session.last_turn, coalesce((
        select max(t.ordinal) from chat_history_turns t where t.session_key = s.session_key), 0)),
      last_turn_id = case when stored_messages > 0 then (
        select m.turn_id from chat_history_messages m
          where m.session_key = s.session_key and m.position = session.last_position + stored_messages)
        else s.last_turn_id end,
      message_count = s.message_count + stored_messages, turn_count = s.turn_count + counted_turns,
      total_tokens = case when counted_tokens is null then s.total_tokens
        else coalesce(s.total_tokens, 0) + counted_tokens end,
      parked = highest_parked, deleted_at = null, revision = s.revision + 1
    where s.session_key = session.session_key
      and (is_new or stored_messages + stored_turns + stored_feedback > 0 or highest_parked > s.parked);
  return json_build_object('sessions', is_new::integer, 'messages', json_array_length(messages) - known,
                           'turns', stored_turns, 'feedback', stored_feedback, 'known', known);
end
$_$;

CREATE FUNCTION public.chat_history_import_turns(public.chat_history_sessions, json) RETURNS SETOF public.chat_history_turns
    LANGUAGE sql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  insert into chat_history_turns (session_key, user_id, id, ordinal, status, question, trace_id, run_id, project,
      started_at, ended_at, model, input_tokens, output_tokens, total_tokens, token_details, total_cost, documents,
      error, metadata, first_token_seconds, alternative_id, branched, copied, created_at)
    select $1.session_key, $1.user_id, n.id,
        case when min(n.ordinal) over () > $1.last_turn then n.ordinal
             else $1.last_turn + row_number() over (order by n.ordinal) end,
        coalesce(n.status, 'completed'), n.question, n.trace_id, n.run_id, n.project, n.started_at, n.ended_at, n.model,
        n.input_tokens, n.output_tokens, n.total_tokens, n.token_details, n.total_cost, n.documents, n.error,
        n.metadata, chat_history_first_token(n), n.alternative_id, coalesce(n.branched, false), coalesce(n.copied, false),
        coalesce(n.created_at, clock_timestamp())
      from json_populate_recordset(null::chat_history_turns, $2) n
      where not exists (select from chat_history_turns t where t.session_key = $1.session_key and t.id = n.id)
    returning *
$_$;

CREATE FUNCTION public.chat_history_in_form(text, text, jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select case when $1 = 'data' then jsonb_build_object('type', $2, 'data', $3)
    else $3 || jsonb_build_object(case when $1 = 'type' then 'type' else 'role' end, $2) end
$_$;

CREATE FUNCTION public.chat_history_index_search(configuration regconfig DEFAULT 'simple'::regconfig, build boolean DEFAULT true) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_interrupt_turns(session_id text, older_than double precision, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_interrupt_turns.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_interrupt_turns.session_id);
  session chat_history_sessions;
  settled integer;
  marked integer;
begin
  if (older_than between 0 and 1e9) is not true then  -- NaN is above all numbers
    raise exception 'older_than is a number of seconds from 0 to 1e9' using errcode = 'PT400';
  end if;
  select s.* into session from chat_history_sessions s where s.session_key = of_session for update;
  settled := chat_history_settle_streams(session);
  update chat_history_turns t set status = 'interrupted'
    where t.session_key = of_session and t.status = 'running'
      and t.created_at <= clock_timestamp() - make_interval(secs => older_than);
  get diagnostics marked = row_count;
  update chat_history_sessions s set revision = s.revision + 1 where s.session_key = of_session and marked > 0;
  return json_build_object('interrupted', marked + settled);
end
$$;

CREATE FUNCTION public.chat_history_joined_turn(public.chat_history_sessions, json) RETURNS public.chat_history_turns
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  session alias for $1;
  known alias for $2;
  found_turn chat_history_turns;
begin
  if known is not null then
    select t.* into found_turn from chat_history_turns t
      where t.session_key = session.session_key and t.id = (known -> -1 ->> 'turn_id')::uuid;
    if found_turn.ordinal > session.cleared_turn then
      return found_turn;
    end if;
  end if;
  select t.* into found_turn from chat_history_turns t
    where t.session_key = session.session_key and t.id = session.last_turn_id;
  if found_turn.status = 'failed' then
    return null;
  end if;
  return found_turn;
end
$_$;

CREATE FUNCTION public.chat_history_json(value json) RETURNS json
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
    AS $$
  select case json_typeof(value) when 'string' then (value #>> '{}')::json when 'null' then null else value end
$$;

CREATE FUNCTION public.chat_history_jsonb(value json) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
begin
  return $1::jsonb;
exception when data_exception or program_limit_exceeded then
  return null;
end
$_$;

CREATE FUNCTION public.chat_history_known_messages(uuid, uuid[], text[], json[]) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  of_session alias for $1;
  ids alias for $2;
  types alias for $3;
  data alias for $4;
  known uuid[];
begin
  -- One by one: for a list, the planner may read the whole session instead.
  select array_agg(k.id) into known from (
    select (select m.id from chat_history_messages m where m.session_key = of_session and m.id = n.id)
      from unnest(ids) n (id)) k (id)
    where k.id is not null;
  if known is null then
    return null;
  end if;
  if exists (
    select from unnest(ids, types, data) n (id, type, data)
      join chat_history_messages m on m.session_key = of_session and m.id = n.id
      where m.type <> n.type
         or case when m.data::text <> n.data::text then not chat_history_same_data(m.data, n.data) else false end
  ) then
    raise exception 'a message with this id is stored with other content' using errcode = 'PT409';
  end if;
  if cardinality(known) <> (select count(distinct k) from unnest(known) k) then  -- for new ids the unique key does it
    raise exception 'the same message id stands twice in one call' using errcode = 'PT409';
  end if;
  if cardinality(known) < cardinality(ids) and exists (
    select from chat_history_messages m where m.session_key = of_session and m.id = any (known) and m.position < 0)
  then
    raise exception 'one of these messages was taken out of the conversation' using errcode = 'PT409';
  end if;
  return (
    select json_agg(json_build_object('id', m.id, 'position', m.shown_position, 'turn_id', m.turn_id,
                                      'created_at', m.created_at) order by m.shown_position)
      from (select *, case when m.position > 0 then m.position else coalesce((
                select a.position + a.parked + m.position from chat_history_alternatives a
                  where a.session_key = of_session and m.position between -a.parked and a.message_count - a.parked - 1),
                -m.position) end as shown_position
              from chat_history_messages m where m.session_key = of_session and m.id = any (known)) m);
end
$_$;

CREATE FUNCTION public.chat_history_language() RETURNS regconfig
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
    AS $$ select 'pg_catalog.simple'::regconfig $$;

CREATE FUNCTION public.chat_history_last_text(public.chat_history_sessions) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select chat_history_shorten(chat_history_text(m.data), 200)
    from (select * from chat_history_messages m
            where m.session_key = $1.session_key and m.position > $1.cleared_position
            order by m.position desc limit 10) m
    where m.type in ('human', 'ai') and chat_history_text(m.data) ~ '\S' order by m.position desc limit 1
$_$;

CREATE FUNCTION public.chat_history_later_status(text, text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select case when array_position(o.steps, $2) > array_position(o.steps, $1) then $2 else $1 end
    from (values (array['running', 'interrupted', 'failed', 'completed'])) o (steps)
$_$;

CREATE FUNCTION public.chat_history_list_alternative(session_id text, alternative uuid, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
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

CREATE FUNCTION public.chat_history_list_alternatives(session_id text, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
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

CREATE FUNCTION public.chat_history_list_feedback(session_id text, user_id text DEFAULT NULL::text, after bigint DEFAULT NULL::bigint, max_items integer DEFAULT NULL::integer) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_feedback.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_list_feedback.session_id);
  page_size constant integer := chat_history_page_size(max_items);
  hidden constant bigint :=
    coalesce((select s.cleared_turn from chat_history_sessions s where s.session_key = of_session), 0);
  items json;
  counted integer;
  last bigint;
begin
  select json_agg(to_json(f)), count(*), max(f.ordinal) into items, counted, last
    from (select f.* from chat_history_feedback f
            join chat_history_turns t on t.session_key = f.session_key and t.id = f.turn_id and t.ordinal > hidden
          where f.session_key = of_session and f.ordinal > coalesce(after, 0)
          order by f.ordinal limit page_size) f;
  return json_build_object('items', coalesce(items, '[]'), 'next', case when counted = page_size then last end);
end
$$;

CREATE FUNCTION public.chat_history_list_messages(session_id text, user_id text DEFAULT NULL::text, after bigint DEFAULT NULL::bigint, max_items integer DEFAULT NULL::integer, newest_first boolean DEFAULT false) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_messages.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_list_messages.session_id);
  page_size constant integer := chat_history_page_size(max_items);
  hidden constant bigint :=
    coalesce((select s.cleared_position from chat_history_sessions s where s.session_key = of_session), 0);
  items json;
  counted integer;
  last bigint;
begin
  select json_agg(json_build_object('id', m.id, 'position', m.position, 'created_at', m.created_at,
           'turn_id', m.turn_id, 'type', m.type, 'data', m.data)),
         count(*), case when newest_first then min(m.position) else max(m.position) end
    into items, counted, last
    from (
      (select * from chat_history_messages m
         where newest_first and m.session_key = of_session and m.position > hidden
           and m.position < coalesce(after, 9223372036854775807)
         order by m.position desc limit page_size)
      union all
      (select * from chat_history_messages m
         where newest_first is not true and m.session_key = of_session and m.position > greatest(hidden, after)
         order by m.position limit page_size)) m;
  return json_build_object('items', coalesce(items, '[]'), 'next', case when counted = page_size then last end);
end
$$;

CREATE FUNCTION public.chat_history_list_sessions(query text DEFAULT NULL::text, tags text[] DEFAULT NULL::text[], metadata json DEFAULT NULL::json, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, archived boolean DEFAULT NULL::boolean, prefix text DEFAULT NULL::text, sort text DEFAULT NULL::text, after json DEFAULT NULL::json, max_items integer DEFAULT NULL::integer, user_id text DEFAULT NULL::text, all_users boolean DEFAULT NULL::boolean, hidden boolean DEFAULT NULL::boolean) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '30s'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $_$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_sessions.user_id);
  page_size constant integer := chat_history_page_size(max_items);
  start constant json := chat_history_json(chat_history_list_sessions.after);
  way constant text := case when sort like '-%' or sort = 'title' then 'asc' else 'desc' end;
  value constant text := case coalesce(sort, 'activity')
    when 'activity' then 's.updated_at' when '-activity' then 's.updated_at'
    when 'created' then 's.created_at' when '-created' then 's.created_at'
    when 'title' then 'chat_history_fold(coalesce(s.title, chat_history_first_question(s), '''')) collate "C"' end;
  after_value constant text := case sort when 'title' then '$8 collate "C"' else '$8::timestamptz' end;
  conditions text;
  walks text;
  items json;
  following json;
  more boolean;
begin
  if value is null then
    raise exception 'sort is activity, -activity, created, -created or title' using errcode = 'PT400';
  end if;
  if all_users and (chat_history_user() is not null or row_security_active('chat_history_sessions')) then
    raise exception 'only the application itself may list the sessions of all users' using errcode = '42501';
  end if;
  conditions := concat_ws(' and ',
    case when hidden is not true then
      's.deleted_at is null and (s.message_count > 0 or s.title is not null and s.last_position = 0)' end,
    'true',
    case when all_users is not true then 's.user_id = $1' end,
    case when since is not null then 's.updated_at >= $2' end,
    case when until is not null then 's.updated_at < $3' end,
    case when tags <> '{}' then 's.tags @> $4' end,
    case when chat_history_json(metadata) is not null then 'chat_history_jsonb(s.metadata) @> $5::jsonb' end,
    case when prefix <> '' then 'starts_with(s.session_id, $6)' end,
    case when query <> '' then
      '(strpos(chat_history_fold(s.session_id), $7) > 0
        or strpos(chat_history_fold(coalesce(s.title, chat_history_first_question(s))), $7) > 0)' end,
    case when start is not null then
      format('(%s, s.session_key) %s (%s, $9)', value, case way when 'asc' then '>' else '<' end, after_value) end);
  -- Archived ones and the others are two walks of one index.
  select string_agg(format(
        '(select s as session, %1$s as value from chat_history_sessions s where %2$s and s.archived = %3$L
           order by %1$s %4$s, s.session_key %4$s limit $10)', value, conditions, a.archived, way), ' union all ')
    into walks from unnest(array[false, true]) a (archived)
    where a.archived = coalesce(chat_history_list_sessions.archived, a.archived);
  execute format(
    'select json_agg(chat_history_show_session(p.session) order by p.n) filter (where p.n < $10),
            (array_agg(json_build_object(''at'', p.value, ''key'', (p.session).session_key))
              filter (where p.n = $10 - 1))[1],
            count(*) = $10
       from (select w.*, row_number() over (order by w.value %1$s, (w.session).session_key %1$s) as n
               from (%2$s) w order by n limit $10) p', way, walks)
    into items, following, more
    using owner, since, until, tags, chat_history_json(metadata), prefix, chat_history_fold(query), start ->> 'at',
      (start ->> 'key')::uuid, page_size + 1;
  return json_build_object('items', coalesce(items, '[]'), 'next', case when more then following end);
end
$_$;

CREATE FUNCTION public.chat_history_list_turns(session_id text, user_id text DEFAULT NULL::text, after bigint DEFAULT NULL::bigint, max_items integer DEFAULT NULL::integer, newest_first boolean DEFAULT false) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_turns.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_list_turns.session_id);
  page_size constant integer := chat_history_page_size(max_items);
  hidden constant bigint :=
    coalesce((select s.cleared_turn from chat_history_sessions s where s.session_key = of_session), 0);
  items json;
  counted integer;
  last bigint;
begin
  select json_agg(to_json(t)), count(*), case when newest_first then min(t.ordinal) else max(t.ordinal) end
    into items, counted, last
    from (
      (select * from chat_history_turns t
         where newest_first and t.session_key = of_session and t.ordinal > hidden and t.alternative_id is null
           and t.ordinal < coalesce(after, 9223372036854775807)
         order by t.ordinal desc limit page_size)
      union all
      (select * from chat_history_turns t
         where newest_first is not true and t.session_key = of_session and t.ordinal > greatest(hidden, after)
           and t.alternative_id is null
         order by t.ordinal limit page_size)) t;
  return json_build_object('items', coalesce(items, '[]'), 'next', case when counted = page_size then last end);
end
$$;

CREATE FUNCTION public.chat_history_load(session_id text, user_id text DEFAULT NULL::text, after_position bigint DEFAULT NULL::bigint, known_revision bigint DEFAULT NULL::bigint, max_messages integer DEFAULT NULL::integer, max_turns integer DEFAULT NULL::integer, max_tokens bigint DEFAULT NULL::bigint, keep_system boolean DEFAULT NULL::boolean) RETURNS json
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
  select json_build_object(
      'header', (array_agg(r.data) filter (where r.type = ''))[1],
      'messages', coalesce(json_agg(json_build_object('type', r.type, 'data', r.data)) filter (where r.type <> ''), '[]'))
    from chat_history_load_rows(session_id, user_id, after_position, known_revision, max_messages, max_turns,
                                max_tokens, keep_system) r
$$;

CREATE FUNCTION public.chat_history_load_rows(session_id text, user_id text DEFAULT NULL::text, after_position bigint DEFAULT NULL::bigint, known_revision bigint DEFAULT NULL::bigint, max_messages integer DEFAULT NULL::integer, max_turns integer DEFAULT NULL::integer, max_tokens bigint DEFAULT NULL::bigint, keep_system boolean DEFAULT NULL::boolean) RETURNS TABLE(type text, data json)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_load_rows.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_load_rows.session_id);
  session chat_history_sessions;
  after bigint;
  start bigint;
  beginning bigint[];
  system chat_history_messages;
begin
  if least(max_messages, max_turns, max_tokens) < 1 then
    raise exception 'a window holds at least 1 of messages, turns or tokens' using errcode = 'PT400';
  end if;
  select s.* into session from chat_history_sessions s where s.session_key = of_session;
  after := coalesce(session.cleared_position, 0);
  if max_messages is null and max_turns is null and max_tokens is null then
    start := 1 + case when known_revision = session.revision then greatest(after, least(after_position, session.last_position)) else after end;
  else
    if coalesce(keep_system, true) then
      select m.* into system from chat_history_messages m
        where m.session_key = of_session and m.context_position > after order by m.context_position limit 1;
      if system.type <> 'system' or system.tokens >= max_tokens then
        system := null;
      end if;
    end if;
    beginning := chat_history_window_start(
      of_session, coalesce(system.position, after), max_messages, max_turns, max_tokens - coalesce(system.tokens, 0));
    if coalesce(beginning[1], beginning[2]) is null and system.position is not null then
      beginning := chat_history_window_start(of_session, after, max_messages, max_turns, max_tokens);
      if beginning[1] > system.position or beginning[2] is not null then
        system := null;
      end if;
    end if;
    start := beginning[1];
    start := coalesce(start, session.last_position + 1);
  end if;
  type := '';
  data := json_build_object(
    'epoch', coalesce(session.epoch, 0), 'revision', coalesce(session.revision, 0),
    'last_position', coalesce(session.last_position, 0));
  return next;
  if system.position < start then
    type := system.type;
    data := system.data;
    return next;
  end if;
  if beginning[2] is not null then
    return query select m.type, m.data from chat_history_messages m
      where m.session_key = of_session and m.context_position = beginning[2];
  end if;
  return query select m.type, m.data from chat_history_messages m
    where m.session_key = of_session and m.context_position >= start
    order by m.context_position;
end
$$;

CREATE FUNCTION public.chat_history_lock(text, text) RETURNS public.chat_history_sessions
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  owner alias for $1;
  name alias for $2;
  of_session constant uuid := chat_history_key(owner, name);
  session chat_history_sessions;
begin
  select s.* into session from chat_history_sessions s where s.session_key = of_session for update;
  if not found then
    if name is null or length(name) not between 1 and 1000 or length(owner) > 1000 or octet_length(owner) > 2500 then
      raise exception 'a session id has 1 to 1000 characters, a user id at most 1000 characters and 2500 bytes of UTF-8'
        using errcode = 'PT400';
    end if;
    insert into chat_history_sessions as s (session_key, user_id, session_id) values (of_session, owner, name)
      on conflict do nothing  -- on either of its two keys
      returning s.* into session;
    if not found then  -- another was faster
      select s.* into strict session from chat_history_sessions s where s.session_key = of_session for update;
    end if;
  end if;
  return session;
end
$_$;

CREATE FUNCTION public.chat_history_lock_existing(text, text) RETURNS public.chat_history_sessions
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  session chat_history_sessions;
begin
  select s.* into session from chat_history_sessions s
    where s.session_key = chat_history_key($1, $2) and s.deleted_at is null for update;
  if not found then
    raise exception 'there is no session of this name' using errcode = 'PT404';
  end if;
  return session;
end
$_$;

CREATE FUNCTION public.chat_history_mark(text, text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select '/' || $1 || '/' || encode(sha256(convert_to($2, 'UTF8')), 'hex')
$_$;

CREATE FUNCTION public.chat_history_message_fields(text, jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select coalesce(jsonb_object_agg(f.key, f.value), '{}')
    from (select e.*, jsonb_typeof(e.value) as kind from jsonb_each($2) e) f
    where case
      when f.key = 'content' then f.kind = 'string' or f.kind = 'array' and not jsonb_path_exists(
        f.value, 'strict $[*] ? (@.type() != "string" && @.type() != "object")')
      when f.key in ('name', 'id') then f.kind = 'string' or f.kind = 'null' and $1 <> 'function'
      when f.key = 'type' then f.value = to_jsonb($1)
      when f.key = 'role' then $1 = 'chat' and f.kind = 'string'
      when f.key in ('additional_kwargs', 'response_metadata') then f.kind = 'object'
      when f.key = 'example' then $1 in ('human', 'ai') and f.value = 'false'
      when f.key = 'tool_call_id' then $1 = 'tool' and f.kind = 'string'
      when f.key = 'status' then $1 = 'tool' and f.value in ('"success"', '"error"')
      when f.key = 'artifact' then $1 = 'tool'
      when f.key = 'invalid_tool_calls' then $1 = 'ai' and f.value = '[]'
      when f.key = 'tool_calls' then $1 = 'ai' and f.kind = 'array' and not exists (
        select from jsonb_path_query(f.value, '$[*]') c (call)
          where (jsonb_typeof(call -> 'name') = 'string' and jsonb_typeof(call -> 'args') = 'object'
              and coalesce(jsonb_typeof(call -> 'id'), '') in ('string', 'null')
              and coalesce(call ->> 'type', 'tool_call') = 'tool_call') is not true)
      when f.key = 'usage_metadata' then $1 = 'ai' and (f.kind = 'null' or f.kind = 'object' and (
        select count(*) filter (where u.key in ('input_tokens', 'output_tokens', 'total_tokens')) = 3
            and bool_and(case when u.key in ('input_tokens', 'output_tokens', 'total_tokens') then u.value::text ~ '^\d{1,15}$'
              else u.key in ('input_token_details', 'output_token_details') and jsonb_typeof(u.value) = 'object' and not exists (
                select from jsonb_path_query(u.value, '$.*') d (count) where d.count::text !~ '^\d{1,15}$') end)
          from jsonb_each(f.value) u))
      else false end
$_$;

CREATE FUNCTION public.chat_history_message_form(message jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select case when jsonb_typeof($1) <> 'object' then null
    when jsonb_typeof($1 -> 'type') = 'string' and jsonb_typeof($1 -> 'data') = 'object' then 'data'
    when jsonb_typeof($1 -> 'role') = 'string' then 'role'
    when jsonb_typeof($1 -> 'type') = 'string' then 'type' end
$_$;

CREATE FUNCTION public.chat_history_message_type(text, jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select case
    when n.name in ('user', 'human', 'humanmessage', 'humanmessagechunk') then 'human'
    when n.name in ('assistant', 'ai', 'aimessage', 'aimessagechunk') then 'ai'
    when n.name in ('system', 'developer', 'systemmessage', 'systemmessagechunk') then 'system'
    when n.name in ('tool', 'toolmessage') and jsonb_typeof($2 -> 'tool_call_id') = 'string' then 'tool'
    when n.name in ('function', 'functionmessage') and jsonb_typeof($2 -> 'name') = 'string' then 'function'
    else 'chat' end
    from (values (lower($1))) n (name)
$_$;

CREATE FUNCTION public.chat_history_new_messages(public.chat_history_batch, json) RETURNS public.chat_history_batch
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select row(coalesce(array_agg(n.id order by n.ord), '{}'), array_agg(n.type order by n.ord),
             array_agg(n.data order by n.ord), array_agg(n.tokens order by n.ord))::chat_history_batch
    from unnest($1.ids, $1.types, $1.data, $1.tokens) with ordinality n (id, type, data, tokens, ord)
    where n.id not in (select (k ->> 'id')::uuid from json_array_elements($2) k)
$_$;

CREATE FUNCTION public.chat_history_object(json, text) RETURNS json
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  value constant json := chat_history_json($1);
begin
  if json_typeof(value) is distinct from 'object' then
    raise exception '% must be a json object', $2 using errcode = 'PT422';
  end if;
  return value;
end
$_$;

CREATE FUNCTION public.chat_history_objects(json, text) RETURNS json
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  list constant json := coalesce(chat_history_json($1), '[]');
begin
  if json_typeof(list) <> 'array'
     or exists (select from json_array_elements(list) e (item) where json_typeof(item) <> 'object') then
    raise exception '% must be a json list of objects', $2 using errcode = 'PT422';
  end if;
  return list;
end
$_$;

CREATE FUNCTION public.chat_history_open_conversations(name text DEFAULT 'conversations'::text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_open_shares(open boolean DEFAULT true) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
begin
  execute format('create or replace function chat_history_shares_open() returns boolean
                  language sql stable set search_path from current as $code$ select %s $code$',
                 case when open then 'true' else 'false' end);
  perform chat_history_grant();
end
$_$;

CREATE FUNCTION public.chat_history_openai_calls(calls jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
begin
  return (
    select case when bool_and(jsonb_typeof(c.args) = 'object' and c.id is not null and c.name is not null) then
        jsonb_agg(jsonb_build_object('name', c.name, 'args', c.args, 'id', c.id, 'type', 'tool_call') order by c.n) end
      from (select e.n, e.item ->> 'id' as id, e.item #>> '{function,name}' as name,
              (e.item #>> '{function,arguments}')::jsonb as args
            from jsonb_array_elements($1) with ordinality e (item, n)) c);
exception when data_exception or program_limit_exceeded then
  return null;
end
$_$;

CREATE FUNCTION public.chat_history_own_metadata(metadata json) RETURNS json
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select case when json_typeof($1) <> 'object' or strpos($1::text, '"conversations_table"') = 0 then $1 else (
    select json_object_agg(e.key, e.value order by e.n)
      from json_each($1) with ordinality e (key, value, n) where e.key <> 'conversations_table') end
$_$;

CREATE FUNCTION public.chat_history_owner(user_id text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
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

CREATE FUNCTION public.chat_history_page_size(integer) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
begin
  if $1 < 1 then
    raise exception 'a page has at least 1 item' using errcode = 'PT400';
  end if;
  return least(coalesce($1, 100), 1000);
end
$_$;

CREATE FUNCTION public.chat_history_plain(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
    AS $$
  select chat_history_blank(chat_history_fold(value))
$$;

CREATE FUNCTION public.chat_history_pop_messages(session_id text, n integer DEFAULT 1, alternative uuid DEFAULT NULL::uuid, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '60s'
    AS $$
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

CREATE FUNCTION public.chat_history_prune(idle_for interval DEFAULT NULL::interval, keep_messages integer DEFAULT NULL::integer, dry_run boolean DEFAULT true, batch integer DEFAULT 500, user_id text DEFAULT NULL::text, after_session uuid DEFAULT NULL::uuid) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '60s'
    SET plan_cache_mode TO 'force_custom_plan'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
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

CREATE TABLE public.chat_history_alternatives (
    session_key uuid NOT NULL,
    user_id text NOT NULL,
    id uuid NOT NULL,
    "position" bigint NOT NULL,
    message_count bigint NOT NULL,
    parked bigint NOT NULL,
    follows uuid,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT times CHECK (((created_at >= to_timestamp(('-62135596800'::bigint)::double precision)) AND (created_at < to_timestamp(('253402214400'::bigint)::double precision))))
);

CREATE FUNCTION public.chat_history_put_back(public.chat_history_sessions, public.chat_history_alternatives, uuid) RETURNS public.chat_history_sessions
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_put_turn(public.chat_history_sessions, json, bigint, json) RETURNS public.chat_history_turns
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
#variable_conflict use_column
declare
  session alias for $1;
  turn alias for $2;
  begins_at alias for $3;
  asks alias for $4;
  given constant chat_history_turns := json_populate_record(null::chat_history_turns, turn);
  put chat_history_turns;
begin
  if given.status not in ('running', 'interrupted', 'failed', 'completed')
     or least(given.input_tokens, given.output_tokens, given.total_tokens, given.total_cost) < 0
     or given.total_cost >= 'Infinity'
     or least(given.started_at, given.ended_at) < '0001-01-01 00:00Z'
     or greatest(given.started_at, given.ended_at) >= '9999-12-31 00:00Z' then
    raise exception 'a turn''s status is running, interrupted, failed or completed, its counts and its cost are 0 or '
      'more, its times are of the years 1 to 9999' using errcode = 'PT422';
  end if;
  insert into chat_history_turns as t (session_key, user_id, id, ordinal, status, first_position, question, trace_id,
      run_id, project, started_at, ended_at, model, input_tokens, output_tokens, total_tokens, token_details, documents,
      error, metadata, first_token_seconds, total_cost)
    values (session.session_key, session.user_id, given.id, session.last_turn + 1, coalesce(given.status, 'completed'),
      begins_at, asks, given.trace_id, given.run_id, given.project, given.started_at, given.ended_at, given.model,
      given.input_tokens, given.output_tokens, given.total_tokens, given.token_details, given.documents, given.error,
      given.metadata, case when given.metadata is not null then chat_history_first_token(given) end,
      given.total_cost)
    on conflict (session_key, id) do update set
      status = chat_history_later_status(t.status, excluded.status),
      first_position = coalesce(t.first_position, excluded.first_position),
      question = case when (turn ->> 'asked')::boolean then null else t.question end,
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
      first_token_seconds = case when excluded.metadata is null then t.first_token_seconds
                                 else excluded.first_token_seconds end,
      total_cost = coalesce(excluded.total_cost, t.total_cost)
    returning t.* into put;
  return put;
end
$_$;

CREATE FUNCTION public.chat_history_read_message(message jsonb) RETURNS public.chat_history_message
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  form constant text := chat_history_message_form(message);
  named constant text := message ->> case form when 'role' then 'role' else 'type' end;
  fields constant jsonb := case when form is null and jsonb_typeof(message) <> 'object' then '{}'
    when form = 'data' then message -> 'data' else message - coalesce(form, '') end;
  read chat_history_message;
  calls jsonb;
  mark jsonb;
begin
  read.type := chat_history_message_type(named, fields);
  read.data := chat_history_message_fields(read.type, fields);
  if strpos(read.data::text, '"$type"') > 0 then  -- the library would take it for a value that JSON cannot hold
    read.data := jsonb_strip_nulls(jsonb_build_object(
      'content', fields::text, 'name', read.data -> 'name', 'tool_call_id', read.data -> 'tool_call_id'));
  end if;
  if read.type = 'ai' and not read.data ? 'tool_calls' then
    calls := chat_history_openai_calls(fields -> 'tool_calls');
    if calls is not null and strpos(calls::text, '"$type"') = 0 then
      read.data := read.data || jsonb_build_object('tool_calls', calls);
    end if;
  end if;
  if not read.data ? 'content' then
    read.data := read.data || jsonb_build_object('content', case
      when jsonb_typeof(message) = 'string' then message #>> '{}'
      when jsonb_typeof(fields -> 'content') = 'null' or read.data ? 'tool_calls' then ''
      when fields ? 'content' then (fields -> 'content')::text
      when jsonb_typeof(fields -> 'text') = 'string' then fields ->> 'text'
      else message::text end);
  end if;
  if form is not null and chat_history_in_form(form, named, read.data) = message
     and not coalesce(read.data -> 'additional_kwargs' ? 'conversations_table', false)
     and (read.type <> 'chat' or read.data ? 'role') then
    mark := jsonb_build_object('form', form, 'as', named, 'kwargs', read.data ? 'additional_kwargs');
  else
    mark := jsonb_build_object('message', message);
  end if;
  if read.type = 'chat' and not read.data ? 'role' then
    read.data := read.data || jsonb_build_object('role', coalesce(nullif(left(named, 1000), ''), 'unknown'));
  end if;
  read.data := read.data || jsonb_build_object('additional_kwargs',
    coalesce(read.data -> 'additional_kwargs', '{}') || jsonb_build_object('conversations_table', mark));
  return read;
end
$_$;

CREATE FUNCTION public.chat_history_reassign(to_user_id text, from_user_id text DEFAULT NULL::text, session_id text DEFAULT NULL::text, dry_run boolean DEFAULT false, batch integer DEFAULT NULL::integer, after_session uuid DEFAULT NULL::uuid) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '5min'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
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

CREATE FUNCTION public.chat_history_refuse(text, text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
begin
  raise exception '%', $2 using errcode = $1;
end
$_$;

CREATE FUNCTION public.chat_history_revoke_share(token text, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_revoke_share.user_id);
  everyone constant boolean := chat_history_revoke_share.user_id is null and chat_history_user() is null;
begin
  update chat_history_shares h set revoked_at = coalesce(h.revoked_at, clock_timestamp()), messages = '[]'
    where h.token_hash = sha256(convert_to(token, 'UTF8')) and (everyone or h.user_id = owner);
  if not found then
    raise exception 'there is no such share' using errcode = 'PT404';
  end if;
  return json_build_object('revoked', true);
end
$$;

CREATE FUNCTION public.chat_history_rewind_session(session_id text, before bigint DEFAULT NULL::bigint, message_id uuid DEFAULT NULL::uuid, alternative uuid DEFAULT NULL::uuid, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '60s'
    AS $$
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

CREATE TABLE public.chat_history_messages (
    session_key uuid NOT NULL,
    user_id text NOT NULL,
    "position" bigint NOT NULL,
    id uuid NOT NULL,
    turn_id uuid NOT NULL,
    type text NOT NULL,
    data json NOT NULL,
    tokens integer NOT NULL,
    in_context boolean DEFAULT true NOT NULL,
    context_position bigint GENERATED ALWAYS AS (
CASE
    WHEN in_context THEN "position"
    ELSE NULL::bigint
END) STORED,
    begins_turn boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT times CHECK (((created_at >= to_timestamp(('-62135596800'::bigint)::double precision)) AND (created_at < to_timestamp(('253402214400'::bigint)::double precision)))),
    CONSTRAINT tokens CHECK ((tokens >= 0))
);

CREATE FUNCTION public.chat_history_said(public.chat_history_messages) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select case when json_typeof($1.data -> 'content') = 'array' then coalesce((
      select string_agg(chat_history_text(json_build_object('content', case json_typeof(e.part)
          when 'string' then e.part when 'object' then e.part -> 'text' end)), '' order by e.n)
        from json_array_elements($1.data -> 'content') with ordinality e (part, n)
        where json_typeof(e.part) = 'string' or json_typeof(e.part) = 'object' and e.part ->> 'type' = 'text'), '')
    else chat_history_text($1.data) end
$_$;

CREATE FUNCTION public.chat_history_same_data(json, json) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
begin
  return $1::text = $2::text or $1::jsonb::text = $2::jsonb::text;
exception when data_exception or program_limit_exceeded then
  return false;
end
$_$;

CREATE FUNCTION public.chat_history_same_message(text, json, text, jsonb) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  stored constant jsonb := chat_history_jsonb($2);
  read chat_history_message;
begin
  if chat_history_show_message($1, $2, $3) = $4 then
    return true;
  elsif stored is null or jsonb_typeof(stored) <> 'object'
    or stored #> '{additional_kwargs,conversations_table}' is not null then
    return false;
  end if;
  read := chat_history_read_message($4);
  return read.type = $1 and not exists (
    select from jsonb_each(chat_history_unmarked(read.data)) e
      where e.key <> 'type' and stored -> e.key is distinct from e.value
        and not (not stored ? e.key and e.value in ('null', '{}', '[]', 'false', '"success"')));
end
$_$;

CREATE FUNCTION public.chat_history_save_messages(public.chat_history_sessions, text, jsonb, boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_search(query text, session_id text DEFAULT NULL::text, types text[] DEFAULT NULL::text[], since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, after json DEFAULT NULL::json, max_items integer DEFAULT NULL::integer, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '30s'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_search_parts(query text) RETURNS text[]
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
  select coalesce(array_agg(w.word), '{}')
    from regexp_split_to_table(btrim(regexp_replace(chat_history_plain(query), '\s+', ' ', 'g')), ' ') w (word)
    where w.word ~ U&'[\0E00-\0EFF\1000-\109F\1780-\17FF\2E80-\A4CF\AC00-\D7AF\F900-\FAFF\+020000-\+03FFFF]'
$$;

CREATE FUNCTION public.chat_history_search_query(query text) RETURNS tsquery
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET client_min_messages TO 'warning'
    AS $$
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

CREATE FUNCTION public.chat_history_set_costs(costs json, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  one record;
  counted bigint := 0;
begin
  for one in
    select chat_history_key(chat_history_owner(coalesce(chat_history_set_costs.user_id, n.user_id)), n.session_id)
        as session_key, n.turn_id, n.total_cost
      from json_to_recordset(chat_history_objects(costs, 'costs'))
        n (session_id text, user_id text, turn_id uuid, total_cost numeric)
      order by 1
  loop
    if one.total_cost < 0 or one.total_cost >= 'Infinity' then  -- NaN is above all numbers
      raise exception 'a cost is a number of US dollars, 0 or more' using errcode = 'PT422';
    end if;
    perform from chat_history_sessions s where s.session_key = one.session_key for update;
    update chat_history_turns t set total_cost = one.total_cost
      where t.session_key = one.session_key and t.id = one.turn_id;
    counted := counted + found::integer;
  end loop;
  return json_build_object('set', counted);
end
$$;

CREATE FUNCTION public.chat_history_settle(public.chat_history_sessions) RETURNS void
    LANGUAGE sql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_settle_streams(public.chat_history_sessions) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_share_session(session_id text, token_hash text, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '60s'
    AS $_$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_share_session.user_id);
  hash bytea;
  until constant timestamptz := chat_history_share_session.expires_at;
  session chat_history_sessions;
begin
  if (chat_history_share_session.token_hash ~ '^[0-9a-f]{64}$') is not true
     or until not between clock_timestamp() and '9999-12-31 00:00Z' then
    raise exception 'a share has the sha256 of its token in 64 hexadecimal digits, and ends in the future'
      using errcode = 'PT400';
  end if;
  hash := decode(chat_history_share_session.token_hash, 'hex');
  session := chat_history_lock_existing(owner, chat_history_share_session.session_id);
  delete from chat_history_shares h where h.session_key = session.session_key and h.expires_at < clock_timestamp();
  insert into chat_history_shares (session_key, user_id, token_hash, expires_at, messages)
    select session.session_key, owner, hash, until, coalesce((
      select json_agg(json_build_object('id', m.id, 'position', m.position, 'created_at', m.created_at,
                                        'turn_id', m.turn_id, 'type', m.type, 'data', m.data))
        from (select * from chat_history_messages m
                where m.session_key = session.session_key and m.position > session.cleared_position
                order by m.position) m), '[]')
    on conflict do nothing;
  return json_build_object('expires_at', until);
end
$_$;

CREATE FUNCTION public.chat_history_shared(token text) RETURNS json
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
declare
  items json;
begin
  select h.messages into items from chat_history_shares h
    where h.token_hash = sha256(convert_to(token, 'UTF8')) and h.revoked_at is null
      and coalesce(h.expires_at > clock_timestamp(), true) limit 1;
  if not found then
    raise exception 'there is no such share, or it has ended' using errcode = 'PT404';
  end if;
  return json_build_object('items', items);
end
$$;

CREATE FUNCTION public.chat_history_shares_open() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$ select false $$;

CREATE FUNCTION public.chat_history_shorten(text, integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  line constant text := btrim(regexp_replace(left($1, 10 * $2), '\s+', ' ', 'g'));
  cut text := left(line, $2 - 1);
begin
  if length(line) <= $2 then
    return nullif(line, '');
  end if;
  if substr(line, $2, 1) <> ' ' and strpos(cut, ' ') > 0 then
    cut := regexp_replace(cut, ' [^ ]*$', '');
    if length(cut) < $2 / 2 then  -- a word that long is cut in the middle
      cut := left(line, $2 - 1);
    end if;
  end if;
  return rtrim(cut) || '…';
end
$_$;

CREATE FUNCTION public.chat_history_show_alternative(public.chat_history_alternatives) RETURNS json
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select json_build_object('id', $1.id, 'position', $1.position, 'created_at', $1.created_at,
    'message_count', $1.message_count, 'follows', $1.follows, 'excerpt', (
      select chat_history_shorten(chat_history_text(m.data), 200) from chat_history_messages m
        where m.session_key = $1.session_key and m.position between -$1.parked and least($1.message_count, 10) - $1.parked - 1
          and chat_history_text(m.data) ~ '\S'
        order by m.position limit 1))
$_$;

CREATE FUNCTION public.chat_history_show_conversation(public.chat_history_sessions) RETURNS SETOF public.chat_history_conversation
    LANGUAGE plpgsql STABLE ROWS 1
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  whole constant jsonb := chat_history_jsonb($1.metadata);
  kept jsonb := whole -> 'conversations_table';
  shown chat_history_conversation;
begin
  if jsonb_typeof(kept) is distinct from 'object' then
    kept := null;
  end if;
  if $1.deleted_at is not null
     or $1.message_count = 0 and kept is null and ($1.title is null or $1.last_position > 0) then
    return;
  end if;
  begin
    shown.id := (kept ->> 'id')::uuid;
    shown."timestamp" := case when (kept ->> 'as_of')::timestamptz = $1.updated_at then kept ->> 'timestamp' end;
  exception when data_exception then
    shown."timestamp" := null;
  end;
  shown.id := coalesce(shown.id, $1.session_key);
  shown."timestamp" := coalesce(shown."timestamp", $1.updated_at);
  shown.session_id := case when kept is null then $1.session_id else kept ->> 'session_id' end;
  shown.tokens_history := kept -> 'tokens_history';
  shown.retriever_audits := kept -> 'retriever_audits';
  shown.analytics := kept -> 'analytics';
  shown.metadata := coalesce(chat_history_jsonb(chat_history_own_metadata($1.metadata)), kept -> 'metadata');
  shown.form := case when kept ->> 'form' in ('role', 'type', 'data') then kept ->> 'form' else 'role' end;
  return next shown;
end
$_$;

CREATE FUNCTION public.chat_history_show_message(text, json, text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  data constant jsonb := chat_history_jsonb($2);
  mark constant jsonb := data #> '{additional_kwargs,conversations_table}';
  named text;
begin
  if mark ? 'message' then
    return mark -> 'message';
  elsif mark ->> 'form' in ('role', 'type', 'data') and mark ? 'as' then
    return chat_history_in_form(mark ->> 'form', mark ->> 'as', chat_history_unmarked(data));
  end if;
  named := case when $3 in ('type', 'data') then $1 when $1 = 'human' then 'user' when $1 = 'ai' then 'assistant'
    when $1 = 'chat' then coalesce(data ->> 'role', $1) else $1 end;
  return chat_history_in_form($3, named, case when $3 <> 'data' and jsonb_typeof(data -> 'content') = 'object'
    then data || jsonb_build_object('content', chat_history_text($2)) else data end);
exception when others then
  return jsonb_build_object('role', $1, 'content', '');
end
$_$;

CREATE FUNCTION public.chat_history_show_session(public.chat_history_sessions) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  session alias for $1;
begin
  return json_build_object(
    'session_id', session.session_id, 'user_id', nullif(session.user_id, ''),
    'title', coalesce(session.title, chat_history_first_question(session)),
    'metadata', chat_history_own_metadata(session.metadata),
    'created_at', session.created_at, 'updated_at', session.updated_at, 'message_count', session.message_count,
    'last_position', session.last_position, 'epoch', session.epoch, 'revision', session.revision,
    'tags', session.tags, 'pinned', session.pinned, 'archived', session.archived, 'turn_count', session.turn_count,
    'total_tokens', session.total_tokens, 'excerpt', chat_history_last_text(session), 'forked_from', session.forked_from,
    'deleted_at', session.deleted_at);
end
$_$;

CREATE FUNCTION public.chat_history_show_turn(public.chat_history_turns) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
begin
  update chat_history_messages m set in_context = not m.in_context
    where m.session_key = $1.session_key and m.position >= $1.first_position
      and m.turn_id = $1.id and m.in_context = ($1.status = 'failed');
  return found;
end
$_$;

CREATE FUNCTION public.chat_history_stop_turn(session_id text, turn_id uuid DEFAULT NULL::uuid, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
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

CREATE FUNCTION public.chat_history_sweep(public.chat_history_sessions, integer) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_switch_to(session_id text, alternative uuid, request uuid DEFAULT NULL::uuid, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '60s'
    AS $$
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

CREATE FUNCTION public.chat_history_take_out(public.chat_history_sessions, bigint, uuid) RETURNS public.chat_history_sessions
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_take_question(public.chat_history_sessions, uuid, public.chat_history_batch, json) RETURNS public.chat_history_batch
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  session alias for $1;
  turn_id alias for $2;
  answer alias for $3;
  edited alias for $4;         -- the question as it is in the end, where it has changed; null where not
  question json;
  turn_ordinal bigint;
  taken_out boolean;
  whole chat_history_batch;
begin
  -- By its key alone: with a condition on the ordinal too, the planner may walk the session's turns by that.
  select t.question, t.ordinal, t.alternative_id is not null into question, turn_ordinal, taken_out
    from chat_history_turns t where t.session_key = session.session_key and t.id = turn_id;
  if turn_ordinal is null or turn_ordinal <= session.cleared_turn or taken_out then
    raise exception 'the session was taken back, cleared or deleted after the question was asked' using errcode = 'PT409';
  end if;
  if question is null then
    return answer;
  end if;
  select array_agg((q ->> 'id')::uuid order by n) || answer.ids, array_agg(q ->> 'type' order by n) || answer.types,
         array_agg(q -> 'data' order by n) || answer.data,
         array_agg((q ->> 'tokens')::integer order by n)
           || coalesce(answer.tokens, array_fill(null::integer, array[cardinality(answer.ids)]))
    into whole from json_array_elements(coalesce(edited, question)) with ordinality e (q, n);
  return whole;
end
$_$;

CREATE FUNCTION public.chat_history_text(data json) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  content json;
begin
  content := data -> 'content';
  return case json_typeof(content)
    when 'string' then content #>> '{}'
    -- Text with NUL or lone surrogates is an object: {"$type": "str", "value": "... \\uXXXX ..."}.
    when 'object' then coalesce(regexp_replace(content ->> 'value', '\\(?:u[0-9a-f]{4}|(\\))', '\1', 'g'), '')
    when 'array' then coalesce((
      select string_agg(case json_typeof(e.part) when 'string' then e.part #>> '{}' else e.part ->> 'text' end, E'\n')
        from json_array_elements(content) e (part)
        where json_typeof(e.part) = 'string' or json_typeof(e.part) = 'object' and e.part ->> 'type' = 'text'), '')
    else '' end;
exception when sqlstate '22P02' or sqlstate '22P05' then
  return '';
end
$_$;

CREATE FUNCTION public.chat_history_trimmed(public.chat_history_sessions, integer) RETURNS public.chat_history_sessions
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION public.chat_history_uncosted_turns(session_id text DEFAULT NULL::text, user_id text DEFAULT NULL::text, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, after_turn uuid DEFAULT NULL::uuid, max_items integer DEFAULT NULL::integer) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '60s'
    SET plan_cache_mode TO 'force_custom_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_uncosted_turns.user_id);
  everyone constant boolean := chat_history_uncosted_turns.user_id is null
    and chat_history_uncosted_turns.session_id is null and chat_history_user() is null;
  of_session constant uuid := case when chat_history_uncosted_turns.session_id is not null
                                   then chat_history_key(owner, chat_history_uncosted_turns.session_id) end;
begin
  return (
    select coalesce(json_agg(u), '[]') from (
      select s.session_id, nullif(t.user_id, '') as user_id, t.id as turn_id, coalesce(t.run_id, t.trace_id) as run_id,
          t.project, coalesce(t.started_at, t.created_at) as started_at
        from chat_history_turns t join chat_history_sessions s on s.session_key = t.session_key
        where not t.copied and (everyone or t.user_id = owner) and (of_session is null or t.session_key = of_session)
          and (since is null or coalesce(t.started_at, t.created_at) >= since)
          and (until is null or coalesce(t.started_at, t.created_at) < until)
          and (after_turn is null or t.id > after_turn)
          and t.total_cost is null and coalesce(t.run_id, t.trace_id) is not null and t.project is not null
        order by t.id limit chat_history_page_size(max_items)) u);
end
$$;

CREATE FUNCTION public.chat_history_unmarked(data jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
  select case when $1 #> '{additional_kwargs,conversations_table}' is null then $1
    when $1 #> '{additional_kwargs,conversations_table,kwargs}' = 'true'
      then $1 #- '{additional_kwargs,conversations_table}'
    else $1 - 'additional_kwargs' end
$_$;

CREATE FUNCTION public.chat_history_unsent_feedback(text, uuid, uuid, integer) RETURNS json
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $_$
  select coalesce(json_agg(u), '[]') from (
    select s.session_id, f.id, f.key, f.score, f.value, f.comment, f.updated_at, f.sent_at,
        coalesce(t.run_id, t.trace_id) as run_id, t.project, t.metadata ->> 'trace_started_at' as run_started_at
      from (
        (select * from chat_history_feedback f where f.session_key = $2 and f.id = $3 and f.unsent)
        union all
        (select * from chat_history_feedback f
           where f.user_id = $1 and f.unsent and (f.session_key, f.id) is distinct from ($2, $3)
           order by f.refusals, f.updated_at limit $4 - 1)) f
        join chat_history_turns t on t.session_key = f.session_key and t.id = f.turn_id
        join chat_history_sessions s on s.session_key = f.session_key
      order by f.id <> $3, f.refusals, f.updated_at) u
$_$;

CREATE FUNCTION public.chat_history_update_session(session_id text, changes json, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_update_session.user_id);
  given constant json := chat_history_object(changes, 'changes');
  session chat_history_sessions := chat_history_lock_existing(owner, chat_history_update_session.session_id);
  one record;
begin
  for one in select e.key, e.value, e.value #>> '{}' as text, json_typeof(e.value) as kind from json_each(given) e loop
    if one.key = 'title' and (one.kind = 'null' or one.kind = 'string' and length(one.text) between 1 and 1000) then
      session.title := one.text;
    elsif one.key = 'default_title' and one.kind = 'string' and length(one.text) between 1 and 1000 then
      session.title := coalesce(session.title, one.text);
    elsif one.key = 'tags' and one.kind = 'array' and json_array_length(one.value) <= 100 and not exists (
        select from json_array_elements(one.value) t (tag)
          where json_typeof(tag) <> 'string' or length(tag #>> '{}') not between 1 and 200) then
      session.tags := array(
        select t.tag from json_array_elements_text(one.value) with ordinality t (tag, n) group by t.tag order by min(t.n));
    elsif one.key = 'metadata' and one.kind = 'object' then
      session.metadata := (
        select json_object_agg(m.key, m.value order by m.n) from (
          select e.key, e.value, e.n from json_each(session.metadata) with ordinality e (key, value, n)
            where not exists (select from json_object_keys(one.value) k (key) where k.key = e.key)
          union all
          select e.key, e.value, 100000 + e.n from json_each(one.value) with ordinality e (key, value, n)
            where json_typeof(e.value) <> 'null') m);
    elsif one.key = 'pinned' and one.kind = 'boolean' then
      session.pinned := one.text::boolean;
    elsif one.key = 'archived' and one.kind = 'boolean' then
      session.archived := one.text::boolean;
    else
      raise exception 'changes are a title of 1 to 1000 characters, at most 100 tags of 1 to 200, metadata as an object, '
        'pinned and archived as true or false' using errcode = 'PT400';
    end if;
  end loop;
  if octet_length(chat_history_own_metadata(session.metadata)::jsonb::text) > 65536 then
    raise exception 'the metadata of a session may have 64 KB' using errcode = 'PT400';
  end if;
  update chat_history_sessions s set
      title = session.title, tags = session.tags, metadata = session.metadata, pinned = session.pinned,
      archived = session.archived, revision = s.revision + 1
    where s.session_key = session.session_key returning s.* into session;
  return chat_history_show_session(session);
end
$$;

CREATE FUNCTION public.chat_history_usage(session_id text DEFAULT NULL::text, user_id text DEFAULT NULL::text, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, group_by text[] DEFAULT NULL::text[]) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET statement_timeout TO '60s'
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_usage.user_id);
  everyone constant boolean :=
    chat_history_usage.user_id is null and chat_history_usage.session_id is null and chat_history_user() is null;
  of_session constant uuid := case when chat_history_usage.session_id is not null
                                   then chat_history_key(owner, chat_history_usage.session_id) end;
begin
  group_by := coalesce(group_by, '{}');
  if not group_by <@ array['session', 'user', 'model', 'day'] then
    raise exception 'usage is grouped by session, user, model or day' using errcode = 'PT400';
  end if;
  return (
    select coalesce(json_agg(u), '[]') from (
      select case when 'session' = any (group_by) then s.session_id end as session_id,
          case when group_by && array['session', 'user'] then nullif(t.user_id, '') end as user_id,
          case when 'model' = any (group_by) then t.model end as model,
          case when 'day' = any (group_by)
               then (coalesce(t.started_at, t.created_at) at time zone 'UTC')::date end as day,
          count(*) as turns, count(*) filter (where t.status = 'failed') as failed_turns,
          count(*) filter (where t.total_tokens is null) as unmeasured_turns,
          sum(t.input_tokens) as input_tokens, sum(t.output_tokens) as output_tokens,
          sum(t.total_tokens) as total_tokens, sum(t.total_cost) as total_cost
        from chat_history_turns t join chat_history_sessions s on s.session_key = t.session_key
        where not t.copied and (everyone or t.user_id = owner) and (of_session is null or t.session_key = of_session)
          and (since is null or coalesce(t.started_at, t.created_at) >= since)
          and (until is null or coalesce(t.started_at, t.created_at) < until)
        group by 1, 2, 3, 4 order by 4, 2, 1, 3) u);
end
$$;

CREATE FUNCTION public.chat_history_used_documents(text, timestamp with time zone, timestamp with time zone, integer) RETURNS json
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_custom_plan'
    AS $_$
begin
  return (
    select coalesce(json_agg(u), '[]') from (
      select d.source, count(*) as turns
        from chat_history_turns t cross join lateral (
          select distinct coalesce(nullif(e.document ->> 'source', ''), nullif(e.document ->> 'id', '')) as source
            from json_array_elements(case json_typeof(t.documents) when 'array' then t.documents end) e (document)) d
        where not t.copied and ($1 is null or t.user_id = $1) and d.source is not null
          and ($2 is null or coalesce(t.started_at, t.created_at) >= $2)
          and ($3 is null or coalesce(t.started_at, t.created_at) < $3)
        group by d.source order by turns desc, d.source limit $4) u);
end
$_$;

CREATE FUNCTION public.chat_history_user() RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
    AS $$
begin
  return nullif(nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub', '');
end
$$;

CREATE FUNCTION public.chat_history_version() RETURNS json
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
  select coalesce(json_object_agg(m.version, m.checksum order by m.version), '{}') from chat_history_migrations m
$$;

CREATE FUNCTION public.chat_history_window_start(uuid, bigint, integer, integer, bigint) RETURNS bigint[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  of_session alias for $1;
  after alias for $2;
  max_messages alias for $3;
  max_turns alias for $4;
  max_tokens alias for $5;
  start_at bigint;
  question_at bigint;
  earliest bigint;  -- of the messages that the limits admit
  found_at bigint;
  spent bigint := 0;
  taken bigint := 0;
  message record;
begin
  if max_messages is not null then
    select m.context_position into earliest from chat_history_messages m
      where m.session_key = of_session and m.context_position > after
      order by m.context_position desc offset max_messages - 1 limit 1;
  end if;
  if max_turns is not null then
    select m.context_position into found_at from chat_history_messages m
      where m.session_key = of_session and m.begins_turn and m.context_position > after
      order by m.context_position desc offset max_turns - 1 limit 1;
    earliest := greatest(earliest, found_at);
  end if;
  earliest := coalesce(earliest, after + 1);
  if max_tokens is null then
    start_at := earliest;
  else
    for message in
      select m.context_position as position, m.tokens from chat_history_messages m
        where m.session_key = of_session and m.context_position >= earliest
        order by m.context_position desc
    loop
      exit when spent + message.tokens > max_tokens;
      spent := spent + message.tokens;
      start_at := message.position;
    end loop;
  end if;

  select m.context_position into start_at from chat_history_messages m
    where m.session_key = of_session and m.context_position >= start_at order by m.context_position limit 1;
  perform from chat_history_messages m
    where m.session_key = of_session and m.context_position > after and m.context_position < start_at
    order by m.context_position desc limit 1;
  if start_at is not null and not found then
    return array[start_at, null];  -- all of them
  end if;
  select m.context_position into found_at from chat_history_messages m
    where m.session_key = of_session and m.type = 'human' and m.context_position >= start_at
    order by m.context_position limit 1;
  if found_at is not null then
    return array[found_at, null];
  end if;

  select m.context_position as position, m.tokens into message from chat_history_messages m
    where m.session_key = of_session and m.type = 'human' and m.context_position > after
    order by m.context_position desc limit 1;
  spent := coalesce(message.tokens, 0);
  taken := case when message.position is null then 0 else 1 end;
  start_at := null;
  if spent > max_tokens then  -- the question alone is too large: an earlier one stands for the conversation
    select m.context_position into question_at from chat_history_messages m
      where m.session_key = of_session and m.type = 'human' and m.context_position > after and m.tokens <= max_tokens
      order by m.context_position desc limit 1;
    return array[null, question_at];
  end if;
  question_at := message.position;
  for message in
    select m.context_position as position, m.tokens from chat_history_messages m
      where m.session_key = of_session and m.context_position >= greatest(earliest, question_at + 1)
      order by m.context_position desc
  loop
    exit when spent + message.tokens > max_tokens or (start_at is not null and taken >= max_messages);
    spent := spent + message.tokens;
    taken := taken + 1;
    start_at := message.position;
  end loop;
  select m.context_position into found_at from chat_history_messages m
    where m.session_key = of_session and m.type <> 'tool' and m.context_position >= start_at
    order by m.context_position limit 1;
  if found_at is not null or start_at is null then
    return array[found_at, question_at];
  end if;
  for message in  -- results alone: back to the message that called
    select m.context_position as position, m.type, m.tokens from chat_history_messages m
      where m.session_key = of_session and m.context_position > coalesce(question_at, after)
        and m.context_position < start_at
      order by m.context_position desc
  loop
    spent := spent + message.tokens;
    exit when spent > max_tokens;
    found_at := message.position;
    exit when message.type <> 'tool';
    found_at := null;
  end loop;
  return array[found_at, question_at];
end
$_$;

CREATE FUNCTION public.chat_history_words(text, uuid, json) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE COST 5000
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  body constant text := left(chat_history_text($3), 100000);
  words tsvector := to_tsvector('pg_catalog.simple', chat_history_plain(body));
begin
  if chat_history_language() <> 'pg_catalog.simple'::regconfig then
    words := words || to_tsvector(chat_history_language(), chat_history_blank(lower(normalize(body, NFC))));
  end if;
  return words || array_to_tsvector(array[chat_history_mark('u', $1), chat_history_mark('s', $2::text)]);
end
$_$;

CREATE FUNCTION public.chat_history_write_conversation() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
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

CREATE FUNCTION public.chat_history_write_deltas(session_id text, turn_id uuid, answer_id uuid DEFAULT NULL::uuid, after integer DEFAULT 0, text text DEFAULT ''::text, lease double precision DEFAULT 15, user_id text DEFAULT NULL::text) RETURNS json
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE VIEW public.chat_history_daily_usage WITH (security_invoker='true') AS
 SELECT ((COALESCE(started_at, created_at) AT TIME ZONE 'UTC'::text))::date AS day,
    NULLIF(user_id, ''::text) AS user_id,
    model,
    count(*) AS turns,
    count(*) FILTER (WHERE (status = 'failed'::text)) AS failed_turns,
    count(*) FILTER (WHERE (total_tokens IS NULL)) AS unmeasured_turns,
    sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(total_tokens) AS total_tokens,
    sum(total_cost) AS total_cost,
    percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (ended_at - started_at)))::double precision)) AS median_seconds
   FROM public.chat_history_turns t
  WHERE (NOT copied)
  GROUP BY (((COALESCE(started_at, created_at) AT TIME ZONE 'UTC'::text))::date), NULLIF(user_id, ''::text), model;

CREATE UNLOGGED TABLE public.chat_history_deltas (
    session_key uuid NOT NULL,
    user_id text NOT NULL,
    turn_id uuid NOT NULL,
    "position" integer NOT NULL,
    text text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (fillfactor='50');

CREATE VIEW public.chat_history_feedback_summary WITH (security_invoker='true') AS
 SELECT ((created_at AT TIME ZONE 'UTC'::text))::date AS day,
    NULLIF(user_id, ''::text) AS user_id,
    key,
    count(*) AS given,
    avg(score) AS average_score,
    count(comment) AS comments,
    count(*) FILTER (WHERE unsent) AS unsent
   FROM public.chat_history_feedback f
  GROUP BY (((created_at AT TIME ZONE 'UTC'::text))::date), NULLIF(user_id, ''::text), key;

CREATE VIEW public.chat_history_message_list WITH (security_invoker='true') AS
 SELECT s.session_id,
    NULLIF(m.user_id, ''::text) AS user_id,
    m."position",
    m.id,
    m.turn_id,
    m.type,
    public.chat_history_text(m.data) AS text,
    m.data,
    m.tokens,
    m.in_context,
    m.begins_turn,
    m.created_at
   FROM (public.chat_history_messages m
     JOIN public.chat_history_sessions s ON ((s.session_key = m.session_key)))
  WHERE ((s.deleted_at IS NULL) AND (m."position" > s.cleared_position));

CREATE TABLE public.chat_history_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE VIEW public.chat_history_session_list WITH (security_invoker='true') AS
 SELECT session_id,
    NULLIF(user_id, ''::text) AS user_id,
    COALESCE(title, public.chat_history_first_question(s.*)) AS title,
    tags,
    pinned,
    archived,
    public.chat_history_own_metadata(metadata) AS metadata,
    created_at,
    updated_at,
    message_count,
    turn_count,
    total_tokens,
    public.chat_history_last_text(s.*) AS excerpt,
    forked_from
   FROM public.chat_history_sessions s
  WHERE ((deleted_at IS NULL) AND ((message_count > 0) OR ((title IS NOT NULL) AND (last_position = 0))));

CREATE VIEW public.chat_history_session_usage AS
SELECT
    NULL::text AS session_id,
    NULL::text AS user_id,
    NULL::text AS title,
    NULL::bigint AS turns,
    NULL::bigint AS failed_turns,
    NULL::bigint AS unmeasured_turns,
    NULL::numeric AS input_tokens,
    NULL::numeric AS output_tokens,
    NULL::numeric AS total_tokens,
    NULL::numeric AS total_cost,
    NULL::timestamp with time zone AS first_turn_at,
    NULL::timestamp with time zone AS last_turn_at;

CREATE TABLE public.chat_history_shares (
    session_key uuid NOT NULL,
    user_id text NOT NULL,
    token_hash bytea NOT NULL,
    messages json NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone
);

CREATE UNLOGGED TABLE public.chat_history_streams (
    session_key uuid NOT NULL,
    user_id text NOT NULL,
    turn_id uuid NOT NULL,
    answer_id uuid NOT NULL,
    written integer DEFAULT 0 NOT NULL,
    open_at integer DEFAULT 0 NOT NULL,
    stopped boolean DEFAULT false NOT NULL,
    beat_at timestamp with time zone NOT NULL,
    lost_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE ONLY public.chat_history_alternatives
    ADD CONSTRAINT chat_history_alternatives_pkey PRIMARY KEY (session_key, id);

ALTER TABLE ONLY public.chat_history_deltas
    ADD CONSTRAINT chat_history_deltas_pkey PRIMARY KEY (session_key, turn_id, "position");

ALTER TABLE ONLY public.chat_history_feedback
    ADD CONSTRAINT chat_history_feedback_pkey PRIMARY KEY (session_key, id);

ALTER TABLE ONLY public.chat_history_feedback
    ADD CONSTRAINT chat_history_feedback_session_key_ordinal_key UNIQUE (session_key, ordinal);

ALTER TABLE ONLY public.chat_history_messages
    ADD CONSTRAINT chat_history_messages_pkey PRIMARY KEY (session_key, "position");

ALTER TABLE ONLY public.chat_history_messages
    ADD CONSTRAINT chat_history_messages_session_key_id_key UNIQUE (session_key, id);

ALTER TABLE ONLY public.chat_history_migrations
    ADD CONSTRAINT chat_history_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.chat_history_sessions
    ADD CONSTRAINT chat_history_sessions_pkey PRIMARY KEY (session_key);

ALTER TABLE ONLY public.chat_history_sessions
    ADD CONSTRAINT chat_history_sessions_session_key_user_id_key UNIQUE (session_key, user_id);

ALTER TABLE ONLY public.chat_history_shares
    ADD CONSTRAINT chat_history_shares_pkey PRIMARY KEY (session_key, token_hash);

ALTER TABLE ONLY public.chat_history_streams
    ADD CONSTRAINT chat_history_streams_pkey PRIMARY KEY (session_key, turn_id);

ALTER TABLE ONLY public.chat_history_streams
    ADD CONSTRAINT chat_history_streams_session_key_turn_id_user_id_key UNIQUE (session_key, turn_id, user_id);

ALTER TABLE ONLY public.chat_history_turns
    ADD CONSTRAINT chat_history_turns_pkey PRIMARY KEY (session_key, id);

ALTER TABLE ONLY public.chat_history_turns
    ADD CONSTRAINT chat_history_turns_session_key_ordinal_key UNIQUE (session_key, ordinal);

CREATE INDEX chat_history_feedback_turn ON public.chat_history_feedback USING btree (session_key, turn_id, key);

CREATE INDEX chat_history_feedback_unsent ON public.chat_history_feedback USING btree (user_id, refusals, updated_at) WHERE unsent;

CREATE INDEX chat_history_messages_context ON public.chat_history_messages USING btree (session_key, context_position) INCLUDE (tokens, type) WHERE (context_position IS NOT NULL);

CREATE INDEX chat_history_messages_turn_starts ON public.chat_history_messages USING btree (session_key, context_position) WHERE (begins_turn AND (context_position IS NOT NULL));

CREATE INDEX chat_history_sessions_activity ON public.chat_history_sessions USING btree (user_id, archived, updated_at, session_key) WHERE ((deleted_at IS NULL) AND ((message_count > 0) OR ((title IS NOT NULL) AND (last_position = 0))));

CREATE INDEX chat_history_sessions_created ON public.chat_history_sessions USING btree (user_id, archived, created_at, session_key) WHERE ((deleted_at IS NULL) AND ((message_count > 0) OR ((title IS NOT NULL) AND (last_position = 0))));

CREATE INDEX chat_history_sessions_live ON public.chat_history_sessions USING btree (user_id, session_key) WHERE (deleted_at IS NULL);

CREATE INDEX chat_history_sessions_user ON public.chat_history_sessions USING btree (user_id, session_key);

CREATE INDEX chat_history_shares_token ON public.chat_history_shares USING btree (token_hash);

CREATE INDEX chat_history_turns_alternative ON public.chat_history_turns USING btree (session_key, alternative_id) WHERE (alternative_id IS NOT NULL);

CREATE INDEX chat_history_turns_running ON public.chat_history_turns USING btree (session_key) WHERE (status = 'running'::text);

CREATE INDEX chat_history_turns_time ON public.chat_history_turns USING btree (user_id, COALESCE(started_at, created_at));

CREATE INDEX chat_history_turns_uncosted ON public.chat_history_turns USING btree (id) WHERE ((total_cost IS NULL) AND (COALESCE(run_id, trace_id) IS NOT NULL) AND (project IS NOT NULL));

CREATE OR REPLACE VIEW public.chat_history_session_usage WITH (security_invoker='true') AS
 SELECT s.session_id,
    NULLIF(s.user_id, ''::text) AS user_id,
    s.title,
    count(*) AS turns,
    count(*) FILTER (WHERE (t.status = 'failed'::text)) AS failed_turns,
    count(*) FILTER (WHERE (t.total_tokens IS NULL)) AS unmeasured_turns,
    sum(t.input_tokens) AS input_tokens,
    sum(t.output_tokens) AS output_tokens,
    sum(t.total_tokens) AS total_tokens,
    sum(t.total_cost) AS total_cost,
    min(COALESCE(t.started_at, t.created_at)) AS first_turn_at,
    max(COALESCE(t.started_at, t.created_at)) AS last_turn_at
   FROM (public.chat_history_sessions s
     JOIN public.chat_history_turns t ON ((t.session_key = s.session_key)))
  WHERE ((s.deleted_at IS NULL) AND (NOT t.copied))
  GROUP BY s.session_key;

ALTER TABLE ONLY public.chat_history_alternatives
    ADD CONSTRAINT chat_history_alternatives_session_key_user_id_fkey FOREIGN KEY (session_key, user_id) REFERENCES public.chat_history_sessions(session_key, user_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.chat_history_deltas
    ADD CONSTRAINT chat_history_deltas_session_key_turn_id_user_id_fkey FOREIGN KEY (session_key, turn_id, user_id) REFERENCES public.chat_history_streams(session_key, turn_id, user_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.chat_history_feedback
    ADD CONSTRAINT chat_history_feedback_session_key_user_id_fkey FOREIGN KEY (session_key, user_id) REFERENCES public.chat_history_sessions(session_key, user_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.chat_history_messages
    ADD CONSTRAINT chat_history_messages_session_key_user_id_fkey FOREIGN KEY (session_key, user_id) REFERENCES public.chat_history_sessions(session_key, user_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.chat_history_shares
    ADD CONSTRAINT chat_history_shares_session_key_user_id_fkey FOREIGN KEY (session_key, user_id) REFERENCES public.chat_history_sessions(session_key, user_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.chat_history_streams
    ADD CONSTRAINT chat_history_streams_session_key_turn_id_fkey FOREIGN KEY (session_key, turn_id) REFERENCES public.chat_history_turns(session_key, id) ON DELETE CASCADE;

ALTER TABLE ONLY public.chat_history_streams
    ADD CONSTRAINT chat_history_streams_session_key_user_id_fkey FOREIGN KEY (session_key, user_id) REFERENCES public.chat_history_sessions(session_key, user_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.chat_history_turns
    ADD CONSTRAINT chat_history_turns_session_key_user_id_fkey FOREIGN KEY (session_key, user_id) REFERENCES public.chat_history_sessions(session_key, user_id) ON DELETE CASCADE;

ALTER TABLE public.chat_history_alternatives ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.chat_history_deltas ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.chat_history_feedback ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.chat_history_messages ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.chat_history_migrations ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.chat_history_sessions ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.chat_history_shares ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.chat_history_streams ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.chat_history_turns ENABLE ROW LEVEL SECURITY;

CREATE POLICY owner ON public.chat_history_alternatives USING ((user_id = ( SELECT public.chat_history_user() AS chat_history_user))) WITH CHECK (((user_id = ( SELECT public.chat_history_user() AS chat_history_user)) AND (EXISTS ( SELECT
   FROM public.chat_history_sessions s
  WHERE ((s.session_key = chat_history_alternatives.session_key) AND (s.user_id = chat_history_alternatives.user_id))))));

CREATE POLICY owner ON public.chat_history_deltas USING ((user_id = ( SELECT public.chat_history_user() AS chat_history_user))) WITH CHECK (((user_id = ( SELECT public.chat_history_user() AS chat_history_user)) AND (EXISTS ( SELECT
   FROM public.chat_history_sessions s
  WHERE ((s.session_key = chat_history_deltas.session_key) AND (s.user_id = chat_history_deltas.user_id))))));

CREATE POLICY owner ON public.chat_history_feedback USING ((user_id = ( SELECT public.chat_history_user() AS chat_history_user))) WITH CHECK (((user_id = ( SELECT public.chat_history_user() AS chat_history_user)) AND (EXISTS ( SELECT
   FROM public.chat_history_sessions s
  WHERE ((s.session_key = chat_history_feedback.session_key) AND (s.user_id = chat_history_feedback.user_id))))));

CREATE POLICY owner ON public.chat_history_messages USING ((user_id = ( SELECT public.chat_history_user() AS chat_history_user))) WITH CHECK (((user_id = ( SELECT public.chat_history_user() AS chat_history_user)) AND (EXISTS ( SELECT
   FROM public.chat_history_sessions s
  WHERE ((s.session_key = chat_history_messages.session_key) AND (s.user_id = chat_history_messages.user_id))))));

CREATE POLICY owner ON public.chat_history_sessions USING ((user_id = ( SELECT public.chat_history_user() AS chat_history_user))) WITH CHECK ((user_id = ( SELECT public.chat_history_user() AS chat_history_user)));

CREATE POLICY owner ON public.chat_history_shares USING ((user_id = ( SELECT public.chat_history_user() AS chat_history_user))) WITH CHECK (((user_id = ( SELECT public.chat_history_user() AS chat_history_user)) AND (EXISTS ( SELECT
   FROM public.chat_history_sessions s
  WHERE ((s.session_key = chat_history_shares.session_key) AND (s.user_id = chat_history_shares.user_id))))));

CREATE POLICY owner ON public.chat_history_streams USING ((user_id = ( SELECT public.chat_history_user() AS chat_history_user))) WITH CHECK (((user_id = ( SELECT public.chat_history_user() AS chat_history_user)) AND (EXISTS ( SELECT
   FROM public.chat_history_sessions s
  WHERE ((s.session_key = chat_history_streams.session_key) AND (s.user_id = chat_history_streams.user_id))))));

CREATE POLICY owner ON public.chat_history_turns USING ((user_id = ( SELECT public.chat_history_user() AS chat_history_user))) WITH CHECK (((user_id = ( SELECT public.chat_history_user() AS chat_history_user)) AND (EXISTS ( SELECT
   FROM public.chat_history_sessions s
  WHERE ((s.session_key = chat_history_turns.session_key) AND (s.user_id = chat_history_turns.user_id))))));

CREATE POLICY version ON public.chat_history_migrations FOR SELECT USING (true);
