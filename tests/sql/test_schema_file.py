"""`sql/schema.sql` is what all migrations together make, and what was released stays as it was."""

from __future__ import annotations

import json
import re

import psycopg
import pytest

from langchain_supabase_history import __version__
from langchain_supabase_history.migrations import migrations
from scripts import schema

from .. import servers

CATALOGUE = {
    "functions": "select pg_get_functiondef(p.oid) from pg_proc p where {ours}",
    "columns": "select attrelid::regclass::text, attnum, attname, format_type(atttypid, atttypmod), attnotnull, "
    "attgenerated, (select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = attrelid and adnum = attnum) "
    "from pg_attribute, pg_class c where attrelid = c.oid and attnum > 0 and {ours}",
    "constraints": "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint "
    "where conrelid::regclass::text like 'chat\\_history\\_%' and contype <> 'n'",
    "indexes": "select tablename, indexdef from pg_indexes where indexname like 'chat\\_history\\_%'",
    "policies": "select tablename, policyname, permissive, roles, cmd, qual, with_check from pg_policies",
    "relations": "select relname, relkind, relrowsecurity, reloptions from pg_class c where {ours}",
    "views": "select viewname, definition from pg_views where viewname like 'chat\\_history\\_%'",
    "triggers": "select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal",
}
OURS = {"pg_proc p": "p.proname", "pg_class c": "c.relname"}


def catalogue(conninfo: str) -> dict[str, list[str]]:
    with psycopg.connect(conninfo) as conn:
        found = {}
        for name, query in CATALOGUE.items():
            column = next((c for relation, c in OURS.items() if relation in query), "")
            rows = conn.execute(query.replace("{ours}", f"{column} like 'chat\\_history\\_%'").encode()).fetchall()
            found[name] = sorted(str(row) for row in rows)
        return found


def test_the_file_is_current(pg: servers.Postgres) -> None:
    if servers.POSTGRES_VERSION != 18:
        pytest.skip("the file is written by PostgreSQL 18")
    assert schema.TARGET.read_text() == schema.current(pg), "run `make schema`, after a change of the migrations"


def test_the_file_makes_the_same_schema_as_the_migrations(database: str, empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute("set check_function_bodies = off")
        conn.execute(schema.TARGET.read_text().encode())
    made, migrated = catalogue(empty_database), catalogue(database)
    assert all(migrated[kind] for kind in CATALOGUE if kind != "triggers")
    for kind in CATALOGUE:
        assert made[kind] == migrated[kind], kind


def breaks(released: dict[str, list[list[object]]], now: dict[str, list[list[object]]]) -> list[str]:
    """What a client of that release could not call any more: arguments are only appended, with defaults."""
    return [
        f"{name}: released as {arguments}, now {now.get(name)}"
        for name, arguments in released.items()
        if now.get(name, [])[: len(arguments)] != arguments
        or not all(optional for *_, optional in now[name][len(arguments) :])
    ]


def test_what_was_released_is_frozen(database: str) -> None:
    """`make release-schema` writes the file when a version is released; migrations in it change never again."""
    released = json.loads(schema.RELEASED.read_text())
    now = {migration.name: migration.checksum for migration in migrations()}
    assert {name: now.get(name) for name in released["migrations"]} == released["migrations"], (
        "a released migration must stay as it is: write a new one"
    )
    assert breaks(released["functions"], schema.signatures(database)) == []
    changelog = (servers.ROOT / "CHANGELOG.md").read_text()
    if re.search(rf"^## \[{re.escape(__version__)}\] - \d", changelog, re.M):
        assert released["version"] == __version__, "run `make release-schema` for this release"


def test_the_check_sees_what_would_break_a_released_client(database: str) -> None:
    now = schema.signatures(database)
    assert breaks(now, now) == []
    name, arguments = "chat_history_load", now["chat_history_load"]
    assert breaks(now, now | {name: [*arguments, ["more", "text", True]]}) == []
    for changed in (
        [*arguments, ["more", "text", False]],
        arguments[:-1],
        [["renamed", *arguments[0][1:]], *arguments[1:]],
        [[arguments[0][0], "uuid", arguments[0][2]], *arguments[1:]],
        [arguments[1], arguments[0], *arguments[2:]],
    ):
        assert len(breaks(now, now | {name: changed})) == 1, changed
    assert len(breaks(now, {n: a for n, a in now.items() if n != name})) == 1
