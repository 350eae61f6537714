"""How fast conversations go out and in, and in how much memory: `python -m benchmarks.transfer`.

Each export and the import run in a process of their own; the operating system says at its end how much memory it took.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import orjson

from langchain_supabase_history import HistoryStore, migrate
from tests import servers

USER = "ada"
A_CONVERSATION = 100  # messages
FILL = """
insert into chat_history_sessions (session_key, user_id, session_id, last_position, last_turn, message_count,
    turn_count)
  select chat_history_key('{user}', 's' || n), '{user}', 's' || n, {size}, {size} / 2, {size}, {size} / 2
    from generate_series(1, {count}) n;
insert into chat_history_turns (session_key, user_id, id, ordinal, first_position, model, total_tokens)
  select s.session_key, s.user_id, gen_random_uuid(), n, 2 * n - 1, 'm', 100
    from chat_history_sessions s, generate_series(1, {size} / 2) n;
insert into chat_history_messages (session_key, user_id, position, id, turn_id, type, data, tokens, begins_turn)
  select t.session_key, t.user_id, 2 * t.ordinal - 2 + k, gen_random_uuid(), t.id,
      case k when 1 then 'human' else 'ai' end,
      json_build_object('content', repeat('a few words of text ', 10) || t.ordinal), 60, k = 1
    from chat_history_turns t, generate_series(1, 2) k;
insert into chat_history_feedback (session_key, user_id, id, turn_id, key, score, ordinal)
  select t.session_key, t.user_id, gen_random_uuid(), t.id, 'helpful', 1, t.ordinal
    from chat_history_turns t where t.ordinal % 10 = 1;
analyze;
"""


def work(what: str, conninfo: str, path: str) -> None:
    """One export or import, and what it took, printed as JSON: in a process of its own."""
    start = time.perf_counter()
    with HistoryStore.from_postgres(conninfo) as store:
        if what == "import":
            messages = store.import_sessions(path).messages
        else:
            messages = store.for_user(USER).export_sessions(path, format=what).messages  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"messages": messages, "seconds": seconds, "peak_mb": peak}))


def measured(what: str, conninfo: str, path: Path) -> dict[str, Any]:
    """What `work` prints."""
    command = [sys.executable, "-m", "benchmarks.transfer", "--work", what, conninfo, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def digest(path: Path) -> str:
    """A hash over the parts of a file, without the line that says when it was made."""
    found = hashlib.sha256()
    with path.open("rb") as lines:
        next(lines)
        for line in lines:
            found.update(orjson.dumps(orjson.loads(line), option=orjson.OPT_SORT_KEYS))
    return found.hexdigest()


@click.command()
@click.option("--messages", default=1_000_000, show_default=True)
@click.option("--work", nargs=3, hidden=True)
def main(messages: int, work: tuple[str, str, str] | None) -> None:
    """Export so many messages to JSONL, CSV and Parquet, import the first into an empty database, and compare."""
    if work is not None:
        globals()["work"](*work)
        return
    with (
        servers.postgres(servers.postgres_bin(servers.POSTGRES_VERSION)) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        server.execute(servers.SUPABASE_ROLES)
        full, empty = (server.url(server.create_database()) for _ in range(2))
        for url in (full, empty):
            migrate(url)
        name = full.rpartition("/")[2]
        server.execute(FILL.format(user=USER, size=A_CONVERSATION, count=messages // A_CONVERSATION), name)
        there, again = Path(folder, "there.jsonl"), Path(folder, "again.jsonl")
        rows = [("jsonl", full, there), ("csv", full, Path(folder, "t.csv")), ("parquet", full, Path(folder, "t.pq"))]
        for what, url, path in [*rows, ("import", empty, there)]:
            took = measured(what, url, path)
            click.echo(
                f"{what:8} {took['messages']:>9,} messages, {took['messages'] / took['seconds']:>8,.0f} a second, "
                f"peak {took['peak_mb']:.0f} MB, file {path.stat().st_size / 2**20:,.0f} MB"
            )
        measured("jsonl", empty, again)
        click.echo(f"the same on both sides: {digest(there) == digest(again)}")


if __name__ == "__main__":
    main()
