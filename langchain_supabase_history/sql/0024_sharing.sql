-- Shares: a conversation as it stands now, to be read by whoever holds a token.
--
--   chat_history_share_session   makes one
--   chat_history_revoke_share    takes it back
--   chat_history_shared          what a token shows
--   chat_history_open_shares     lets a public key without a user ask that too: nobody but signed-in users may until then
--
-- The token itself is stored nowhere. What is shared does not change when the conversation does; it goes when the
-- conversation is cleared or deleted.

-- Share what chat_history_list_messages shows now. Answers {"expires_at"}.
--
--   token_hash   sha256 of the token, in hexadecimal; a second try with the same changes nothing
--   expires_at   until when; null for no end
create function chat_history_share_session(
  session_id text, token_hash text, expires_at timestamptz default null, user_id text default null)
returns json
language plpgsql set search_path from current set statement_timeout to '60s' as $$
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
$$;

-- Take a share back. Its hash stays, without content: a second try is answered like the first. The application itself
-- may take back everybody's.
create function chat_history_revoke_share(token text, user_id text default null) returns json
language plpgsql set search_path from current as $$
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

-- What a token shows: {"items": [as chat_history_list_messages]}. It runs as the tables' owner, for whoever holds the
-- token may be nobody's user; it reads the one copy that has the token's hash, and nothing else.
create function chat_history_shared(token text) returns json
language plpgsql stable security definer set search_path from current as $$
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

-- Let a public key without a user read shares, or no longer. For the tables' owner alone.
create function chat_history_open_shares(open boolean default true) returns void
language plpgsql set search_path from current as $$
begin
  execute format('create or replace function chat_history_shares_open() returns boolean
                  language sql stable set search_path from current as $code$ select %s $code$',
                 case when open then 'true' else 'false' end);
  perform chat_history_grant();
end
$$;

select chat_history_grant();
