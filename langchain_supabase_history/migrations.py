"""The database's schema: which migrations there are, which are applied, and how to apply or print them.

Each migration is a numbered file in `sql/`. It is applied as one `do` statement, hence in one transaction, that waits
for a lock held by any other that migrates, leaves at once where it is applied already, and writes itself into the
ledger `chat_history_migrations`. Printed, the same statement can be pasted into Supabase's SQL editor or a file in
`supabase/migrations/`.

A lock on a table is waited for a few seconds at most, because all that comes later waits behind whoever waits.

Indexes on tables that may be large are a second kind of migration, files named `NNNN_name.concurrently.sql`: one
`create index concurrently if not exists` each, with the table's schema written as `:"schema"`. On a database that is
in use they are applied outside of a transaction, so that nobody waits. What an interrupted try has left is dropped and
made again. A new database, and a printed script, get them in the transaction of a `do` statement like all others.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import psycopg
import tenacity
from psycopg import sql

from .core.settings import check_schema
from .errors import InvalidInput

LOCK_SECONDS: Final = 3.0
_TRIES: Final = 6

_STATEMENT: Final = """\
-- {name} ({library})
do $migration$
declare
  applied text;
  lock_timeout constant text := current_setting('lock_timeout');
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
        or to_regclass('{schema}.chat_history_feedback') is not null
        or to_regclass('{schema}.chat_history_alternatives') is not null
        or to_regclass('{schema}.chat_history_shares') is not null
        or to_regclass('{schema}.chat_history_streams') is not null
        or to_regclass('{schema}.chat_history_deltas') is not null) then
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
  perform set_config('lock_timeout', '{lock_timeout}', true);
  execute $body$
{body}
$body$;
  perform set_config('lock_timeout', lock_timeout, true);
  insert into {schema}.chat_history_migrations (version, name, checksum) values ({version}, '{name}', '{checksum}');
  notify pgrst, 'reload schema';
end
$migration$;
"""

# Before an index is built concurrently: what an interrupted try has left is of no use. The lock waits for one that is
# being built right now, and for a few seconds only.
_DROP_INVALID: Final = """\
do $migration$
begin
  perform set_config('lock_timeout', '{lock_timeout}', true);
  lock table {table} in share update exclusive mode;
  if exists (select from pg_index i where i.indexrelid = to_regclass('{schema}.{index}') and not i.indisvalid) then
    drop index {schema}.{index};
  end if;
end
$migration$;
"""

_ERASE_WITH_AUTH_USER: Final = """\
-- A user that is deleted from auth.users is erased from the chat history too ({library}).
do $migration$
begin
  if to_regclass('auth.users') is null then
    raise exception 'there is no table auth.users' using errcode = 'PT404',
      hint = 'It is Supabase''s. Elsewhere call chat_history_delete_user where your application deletes a user.';
  end if;
  -- It runs as its owner, because who deletes users may not read their messages; and without claims, because those of
  -- whoever deletes would name another user.
  execute $body$
create or replace function {schema}.chat_history_erase_auth_user() returns trigger
language plpgsql security definer set search_path = {schema}, pg_temp set request.jwt.claims = '' as $$
begin
  perform chat_history_delete_user(old.id::text);
  return old;
end
$$;
revoke all on function {schema}.chat_history_erase_auth_user() from public;
create or replace trigger chat_history_erase_auth_user after delete on auth.users
  for each row execute function {schema}.chat_history_erase_auth_user();
$body$;
  perform {schema}.chat_history_grant();
end
$migration$;
"""

# The index of words, beside running writers; what an interrupted try has left is made again.
_INDEX_SEARCH: Final = (
    "select {schema}.chat_history_index_search('{language}'::regconfig, build => false)",
    "create index concurrently if not exists chat_history_messages_words on {schema}.chat_history_messages "
    "using gin ({schema}.chat_history_words(user_id, session_key, data))",
)

_CONCURRENT: Final = re.compile(
    r'create (?:unique )?index concurrently if not exists (\w+)\s+on :"schema"\.(\w+)\b[^;]*;'
)


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

    @property
    def concurrent(self) -> re.Match[str] | None:
        """The index that this migration builds concurrently, and its table: the match of its statement."""
        if not self.name.endswith(".concurrently"):
            return None
        found = _CONCURRENT.search(self.body)
        assert found, f"{self.name} is no `create index concurrently if not exists`"
        return found

    def statement(self, schema: str = "public", *, body: str | None = None) -> str:
        """The one SQL statement that applies this migration to `schema`, or does nothing where it is applied.

        Args:
            schema: The schema that it goes to.
            body: What to run instead of the file; the ledger gets the file's checksum all the same.
        """
        quoted = f'"{check_schema(schema)}"'
        body = self.body.strip() if body is None else body
        if self.concurrent:
            body = body.replace("index concurrently", "index").replace(':"schema"', quoted)
        return _STATEMENT.format(
            name=self.name,
            version=self.version,
            checksum=self.checksum,
            body=body,
            library="langchain_supabase_history",
            schema=quoted,
            schema_literal=f"'{quoted}'",
            path_literal=f"'{quoted}, pg_temp'",
            lock_timeout=f"{LOCK_SECONDS:g}s",
        )

    def concurrent_statements(self, schema: str = "public") -> list[str]:
        """The statements that apply it outside of a transaction, one after the other; they may be run again."""
        assert self.concurrent
        quoted, (index, table) = f'"{check_schema(schema)}"', self.concurrent.groups()
        drop = _DROP_INVALID.format(
            schema=quoted, index=index, table=f"{quoted}.{table}", lock_timeout=f"{LOCK_SECONDS:g}s"
        )
        return [drop, self.concurrent[0].replace(':"schema"', quoted), self.statement(schema, body="")]


def migrations() -> list[Migration]:
    """All migrations of this release, in order."""
    folder = files(__package__) / "sql"
    found = sorted((path.name, path) for path in folder.iterdir() if re.fullmatch(r"\d{4}_.*\.sql", path.name))
    return [Migration(int(name[:4]), name.removesuffix(".sql"), path.read_text("utf-8")) for name, path in found]


def script(
    schema: str = "public",
    *,
    erase_with_auth_user: bool = False,
    search: str | None = None,
    shares: bool = False,
    conversations: str | None = None,
) -> str:
    """All migrations as one SQL script for Supabase's SQL editor, `supabase/migrations/` or psql. Running it twice
    changes nothing.

    Args:
        schema: The schema that everything goes to.
        erase_with_auth_user: See `migrate`.
        search: See `migrate`.
        shares: See `migrate`.
        conversations: See `migrate`.

    Raises:
        InvalidSession: The name of the schema is not a plain identifier.
        InvalidInput: The name of the configuration or of the view is not a plain identifier.
    """
    statements = [migration.statement(schema) for migration in migrations()]
    if erase_with_auth_user:
        statements.append(_erase_with_auth_user(schema))
    if search is not None:
        statements.append(f"select \"{schema}\".chat_history_index_search('{_check_language(search)}'::regconfig);")
    if shares:
        statements.append(f'select "{schema}".chat_history_open_shares();')
    if conversations is not None:
        statements.append(f"{_open_conversations(schema, conversations)};")
    return "\n".join(statements)


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


def missing(conninfo: str, schema: str = "public") -> list[Migration]:
    """Which migrations a database lacks, without applying any.

    Args:
        conninfo: The database's connection string.
        schema: The schema that the tables are in.

    Raises:
        HistoryError: As `migrate`.
    """
    from .drivers.psycopg import connect

    with connect(conninfo) as conn:
        return pending(conn, schema)


def migrate(
    conninfo: str,
    *,
    schema: str = "public",
    erase_with_auth_user: bool = False,
    search: str | None = None,
    shares: bool = False,
    conversations: str | None = None,
) -> list[Migration]:
    """Install or update the schema. Several at once are safe, also through a pooler.

    Args:
        conninfo: A connection string whose role may create tables in `schema` (on Supabase: `postgres`).
        schema: The schema that everything goes to.
        erase_with_auth_user: Also make a trigger on Supabase's `auth.users`: whoever is deleted there is erased here
            in the same transaction, as by `delete_user`.
        search: Also make an index for `search`, beside running writers: the name of a text search configuration, whose
            language then decides which forms of a word are found (`simple` for none, `english`, `portuguese`, ...).
        shares: Also let a public key without a user read what is shared, by its token.
        conversations: Also make a view of this name for an application that reads and writes a table `conversations`.

    Returns:
        The migrations that were applied now; none where the schema was up to date.

    Raises:
        Conflict: A table of this name exists that this library did not make, or a migration was applied in another
            form.
        InvalidInput: `search` or `conversations` is not a plain identifier.
        Forbidden: The role may not create what is needed.
        NotFound: There is no `auth.users`.
        Unavailable: The database cannot be reached, or another transaction holds a lock that a migration needs.
    """
    from .drivers.psycopg import connect

    if search is not None:
        _check_language(search)
    if conversations is not None:
        _open_conversations(schema, conversations)
    with connect(conninfo) as conn:
        todo = pending(conn, schema)
        in_use = len(todo) < len(migrations())
        for migration in todo or migrations():  # where nothing is pending, let the ledger's checksums speak
            apply(conn, migration, schema, in_use=in_use)
        if erase_with_auth_user:
            conn.execute(_erase_with_auth_user(schema).encode())
        if search is not None:
            for statement in _INDEX_SEARCH:
                conn.execute(statement.format(schema=f'"{schema}"', language=_check_language(search)).encode())
        if shares:
            conn.execute(f'select "{schema}".chat_history_open_shares()'.encode())
        if conversations is not None:
            conn.execute(_open_conversations(schema, conversations).encode())
        return todo


def _check_language(name: object) -> str:
    """The name of a text search configuration."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?", name):
        raise InvalidInput("search must be the name of a text search configuration: simple, english, portuguese, ...")
    return name


def _open_conversations(schema: str, name: object) -> str:
    """The statement that makes the view `conversations` under this name."""
    if not isinstance(name, str) or not re.fullmatch(r"(?!chat_history_)[a-z_][a-z0-9_]{0,62}", name):
        raise InvalidInput("conversations must be the name of a view: a-z, 0-9 and _, not beginning with chat_history_")
    return f"select \"{check_schema(schema)}\".chat_history_open_conversations('{name}')"


@tenacity.retry(
    retry=tenacity.retry_if_exception_type((psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)),
    stop=tenacity.stop_after_attempt(_TRIES),
    wait=tenacity.wait_exponential(0.5, max=4),
    reraise=True,
)
def apply(conn: psycopg.Connection[Any], migration: Migration, schema: str = "public", *, in_use: bool = True) -> None:
    """Apply one migration. A lock that others hold is waited for a few times, for a few seconds each.

    Two that build one index at once wait for each other, until the server ends one of them, which then tries again.

    Args:
        conn: A connection in autocommit mode.
        migration: What to apply.
        schema: The schema that it goes to.
        in_use: Whether others may be writing: indexes are then built concurrently.
    """
    if in_use and migration.concurrent and migration.version not in applied(conn, schema):
        for statement in migration.concurrent_statements(schema):
            conn.execute(statement.encode())
    else:
        conn.execute(migration.statement(schema).encode())


def _erase_with_auth_user(schema: str) -> str:
    return _ERASE_WITH_AUTH_USER.format(schema=f'"{check_schema(schema)}"', library="langchain_supabase_history")
