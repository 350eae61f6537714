"""A window and an append cost the same on a session of 100,000 messages as on one of 100, also behind failed turns."""

from __future__ import annotations

import json
import random
import statistics
import time
import uuid
from typing import Any

import psycopg
import pytest

from langchain_supabase_history import HistoryStore, Window, migrate
from tests import servers

KINDS = {
    "messages": Window(messages=20),
    "turns": Window(turns=5),
    "tokens": Window(tokens=500),
    "all": Window(messages=20, turns=5, tokens=500),
    "without system": Window(messages=20, keep_system=False),
}
# A session of n messages in turns of four with a tool call, written as the functions write it.
FILL = """
with made as (
  insert into chat_history_sessions (session_key, user_id, session_id, last_position, message_count, last_turn)
  values (chat_history_key('', %(s)s), '', %(s)s, %(n)s, %(n)s, %(n)s / 4) returning session_key)
insert into chat_history_messages
    (session_key, user_id, position, id, turn_id, type, data, tokens, in_context, begins_turn)
  select session_key, '', i, gen_random_uuid(), md5((i - 1) / 4 || %(s)s)::uuid,
      case when i = 1 then 'system' else (array['human', 'ai', 'tool', 'ai'])[1 + (i - 1) %% 4] end,
      case (i - 1) %% 4
        when 1 then json_build_object('content', '', 'tool_calls', json_build_array(
          json_build_object('name', 'f', 'args', '{}'::json, 'id', 'c' || (i + 1), 'type', 'tool_call')))
        when 2 then json_build_object('content', 'result ' || i, 'tool_call_id', 'c' || i)
        else json_build_object('content', 'text ' || i) end,
      20, i <= %(n)s - 4 * %(failed)s, (i - 1) %% 4 = 0
    from made, generate_series(1, %(n)s) i
"""


def fill(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        for name, n, failed in (("small", 100, 0), ("large", 100_000, 0), ("failed", 100_000, 2000)):
            conn.execute(FILL, {"s": name, "n": n, "failed": failed})
        conn.execute("vacuum analyze")


@pytest.fixture(scope="module")
def filled(pg: servers.Postgres) -> str:
    conninfo = pg.url(pg.create_database("template_history"))
    fill(conninfo)
    return conninfo


@pytest.fixture(scope="module")
def filled15(pg15: servers.Postgres) -> str:
    """On Debian's PostgreSQL, which has auto_explain."""
    conninfo = pg15.url(pg15.create_database())
    migrate(conninfo)
    fill(conninfo)
    return conninfo


def args(window: Window) -> dict[str, Any]:
    return {"m": window.messages, "t": window.turns, "k": window.tokens, "s": window.keep_system}


def test_the_sessions_are_what_they_should_be(filled: str) -> None:
    with HistoryStore.from_postgres(filled) as store:
        for name in ("small", "large", "failed"):
            loaded = store.load(name, KINDS["messages"])
            assert [m.type for m in loaded] == ["system", *["human", "ai", "tool", "ai"] * 5]
        assert loaded[-1].text == "text 92000"


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_reads_no_more_pages_of_a_long_session(filled: str, kind: str) -> None:
    query = (
        "explain (analyze, buffers, format json) select * from chat_history_load_rows(%(name)s, max_messages => %(m)s, "
        "max_turns => %(t)s, max_tokens => %(k)s, keep_system => %(s)s)"
    )
    with psycopg.connect(filled, autocommit=True, prepare_threshold=None) as conn:

        def pages(name: str) -> int:
            row = conn.execute(query, {**args(KINDS[kind]), "name": name}).fetchone()
            assert row is not None
            plan = row[0][0]["Plan"]
            assert plan["Actual Rows"] <= 30
            return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])

        for _ in range(10):  # the first run plans, later ones may use a generic plan: both must read little
            # The least of two: the server's own work on the catalogue may make one read that again.
            small, large, failed = (min(pages(name), pages(name)) for name in ("small", "large", "failed"))
            # A deeper index costs a page or two for each of its walks, and there are at most ten of these.
            assert large <= 1.5 * small + 20, (small, large)
            assert failed <= 1.5 * small + 20, (small, failed)


def test_an_append_reads_no_more_pages_of_a_long_session(filled: str) -> None:
    query = (
        "explain (analyze, buffers, format json) select chat_history_append(%s, "
        "array[gen_random_uuid(), gen_random_uuid()], array['human', 'ai'], array['{}', '{}']::json[], array[1, 1])"
    )
    with psycopg.connect(filled, prepare_threshold=None) as conn:

        def pages(name: str) -> int:
            row = conn.execute(query, [name]).fetchone()
            conn.rollback()  # the session stays as the other tests want it
            assert row is not None
            plan = row[0][0]["Plan"]
            return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])

        for _ in range(10):
            new, large = pages(f"append-{uuid.uuid4()}"), min(pages("large"), pages("large"))
            assert large <= new + 20, (new, large)


def test_each_part_of_a_window_is_a_limited_read_of_an_index(filled15: str) -> None:
    """The plans inside the functions, as auto_explain sees them."""
    notices: list[str] = []
    with psycopg.connect(filled15, autocommit=True) as conn:
        conn.add_notice_handler(lambda d: notices.append(d.message_primary or ""))
        conn.execute("load 'auto_explain'")
        for name, value in {
            "log_min_duration": "0",
            "log_nested_statements": "on",
            "log_analyze": "on",
            "log_format": "json",
            "log_level": "notice",
        }.items():
            conn.execute("select set_config(%s, %s, false)", [f"auto_explain.{name}", value])
        for window in KINDS.values():
            conn.execute(
                "select count(*) from chat_history_load_rows('failed', max_messages => %(m)s, max_turns => %(t)s, "
                "max_tokens => %(k)s, keep_system => %(s)s)",
                args(window),
            )
    plans = [json.loads(text[text.index("{") :]) for text in notices if "plan:" in text]
    scans: list[dict[str, Any]] = []

    def walk(node: dict[str, Any]) -> None:
        assert (node["Node Type"], node.get("Relation Name")) != ("Seq Scan", "chat_history_messages")
        if node.get("Index Name", "").startswith("chat_history_messages"):
            scans.append(node)
        for child in node.get("Plans", []):
            walk(child)

    for plan in plans:
        walk(plan["Plan"])
    assert len(scans) >= 15
    for scan in scans:
        assert "session_key" in scan["Index Cond"]
        assert scan["Actual Rows"] * scan["Actual Loops"] <= 100
        assert scan.get("Rows Removed by Filter", 0) <= 50


@pytest.mark.soak
def test_a_window_takes_no_longer_on_a_long_session(filled: str) -> None:
    with HistoryStore.from_postgres(filled, pool_size=1) as store:
        for kind, window in KINDS.items():
            taken: dict[str, list[float]] = {"small": [], "large": [], "failed": []}
            for n in range(220):
                for name in random.sample(list(taken), 3):
                    started = time.perf_counter()
                    store.load(name, window)
                    if n >= 20:
                        taken[name].append(time.perf_counter() - started)
            median = {name: statistics.median(times) for name, times in taken.items()}
            ratios = {name: round(median[name] / median["small"], 2) for name in ("large", "failed")}
            print(
                f"window by {kind}: on 100,000 messages {ratios['large']} times its cost on 100, "
                f"behind 2,000 failed turns {ratios['failed']} times"
            )
            assert max(ratios.values()) <= 1.5
