"""What is right and wrong with an installation, in plain words, and what fixes each fault.

Each check is a small generator of findings about one thing, and they run in the order of `_CHECKS`. One check hands
on to the next what it learnt (`Visit`); after a fault the others go on, except where nothing is left to look at
(`NoFurther`). Nothing secret is shown: variables, keys and passwords are known by name and kind alone.
"""

from __future__ import annotations

import os
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from langchain_core.messages import AIMessage, HumanMessage
from psycopg.conninfo import conninfo_to_dict

from ..errors import LOGIN_ADVICE, Forbidden, HistoryError, NotConfigured, NotInstalled, Unavailable
from .environment import Finding, address, environment, fault, key, langsmith, ok, warning
from .network import client_settings, reach, unreachable
from .schema import guards, version, way_in
from .visit import NoFurther, Visit

if TYPE_CHECKING:
    from ..store import HistoryStore

__all__ = ["Finding", "diagnose"]

_SLOW: Final = 0.1  # of the deadline, for one round trip: a turn waits for two, and a retry must fit in besides


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
    visit = Visit(environ, settings, {"schema": schema, "deadline": deadline}, store)
    found: list[Finding] = []
    try:
        for check in _CHECKS:
            found += _run(check, visit)
            if found and found[-1] is _END:
                found.pop()
                break
        found += _run(_langsmith, visit)  # needs no database, so it is reported in any case
    finally:
        if store is None and visit.store is not None:
            visit.store.close()
    return found


_END: Final = Finding("", "fault", "")


def _run(check: Callable[[Visit], Iterator[Finding]], visit: Visit) -> list[Finding]:
    found: list[Finding] = []
    try:
        for finding in check(visit):
            found.append(finding)  # noqa: PERF402 - what came before an exception is kept
    except NoFurther:
        found.append(_END)
    except HistoryError as error:  # a check that was not prepared for it
        found.append(_from(_name_of(check), error))
    except Exception as error:  # nor for anything else: it becomes a finding
        found.append(
            fault(
                _name_of(check),
                f"This check ended with an error of its own ({type(error).__name__}).",
                "Look at the other findings first. Without any other, please report it with the library's version.",
            )
        )
    return found


def _name_of(check: Callable[[Visit], Iterator[Finding]]) -> str:
    return check.__name__.strip("_").replace("_", " ")


def _from(name: str, error: HistoryError) -> Finding:
    return fault(name, error.says or str(error), error.advice)


# --- the checks, in order


def _configuration(visit: Visit) -> Iterator[Finding]:
    """The variables, and a store made of them."""
    if visit.store is not None:
        return
    from ..store import HistoryStore

    found = list(environment(visit.given, visit.environ))
    if not any(finding.status == "fault" for finding in found):
        found += address(visit.given)
    if not visit.given["SUPABASE_DB_URL"]:
        found += client_settings()
    yield from found
    if any(finding.status == "fault" for finding in found):
        raise NoFurther
    try:
        if visit.given["SUPABASE_DB_URL"]:
            visit.store = HistoryStore.from_postgres(visit.given["SUPABASE_DB_URL"], **visit.options)
        else:
            url, api_key = visit.given["SUPABASE_URL"], visit.given["SUPABASE_KEY"]
            visit.store = HistoryStore.from_supabase(url, api_key, **visit.options)
    except HistoryError as error:
        yield _from("address", error)
        raise NoFurther from error


def _network(visit: Visit) -> Iterator[Finding]:
    """For psycopg: name, route, port and TLS, each by itself, so that each can be reported."""
    if not visit.over_psycopg:
        return
    given = conninfo_to_dict(visit.driver.address)
    hosts = str(given.get("hostaddr") or given.get("host") or visit.environ.get("PGHOST") or "").split(",")
    ports = str(given.get("port") or visit.environ.get("PGPORT") or 5432).split(",")
    if not all(port.isdigit() for port in ports):
        return  # the login says so in libpq's own words
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
        raise NoFurther


def _key(visit: Visit) -> Iterator[Finding]:
    if not visit.over_psycopg:
        yield from key(visit.api_key, visit.driver.address, has_user=visit.has_user)


def _login(visit: Visit) -> Iterator[Finding]:
    """The first call. Whether the database answers it matters here, what it answers to the checks that follow."""
    try:
        visit.ledger = visit.ask("chat_history_version")
    except NotInstalled as error:
        visit.ledger = error
    except Forbidden as error:
        if error.code != "42501":  # the key or the login; else it is a grant, of which later
            yield fault("login", error.says, LOGIN_ADVICE) if visit.over_psycopg else _from("key", error)
            raise NoFurther from error
        visit.ledger = error
    except Unavailable as error:
        yield _from("login", error) if visit.over_psycopg else unreachable(error, visit.driver.address)
        raise NoFurther from error
    except NotConfigured as error:
        yield _from("address", error)
        raise NoFurther from error
    if visit.over_psycopg:
        yield from _connection(visit)
    else:
        yield ok("connection", f"The Data API at {urlsplit(visit.driver.address).netloc} answers.")


def _connection(visit: Visit) -> Iterator[Finding]:
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


def _round_trip(visit: Visit) -> Iterator[Finding]:
    """A scratch session: written, read back, and deleted whatever happened."""
    assert visit.store is not None
    store, session = visit.store.with_window(None), f"doctor-{uuid.uuid4()}"
    messages = [HumanMessage("Does this arrive?"), AIMessage("Unchanged.")]
    try:
        store.append(session, messages)
        back = store.load(session)
        removed = store.delete_session(session)
    except HistoryError as error:
        yield fault("round trip", error.says, way_in(visit, error) or error.advice)
        with suppress(HistoryError):
            store.delete_session(session)
        raise NoFurther from error
    if back == messages and removed:
        yield ok("round trip", "Two messages were stored, read back unchanged and deleted.")
    else:
        yield fault(
            "round trip",
            f"Two messages were stored, and {len(back)} came back, not the same.",
            "Look for triggers, rules or policies on the tables that this library did not make.",
        )


def _latency(visit: Visit) -> Iterator[Finding]:
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


def _langsmith(visit: Visit) -> Iterator[Finding]:
    try:
        folder = Path.cwd()
    except OSError:  # removed meanwhile
        folder = Path("/")
    yield from langsmith(visit.environ, folder)


_CHECKS: Final[list[Callable[[Visit], Iterator[Finding]]]] = [
    _configuration,
    _network,
    _key,
    _login,
    version,
    guards,
    _round_trip,
    _latency,
]
