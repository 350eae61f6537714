"""What is right and wrong with an installation, in plain words, and what mends each fault.

Each check is a small generator of findings about one thing, and they run in the order of `_CHECKS`. One check hands
on to the next what it learnt (`_Visit`); after a fault the others go on, except where nothing is left to look at
(`_NoFurther`). Nothing secret is shown: variables, keys and passwords are known by name and kind alone.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from langchain_core.messages import AIMessage, HumanMessage
from psycopg.conninfo import conninfo_to_dict

from ..connect.environment import is_public
from ..core.call import Call, Function
from ..errors import LOGIN_ADVICE, Forbidden, HistoryError, NotConfigured, NotInstalled, Transient, Unavailable
from ..migrations import applied, migrations
from .environment import Finding, address, environment, fault, key, langsmith, ok, warning
from .guards import grants, row_level_security
from .network import reach, unreachable

if TYPE_CHECKING:
    from ..store import HistoryStore

__all__ = ["Finding", "diagnose", "show"]

_RELOAD: Final = "notify pgrst, 'reload schema';"
_SLOW: Final = 0.1  # of the deadline, for one round trip: a turn waits for two, and a retry must fit in besides


class _NoFurther(Exception):
    """Raised by a check after which there is nothing left to look at."""


@dataclass
class _Visit:
    """What is looked at, and what the checks so far have learnt."""

    environ: Mapping[str, str]
    given: dict[str, str]
    options: dict[str, Any]
    store: HistoryStore | None = None
    ledger: dict[str, str] | HistoryError | None = None  # by version; or why the database did not tell
    guards: dict[str, Any] | None = None

    @property
    def driver(self) -> Any:
        assert self.store is not None
        return self.store.driver

    @property
    def over_psycopg(self) -> bool:
        return bool(self.driver.transport == "psycopg")

    @property
    def api_key(self) -> str:
        return str(self.driver.api_key)

    @property
    def has_user(self) -> bool:
        """Whether requests carry a user: the store's, or who is signed in on the application's own client."""
        assert self.store is not None
        return self.store.scope.identity is not None or bool(self.driver.signed_in())

    @property
    def speaks_for_itself(self) -> bool:
        """Whether calls run as the login of a connection string, and not as one of Supabase's roles."""
        assert self.store is not None
        return self.over_psycopg and self.store.scope.identity is None

    def ask(self, function: str) -> Any:
        """Call a function once, without the retries that would wait out the deadline."""
        assert self.store is not None
        try:
            return self.driver.attempt(
                Call(Function(function), {}, lambda reply: reply), self.store.scope.identity, False, self.deadline
            )
        except Transient as error:
            raise Unavailable(f"The database could not be reached: {error}.", code=error.code) from error.__cause__

    @property
    def deadline(self) -> float:
        return float(self.driver.deadline)

    @property
    def schema(self) -> str:
        return str(self.driver.schema)


def diagnose(
    store: HistoryStore | None = None,
    *,
    db_url: str | None = None,
    url: str | None = None,
    key: str | None = None,
    schema: str = "public",
    deadline: float = 10,
    environ: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Examine an installation: configuration, network, login or key, schema, grants, row level security, a round trip
    of a scratch session that is deleted again, latency, and LangSmith's settings.

    Never raises for what it finds. It writes to the database only that scratch session, named `doctor-<uuid>`.

    Args:
        store: The store to examine, `as_user` included; the caller closes it. Without one it is made as
            `HistoryStore.from_env` would, and closed.
        db_url: A connection string, instead of SUPABASE_DB_URL.
        url: The project's URL, instead of SUPABASE_URL.
        key: The key, instead of SUPABASE_KEY.
        schema: The schema that the tables are in.
        deadline: Seconds for one operation, against which the latency is measured.
        environ: The environment; by default the process's own.

    Returns:
        What was found, in the order in which it was looked at. All is well where no status is "fault".
    """
    environ = os.environ if environ is None else environ
    given = {"SUPABASE_DB_URL": db_url, "SUPABASE_URL": url, "SUPABASE_KEY": key}
    if (url or key) and not db_url:  # an option names the way, whatever else the environment has
        given["SUPABASE_DB_URL"] = ""
    settings = {name: environ.get(name, "") if value is None else value for name, value in given.items()}
    visit = _Visit(environ, settings, {"schema": schema, "deadline": deadline}, store)
    found: list[Finding] = []
    try:
        for check in _CHECKS:
            found += _run(check, visit)
            if found and found[-1] is _END:
                found.pop()
                break
        found += _run(_langsmith, visit)  # needs no database, so it is told in any case
    finally:
        if store is None and visit.store is not None:
            visit.store.close()
    return found


_END: Final = Finding("", "fault", "")


def _run(check: Callable[[_Visit], Iterator[Finding]], visit: _Visit) -> list[Finding]:
    found: list[Finding] = []
    try:
        for finding in check(visit):
            found.append(finding)  # noqa: PERF402 - what came before an exception is kept
    except _NoFurther:
        found.append(_END)
    except HistoryError as error:  # a check that was not prepared for it
        found.append(_from(check.__name__.strip("_").replace("_", " "), error))
    return found


def _from(name: str, error: HistoryError) -> Finding:
    return fault(name, error.says or str(error), error.advice)


# --- the checks, in order


def _configuration(visit: _Visit) -> Iterator[Finding]:
    """The variables, and a store made of them."""
    if visit.store is not None:
        return
    from ..store import HistoryStore

    found = [*environment(visit.given, visit.environ), *address(visit.given)]
    yield from found
    if any(finding.status == "fault" for finding in found):
        raise _NoFurther
    try:
        if visit.given["SUPABASE_DB_URL"]:
            visit.store = HistoryStore.from_postgres(visit.given["SUPABASE_DB_URL"], **visit.options)
        else:
            url, api_key = visit.given["SUPABASE_URL"], visit.given["SUPABASE_KEY"]
            visit.store = HistoryStore.from_supabase(url, api_key, **visit.options)
    except HistoryError as error:
        yield _from("address", error)
        raise _NoFurther from error


def _network(visit: _Visit) -> Iterator[Finding]:
    """For psycopg: name, route, port and TLS, each by itself, so that each can be told."""
    if not visit.over_psycopg:
        return
    given = conninfo_to_dict(visit.driver.address)
    hosts = str(given.get("hostaddr") or given.get("host") or visit.environ.get("PGHOST") or "").split(",")
    ports = str(given.get("port") or visit.environ.get("PGPORT") or 5432).split(",")
    if not hosts[0] or hosts[0].startswith(("/", "@")):
        yield ok("network", "The database is on this machine, over a socket file.")
        return
    reached = [
        reach(host, int(ports[min(number, len(ports) - 1)]), str(given.get("sslmode") or "prefer"), visit.deadline / 2)
        for number, host in enumerate(hosts)
    ]
    working = [finding for finding in reached if finding.status != "fault"]
    yield from working[:1] or reached
    if not working:
        raise _NoFurther


def _key(visit: _Visit) -> Iterator[Finding]:
    if not visit.over_psycopg:
        yield from key(visit.api_key, visit.driver.address, has_user=visit.has_user)


def _login(visit: _Visit) -> Iterator[Finding]:
    """The first call. Whether the database answers it matters here, what it answers to the checks that follow."""
    try:
        visit.ledger = visit.ask("chat_history_version")
    except NotInstalled as error:
        visit.ledger = error
    except Forbidden as error:
        if error.code != "42501":  # the key or the login; else it is a grant, of which later
            yield fault("login", error.says, LOGIN_ADVICE) if visit.over_psycopg else _from("key", error)
            raise _NoFurther from error
        visit.ledger = error
    except Unavailable as error:
        yield _from("login", error) if visit.over_psycopg else unreachable(error, visit.driver.address)
        raise _NoFurther from error
    except NotConfigured as error:
        yield _from("address", error)
        raise _NoFurther from error
    if visit.over_psycopg:
        yield from _connection(visit)
    else:
        yield ok("connection", f"The Data API at {urlsplit(visit.driver.address).netloc} answers.")


def _connection(visit: _Visit) -> Iterator[Finding]:
    from ..drivers.psycopg import connect

    with (
        connect(visit.driver.address, visit.deadline) as first,
        connect(visit.driver.address, visit.deadline) as second,
    ):
        if first.info.server_version < 150000:
            yield fault(
                "connection",
                f"PostgreSQL {first.info.server_version // 10000} is too old.",
                "Upgrade the database to PostgreSQL 15 or later (Supabase: Settings > Infrastructure).",
            )
        # A pooler makes up the process id that it tells a client; in transaction mode, two idle clients share a server.
        pids = [conn.execute("select pg_backend_pid()").fetchone() for conn in (first, second)]
        if pids[0] == (first.info.backend_pid,):
            how = "directly"
        elif pids[0] == pids[1] or first.info.port == 6543:
            how = "through a transaction pooler"
        else:
            how = "through a session pooler"
        version = first.info.parameter_status("server_version") or "?"
    yield ok("connection", f"PostgreSQL {version.split()[0]}, reached {how}.")


def _schema(visit: _Visit) -> Iterator[Finding]:
    """Which migrations are applied, against those of this release."""
    ledger = visit.ledger
    if isinstance(ledger, Forbidden):
        if not visit.over_psycopg and not visit.has_user and is_public(visit.api_key):
            yield ok("schema", "The functions are there, and closed to the public key.")
            raise _NoFurther
        yield fault("grants", "The role may not call this library's functions.", _grant(visit, to_login=True))
        raise _NoFurther
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
            _migrate(visit.schema),
        )
    elif not other and max(versions) > max(known):
        yield warning(
            "schema",
            f"The schema (version {max(versions)}) is newer than this release ({max(known)}).",
            "pip install --upgrade langchain_supabase_history",
        )
    elif not other:
        yield ok("schema", f"Schema {visit.schema} is at version {max(known)}, that of this release.")


def _older(visit: _Visit) -> Any:
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
            yield fault("schema", f"Nothing is installed in schema {visit.schema}.", _migrate(visit.schema))
        raise _NoFurther
    error = visit.ledger
    yield fault(
        "schema",
        "The Data API does not know this library's functions: they are not installed, or older than "
        "this release, or its schema cache is stale.",
        f"{_migrate(visit.schema)}  (if that was just done, in the SQL editor: {_RELOAD})",
    )
    raise _NoFurther from error if isinstance(error, HistoryError) else None


def _migrate(schema: str) -> str:
    return "langchain-supabase-history migrate" + ("" if schema == "public" else f" --schema {schema}")


def _grant(visit: _Visit, *, to_login: bool = False) -> str:
    """The statement that puts the grants right; with `to_login`, those of an application's own role too."""
    home = "" if visit.schema == "public" else f'"{visit.schema}".'
    role = _names(visit)[1] if to_login and visit.speaks_for_itself else ""
    return f"select {home}chat_history_grant({role});"


def _names(visit: _Visit) -> list[str]:
    """The login's role, the same as a literal, and the tables' owner, quoted for SQL."""
    from ..drivers.psycopg import connect

    query = """select quote_ident(current_user), quote_literal(current_user), quote_ident(pg_get_userbyid(relowner))
      from pg_class where relname = 'chat_history_sessions' and relnamespace = to_regnamespace(%s)"""
    with connect(visit.driver.address, visit.deadline) as conn:
        return list(conn.execute(query, [f'"{visit.schema}"']).fetchone() or ("?", "?", "?"))


def _guards(visit: _Visit) -> Iterator[Finding]:
    """Who asks, and what may be done by whom."""
    try:
        visit.guards = visit.ask("chat_history_guards")
    except NotInstalled:
        return  # an older schema, of which the finding was made
    assert visit.guards is not None
    facts = visit.guards
    who = "past row level security: the application itself" if facts["bypasses"] else "held to row level security"
    yield ok("role", f"Requests run as {facts['role']}, {who}.")
    yield from grants(facts, _grant(visit))
    yield from row_level_security(facts, visit.schema)


def _round_trip(visit: _Visit) -> Iterator[Finding]:
    """A scratch session: written, read back, and deleted whatever happened."""
    assert visit.store is not None
    store, session = visit.store.with_window(None), f"doctor-{uuid.uuid4()}"
    messages = [HumanMessage("Does this arrive?"), AIMessage("Unchanged.")]
    try:
        store.append(session, messages)
        back = store.load(session)
        removed = store.delete_session(session)
    except HistoryError as error:
        yield fault("round trip", error.says, _way_in(visit, error) or error.advice)
        with suppress(HistoryError):
            store.delete_session(session)
        raise _NoFurther from error
    if back == messages and removed:
        yield ok("round trip", "Two messages were stored, read back unchanged and deleted.")
    else:
        yield fault(
            "round trip",
            f"Two messages were stored, and {len(back)} came back, not the same.",
            "Look for triggers, rules or policies on the tables that this library did not make.",
        )


def _way_in(visit: _Visit, error: HistoryError) -> str:
    """What lets an application's own login in, where that is what is wrong."""
    held = visit.guards is not None and not visit.guards["bypasses"]
    if error.code != "42501" or not held or not visit.speaks_for_itself:
        return ""
    role, _, owner = _names(visit)
    return (
        f"grant {owner} to {role};  (or: alter role {role} bypassrls;  or, for signed-in users, go on with "
        "store.as_user(access_token))"
    )


def _latency(visit: _Visit) -> Iterator[Finding]:
    """The median of a few reads on a warm connection."""
    assert visit.store is not None
    session, times = f"doctor-{uuid.uuid4()}", []
    for _ in range(5):
        started = time.monotonic()
        visit.store.load(session)
        times.append(time.monotonic() - started)
    took = statistics.median(times)
    says = f"A read takes {took * 1000:.0f} ms; a turn waits for two, and the deadline is {visit.deadline:g} s."
    if took > visit.deadline * _SLOW:
        yield warning(
            "latency",
            f"{says} That leaves little room for a retry.",
            "Run the application in the database's region, or give the store a longer deadline.",
        )
    else:
        yield ok("latency", says)


def _langsmith(visit: _Visit) -> Iterator[Finding]:
    yield from langsmith(visit.environ, Path.cwd())


_CHECKS: Final[list[Callable[[_Visit], Iterator[Finding]]]] = [
    _configuration,
    _network,
    _key,
    _login,
    _schema,
    _guards,
    _round_trip,
    _latency,
]


# --- for people and for programs

_SIGNS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "fault": ("✗", "red")}


def show(findings: Sequence[Finding], *, as_json: bool = False) -> None:
    """Print findings: a table on a terminal, plain lines where they are piped, or JSON."""
    faults = sum(finding.status == "fault" for finding in findings)
    if as_json:
        print(json.dumps({"ok": not faults, "findings": [asdict(finding) for finding in findings]}, indent=2))
        return
    verdict = f"{faults} fault{'s' if faults > 1 else ''}." if faults else "All is well."
    if not sys.stdout.isatty():
        for finding in findings:
            print(f"{finding.status:<8}{finding.name}: {finding.says}")
            if finding.mend:
                print(f"        -> {finding.mend}")
        print(verdict)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1))
    for finding in findings:
        sign, colour = _SIGNS[finding.status]
        mend = f"\n[bold]{escape(finding.mend)}[/bold]" if finding.mend else ""
        table.add_row(f"[{colour}]{sign}[/{colour}]", escape(finding.name), escape(finding.says) + mend)
    console = Console(highlight=False)
    console.print(table)
    console.print(verdict)
