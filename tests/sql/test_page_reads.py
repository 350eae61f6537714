"""Every function reads a bounded number of pages, however large its tables are and whatever the planner knows of them.

A cell is a shape of the data (so many sessions of so many messages), a PostgreSQL version, whether the tables were
analyzed, and whether they were vacuumed. Pages are those of EXPLAIN's buffers, found in the cache or not. A scan of one
of the tables would read thousands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from langchain_supabase_history import migrate
from langchain_supabase_history.migrations import apply, migrations

from .. import servers
from ..conftest import postgres

SHAPES = {"1x100000": (1, 100_000), "2x50000": (2, 50_000), "5x20000": (5, 20_000), "12x8000": (12, 8_000)}

# Sessions of n messages in turns of four, as the functions write them; a tenth of the turns has feedback that waits to
# be sent, every turn a trace without a cost.
FILL = """
insert into chat_history_sessions
    (session_key, user_id, session_id, last_position, message_count, last_turn, last_turn_id)
  select chat_history_key('', s::text), '', s::text, %(n)s, %(n)s, %(n)s / 4, md5(%(n)s / 4 || '-' || s)::uuid
    from generate_series(1, %(sessions)s) s;
insert into chat_history_turns (session_key, user_id, id, ordinal, first_position, trace_id, project, total_tokens)
  select chat_history_key('', s::text), '', md5(t || '-' || s)::uuid, t, 1 + 4 * (t - 1), md5(t || 'trace'), 'p', 10
    from generate_series(1, %(sessions)s) s, generate_series(1, %(n)s / 4) t;
insert into chat_history_messages
    (session_key, user_id, position, id, turn_id, type, data, tokens, begins_turn)
  select chat_history_key('', s::text), '', i, md5(i || '#' || s)::uuid, md5(1 + (i - 1) / 4 || '-' || s)::uuid,
      (array['human', 'ai', 'tool', 'ai'])[1 + (i - 1) %% 4], '{"content": "some text of a message"}', 20,
      (i - 1) %% 4 = 0
    from generate_series(1, %(sessions)s) s, generate_series(1, %(n)s) i;
insert into chat_history_feedback (session_key, user_id, id, turn_id, key, score, ordinal, unsent)
  select chat_history_key('', s::text), '', md5(t || 'f' || s)::uuid, md5(t || '-' || s)::uuid, 'k', 1, t, true
    from generate_series(1, %(sessions)s) s, generate_series(1, %(n)s / 4, 10) t;
"""

NEW = "gen_random_uuid()"
TWO = f"ids => array[{NEW}, {NEW}], types => array['human', 'ai'], data => array['{{}}', '{{}}']::json[]"
TURN_1, TURN_2 = "md5('1-1')::uuid", "md5('2-1')::uuid"
LAST = "(select last_turn_id from chat_history_sessions where session_id = '1')"

# What is called, and how many pages it may read. Each call is made on session 1 and taken back.
CALLS: dict[str, tuple[str, int]] = {
    "append": (f"chat_history_append('1', {TWO})", 150),
    "append, first try": (f"chat_history_append('1', {TWO}, replay => false)", 150),
    "append of known ids": (
        "chat_history_append('1', array[md5('1#1')::uuid, md5('2#1')::uuid], array['human', 'ai'], "
        'array[\'{"content": "some text of a message"}\', \'{"content": "some text of a message"}\']::json[])',
        100,
    ),
    "append that goes on": (
        f"chat_history_append('1', array[{NEW}], array['tool'], array['{{}}']::json[])",
        150,
    ),
    "append that fails its turn": (
        f"chat_history_append('1', turn => json_build_object('id', {LAST}, 'status', 'failed'))",
        150,
    ),
    "append in place of all": (f"chat_history_append('1', {TWO}, replace => true)", 250),
    "append to a new session": (f"chat_history_append('new', {TWO})", 150),
    "begin": (
        f"chat_history_begin('1', json_build_object('id', {NEW}, 'question', json_build_array(json_build_object("
        f"'id', {NEW}, 'type', 'human', 'data', '{{}}'::json))), max_messages => 20)",
        200,
    ),
    "load, 20 messages": ("chat_history_load('1', max_messages => 20)", 120),
    "load, 10 turns": ("chat_history_load('1', max_turns => 10)", 150),
    "load, 2000 tokens": ("chat_history_load('1', max_tokens => 2000)", 250),
    "load, all limits": ("chat_history_load('1', max_messages => 20, max_turns => 5, max_tokens => 500)", 200),
    "load, what is new": ("chat_history_load('1', after_position => 9999999, known_revision => 0)", 60),
    "interrupt_turns": ("chat_history_interrupt_turns('1', 0)", 60),
    "list_messages": ("chat_history_list_messages('1', max_items => 50)", 120),
    "list_messages, newest first": ("chat_history_list_messages('1', max_items => 50, newest_first => true)", 120),
    "list_messages, further on": ("chat_history_list_messages('1', max_items => 50, after => 4000)", 120),
    "list_turns": ("chat_history_list_turns('1', max_items => 50)", 120),
    "list_turns, newest first": ("chat_history_list_turns('1', max_items => 50, newest_first => true)", 120),
    "list_feedback": ("chat_history_list_feedback('1', max_items => 20)", 250),
    "get_session": ("chat_history_get_session('1')", 30),
    "add_feedback": (
        f"chat_history_add_feedback('1', json_build_object('id', {NEW}, 'turn_id', {TURN_2}, 'key', 'k', 'score', 1))",
        400,
    ),
    "add_feedback, changed": (
        f"chat_history_add_feedback('1', json_build_object('id', {NEW}, 'turn_id', {TURN_1}, 'key', 'k', 'score', 0))",
        400,
    ),
    "feedback_sent": (
        "chat_history_feedback_sent(json_build_array(json_build_object('session_id', '1', 'id', md5('1f1')::uuid, "
        "'updated_at', now())))",
        60,
    ),
    "set_costs": (
        f"chat_history_set_costs(json_build_array(json_build_object('session_id', '1', 'turn_id', {TURN_1}, "
        "'total_cost', 1)))",
        100,
    ),
    "uncosted_turns": ("chat_history_uncosted_turns(max_items => 20)", 200),
    "usage of a while": ("chat_history_usage(user_id => '', since => now() + interval '1 minute')", 60),
    "clear": ("chat_history_clear('1')", 80),
    "delete_session, a batch": ("chat_history_delete_session('1', batch => 20)", 400),
    "delete_user, a batch": ("chat_history_delete_user('1', batch => 20)", 100),
    "prune": ("chat_history_prune(dry_run => false)", 100),
    "prune, trims": ("chat_history_prune(keep_messages => 100000)", 100),
    "version": ("chat_history_version()", 40),
}


@dataclass(frozen=True)
class Cell:
    shape: str
    version: int
    analyzed: bool
    vacuumed: bool

    def __str__(self) -> str:
        known = "analyzed" if self.analyzed else "unknown"
        return f"{self.shape}, PostgreSQL {self.version}, {known}{', vacuumed' if self.vacuumed else ''}"


def filled(server: servers.Postgres, cell: Cell) -> psycopg.Connection[tuple[object, ...]]:
    """A database of this shape, whose statistics nobody changes behind the test's back."""
    url = server.url(server.create_database())
    migrate(url)
    conn = psycopg.connect(url, autocommit=True, prepare_threshold=None)
    for table in ("sessions", "messages", "turns", "feedback"):
        conn.execute(f"alter table chat_history_{table} set (autovacuum_enabled = off)".encode())
    sessions, n = SHAPES[cell.shape]
    for statement in FILL.split(";\n"):
        if statement.strip():
            conn.execute(statement.encode(), {"sessions": sessions, "n": n})
    if cell.vacuumed:
        conn.execute("vacuum")
    if cell.analyzed:
        conn.execute("analyze")
    return conn


def pages(conn: psycopg.Connection[tuple[object, ...]], call: str) -> int:
    """How many pages the call reads, run and taken back."""
    with conn.transaction(force_rollback=True):
        row = conn.execute(f"explain (analyze, buffers, format json) select {call}".encode()).fetchone()
    assert row is not None
    document = json.loads(row[0]) if isinstance(row[0], str) else row[0]
    plan = document[0]["Plan"]  # type: ignore[index]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def check(server: servers.Postgres, cell: Cell) -> None:
    too_many = []
    with filled(server, cell) as conn:
        for name, (call, most) in CALLS.items():
            # The first run plans and reads the catalogue. Later ones may use a generic plan; one of them may meet the
            # server's own work on the catalogue, and read it again.
            read = [pages(conn, call) for _ in range(8)][1:]
            if sorted(read)[-2] > most:
                too_many.append(f"{name}: {sorted(read)} pages, at most {most} wanted")
    assert too_many == [], f"{cell}: " + "; ".join(too_many)


@pytest.fixture(scope="module", params=[15, 18])
def server(request: pytest.FixtureRequest) -> Iterator[servers.Postgres]:
    with postgres(request.param) as server:
        yield server


def test_every_function_is_measured(empty_database: str) -> None:
    """Those of the first areas; later ones, from migration 20 on, are measured with theirs."""
    measured = {call.partition("(")[0] for call, _ in CALLS.values()}
    parts = {"chat_history_load_rows", "chat_history_begin_rows"}  # of load and begin
    constant = {f"chat_history_{name}" for name in ("guards", "json", "key", "owner", "user", "grant", "shares_open")}
    with psycopg.connect(empty_database, autocommit=True) as conn:
        for migration in migrations():
            if migration.version < 20:
                apply(conn, migration)
        ours = conn.execute(
            "select proname from pg_proc where proname like 'chat\\_history\\_%' "
            "and (proargnames is not null or pronargs = 0)"
        ).fetchall()
    assert {name for (name,) in ours} == measured | parts | constant


@pytest.mark.parametrize("analyzed", [True, False], ids=["analyzed", "unknown"])
@pytest.mark.parametrize("shape", ["1x100000", "12x8000"])
def test_a_call_reads_few_pages(pg: servers.Postgres, shape: str, analyzed: bool) -> None:
    check(pg, Cell(shape, servers.POSTGRES_VERSION, analyzed, vacuumed=False))


@pytest.mark.soak
@pytest.mark.parametrize("vacuumed", [True, False], ids=["vacuumed", "as written"])
@pytest.mark.parametrize("analyzed", [True, False], ids=["analyzed", "unknown"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_call_reads_few_pages_in_every_cell(
    server: servers.Postgres, shape: str, analyzed: bool, vacuumed: bool
) -> None:
    version = 15 if server.bin.parts[-2] == "15" else 18
    check(server, Cell(shape, version, analyzed, vacuumed))
