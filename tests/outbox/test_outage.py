"""A long outage with many writers, and the command that looks into the file."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from langchain_supabase_history import (
    HistoryStore,
)
from tests import servers
from tests.outbox.helpers import QA, ROOT, texts


@pytest.mark.soak
def test_20_turns_end_while_the_database_is_away_and_the_application_is_killed(tmp_path: Path, session: str) -> None:
    """Their reads came before, their saves come during; away for 30 s; nothing is lost or out of order."""
    with servers.postgres(servers.postgres_bin()) as server:
        from langchain_supabase_history import migrate

        conninfo = server.url(server.create_database())
        migrate(conninfo)
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.talker",
            conninfo,
            str(tmp_path / "outbox"),
            session,
            "20",
        ]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        for n in range(20):
            assert process.stdout.readline() == f"asked {n}\n"
        server.stop()
        stopped = time.monotonic()
        process.stdin.write("go\n")
        process.stdin.flush()
        for n in range(20):
            assert process.stdout.readline() == f"done {n}\n"
        process.kill()
        process.communicate()
        time.sleep(max(0, 30 - (time.monotonic() - stopped)))
        server.start()
        with HistoryStore.from_postgres(conninfo, outbox=tmp_path / "outbox") as store:  # sends by itself
            end = time.monotonic() + 60
            while store.waiting():
                assert time.monotonic() < end
                time.sleep(0.1)
            for part in range(2):
                wanted = [f"{who}{n}" for n in range(part, 20, 2) for who in "qa"]
                assert texts(store.load(f"{session}-{part}")) == wanted
    print("20 turns of 20 arrived, in order, after 30 s without a database and a SIGKILL")


def test_a_command_shows_what_waits_and_sends_it(
    pg: servers.Postgres, shared_database: str, tmp_path: Path, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from click.testing import CliRunner

    from langchain_supabase_history.commands.main import main

    path = tmp_path / "outbox"
    nowhere = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/x"
    with HistoryStore.from_postgres(nowhere, deadline=0.2, outbox=path) as store:
        store.append(session, QA)
        busy = CliRunner().invoke(main, ["outbox", str(path)])
        assert (busy.exit_code, "in use by a process" in busy.output) == (1, True)
    shown = CliRunner().invoke(main, ["outbox", str(path), "--json"])
    assert shown.exit_code == 1
    ((entry),) = json.loads(shown.stdout)
    assert (entry["session_id"], entry["messages"], entry["refused"]) == (session, 2, None)
    assert session[:20] in CliRunner().invoke(main, ["outbox", str(path)]).output
    monkeypatch.setenv("SUPABASE_DB_URL", shared_database)
    sent = CliRunner().invoke(main, ["outbox", str(path), "--flush", "--json"])
    assert (sent.exit_code, sent.stdout.strip()) == (0, "[]")
    with HistoryStore.from_postgres(shared_database) as store:
        assert store.load(session) == QA
