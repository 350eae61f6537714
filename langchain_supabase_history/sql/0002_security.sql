-- Security: whose rows are whose, and who may use what.
--
--   chat_history_owner   the user that a call works for, or a refusal
--   policies             a row is its user's
--   chat_history_shares_open   whether a public key without a user may read shares
--   chat_history_grant   rights by name, after all others are revoked; each migration ends by calling it

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

-- Row level security: a row is its user's, and nobody else's. Only in this form is the policy one comparison for
-- the whole query. Logins that own the tables or have `bypassrls` (service_role) are the application itself.
--
-- A row is written only into a session of the user's own. The foreign key would refuse all else too, but at the end of
-- the statement: until then the row's entry in a unique index would make the true owner's append wait for it.
create policy owner on chat_history_sessions
  using (user_id = (select chat_history_user())) with check (user_id = (select chat_history_user()));
create policy owner on chat_history_messages
  using (user_id = (select chat_history_user()))
  with check (user_id = (select chat_history_user()) and exists (
    select from chat_history_sessions s
      where s.session_key = chat_history_messages.session_key and s.user_id = chat_history_messages.user_id));
create policy owner on chat_history_turns
  using (user_id = (select chat_history_user()))
  with check (user_id = (select chat_history_user()) and exists (
    select from chat_history_sessions s
      where s.session_key = chat_history_turns.session_key and s.user_id = chat_history_turns.user_id));
create policy owner on chat_history_feedback
  using (user_id = (select chat_history_user()))
  with check (user_id = (select chat_history_user()) and exists (
    select from chat_history_sessions s
      where s.session_key = chat_history_feedback.session_key and s.user_id = chat_history_feedback.user_id));
create policy owner on chat_history_alternatives
  using (user_id = (select chat_history_user()))
  with check (user_id = (select chat_history_user()) and exists (
    select from chat_history_sessions s
      where s.session_key = chat_history_alternatives.session_key and s.user_id = chat_history_alternatives.user_id));
create policy owner on chat_history_shares
  using (user_id = (select chat_history_user()))
  with check (user_id = (select chat_history_user()) and exists (
    select from chat_history_sessions s
      where s.session_key = chat_history_shares.session_key and s.user_id = chat_history_shares.user_id));

-- The ledger says which migrations are applied, which is no secret; it is read and never written.
create policy version on chat_history_migrations for select using (true);

-- Whether a public key without a user may read what is shared: not until chat_history_open_shares says so.
create function chat_history_shares_open() returns boolean
language sql stable set search_path from current as $$ select false $$;

-- Who may use what: Supabase's signed-in users and its service role, where these exist, and `extra_role` where one is
-- named (an application's login that does not own the tables). Run it again when such a role comes later, or when
-- something has granted more. All is revoked first: default privileges have often granted too much already, truncate
-- among it, which row level security does not hold back.
--
-- Rights follow the policies: a table with one for every command may be read and written, a table with one for select
-- may be read, a table without any is the owner's alone, and so is this function. Views may be read, functions called.
-- A view that chat_history_open_conversations has made is known by its trigger, whatever its name; it may be written.
--
-- Each migration ends by calling it without a name. A role that was named before is then granted what is new: it is
-- known by its right to write sessions, which nothing but this function gives it.
create function chat_history_grant(extra_role text default null) returns void
language plpgsql set search_path from current as $$
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

select chat_history_grant();
