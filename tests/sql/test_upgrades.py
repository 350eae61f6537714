"""Later migrations: roles keep their rights, nobody waits long, indexes are built beside running writers."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import tenacity
from langchain_core.messages import HumanMessage

from langchain_supabase_history import HistoryStore, NotFound, migrate
from langchain_supabase_history.migrations import LOCK_SECONDS, Migration, applied, apply, migrations, script

from .. import servers

LATER = Migration(
    9000,
    "9000_later",
    """
drop function chat_history_clear(text, text, uuid);
create function chat_history_clear(session_id text, user_id text default null, request uuid default null,
                                   further text default null) returns json
language sql set search_path from current as $$ select json_build_object('epoch', 0, 'revision', 0, 'cleared', 7) $$;
create function chat_history_brand_new() returns integer language sql set search_path from current as $$ select 1 $$;
create table chat_history_brand_new (session_key uuid, user_id text);
alter table chat_history_brand_new enable row level security;
create policy owner on chat_history_brand_new using (user_id = (select chat_history_user()));
create table chat_history_closed (secret text);
alter table chat_history_closed enable row level security;
select chat_history_grant();
""",
)
INDEX = Migration(
    9001,
    "9001_index.concurrently",
    'create index concurrently if not exists chat_history_messages_later on :"schema".chat_history_messages (type);\n',
)
ONCE = apply.retry_with(stop=tenacity.stop_after_attempt(1))


def connect(conninfo: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(conninfo, autocommit=True)


def value(conn: psycopg.Connection[tuple[object, ...]], query: str, *params: object) -> object:
    row = conn.execute(query.encode(), params).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def role(pg: servers.Postgres) -> str:
    name = f"app_{uuid.uuid4().hex[:12]}"
    pg.execute(f"create role {name} login")
    return name


@pytest.mark.parametrize("granted_after", [2, 5, len(migrations())])
def test_a_role_that_was_granted_is_granted_what_later_migrations_make(
    empty_database: str, role: str, granted_after: int
) -> None:
    with connect(empty_database) as conn:
        for migration in migrations()[:granted_after]:
            apply(conn, migration)
        conn.execute("select chat_history_grant(%s)", [role])
        for migration in [*migrations()[granted_after:], LATER]:
            apply(conn, migration)
        lacking = conn.execute(
            "select p.oid::regprocedure::text from pg_proc p where p.proname like 'chat\\_history\\_%%' "
            "and not has_function_privilege(%s, p.oid, 'execute')",
            [role],
        ).fetchall()
        names = {str(function).partition("(")[0] for (function,) in lacking}
        alone = ("grant", "index_search", "open_conversations", "open_shares", "write_conversation")
        assert names == {f"chat_history_{name}" for name in alone}
        assert value(conn, "select has_table_privilege(%s, 'chat_history_brand_new', 'insert')", role)
        assert not value(conn, "select has_table_privilege(%s, 'chat_history_closed', 'select')", role)
        assert not value(conn, "select has_table_privilege(%s, 'chat_history_messages', 'truncate')", role)
    with psycopg.connect(servers_url(empty_database, role)) as app:
        app.execute("select set_config('request.jwt.claims', '{\"sub\": \"ada\"}', true)")
        assert app.execute("select chat_history_clear('s')").fetchone() is not None
        assert app.execute("select chat_history_brand_new()").fetchone() == (1,)


def servers_url(conninfo: str, user: str) -> str:
    return conninfo.replace("//postgres@", f"//{user}@")


def test_a_role_that_may_read_one_table_is_given_no_more(database: str, role: str) -> None:
    with connect(database) as conn:
        conn.execute(f"grant select on chat_history_sessions to {role}".encode())
        conn.execute("select chat_history_grant()")
        assert value(conn, "select has_table_privilege(%s, 'chat_history_sessions', 'select')", role)
        assert not value(conn, "select has_table_privilege(%s, 'chat_history_messages', 'select')", role)
        assert not value(conn, "select has_function_privilege(%s, 'chat_history_version()', 'execute')", role)


def test_a_migration_waits_for_a_lock_only_shortly_and_so_does_what_is_behind_it(database: str) -> None:
    changes = Migration(9002, "9002_alters", "alter table chat_history_messages add column later integer;")
    with connect(database) as reader, connect(database) as conn, HistoryStore.from_postgres(database) as store:
        with reader.transaction(), ThreadPoolExecutor(1) as pool:
            reader.execute("select count(*) from chat_history_messages")
            waiting = pool.submit(ONCE, conn, changes)
            appended = store.append("s", [HumanMessage("q")])  # behind the migration, if that waits already
            with pytest.raises(psycopg.errors.LockNotAvailable):
                waiting.result(timeout=LOCK_SECONDS * 5)
            assert appended
        ONCE(conn, changes)
        assert 9002 in applied(conn)


def test_a_migration_leaves_the_settings_of_an_outer_transaction(database: str) -> None:
    with psycopg.connect(database) as conn:
        conn.execute("set local lock_timeout = '77s'")
        conn.execute(Migration(9003, "9003_nothing", "select 1;").statement().encode())
        assert value(conn, "show lock_timeout") == "77s"


def test_what_an_interrupted_index_has_left_is_made_again(database: str) -> None:
    valid = "select indisvalid from pg_index where indexrelid = to_regclass('chat_history_messages_later')"
    with connect(database) as writer, connect(database) as conn:
        with writer.transaction():
            writer.execute("select chat_history_append('s', array[gen_random_uuid()], '{human}', '{\"{}\"}')")
            conn.execute("set statement_timeout = '300ms'")  # building it waits for the writer
            with pytest.raises(psycopg.errors.QueryCanceled):
                apply(conn, INDEX)
        conn.execute("reset statement_timeout")
        assert value(conn, valid) is False
        assert INDEX.version not in applied(conn)
        apply(conn, INDEX)
        assert value(conn, valid) is True
        assert applied(conn)[INDEX.version] == INDEX.checksum
        apply(conn, INDEX)
        assert value(conn, "select count(*) from pg_index where not indisvalid") == 0


def test_an_index_is_built_once_by_several(database: str) -> None:
    def build(_: int) -> None:
        with connect(database) as conn:
            apply(conn, INDEX)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(build, range(3)))
    with connect(database) as conn:
        assert value(conn, "select count(*) from pg_index where not indisvalid") == 0
        assert applied(conn)[INDEX.version] == INDEX.checksum


def test_an_index_in_another_schema_and_in_a_script(empty_database: str) -> None:
    migrate(empty_database, schema="Chat_1")
    with connect(empty_database) as conn:
        apply(conn, INDEX, "Chat_1")
        assert value(conn, "select count(*) from pg_indexes where indexname = 'chat_history_messages_later' "
                           "and schemaname = 'Chat_1'") == 1  # fmt: skip
        conn.execute((script() + INDEX.statement()).encode())  # one transaction, as the SQL editor sends it
        assert applied(conn)[INDEX.version] == INDEX.checksum


def test_files_of_indexes_hold_one_statement_each() -> None:
    for migration in migrations():
        if migration.concurrent:
            rest = migration.body.replace(migration.concurrent[0], "")
            assert all(not line.strip() or line.startswith("--") for line in rest.splitlines()), migration.name
        else:
            assert "concurrently" not in migration.body, migration.name
            assert migration.body.rstrip().endswith("select chat_history_grant();") or migration.version == 1


# --- auth.users


@pytest.fixture
def auth_users(database: str, pg: servers.Postgres) -> str:
    """Supabase's table of users, whose owner has no rights on ours."""
    with connect(database) as conn:
        conn.execute("""
            do $$ begin
              if to_regrole('supabase_auth_admin') is null then create role supabase_auth_admin; end if;
            end $$;
            create schema auth authorization supabase_auth_admin;
            set role supabase_auth_admin;
            create table auth.users (id uuid primary key);
            reset role;
        """)
    return database


def test_who_is_deleted_from_auth_users_is_erased(auth_users: str) -> None:
    ada, bob = str(uuid.uuid4()), str(uuid.uuid4())
    for _ in range(2):  # again changes nothing
        assert migrate(auth_users, erase_with_auth_user=True) == []
    with HistoryStore.from_postgres(auth_users) as store, connect(auth_users) as conn:
        for user in (ada, bob):
            conn.execute("insert into auth.users values (%s)", [user])
            store.for_user(user).append("s", [HumanMessage("mine")])
        with conn.transaction():
            conn.execute("set local role supabase_auth_admin")
            conn.execute("select set_config('request.jwt.claims', %s, true)", [f'{{"sub": "{bob}"}}'])
            conn.execute("delete from auth.users where id = %s", [ada])
            claims = value(conn, "select current_setting('request.jwt.claims')")
            assert claims == f'{{"sub": "{bob}"}}'
        assert store.for_user(ada).load("s") == []
        assert [m.text for m in store.for_user(bob).load("s")] == ["mine"]
        for table in ("messages", "turns"):
            assert value(conn, f"select count(*) from chat_history_{table} where user_id = %s", ada) == 0
        for name in ("anon", "authenticated", "service_role", "public"):
            may = "select has_function_privilege(%s, 'chat_history_erase_auth_user()', 'execute')"
            assert value(conn, may, name) is False


def test_where_there_is_no_auth_users_it_says_so(database: str) -> None:
    with pytest.raises(NotFound, match=r"auth\.users"):
        migrate(database, erase_with_auth_user=True)
    assert "auth.users" in script(erase_with_auth_user=True)
    assert "auth.users" not in script()
