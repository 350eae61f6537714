"""The checks of what is installed: its version, and what its guards let whom do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ..connect.environment import is_public
from ..errors import Forbidden, HistoryError, NotInstalled
from ..migrations import applied, migrations
from .environment import Finding, fault, ok, warning
from .guards import grants, row_level_security
from .visit import NoFurther, Visit

_RELOAD: Final = "notify pgrst, 'reload schema';"


def version(visit: Visit) -> Iterator[Finding]:
    """Which migrations are applied, against those of this release."""
    ledger = visit.ledger
    if isinstance(ledger, Forbidden):
        if not visit.over_psycopg and not visit.has_user and is_public(visit.api_key):
            yield ok("schema", "The functions are there, and closed to the public key.")
            raise NoFurther
        yield fault("grants", "The role may not call this library's functions.", grant_command(visit, to_login=True))
        raise NoFurther
    if isinstance(ledger, NotInstalled):
        ledger = yield from _older(visit)
    assert isinstance(ledger, dict)
    known = {migration.version: migration for migration in migrations()}
    versions = {int(version): checksum for version, checksum in ledger.items()}
    other = [v for v, checksum in versions.items() if v in known and known[v].checksum != checksum]
    pending = [version for version in known if version not in versions]
    if other:
        yield fault(
            "schema",
            f"Migration {other[0]} was applied in another form, by another release.",
            "Install the release that did, or use another schema (--schema).",
        )
    if pending:
        yield fault(
            "schema",
            f"The schema is older than this release: migration {', '.join(map(str, pending))} of "
            f"{max(known)} is missing.",
            migrate_command(visit.schema),
        )
    elif not other and max(versions) > max(known):
        yield warning(
            "schema",
            f"The schema (version {max(versions)}) is newer than this release ({max(known)}).",
            "pip install --upgrade langchain_supabase_history",
        )
    elif not other:
        yield ok("schema", f"Schema {visit.schema} is at version {max(known)}, that of this release.")


def _older(visit: Visit) -> Any:
    """The ledger of a database that has no function to tell it by; or the end, where there is none."""
    if visit.over_psycopg:
        from ..drivers.psycopg import connect

        with connect(visit.driver.address, visit.deadline) as conn:
            ledger = applied(conn, visit.schema)
            foreign = conn.execute("select to_regclass(%s)", [f'"{visit.schema}".chat_history_messages']).fetchone()
        if ledger:
            return ledger
        if foreign != (None,):
            yield fault(
                "schema",
                f"Schema {visit.schema} has tables of our names that this library did not make.",
                "Rename them, or install into another schema: migrate --schema chat.",
            )
        else:
            yield fault("schema", f"Nothing is installed in schema {visit.schema}.", migrate_command(visit.schema))
        raise NoFurther
    error = visit.ledger
    yield fault(
        "schema",
        "The Data API does not know this library's functions: they are not installed, or older than "
        "this release, or its schema cache is stale.",
        f"{migrate_command(visit.schema)}  (if that was just done, in the SQL editor: {_RELOAD})",
    )
    raise NoFurther from error if isinstance(error, HistoryError) else None


def migrate_command(schema: str) -> str:
    return "langchain-supabase-history migrate" + ("" if schema == "public" else f" --schema {schema}")


def grant_command(visit: Visit, *, to_login: bool = False) -> str:
    """The statement that puts the grants right; with `to_login`, those of an application's own role too."""
    home = "" if visit.schema == "public" else f'"{visit.schema}".'
    role = names(visit)[1] if to_login and visit.speaks_for_itself else ""
    return f"select {home}chat_history_grant({role});"


def names(visit: Visit) -> list[str]:
    """The login's role, the same as a literal, and the tables' owner, quoted for SQL."""
    from ..drivers.psycopg import connect

    query = """select quote_ident(current_user), quote_literal(current_user), quote_ident(pg_get_userbyid(relowner))
      from pg_class where relname = 'chat_history_sessions' and relnamespace = to_regnamespace(%s)"""
    with connect(visit.driver.address, visit.deadline) as conn:
        return list(conn.execute(query, [f'"{visit.schema}"']).fetchone() or ("?", "?", "?"))


def guards(visit: Visit) -> Iterator[Finding]:
    """Who asks, and what may be done by whom."""
    try:
        visit.guards = visit.ask("chat_history_guards")
    except NotInstalled:
        return  # an older schema, of which the finding was made
    assert visit.guards is not None
    facts = visit.guards
    who = "past row level security: the application itself" if facts["bypasses"] else "held to row level security"
    yield ok("role", f"Requests run as {facts['role']}, {who}.")
    yield from grants(facts, grant_command(visit))
    yield from row_level_security(facts, visit.schema)


def way_in(visit: Visit, error: HistoryError) -> str:
    """What lets an application's own login in, where that is what is wrong."""
    held = visit.guards is not None and not visit.guards["bypasses"]
    if error.code != "42501" or not held or not visit.speaks_for_itself:
        return ""
    role, _, owner = names(visit)
    return (
        f"grant {owner} to {role};  (or: alter role {role} bypassrls;  or, for signed-in users, go on with "
        "store.as_user(access_token))"
    )
