-- Usage and feedback: what turns cost, what people thought of them, and what LangSmith has been told of it.

-- When a turn was held: as told by who held it, else when it was stored.
create index chat_history_turns_time on chat_history_turns (user_id, (coalesce(started_at, created_at)));

create index chat_history_feedback_turn on chat_history_feedback (session_key, turn_id, key);
create index chat_history_feedback_unsent on chat_history_feedback (user_id, updated_at) where unsent;

-- Feedback -------------------------------------------------------------------------------------------------

-- What LangSmith has yet to be told by an owner, the oldest first: a row each with all that telling needs.
create function chat_history_unsent_feedback(owner text, first uuid, max_items integer) returns json
language sql stable set search_path from current as $$
  select coalesce(json_agg(u), '[]') from (
    select s.session_id, f.id, f.key, f.score, f.value, f.comment, f.updated_at, f.sent_at,
        coalesce(t.run_id, t.trace_id) as run_id, t.project, t.metadata ->> 'trace_started_at' as run_started_at
      from (select * from chat_history_feedback f where f.user_id = owner and f.unsent
              order by f.id <> first, f.refusals, f.updated_at limit max_items) f
        join chat_history_turns t on t.session_key = f.session_key and t.id = f.turn_id
        join chat_history_sessions s on s.session_key = f.session_key
      order by f.id <> first, f.refusals, f.updated_at) u
$$;

-- Store what somebody thought of a turn, or of one message of it. There is one feedback of each key on a turn, and on
-- a message: giving it again, which is a changed mind, replaces it.
--
--   feedback  {"id": minted by the caller, "turn_id" or "message_id", "key", "score", "value", "comment", "metadata",
--             "created_at", "sent_at"}; value is any json, wrapped: {"value": ...}. With sent_at it comes from
--             LangSmith, where there may be several of one key: it replaces the one with its id only.
--
-- Answers {"feedback": the row, "unsent": what LangSmith has yet to be told, this one first}.
create function chat_history_add_feedback(session_id text, feedback json, user_id text default null) returns json
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_add_feedback.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_add_feedback.session_id);
  given chat_history_feedback := json_populate_record(null::chat_history_feedback, chat_history_json(feedback));
  session chat_history_sessions;
  of_turn chat_history_turns;
  stored chat_history_feedback;
begin
  if given.id is null or coalesce(given.key, '') = '' then
    raise exception 'feedback needs an id and a key' using errcode = 'PT422';
  end if;
  select s.* into session from chat_history_sessions s where s.session_key = of_session and s.deleted_at is null for update;
  if given.message_id is not null then
    select m.turn_id into given.turn_id from chat_history_messages m
      where m.session_key = of_session and m.id = given.message_id and m.position > session.cleared_position;
    if not found then
      raise exception 'the session has no such message' using errcode = 'PT404';
    end if;
  end if;
  select t.* into of_turn from chat_history_turns t
    where t.session_key = of_session and t.id = given.turn_id and t.ordinal > session.cleared_turn;
  if not found then
    raise exception 'the session has no such turn' using errcode = 'PT404';
  end if;

  select f.* into stored from chat_history_feedback f
    where f.session_key = of_session and (f.id = given.id or (given.sent_at is null and f.turn_id = given.turn_id
      and f.message_id is not distinct from given.message_id and f.key = given.key))
    order by f.id <> given.id, f.ordinal desc limit 1;
  if not found then
    insert into chat_history_feedback (session_key, user_id, id, turn_id, message_id, key, score, value, comment, metadata,
        created_at, updated_at, ordinal, sent_at, unsent)
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
    case when given.sent_at is null then chat_history_unsent_feedback(owner, stored.id, 20) else '[]' end);
end
$$;

-- Note what LangSmith has taken: [{"session_id", "id", "updated_at", "refused": where it has not}]. Feedback that was
-- changed since stays unsent; so does what was refused, for its run may not have arrived yet. Answers {"sent": how many
-- rows there were}.
create function chat_history_feedback_sent(feedback json, user_id text default null) returns json
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_feedback_sent.user_id);
  one record;
  counted bigint := 0;
begin
  for one in
    select chat_history_key(owner, n.session_id) as session_key, n.id, n.updated_at,
        coalesce(n.refused, false) as refused
      from json_to_recordset(chat_history_json(feedback))
        n (session_id text, id uuid, updated_at timestamptz, refused boolean)
      order by 1
  loop
    perform from chat_history_sessions s where s.session_key = one.session_key for update;
    update chat_history_feedback f set
        sent_at = case when one.refused then f.sent_at else clock_timestamp() end,
        refusals = f.refusals + one.refused::integer,
        unsent = f.updated_at <> one.updated_at or (one.refused and f.refusals < 9)
      where f.session_key = one.session_key and f.id = one.id;
    counted := counted + found::integer;
  end loop;
  return json_build_object('sent', counted);
end
$$;

-- A page of a session's feedback: {"items": [...], "next"}; arguments as for chat_history_list_messages.
create function chat_history_list_feedback(
  session_id text, user_id text default null, after bigint default null, max_items integer default null)
returns json
language plpgsql stable set search_path from current as $$
#variable_conflict use_column
declare
  owner constant text := chat_history_owner(chat_history_list_feedback.user_id);
  of_session constant uuid := chat_history_key(owner, chat_history_list_feedback.session_id);
  hidden constant bigint :=
    coalesce((select s.cleared_turn from chat_history_sessions s where s.session_key = of_session), 0);
  items json;
  counted integer;
  last bigint;
begin
  max_items := least(coalesce(max_items, 100), 1000);
  select json_agg(to_json(f)), count(*), max(f.ordinal) into items, counted, last
    from (select f.* from chat_history_feedback f
            join chat_history_turns t on t.session_key = f.session_key and t.id = f.turn_id and t.ordinal > hidden
          where f.session_key = of_session and f.ordinal > coalesce(after, 0)
          order by f.ordinal limit max_items) f;
  return json_build_object('items', coalesce(items, '[]'), 'next', case when counted = max_items then last end);
end
$$;

-- Usage ----------------------------------------------------------------------------------------------------

-- Sums over turns, failed ones and cleared ones included, for their tokens were spent; until `prune` removes them.
--
--   session_id, user_id   whose turns; with neither, all that the caller may see
--   since, until   from the first up to, but without, the second
--   group_by   some of session, user, model, day (in UTC); sessions are told apart by user too
--
-- Answers [{"session_id", "user_id", "model", "day", "turns", "failed_turns", "unmeasured_turns", "input_tokens",
-- "output_tokens", "total_tokens", "total_cost"}]. Turns of unknown tokens are counted as unmeasured; a sum of nothing
-- known is null.
create function chat_history_usage(
  session_id text default null, user_id text default null, since timestamptz default null,
  until timestamptz default null, group_by text[] default null)
returns json
language plpgsql stable set search_path from current
  set statement_timeout to '60s' set plan_cache_mode to force_custom_plan as $$
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
          sum(t.input_tokens)::bigint as input_tokens, sum(t.output_tokens)::bigint as output_tokens,
          sum(t.total_tokens)::bigint as total_tokens, sum(t.total_cost) as total_cost
        from chat_history_turns t join chat_history_sessions s on s.session_key = t.session_key
        where (everyone or t.user_id = owner) and (of_session is null or t.session_key = of_session)
          and (since is null or coalesce(t.started_at, t.created_at) >= since)
          and (until is null or coalesce(t.started_at, t.created_at) < until)
        group by 1, 2, 3, 4 order by 4, 2, 1, 3) u);
end
$$;

-- Turns with a trace whose cost is not known yet, by id: [{"session_id", "user_id", "turn_id", "run_id", "project",
-- "started_at"}].
create function chat_history_uncosted_turns(
  session_id text default null, user_id text default null, since timestamptz default null,
  until timestamptz default null, after_turn uuid default null, max_items integer default null)
returns json
language plpgsql stable set search_path from current
  set statement_timeout to '60s' set plan_cache_mode to force_custom_plan as $$
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
        where (everyone or t.user_id = owner) and (of_session is null or t.session_key = of_session)
          and (since is null or coalesce(t.started_at, t.created_at) >= since)
          and (until is null or coalesce(t.started_at, t.created_at) < until)
          and (after_turn is null or t.id > after_turn)
          and t.total_cost is null and coalesce(t.run_id, t.trace_id) is not null and t.project is not null
        order by t.id limit least(coalesce(max_items, 100), 1000)) u);
end
$$;

-- Write down what turns cost: [{"session_id", "user_id", "turn_id", "total_cost"}]. Answers {"set": how many}.
create function chat_history_set_costs(costs json, user_id text default null) returns json
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  one record;
  counted bigint := 0;
begin
  for one in
    select chat_history_key(chat_history_owner(coalesce(chat_history_set_costs.user_id, n.user_id)), n.session_id)
        as session_key, n.turn_id, n.total_cost
      from json_to_recordset(chat_history_json(costs)) n (session_id text, user_id text, turn_id uuid, total_cost numeric)
      order by 1
  loop
    perform from chat_history_sessions s where s.session_key = one.session_key for update;
    update chat_history_turns t set total_cost = one.total_cost
      where t.session_key = one.session_key and t.id = one.turn_id;
    counted := counted + found::integer;
  end loop;
  return json_build_object('set', counted);
end
$$;

-- Views for dashboards. They run as who reads them, so each user sees no more than the tables would show. ---------

create view chat_history_daily_usage with (security_invoker = true) as
  select (coalesce(t.started_at, t.created_at) at time zone 'UTC')::date as day, nullif(t.user_id, '') as user_id,
      t.model, count(*) as turns, count(*) filter (where t.status = 'failed') as failed_turns,
      count(*) filter (where t.total_tokens is null) as unmeasured_turns, sum(t.input_tokens)::bigint as input_tokens,
      sum(t.output_tokens)::bigint as output_tokens, sum(t.total_tokens)::bigint as total_tokens,
      sum(t.total_cost) as total_cost,
      percentile_cont(0.5) within group (order by extract(epoch from t.ended_at - t.started_at)) as median_seconds
    from chat_history_turns t group by 1, 2, 3;

create view chat_history_session_usage with (security_invoker = true) as
  select s.session_id, nullif(s.user_id, '') as user_id, s.title, count(*) as turns,
      count(*) filter (where t.status = 'failed') as failed_turns,
      count(*) filter (where t.total_tokens is null) as unmeasured_turns, sum(t.input_tokens)::bigint as input_tokens,
      sum(t.output_tokens)::bigint as output_tokens, sum(t.total_tokens)::bigint as total_tokens,
      sum(t.total_cost) as total_cost, min(coalesce(t.started_at, t.created_at)) as first_turn_at,
      max(coalesce(t.started_at, t.created_at)) as last_turn_at
    from chat_history_sessions s join chat_history_turns t on t.session_key = s.session_key
    where s.deleted_at is null group by s.session_key;

create view chat_history_feedback_summary with (security_invoker = true) as
  select (f.created_at at time zone 'UTC')::date as day, nullif(f.user_id, '') as user_id, f.key,
      count(*) as given, avg(f.score) as average_score, count(f.comment) as comments,
      count(*) filter (where f.unsent) as unsent
    from chat_history_feedback f group by 1, 2, 3;

select chat_history_grant();
