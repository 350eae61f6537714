"""What a batch of `prune` and of `delete_user` reads does not grow with the number of sessions or tombstones."""

from __future__ import annotations

import time
from datetime import timedelta

import psycopg
import pytest

from langchain_supabase_history import HistoryStore, Pruned

from .. import servers
from .test_page_reads import pages

STRIDE = 1000  # sessions that one call walks
# Half of the live sessions are idle; the tombstones have nothing left to remove, as after an earlier prune.
FILL = """
insert into chat_history_sessions (session_key, user_id, session_id, updated_at)
  select chat_history_key('ada', s::text), 'ada', s::text, now() - make_interval(days => (s %% 2) * 100)
    from generate_series(1, %(live)s) s;
insert into chat_history_sessions (session_key, user_id, session_id, deleted_at, last_position, cleared_position,
    last_turn, cleared_turn, epoch, revision)
  select chat_history_key('ada', 'gone' || s), 'ada', 'gone' || s, now(), 9, 9, 3, 3, 1, 1
    from generate_series(1, %(gone)s) s;
"""


def filled(pg: servers.Postgres, live: int, gone: int) -> str:
    url = pg.url(pg.create_database("template_history"))
    with psycopg.connect(url, autocommit=True) as conn:
        for statement in FILL.split(";\n"):
            if statement.strip():
                conn.execute(statement.encode(), {"live": live, "gone": gone})
    return url


@pytest.fixture(scope="module")
def many(pg: servers.Postgres) -> str:
    return filled(pg, 4_000, 8_000)


@pytest.mark.parametrize("whose", ["", "user_id => 'ada', "])
def test_a_call_walks_a_stride_of_sessions_and_no_more(many: str, whose: str) -> None:
    with psycopg.connect(many, autocommit=True, prepare_threshold=None) as conn:
        conn.execute("analyze")
        after, calls = "00000000-0000-0000-0000-000000000000", 0
        while after is not None:
            arguments = f"{whose}after_session => '{after}'"
            read = pages(conn, f"chat_history_prune({arguments})")
            assert read <= 12 * STRIDE, "two probes a tombstone, each of a few pages, and the sessions themselves"
            row = conn.execute(f"select chat_history_prune({arguments}) ->> 'next'".encode()).fetchone()
            assert row is not None
            calls, after = calls + 1, row[0]
        assert calls == 12_000 // STRIDE + 1


def test_what_is_idle_is_counted_once_and_the_progress_is_reported(many: str) -> None:
    seen: list[Pruned] = []
    with HistoryStore.from_postgres(many) as store:
        counted = store.prune(idle=timedelta(days=90), batch=10_000, progress=seen.append)
    assert counted.sessions == 2_000
    assert len(seen) == 13
    assert [p.sessions for p in seen] == sorted(p.sessions for p in seen)


def test_deleting_a_user_passes_their_tombstones_by(many: str) -> None:
    with psycopg.connect(many, autocommit=True, prepare_threshold=None) as conn:
        read = [pages(conn, "chat_history_delete_user('ada', batch => 3)") for _ in range(7)]
    assert max(read[2:]) <= 150


@pytest.mark.soak
def test_a_dry_run_over_100_000_sessions_and_200_000_tombstones(pg: servers.Postgres) -> None:
    url = filled(pg, 100_000, 200_000)
    with HistoryStore.from_postgres(url) as store:
        started = time.perf_counter()
        assert store.prune(idle=timedelta(days=90), batch=10_000).sessions == 50_000
        print(f"a dry run over 100,000 sessions and 200,000 tombstones: {time.perf_counter() - started:.1f} s")
