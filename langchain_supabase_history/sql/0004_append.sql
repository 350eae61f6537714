-- Appending messages to a session.
--
--   chat_history_append            the one way in: takes messages and how their turn stands
--   chat_history_take_question     the question that waits on the turn since chat_history_begin
--   chat_history_known_messages    exactly once: which of the messages are stored already
--   chat_history_new_messages      the messages without these
--   chat_history_joined_turn       the turn that messages without one of their own go on with
--
-- Positions come from the counter on the session's locked row, so an append's new messages stand in one gapless run,
-- whoever else writes. An id is stored once.

-- The messages of one call, an entry each in every list.
create type chat_history_batch as (ids uuid[], types text[], data json[], tokens integer[]);

-- The messages of a call with the question in front that has waited on its turn since chat_history_begin.
create function chat_history_take_question(chat_history_sessions, uuid, chat_history_batch, json) returns chat_history_batch
language plpgsql stable set search_path from current as $$
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
$$;

-- Whether two payloads say the same, in whichever order of keys. What jsonb cannot hold is the same as its own text only.
create function chat_history_same_data(json, json) returns boolean
language plpgsql immutable set search_path from current as $$
begin
  return $1::text = $2::text or $1::jsonb::text = $2::jsonb::text;
exception when data_exception or program_limit_exceeded then
  return false;
end
$$;

-- Which messages of a call are stored already, as they were answered the first time, in the order of their positions:
-- [{"id", "position", "turn_id", "created_at"}], null for none. It runs after the lock in statements of its own, which
-- therefore see what a first try, still running when this one came, has committed meanwhile.
create function chat_history_known_messages(uuid, uuid[], text[], json[]) returns json
language plpgsql set search_path from current as $$
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
$$;

-- The messages of a call without those that are known.
create function chat_history_new_messages(chat_history_batch, json) returns chat_history_batch
language sql immutable set search_path from current as $$
  select row(coalesce(array_agg(n.id order by n.ord), '{}'), array_agg(n.type order by n.ord),
             array_agg(n.data order by n.ord), array_agg(n.tokens order by n.ord))::chat_history_batch
    from unnest($1.ids, $1.types, $1.data, $1.tokens) with ordinality n (id, type, data, tokens, ord)
    where n.id not in (select (k ->> 'id')::uuid from json_array_elements($2) k)
$$;

-- The turn that messages go on with which neither name one nor begin with a question: that of the known ones among
-- them, else the session's last, unless it failed, for nobody would be shown them. Null: none, they open a new one.
create function chat_history_joined_turn(chat_history_sessions, json) returns chat_history_turns
language plpgsql stable set search_path from current as $$
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
$$;

-- Append messages to a session, and say how the turn they belong to stands.
--
--   ids    row ids, minted by the caller: a second try with the same ids changes nothing and gets the same answer
--   types, data, tokens   one each per id; tokens may be null (estimated from the payload)
--   turn   {"id": uuid, "status": ..., "trace_id": ..., ...}, or null: messages that begin with a human one open a
--          turn, others join that of the messages known already, else the session's last, unless it failed. With
--          "asked": true, the turn's question waits on it since chat_history_begin and is put in front of the messages
--          here; it need not be sent again, but where it has changed meanwhile, "question" takes its place. "edited"
--          has messages of the turn that have changed since they were stored
--   epoch  the session's epoch as the caller knows it: where messages were cleared or deleted since, new ids are
--          refused, so that nothing erased comes back, however late a request arrives
--   replay true where this may be a second try, which is refused too where messages were only trimmed since; false
--          where it is the first of ids that were minted for it: they are not looked up, and the unique key refuses
--          them should it arrive after its second try
--   replace  whether the messages take the place of all that there are
--   whole  the ids belong together: where only some of them are known, the call is refused
--
-- Answers {"epoch", "revision", "last_position", "first_position", "turn_id", "created_at", "known"}. The new messages
-- stand, in the order of ids, in one gapless run of positions from first_position on; those that were known already are
-- listed as they were answered the first time: [{"id", "position", "turn_id", "created_at"}].
create function chat_history_append(
  session_id text, ids uuid[] default '{}', types text[] default '{}', data json[] default '{}',
  tokens integer[] default null, turn json default null, user_id text default null, epoch integer default null,
  replace boolean default null, replay boolean default null, whole boolean default null)
returns json
language plpgsql set search_path from current set plan_cache_mode to force_generic_plan as $$
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

select chat_history_grant();
