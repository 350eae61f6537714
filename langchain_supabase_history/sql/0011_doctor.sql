-- The doctor: which migrations are applied, and how the schema is really guarded. Both answer over the Data API too,
-- where nothing else can be asked.
--
--   chat_history_version   the ledger of migrations
--   chat_history_guards    row level security, policies and rights as they are

-- The ledger: {"<version>": "<checksum>"}. It tells of no user and takes no argument.
create function chat_history_version() returns json
language sql stable set search_path from current as $$
  select coalesce(json_object_agg(m.version, m.checksum order by m.version), '{}') from chat_history_migrations m
$$;

-- Who asks, and how tables, views and functions of ours are guarded: {"role", "user", "bypasses", "server_version",
-- "roles": [which of Supabase's exist], "relations": [{"name", "kind", "row_security", "policies", "privileges"}],
-- "functions": [{"name", "execute": [roles]}]}. Privileges are as PostgreSQL decides, whatever they come from; a view
-- has row security where it reads as its caller.
create function chat_history_guards() returns json
language sql stable set search_path from current as $$
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

select chat_history_grant();
