"""What one append and one load cost, beside raw psycopg and other chat histories, in one interleaved run.

    make bench                          # or: python -m benchmarks.core
    make bench ARGS="--quick"           # a minute's glance instead of a measurement
    make bench ARGS="--json"

All contenders talk to one PostgreSQL on loopback. Each round times every operation of every contender once, in a random
order, so that whatever the machine does besides falls on all alike; a ratio is taken within a round, and the median of
the rounds' ratios is what is reported. `docs/benchmarks.md` says what is compared and what came out.
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, Final

import click
import psycopg
from langchain_core.messages import BaseMessage
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from langchain_supabase_history import HistoryStore, migrate
from tests import servers

from .contenders import (
    DATA_API,
    LIBRARY,
    POSTGRES_PEER,
    RAW,
    SQL_PEER,
    Contender,
    contenders,
    conversation,
    tool_turn,
    turn,
)

# What a turn may cost beside an insert of the same JSON by hand, a load beside langchain-postgres, and a signed-in
# user's load beside the service role's.
APPEND_LIMIT: Final = 2.5
LOAD_LIMIT: Final = 1.0
RLS_LIMIT: Final = 1.3

SIZES: Final = (10, 100, 1_000, 10_000)
RLS_MESSAGES: Final = 1_000
WARM_UP: Final = 10  # psycopg prepares a statement at its sixth execution
SEED_CHUNK: Final = 500

# --- operations -----------------------------------------------------------------------------------------------------


@dataclass
class Operation:
    """Something to time: one function a contender, given the round's number, and how many rounds of all take part.

    Attributes:
        name: As in the report.
        base: Whom the ratios are of: they say how many times as long it takes as each other.
        run: Makes, outside the clock, what is timed.
        every: Takes part in each so-manieth round.
    """

    name: str
    base: str
    run: dict[str, Callable[[int], Callable[[], object]]]
    every: int = 1
    seconds: dict[str, list[float]] = field(default_factory=dict)


def append_operation(
    name: str, found: dict[str, Contender], make: Callable[[int], list[BaseMessage]], fresh: bool = False
) -> Operation:
    """Append what `make` gives for the round to one session that grows, or to a fresh one each time."""

    def timed(contender: Contender) -> Callable[[int], Callable[[], object]]:
        session = str(uuid.uuid4())

        def ready(number: int) -> Callable[[], object]:
            messages = contender.prepare(make(number))
            target = str(uuid.uuid4()) if fresh else session
            return lambda: contender.append(target, messages)

        return ready

    return Operation(name, LIBRARY, {who: timed(contender) for who, contender in found.items()})


def load_operation(found: dict[str, Contender], size: int) -> Operation:
    """Load a session of so many messages, stored beforehand."""
    messages = conversation(size)

    def timed(contender: Contender) -> Callable[[int], Callable[[], object]]:
        session = str(uuid.uuid4())
        for start in range(0, size, SEED_CHUNK):
            contender.append(session, contender.prepare(messages[start : start + SEED_CHUNK]))

        def load() -> None:
            if (count := len(contender.load(session))) != size:
                raise RuntimeError(f"loaded {count} messages of {size}")

        return lambda number: load

    every = 10 if size > 1_000 else 2 if size > 100 else 1
    return Operation(f"load {size:,}", LIBRARY, {who: timed(contender) for who, contender in found.items()}, every)


@contextmanager
def rls_operation(server: servers.Postgres, sessions: int) -> Iterator[Operation]:
    """Load one of a signed-in user's many sessions, held to row level security, and the same as the service role."""
    url = server.url(server.create_database(name="rls"))
    migrate(url)
    user, session = str(uuid.uuid4()), "session-1"
    with HistoryStore.from_postgres(url) as store:
        store.for_user(user).append(session, conversation(RLS_MESSAGES))
    with ExitStack() as stack:
        admin = stack.enter_context(psycopg.connect(url, autocommit=True))
        admin.execute(
            """insert into chat_history_sessions (session_key, user_id, session_id)
                 select chat_history_key(%s, name), %s, name
                   from (select 'session-' || n from generate_series(2, %s) n) s (name)""",
            [user, user, sessions],
        )
        admin.execute("vacuum analyze")
        run: dict[str, Callable[[int], Callable[[], object]]] = {}
        for role in ("authenticated", "service_role"):
            conn = stack.enter_context(psycopg.connect(url, autocommit=True))
            if role == "authenticated":
                conn.execute("select set_config('request.jwt.claims', %s, false)", [json.dumps({"sub": user})])
            conn.execute(f"set role {role}".encode())
            run[role] = _rls_load(conn, session, user)
        yield Operation("rls", "authenticated", run, every=2)


def _rls_load(conn: psycopg.Connection[Any], session: str, user: str) -> Callable[[int], Callable[[], object]]:
    query = "select type, data::text from chat_history_load_rows(session_id => %s, user_id => %s)"

    def load() -> None:
        if (count := len(conn.execute(query, [session, user], prepare=False).fetchall())) != 1 + RLS_MESSAGES:
            raise RuntimeError(f"read {count} rows")

    return lambda number: load


# --- measuring ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least two values."""
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(round(median, 4), round(q1, 4), round(q3, 4))


def measure(
    operations: Sequence[Operation], rounds: int, seed: int, rest: Callable[[], None], step: Callable[[], None]
) -> None:
    """Time every operation of every contender once a round, in a random order."""
    shuffle = random.Random(seed).shuffle
    for number in range(-WARM_UP, rounds):
        due = [op for op in operations if number % op.every == 0]
        todo = [(op, who) for op in due for who in op.run]
        shuffle(todo)
        for op, who in todo:
            timed = op.run[who](number + WARM_UP)
            start = time.perf_counter()
            timed()
            seconds = time.perf_counter() - start
            rest()
            if number >= 0:
                op.seconds.setdefault(who, []).append(seconds)
        step()


def report(operations: Sequence[Operation], settings: dict[str, str], rounds: int, sessions: int) -> dict[str, Any]:
    """All that was measured, ready for JSON."""
    results = []
    for op in operations:
        base = op.seconds[op.base]
        results.append(
            {
                "operation": op.name,
                "rounds": len(base),
                "of": op.base,
                "milliseconds": {who: asdict(Spread.of([s * 1e3 for s in times])) for who, times in op.seconds.items()},
                "ratios": {
                    who: asdict(Spread.of([mine / other for mine, other in zip(base, times, strict=True)]))
                    for who, times in op.seconds.items()
                    if who != op.base
                },
            }
        )
    packages = ("langchain_supabase_history", "langchain-core", "langchain-postgres", "langchain-community", "psycopg")
    return {
        "rounds": rounds,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "postgresql": settings,
        "rls_sessions": sessions,
        "operations": results,
        "requirements": requirements(results),
    }


def requirements(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is asked of the library, and whether this run met it."""
    checks = []
    for result in results:
        name = result["operation"]
        if name.startswith("append"):
            other, limit = RAW, APPEND_LIMIT
        elif name == "rls":
            other, limit = "service_role", RLS_LIMIT
        else:
            other, limit = POSTGRES_PEER, LOAD_LIMIT
        ratio = result["ratios"][other]["median"]
        checks.append({"operation": name, "beside": other, "limit": limit, "ratio": ratio, "met": ratio <= limit})
    return checks


def tables(found: dict[str, Any], *, plain: bool) -> Iterator[Table]:
    """The report for people: times, and how many times as long the library takes as each other contender."""
    style = box.MARKDOWN if plain else box.SIMPLE_HEAD
    names = [LIBRARY, RAW, POSTGRES_PEER, SQL_PEER, DATA_API]
    names = [name for name in names if name in found["operations"][0]["milliseconds"]]
    times = Table("milliseconds", *names, box=style)
    ratios = Table("library takes, times", *names[1:], box=style)
    for row in (result for result in found["operations"] if result["of"] == LIBRARY):
        cells = row["milliseconds"]
        times.add_row(row["operation"], *(f"{cells[who]['median']:.3f}" for who in names))
        cells = row["ratios"]
        ratios.add_row(row["operation"], *(_ratio(cells[who]) for who in names[1:]))
    yield times
    yield ratios
    limits = Table("requirement", "beside", "at most", "measured", "", box=style)
    spreads = {result["operation"]: result["ratios"] for result in found["operations"]}
    for check in found["requirements"]:
        measured = _ratio(spreads[check["operation"]][check["beside"]])
        limits.add_row(
            check["operation"], check["beside"], str(check["limit"]), measured, "met" if check["met"] else "NOT MET"
        )
    yield limits


def _ratio(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['q1']:.2f}-{spread['q3']:.2f})"


@click.command(help="Measure appends and loads beside raw psycopg and other chat histories, in one interleaved run.")
@click.option("--rounds", type=click.IntRange(20), help="How often each operation is timed; 300 unless told otherwise.")
@click.option("--quick", is_flag=True, help="40 rounds and fewer sessions: a glance, not a measurement.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--no-fsync", is_flag=True, help="Without waiting for the disk: what is left is computing alone.")
@click.option("--seed", default=0, help="Of the random order.")
def main(rounds: int | None, quick: bool, as_json: bool, no_fsync: bool, seed: int) -> None:
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    rounds = rounds or (40 if quick else 300)
    sessions = 2_000 if quick else 100_000
    errors = Console(stderr=True)
    data_api = servers.LITE_CLI.exists() and servers.node() is not None
    if not data_api:
        errors.print(f"The Data API is left out: @supabase/lite is not installed ({servers.LITE_INSTALL}).")
    with (
        servers.postgres(servers.postgres_bin(), f"fsync={'off' if no_fsync else 'on'}") as server,
        ExitStack() as stack,
    ):
        server.execute(servers.SUPABASE_ROLES)
        found = stack.enter_context(contenders(server, data_api))
        bar = stack.enter_context(Progress(console=errors, transient=True, disable=not sys.stderr.isatty()))
        task = bar.add_task("measuring", total=len(SIZES) + 1 + WARM_UP + rounds)
        operations = [
            append_operation("append 2", found, turn),
            append_operation("append 4", found, tool_turn),
            append_operation("append 2, new session", found, turn, fresh=True),
        ]
        for size in SIZES:
            operations.append(load_operation(found, size))
            bar.advance(task)
        operations.append(stack.enter_context(rls_operation(server, sessions)))

        def rest() -> None:
            for contender in found.values():
                contender.rest()

        server.execute("vacuum analyze", "bench")
        bar.advance(task)
        measure(operations, rounds, seed, rest, lambda: bar.advance(task))
        names = (
            "server_version",
            "fsync",
            "synchronous_commit",
            "wal_sync_method",
            "full_page_writes",
            "shared_buffers",
        )
        with psycopg.connect(server.url("bench"), autocommit=True) as conn:
            rows = [conn.execute("select current_setting(%s)", [name]).fetchone() for name in names]
        settings = {name: row[0] for name, row in zip(names, rows, strict=True) if row}
    result = report(operations, settings, rounds, sessions)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    plain = not sys.stdout.isatty()
    console = Console(width=140 if plain else None, no_color=plain or None, highlight=False)
    said = ", ".join(f"{name}={value}" for name, value in settings.items() if name != "server_version")
    console.print(f"PostgreSQL {settings['server_version']} ({said}); {rounds} rounds; ratio: median (quartiles)")
    for table in tables(result, plain=plain):
        console.print(table)


if __name__ == "__main__":
    main()
