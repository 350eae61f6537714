"""Imports whose process is killed half-way and that are run again: complete, and nothing twice."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import HistoryStore
from tests import servers
from tests.transfer.conversations import exported, parts

SCRIPT = """
import sys
from langchain_supabase_history import HistoryStore
way, address, user, source, what = sys.argv[1:]
store = HistoryStore.from_postgres(address) if way == "psycopg" else HistoryStore.from_supabase(address, {key!r})
def progress(report):
    print(report.messages, flush=True)
    sys.stdin.readline()  # goes on when it is told to
with store.for_user(user) as store:
    if what == "file":
        print("done", store.import_sessions(source, progress=progress))
    else:
        print("done", store.import_table(source, what, progress=progress))
"""
CONVERSATIONS, MESSAGES = 6, 1200


def run_until(steps: int, arguments: list[str]) -> str:
    """Run the script for so many batches, then kill it where it is, in the middle of the next; 0: let it end."""
    command = [sys.executable, "-c", SCRIPT.format(key=servers.SECRET_KEY), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=servers.ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        for n, line in enumerate(process.stdout, 1):
            if line.startswith("done"):
                break
            process.stdin.write("\n")
            process.stdin.flush()
            if n == steps:
                os.kill(process.pid, signal.SIGKILL)
                break
        process.wait(60)
        return line


@pytest.mark.parametrize("way", ["psycopg", "data-api"])
def test_a_file(
    postgres_store: HistoryStore, shared_database: str, data_api: servers.Lite, tmp_path: Path, way: str
) -> None:
    user = f"user-{uuid.uuid4()}"
    ada, bob = postgres_store.for_user(user), postgres_store.for_user(f"{user}-copy")
    for n in range(CONVERSATIONS):
        ada.append(f"s{n}", [m for k in range(MESSAGES // 2) for m in (HumanMessage(f"{n} {k}"), AIMessage("a"))])
    path = tmp_path / "all.jsonl"
    path.write_bytes(exported(ada))
    address = shared_database if way == "psycopg" else data_api.url
    for steps in (1, 2, 3):
        assert not run_until(steps, [way, address, f"{user}-copy", str(path), "file"]).startswith("done")
        for session in bob.sessions().items:  # what is there is a beginning of the conversation, and can be read
            stored = [m.message.text for m in bob.messages(session.session_id, limit=1000)]
            assert stored == [m.message.text for m in ada.messages(session.session_id, limit=1000)][: len(stored)]
    assert run_until(0, [way, address, f"{user}-copy", str(path), "file"]).startswith("done")
    assert parts(exported(bob)) == parts(path.read_bytes())


def test_a_table(postgres_store: HistoryStore, shared_database: str, empty_database: str) -> None:
    user = f"user-{uuid.uuid4()}"
    bob = postgres_store.for_user(user)
    with psycopg.connect(empty_database) as conn:
        conn.execute("create table history (id serial, session_id text, message jsonb)")
        conn.execute(
            "insert into history (session_id, message) select 's' || n / %s, "
            "jsonb_build_object('type', case n %% 2 when 0 then 'human' else 'ai' end, 'content', n::text) "
            "from generate_series(0, %s) n",
            [MESSAGES, CONVERSATIONS * MESSAGES - 1],
        )
    for steps in (1, 2):
        run_until(steps, ["psycopg", shared_database, user, empty_database, "history"])
    assert run_until(0, ["psycopg", shared_database, user, empty_database, "history"]).startswith("done")
    found = [p for p in parts(exported(bob)) if p["kind"] == "message"]
    assert [p["data"]["content"] for p in found] == [str(n) for n in range(CONVERSATIONS * MESSAGES)]


def test_an_export_that_is_killed_leaves_no_file(
    postgres_store: HistoryStore, shared_database: str, tmp_path: Path
) -> None:
    user = f"user-{uuid.uuid4()}"
    ada = postgres_store.for_user(user)
    ada.append("s", [HumanMessage("x")])
    script = (
        "import os, signal, sys\nfrom langchain_supabase_history import HistoryStore\n"
        "store = HistoryStore.from_postgres(sys.argv[1]).for_user(sys.argv[2])\n"
        "store.export_sessions(sys.argv[3], progress=lambda _: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    path = tmp_path / "all.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", script, shared_database, user, str(path)], cwd=servers.ROOT, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    ada.export_sessions(path)
    assert ada.import_sessions(io.BytesIO(path.read_bytes())).known == 1
