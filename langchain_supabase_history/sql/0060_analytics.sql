-- Analytics: how an application is used, for its owner.
--
--   chat_history_analytics       altogether, by day, by model, with feedback and the documents that were used most
--   chat_history_used_documents  the last part of it

-- The documents that most turns used, of the turns of a user (null: of all), from one time to another:
-- [{"source", "turns"}]. A document is known by its source, or where it has none by its id. The arguments: user, since,
-- until, how many.
create function chat_history_used_documents(text, timestamptz, timestamptz, integer) returns json
language plpgsql stable set search_path from current set plan_cache_mode to force_custom_plan as $$
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
$$;

-- How the conversations went that the caller may see. Turns count as in chat_history_usage: cleared ones too, until
-- `prune` removes them; copies of a fork do not.
--
--   since, until   from the first up to, but without, the second
--   time_zone      the days' own, by its IANA name; UTC by default
--   max_documents  how many of the most used documents; 20 by default, 0 for none
--   user_id        of one user; else of all that the caller may see
--
-- Answers {"groups": [{"kind", "day", "model", "turns", "failed_turns", "interrupted_turns", "unmeasured_turns",
-- "sessions", "users", "input_tokens", "output_tokens", "total_tokens", "total_cost", "seconds",
-- "first_token_seconds"}], "feedback": [{"key", "given", "average_score", "comments"}], "documents": [{"source",
-- "turns"}], "documents_since": ...}. `kind` is total, day or model. Seconds are [median, 95th percentile] of the
-- completed turns. A sum of nothing known is null. Documents are read of the newest days that together have 50,000 turns:
-- `documents_since` is when these begin, or null where there are no others.
create function chat_history_analytics(
  since timestamptz default null, until timestamptz default null, time_zone text default null,
  max_documents integer default null, user_id text default null)
returns json
language plpgsql stable set search_path from current
  set statement_timeout to '60s' set plan_cache_mode to force_custom_plan
  set work_mem to '32MB' as $$  -- each figure of each group is a sort: a quarter of a million turns in memory
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

select chat_history_grant();
