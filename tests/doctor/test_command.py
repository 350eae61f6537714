"""The command, and the page about what it says."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_supabase_history.commands.findings import show
from langchain_supabase_history.doctor.diagnose import Finding
from tests import servers
from tests.doctor.helpers import execute


def command(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    import os

    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "LANG", "PG"))}
    return subprocess.run(
        [sys.executable, "-c", "from langchain_supabase_history.commands.main import main; main()", "doctor", *args],
        capture_output=True,
        text=True,
        env={**clean, **environ},
        check=False,
    )


def test_the_command_on_a_sound_and_a_broken_database(database: str) -> None:
    done = command(SUPABASE_DB_URL=database)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("All is well.\n")
    assert "✓" not in done.stdout  # piped: plain words
    execute(database, "alter table chat_history_turns disable row level security")
    done = command("--db-url", database, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert [f["name"] for f in told["findings"] if f["status"] == "fault"] == ["row level security"]
    assert "enable row level security" in command("--db-url", database).stdout


def test_the_command_over_the_data_api(data_api: servers.Lite) -> None:
    done = command(SUPABASE_URL=data_api.url, SUPABASE_KEY=servers.SECRET_KEY)
    assert (done.returncode, done.stderr) == (0, "")
    done = command("--url", data_api.url, "--key", servers.SECRET_KEY, LANGSMITH_API_KEY="x")
    assert (done.returncode, done.stderr) == (0, "")  # a warning is no fault
    assert "warning langsmith" in done.stdout
    done = command("--schema", "no schema", "--url", data_api.url, "--key", servers.SECRET_KEY)
    assert (done.returncode, done.stderr) == (1, "")
    assert "schema must be a plain SQL identifier" in done.stdout


def test_a_table_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    show(
        [Finding("a", "ok", "good"), Finding("b", "warning", "so [so]", "see"), Finding("c", "fault", "bad", "do [it]")]
    )
    told = capsys.readouterr().out
    for part in ("✓", "!", "✗", "so [so]", "do [it]", "1 fault."):
        assert part in told


def test_the_command_on_an_embedded_postgresql(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as folder:
        for _ in range(2):
            done = command("--local", f"{folder}/postgres", "--schema", "chat")
            assert (done.returncode, done.stderr) == (0, "")
        assert "over a socket file" in done.stdout
        assert "Schema chat is at version" in done.stdout
    done = command("--local", str(tmp_path / "a blank"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: The embedded PostgreSQL cannot be in")
    done = command("--local", "--url", "http://x")
    assert done.returncode == 2
    assert "takes the place of" in done.stderr


def complaints_in_the_code() -> Iterator[str]:
    """What each warning and fault says, as far as it is always the same."""
    for path in sorted((servers.ROOT / "langchain_supabase_history" / "doctor").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("fault", "warning"):
                parts = [part.value for part in ast.walk(call.args[1]) if isinstance(part, ast.Constant)]
                if texts := [part for part in parts if isinstance(part, str) and len(part) > 5]:
                    yield max(texts, key=len).strip()


def test_every_complaint_is_explained() -> None:
    page = " ".join((servers.ROOT / "docs" / "troubleshooting.md").read_text().replace("\\", "").split())
    said = list(complaints_in_the_code())
    assert len(said) > 40
    assert [text for text in said if text not in page] == []
