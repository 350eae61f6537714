-- Security: whose rows are whose, and who may use what.
--
--   chat_history_owner   the user that a call works for, or a refusal
--   policies             a row is its user's
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
create policy owner on chat_history_sessions
  using (user_id = (select chat_history_user())) with check (user_id = (select chat_history_user()));
create policy owner on chat_history_messages
  using (user_id = (select chat_history_user())) with check (user_id = (select chat_history_user()));
create policy owner on chat_history_turns
  using (user_id = (select chat_history_user())) with check (user_id = (select chat_history_user()));
create policy owner on chat_history_feedback
  using (user_id = (select chat_history_user())) with check (user_id = (select chat_history_user()));

-- Who may use what: Supabase's signed-in users and its service role, where these exist, and `extra_role` where one is
-- named (an application's login that does not own the tables). Run it again when such a role comes later, or when
-- something has granted more. All is revoked first: default privileges have often granted too much already, truncate
-- among it, which row level security does not hold back.
--
-- It goes by what there is: tables with a policy may be read and written, views may be read, functions be called. A
-- table without a policy, and this function, are the owner's alone.
create function chat_history_grant(extra_role text default null) returns void
language plpgsql set search_path from current as $$
declare
  home constant oid := (select p.pronamespace from pg_proc p where p.oid = 'chat_history_grant'::regproc);
  relations constant text := (
    select string_agg(c.oid::regclass::text, ', ') from pg_class c
      where c.relnamespace = home and c.relkind in ('r', 'p', 'v') and c.relname like 'chat\_history\_%');
  written constant text := (
    select string_agg(c.oid::regclass::text, ', ') from pg_class c
      where c.relnamespace = home and c.relkind in ('r', 'p') and c.relname like 'chat\_history\_%'
        and exists (select from pg_policy p where p.polrelid = c.oid));
  views constant text := (
    select string_agg(c.oid::regclass::text, ', ') from pg_class c
      where c.relnamespace = home and c.relkind = 'v' and c.relname like 'chat\_history\_%');
  functions constant text := (
    select string_agg(p.oid::regprocedure::text, ', ') from pg_proc p
      where p.pronamespace = home and p.proname like 'chat\_history\_%');
  name text;
begin
  if extra_role is not null and to_regrole(quote_ident(extra_role)) is null then
    raise exception 'role % does not exist', extra_role using errcode = '42704';
  end if;
  execute format('revoke all on table %s from public', relations);
  execute format('revoke all on function %s from public', functions);
  for name in
    select r.rolname from pg_roles r
      where r.rolname in ('anon', 'authenticated', 'service_role') or r.rolname = extra_role
  loop
    execute format('revoke all on table %s from %I', relations, name);
    execute format('revoke all on function %s from %I', functions, name);
    continue when name = 'anon';
    if not has_schema_privilege(name, home, 'usage') then
      execute format('grant usage on schema %s to %I', home::regnamespace, name);
    end if;
    execute format('grant select, insert, update, delete on table %s to %I', written, name);
    if views is not null then
      execute format('grant select on table %s to %I', views, name);
    end if;
    execute format('grant execute on function %s to %I', functions, name);
    execute format('revoke all on function chat_history_grant(text) from %I', name);
  end loop;
end
$$;

select chat_history_grant();
