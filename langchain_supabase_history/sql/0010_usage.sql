-- Usage: what turns cost.
--
--   chat_history_usage             sums by session, user, model or day
--   chat_history_uncosted_turns    turns whose cost is still to be asked for
--   chat_history_set_costs         writes costs down
--   views for dashboards           chat_history_daily_usage, _session_usage, _feedback_summary

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
          sum(t.input_tokens) as input_tokens, sum(t.output_tokens) as output_tokens,
          sum(t.total_tokens) as total_tokens, sum(t.total_cost) as total_cost
        from chat_history_turns t join chat_history_sessions s on s.session_key = t.session_key
        where not t.copied and (everyone or t.user_id = owner) and (of_session is null or t.session_key = of_session)
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
  set statement_timeout to '60s' set plan_cache_mode to force_custom_plan set enable_seqscan to off
  set enable_bitmapscan to off set enable_sort to off set enable_hashjoin to off set enable_mergejoin to off as $$
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

-- Views for dashboards. They run as who reads them, so each user sees no more than the tables would show. ---------

create view chat_history_daily_usage with (security_invoker = true) as
  select (coalesce(t.started_at, t.created_at) at time zone 'UTC')::date as day, nullif(t.user_id, '') as user_id,
      t.model, count(*) as turns, count(*) filter (where t.status = 'failed') as failed_turns,
      count(*) filter (where t.total_tokens is null) as unmeasured_turns, sum(t.input_tokens) as input_tokens,
      sum(t.output_tokens) as output_tokens, sum(t.total_tokens) as total_tokens,
      sum(t.total_cost) as total_cost,
      percentile_cont(0.5) within group (order by extract(epoch from t.ended_at - t.started_at)) as median_seconds
    from chat_history_turns t where not t.copied group by 1, 2, 3;

create view chat_history_session_usage with (security_invoker = true) as
  select s.session_id, nullif(s.user_id, '') as user_id, s.title, count(*) as turns,
      count(*) filter (where t.status = 'failed') as failed_turns,
      count(*) filter (where t.total_tokens is null) as unmeasured_turns, sum(t.input_tokens) as input_tokens,
      sum(t.output_tokens) as output_tokens, sum(t.total_tokens) as total_tokens,
      sum(t.total_cost) as total_cost, min(coalesce(t.started_at, t.created_at)) as first_turn_at,
      max(coalesce(t.started_at, t.created_at)) as last_turn_at
    from chat_history_sessions s join chat_history_turns t on t.session_key = s.session_key
    where s.deleted_at is null and not t.copied group by s.session_key;

create view chat_history_feedback_summary with (security_invoker = true) as
  select (f.created_at at time zone 'UTC')::date as day, nullif(f.user_id, '') as user_id, f.key,
      count(*) as given, avg(f.score) as average_score, count(f.comment) as comments,
      count(*) filter (where f.unsent) as unsent
    from chat_history_feedback f group by 1, 2, 3;

select chat_history_grant();
