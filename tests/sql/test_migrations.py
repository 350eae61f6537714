"""Installing the schema: on every PostgreSQL, in any schema, by any role, by several at once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from langchain_core.messages import HumanMessage

from langchain_supabase_history import (
    Conflict,
    Forbidden,
    HistoryStore,
    InvalidSession,
    NotInstalled,
    Unavailable,
    migrate,
)
from langchain_supabase_history.migrations import applied, migrations, pending, script
from tests import servers
from tests.conftest import postgres

VERSIONS = [m.version for m in migrations()]
TABLES = ["sessions", "messages", "turns", "feedback", "alternatives", "shares", "migrations"]
OWNERS_ALONE = {
    f"chat_history_{name}"
    for name in ("grant", "index_search", "open_conversations", "open_shares", "write_conversation")
}


def connect(conninfo: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(conninfo, autocommit=True)


def check_works(conninfo: str, schema: str = "public") -> None:
    with HistoryStore.from_postgres(conninfo, schema=schema) as store:
        name = f"s-{uuid.uuid4()}"
        store.append(name, [HumanMessage("q")])
        assert [m.text for m in store.load(name)] == ["q"]
        assert store.delete_session(name)


@pytest.fixture(scope="module", params=servers.POSTGRES_INSTALL)
def cluster(request: pytest.FixtureRequest) -> Iterator[servers.Postgres]:
    with postgres(request.param) as server:
        yield server


@pytest.mark.parametrize("schema", ["public", "chat", "Quoted_1"])
def test_it_installs_once_and_works(cluster: servers.Postgres, schema: str) -> None:
    conninfo = cluster.url(cluster.create_database())
    with pytest.raises(NotInstalled), HistoryStore.from_postgres(conninfo, schema=schema) as store:
        store.load("s")
    assert [m.version for m in migrate(conninfo, schema=schema)] == VERSIONS
    assert migrate(conninfo, schema=schema) == []
    with connect(conninfo) as conn:
        assert list(applied(conn, schema)) == VERSIONS
        assert pending(conn, schema) == []
    check_works(conninfo, schema)


def test_schemas_of_one_database_do_not_know_each_other(empty_database: str) -> None:
    migrate(empty_database)
    migrate(empty_database, schema="other")
    with (
        HistoryStore.from_postgres(empty_database) as one,
        HistoryStore.from_postgres(empty_database, schema="other") as two,
    ):
        one.append("s", [HumanMessage("one")])
        assert two.load("s") == []
        as_user = two.as_user(claims={"sub": "u"})
        as_user.append("s", [HumanMessage("two")])
        assert [m.text for m in as_user.load("s")] == ["two"]


def test_several_at_once_are_safe(empty_database: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: migrate(empty_database), range(8)))
    with connect(empty_database) as conn:
        assert list(applied(conn)) == VERSIONS
    check_works(empty_database)


def test_several_at_once_through_a_transaction_pooler_are_safe(
    empty_database: str, bouncer: Callable[[str], str]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: migrate(bouncer(empty_database)), range(8)))
    check_works(bouncer(empty_database))
    with connect(empty_database) as conn:
        row = conn.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone()
        assert row == (0,)


def test_the_printed_script_installs_and_may_be_run_twice(empty_database: str) -> None:
    with connect(empty_database) as conn:
        for _ in range(2):
            conn.execute(script().encode())  # one simple query, as the SQL editor sends it
    assert migrate(empty_database) == []
    check_works(empty_database)


@pytest.mark.parametrize("table", [t for t in TABLES if t != "migrations"])
def test_a_foreign_table_in_the_way_is_told_and_left_alone(empty_database: str, table: str) -> None:
    with connect(empty_database) as conn:
        conn.execute(f"create table chat_history_{table} (mine text)".encode())
        with pytest.raises(Conflict, match="did not make"):
            migrate(empty_database)
        rows = conn.execute(
            "select relname from pg_class where relname like 'chat\\_history%' and relkind = 'r'"
        ).fetchall()
        assert rows == [(f"chat_history_{table}",)]
    migrate(empty_database, schema="elsewhere")
    check_works(empty_database, "elsewhere")


def test_a_foreign_ledger_is_told(empty_database: str) -> None:
    with connect(empty_database) as conn:
        conn.execute("create table chat_history_migrations (id integer, note text)")
    with pytest.raises(Conflict, match="did not make"):
        migrate(empty_database)


def test_a_migration_applied_in_another_form_is_told(database: str) -> None:
    with connect(database) as conn:
        conn.execute("update chat_history_migrations set checksum = 'other' where version = 1")
    with pytest.raises(Conflict, match="another form"):
        migrate(database)


def test_the_migrating_role_is_no_superuser_and_may_lack_rights(pg: servers.Postgres) -> None:
    name = pg.create_database()
    role = f"plain_{name}"
    pg.execute(f"create role {role} login; create role {role}_stranger login")
    pg.execute(f"alter database {name} owner to {role}")
    with pytest.raises(Forbidden):
        migrate(pg.url(name, user=f"{role}_stranger"))
    migrate(pg.url(name, user=role))
    check_works(pg.url(name, user=role))


def test_supabase_roles_may_come_later(pg: servers.Postgres) -> None:
    with servers.postgres(servers.postgres_bin()) as plain:  # without Supabase's roles
        conninfo = plain.url(plain.create_database())
        migrate(conninfo)
        check_works(conninfo)
        with connect(conninfo) as conn:
            conn.execute(servers.SUPABASE_ROLES)
            assert conn.execute(
                "select has_table_privilege('authenticated', 'chat_history_messages', 'select')"
            ).fetchone() == (False,)
            conn.execute("select chat_history_grant()")
        with HistoryStore.from_postgres(conninfo) as store:
            ada = store.as_user(claims={"sub": "ada"})
            ada.append("s", [HumanMessage("mine")])
            assert [m.text for m in ada.load("s")] == ["mine"]
            assert store.load("s") == []


def test_what_default_privileges_granted_too_much_is_taken_back(empty_database: str) -> None:
    with connect(empty_database) as conn:
        for kind in ("tables", "functions", "sequences"):
            grant = f"grant all on {kind} to anon, authenticated, service_role"
            conn.execute(f"alter default privileges in schema public {grant}".encode())
        migrate(empty_database)
        for table in TABLES:
            for role in ("anon", "authenticated", "service_role"):
                may = {
                    right
                    for right in ("select", "insert", "update", "delete", "truncate", "references", "trigger")
                    if conn.execute(
                        "select has_table_privilege(%s, %s, %s)", [role, f"chat_history_{table}", right]
                    ).fetchone()
                    == (True,)
                }
                wanted = {"select"} if table == "migrations" else {"select", "insert", "update", "delete"}
                assert may == (set() if role == "anon" else wanted), (table, role)
        functions = conn.execute(
            "select oid::regprocedure::text, proacl::text from pg_proc where proname like 'chat\\_history%'"
        ).fetchall()
        assert functions
        for function, acl in functions:
            granted = [entry.split("=")[0] for entry in str(acl).strip("{}").split(",")]
            owners_alone = str(function).partition("(")[0] in OWNERS_ALONE
            roles = set() if owners_alone else {"authenticated", "service_role"}
            assert set(granted) == {"postgres", *roles}, (function, acl)


def test_every_function_pins_its_search_path_and_every_key_begins_with_the_session_key(database: str) -> None:
    with connect(database) as conn:
        loose = conn.execute(
            "select proname from pg_proc where proname like 'chat\\_history%' "
            "and not exists (select from unnest(proconfig) c where c like 'search_path=%pg_temp%')"
        ).fetchall()
        assert loose == []
        keys = conn.execute(
            "select conname, (select attname from pg_attribute a where attrelid = c.conrelid and attnum = c.conkey[1]) "
            "from pg_constraint c where contype in ('p', 'u') and conrelid::regclass::text like 'chat\\_history%' "
            "and conrelid <> 'chat_history_migrations'::regclass"
        ).fetchall()
        assert keys
        assert {first for _, first in keys} == {"session_key"}
        overloads = conn.execute(
            "select proname from pg_proc where proname like 'chat\\_history%' group by proname having count(*) > 1"
        ).fetchall()
        assert overloads == []


@pytest.mark.parametrize("schema", ["", 'a"b', "x; drop schema public", "a.b", "é", "x" * 64, None, 7])
def test_bad_schema_names_are_refused(empty_database: str, schema: str) -> None:
    for refuse in (
        lambda: migrate(empty_database, schema=schema),
        lambda: script(schema),
        lambda: HistoryStore.from_postgres(empty_database, schema=schema),
    ):
        with pytest.raises(InvalidSession, match="plain SQL identifier"):
            refuse()


def test_an_unreachable_database_is_told_without_its_password(pg: servers.Postgres) -> None:
    with pytest.raises(Unavailable) as caught:
        migrate(f"postgresql://postgres:hunter2@127.0.0.1:{servers.free_port()}/x?connect_timeout=2")
    assert "hunter2" not in str(caught.value)
