"""The database's schema: which migrations there are, which are applied, and how to apply or print them.

Each migration is a numbered file in `sql/`. It is applied as one `do` statement, hence in one transaction, that waits
for a lock held by any other that migrates, leaves at once where it is applied already, and writes itself into the
ledger `chat_history_migrations`. Printed, the same statement can be pasted into Supabase's SQL editor or a file in
`supabase/migrations/`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from .core.settings import check_schema

_STATEMENT = """\
-- {name} ({library})
do $migration$
declare
  applied text;
begin
  -- One at a time; a transaction's lock, because a session's would leak through a transaction pooler.
  perform pg_advisory_xact_lock(hashtext('chat_history_migrations'));
  if to_regnamespace({schema_literal}) is null then
    create schema {schema};
  end if;
  perform set_config('search_path', {path_literal}, true);
  if to_regclass('{schema}.chat_history_migrations') is null then
    if (to_regclass('{schema}.chat_history_sessions') is not null
        or to_regclass('{schema}.chat_history_messages') is not null
        or to_regclass('{schema}.chat_history_turns') is not null
        or to_regclass('{schema}.chat_history_feedback') is not null) then
      raise exception 'schema {schema} has a chat_history_... table that {library} did not make'
        using errcode = '42P07', hint = 'Rename that table, or install into another schema.';
    end if;
    create table {schema}.chat_history_migrations (
      version integer primary key, name text not null, checksum text not null,
      applied_at timestamptz not null default clock_timestamp());
  end if;
  if not exists (select from pg_attribute where attrelid = to_regclass('{schema}.chat_history_migrations')
                   and attname = 'checksum') then
    raise exception 'schema {schema} has a table chat_history_migrations that {library} did not make'
      using errcode = '42P07', hint = 'Rename that table, or install into another schema.';
  end if;
  select m.checksum into applied from {schema}.chat_history_migrations m where m.version = {version};
  if applied = '{checksum}' then
    return;
  elsif applied is not null then
    raise exception 'migration {version} was applied in another form' using errcode = '42P07',
      hint = 'This database was set up by another release: install that release, or use another schema.';
  end if;
  execute $body$
{body}
$body$;
  insert into {schema}.chat_history_migrations (version, name, checksum) values ({version}, '{name}', '{checksum}');
  notify pgrst, 'reload schema';
end
$migration$;
"""


@dataclass(frozen=True)
class Migration:
    """A numbered SQL file of this package."""

    version: int
    name: str
    body: str

    @property
    def checksum(self) -> str:
        """sha256 of the file's text, in hexadecimal."""
        return hashlib.sha256(self.body.encode()).hexdigest()

    def statement(self, schema: str = "public") -> str:
        """The one SQL statement that applies this migration to `schema`, or does nothing where it is applied."""
        quoted = f'"{check_schema(schema)}"'
        return _STATEMENT.format(
            name=self.name,
            version=self.version,
            checksum=self.checksum,
            body=self.body.strip(),
            library="langchain_supabase_history",
            schema=quoted,
            schema_literal=f"'{quoted}'",
            path_literal=f"'{quoted}, pg_temp'",
        )


def migrations() -> list[Migration]:
    """All migrations of this release, in order."""
    folder = files(__package__) / "sql"
    found = sorted((path.name, path) for path in folder.iterdir() if path.name.endswith(".sql"))
    return [Migration(int(name[:4]), name.removesuffix(".sql"), path.read_text("utf-8")) for name, path in found]


def script(schema: str = "public") -> str:
    """All migrations as one SQL script for Supabase's SQL editor, `supabase/migrations/` or psql. Running it twice
    changes nothing.

    Raises:
        InvalidSession: The schema's name is not a plain identifier.
    """
    return "\n".join(migration.statement(schema) for migration in migrations())


def applied(conn: psycopg.Connection[Any], schema: str = "public") -> dict[int, str]:
    """The ledger of a database: checksums by version, empty where nothing of ours is installed."""
    ledger = f'"{check_schema(schema)}".chat_history_migrations'
    ours = "select from pg_attribute where attrelid = to_regclass(%s) and attname = 'checksum'"
    if conn.execute(ours, [ledger]).fetchone() is None:
        return {}
    query = sql.SQL("select version, checksum from {} order by version")
    rows = conn.execute(query.format(sql.Identifier(schema, "chat_history_migrations")))
    return dict(rows.fetchall())


def pending(conn: psycopg.Connection[Any], schema: str = "public") -> list[Migration]:
    """The migrations that the database does not have yet."""
    known = applied(conn, schema)
    return [migration for migration in migrations() if migration.version not in known]


def migrate(conninfo: str, *, schema: str = "public") -> list[Migration]:
    """Install or update the schema, and tell what was applied. Several at once are safe, also through a pooler.

    Args:
        conninfo: A connection string whose role may create tables in `schema` (on Supabase: `postgres`).

    Raises:
        Conflict: A table of this name exists that this library did not make, or a migration was applied in another
            form.
        Forbidden: The role may not create what is needed.
        Unavailable: The database cannot be reached.
    """
    from .drivers.psycopg import connect

    with connect(conninfo) as conn:
        todo = pending(conn, schema)
        for migration in todo or migrations():  # where nothing is pending, let the ledger's checksums speak
            conn.execute(migration.statement(schema).encode())
        return todo
