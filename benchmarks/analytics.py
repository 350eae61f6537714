"""How long an owner's questions take at a million messages: `python -m benchmarks.analytics`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
import psycopg
from rich.console import Console
from rich.table import Table

from langchain_supabase_history import HistoryStore, migrate
from tests import servers

A_CONVERSATION = 50  # messages, of four a turn
FILL = """
insert into chat_history_sessions (session_key, user_id, session_id, last_position, message_count, last_turn,
    turn_count)
  select chat_history_key('u' || s % 2000, 's' || s), 'u' || s % 2000, 's' || s, {size}, {size}, {turns}, {turns}
    from generate_series(1, {count}) s;
insert into chat_history_turns (session_key, user_id, id, ordinal, first_position, started_at, ended_at, model,
    input_tokens, output_tokens, total_tokens, total_cost, status, documents, first_token_seconds)
  select s.session_key, s.user_id, gen_random_uuid(), t, 1 + 4 * (t - 1), b.at, b.at + random() * interval '20 seconds',
      (array['a', 'b', 'c'])[1 + (b.n + t) % 3], 500, 100, 600, 0.01,
      case when t = 7 and b.n % 10 = 0 then 'failed' else 'completed' end,
      (select json_agg(json_build_object('id', d::text, 'source', 'file' || (b.n * t + d) % 500 || '.md', 'score', 0.5,
                                         'excerpt', repeat('some words of a document ', 12), 'retriever', 'r'))
         from generate_series(1, 3) d),
      random()
    from chat_history_sessions s, generate_series(1, {turns}) t, lateral (
      select substr(s.session_id, 2)::integer as n,
          timestamptz '2026-01-01Z' + (substr(s.session_id, 2)::integer * {turns} + t) * interval '1 minute' as at) b;
insert into chat_history_messages (session_key, user_id, position, id, turn_id, type, data, tokens, begins_turn)
  select t.session_key, t.user_id, t.first_position + k, gen_random_uuid(), t.id,
      (array['human', 'ai', 'tool', 'ai'])[1 + k], json_build_object('content', repeat('a few words of text ', 10)),
      60, k = 0
    from chat_history_turns t, generate_series(0, 3) k;
insert into chat_history_feedback (session_key, user_id, id, turn_id, key, score, ordinal)
  select t.session_key, t.user_id, gen_random_uuid(), t.id, 'helpful', t.ordinal % 2, t.ordinal
    from chat_history_turns t where t.ordinal % 4 = 1;
analyze;
"""


def seconds(ask: Callable[[], Any], rounds: int) -> float:
    """The median of so many rounds, after one that is not counted."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        ask()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


@click.command()
@click.option("--messages", default=1_000_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(messages: int, rounds: int) -> None:
    """Fill a database with so many messages, and ask what an owner's page asks."""
    count, turns = max(messages // A_CONVERSATION, 1), A_CONVERSATION // 4
    with servers.postgres(servers.postgres_bin(servers.POSTGRES_VERSION)) as server:
        server.execute(servers.SUPABASE_ROLES)
        conninfo = server.url(server.create_database())
        migrate(conninfo)
        server.execute(FILL.format(size=A_CONVERSATION, turns=turns, count=count), conninfo.rpartition("/")[2])
        with psycopg.connect(conninfo, autocommit=True) as conn:
            row = conn.execute(
                "select (select count(*) from chat_history_messages), max(started_at) from chat_history_turns"
            ).fetchone()
        assert row is not None
        stored, newest = row
        month = datetime.fromtimestamp(newest.timestamp() - 30 * 86400, UTC)
        with HistoryStore.from_postgres(conninfo, deadline=60) as store:
            questions: dict[str, Callable[[], Any]] = {
                "analytics of all": store.analytics,
                "without documents": lambda: store.analytics(documents=0),
                "of the last 30 days": lambda: store.analytics(since=month),
                "of one user": lambda: store.analytics(user_id="u7"),
                "usage by day and model": lambda: store.usage(group_by=["day", "model"]),
                "a page of all sessions": lambda: store.sessions(all_users=True, limit=50),
            }
            table = Table("question", "seconds", title=f"{stored:,} messages")
            for name, ask in questions.items():
                table.add_row(name, f"{seconds(ask, rounds):.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
