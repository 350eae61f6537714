"""The command `langchain-supabase-history`, as people run it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result
from langchain_core.messages import HumanMessage

from langchain_supabase_history import HistoryStore, __version__
from langchain_supabase_history.commands.main import main
from langchain_supabase_history.migrations import migrations
from tests import servers

COMMAND = str(Path(sys.executable).with_name("langchain-supabase-history"))
NAMES = [migration.name for migration in migrations()]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for an embedded PostgreSQL: not pytest's, whose parent each run of pytest closes to other users."""
    with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture(autouse=True)
def no_database_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUPABASE_DB_URL", "SUPABASE_URL", "SUPABASE_KEY"):
        monkeypatch.delenv(name, raising=False)


def command(*words: str, db_url: str | None = None) -> Result:
    return CliRunner().invoke(main, words, env={"SUPABASE_DB_URL": db_url})


def local(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with which an embedded server ends."""
    return subprocess.run(
        [COMMAND, *words], capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environ}
    )


def ledger(database: str, schema: str = "public") -> list[str]:
    with psycopg.connect(database) as conn:
        query = f"select name from {schema}.chat_history_migrations order by version"
        return [name for (name,) in conn.execute(query.encode())]


def works(database: str, schema: str = "public") -> bool:
    with HistoryStore.from_postgres(database, schema=schema) as store:
        store.append("s", [HumanMessage("hello")])
        return [m.text for m in store.load("s")] == ["hello"]


def test_version_and_help() -> None:
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(f"version {__version__}")
    assert done.stderr == ""
    shown = command("-h")
    assert shown.exit_code == 0
    assert "SUPABASE_DB_URL" in shown.output


def test_migrate_applies_and_a_second_time_does_nothing(empty_database: str) -> None:
    first = command("migrate", db_url=empty_database)
    assert first.exit_code == 0, first.output
    assert first.output.splitlines() == [*(f"applied {name}" for name in NAMES), "Schema public is up to date."]
    second = command("migrate", "--db-url", empty_database)
    assert (second.exit_code, second.output) == (0, "Schema public is up to date.\n")
    assert ledger(empty_database) == NAMES
    assert works(empty_database)


def test_migrate_into_another_schema(empty_database: str) -> None:
    done = command("migrate", "--schema", "chats", db_url=empty_database)
    assert done.exit_code == 0, done.output
    assert done.output.endswith("Schema chats is up to date.\n")
    assert ledger(empty_database, "chats") == NAMES
    assert works(empty_database, "chats")
    with psycopg.connect(empty_database) as conn:
        assert conn.execute("select to_regclass('public.chat_history_sessions')").fetchone() == (None,)


@pytest.mark.parametrize("schema", ["public", "chats"])
def test_the_printed_sql_installs_once_however_often_it_is_run(empty_database: str, schema: str) -> None:
    printed = command("migrate", "--print", "--schema", schema)
    assert printed.exit_code == 0
    for _ in range(2):
        with psycopg.connect(empty_database, autocommit=True) as conn:
            conn.execute(printed.output.encode())
        assert ledger(empty_database, schema) == NAMES
    assert works(empty_database, schema)
    again = command("migrate", "--schema", schema, db_url=empty_database)  # the command agrees that it is all there
    assert again.output == f"Schema {schema} is up to date.\n"


def test_migrate_without_an_address_says_what_to_do() -> None:
    done = command("migrate")
    assert done.exit_code == 2
    assert "SUPABASE_DB_URL" in done.output
    assert "--print" in done.output


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://postgres:s3cret@127.0.0.1:{closed}/postgres", "Check the address"),
        ("postgresql://postgres:s3cret@127.0.0.1:{port}/missing", "missing"),
        ("postgresql://nobody:s3cret@127.0.0.1:{port}/postgres", "nobody"),
        ("postgresql://postgres:s3cret@[not a host/postgres", "connection string"),
        ("s3cret", "connection string"),
        ("postgresql://postgres.<project>:s3cret@<region>.pooler.supabase.com:5432/postgres", "<project>"),
        ("https://s3cret.supabase.co", "web address"),
    ],
)
def test_a_wrong_address_is_one_line_without_traceback_or_password(pg: servers.Postgres, url: str, says: str) -> None:
    url = url.format(closed=servers.free_port(), port=pg.port)
    done = subprocess.run(
        [COMMAND, "migrate", "--db-url", url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("Error: ")
    assert says in done.stderr
    assert "s3cret" not in done.stderr


def test_a_bad_schema_is_one_line(empty_database: str) -> None:
    done = command("migrate", "--schema", "x; drop table y", db_url=empty_database)
    assert done.exit_code == 1
    assert done.output.startswith("Error: schema must be a plain SQL identifier")


def test_the_demo_resumes_what_was_killed(folder: Path) -> None:
    words = [COMMAND, "demo", "--path", str(folder / "postgres")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    killed, resumed = done.stdout.split("SIGKILL")
    assert "My name is Ada." in killed
    assert "finds 4 messages" in resumed
    assert "Your name is Ada, and you live in Turin." in resumed


def test_the_demo_says_in_one_line_why_it_cannot_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = subprocess.run(
        [COMMAND, "demo", "--path", str(tmp_path / "file" / "postgres")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The folder")
    assert len(done.stderr.splitlines()) == 1


# --- which store a command works on

SINCE = ("--project", "p", "--since", "2026-01-01", "--dry-run")


@pytest.mark.parametrize("words", [["usage"], ["prune"], ["import", "langsmith", *SINCE]], ids=lambda words: words[0])
def test_a_command_without_a_database_says_what_is_missing(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_API_KEY", "x")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    done = command(*words)
    assert done.exit_code == 1
    for word in ("No database is configured.", "SUPABASE_DB_URL", ".env file", "HistoryStore.local()"):
        assert word in done.output
    monkeypatch.setenv("DATABASE_URL", "x")
    assert "Set SUPABASE_DB_URL to what DATABASE_URL holds." in command(*words).output


def test_commands_in_another_schema(empty_database: str, tmp_path: Path) -> None:
    assert command("migrate", "--schema", "chats", db_url=empty_database).exit_code == 0
    with HistoryStore.from_postgres(empty_database, schema="chats", outbox=tmp_path / "outbox") as store:
        store.append("s", [HumanMessage("hello")])
        store.clear("s")
    assert command("usage", db_url=empty_database).exit_code == 1
    shown = command("usage", "--schema", "chats", "--json", db_url=empty_database)
    assert '"unmeasured_turns": 1' in shown.output
    done = command("prune", "--schema", "chats", "--yes", db_url=empty_database)
    assert "Removed 0 sessions, 1 message" in done.output
    done = command("prune", "--schema", "chats", "--yes", db_url=empty_database)
    assert (done.exit_code, done.output) == (0, "Nothing to remove.\n")
    assert command("prune", "--schema", "chats", "--idle", "30", db_url=empty_database).output == "Nothing to remove.\n"
    done = command("outbox", str(tmp_path / "outbox"), "--flush", "--schema", "chats", db_url=empty_database)
    assert done.exit_code == 0
    assert "sent 0" in done.output


def test_commands_on_an_embedded_postgresql(folder: Path) -> None:
    code = (
        "from langchain_supabase_history import HistoryStore as S; from langchain_core.messages import HumanMessage\n"
    )
    code += "with S.local() as store: store.append('s', [HumanMessage('hello')]); store.clear('s')"
    environ = {"XDG_DATA_HOME": str(folder)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env={**os.environ, **environ})
    done = local("prune", "--local", "--yes", **environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 message " in done.stdout
    done = local("usage", "--local", str(folder / "langchain-supabase-history" / "postgres"), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"turns": 0' in done.stdout  # what was pruned is not counted


@pytest.mark.parametrize("days", ["30d", "0", "-1", "nan", "inf", "1e-300", "1e99", ""])
def test_days_that_are_none(days: str) -> None:
    done = command("prune", "--idle", days)
    assert done.exit_code == 2
    assert f"{days!r} is not a number of days, such as 30." in done.output


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 2"])
def test_a_file_that_is_no_outbox_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    for words in ([], ["--flush"]):
        done = command("outbox", str(path), *words)
        assert done.exit_code == 1
        assert done.output == f"Error: {path} is no outbox.\n"
    assert path.read_bytes() == content


# --- help


def test_no_help_line_is_cut() -> None:
    for words in ([], ["import"]):
        assert "..." not in command(*words, "--help").output.split("Commands:")[1]


def test_the_options_for_the_store_are_the_same_everywhere() -> None:
    for words in (["usage"], ["prune"], ["doctor"], ["outbox"], ["import", "langsmith"]):
        text = " ".join(command(*words, "--help").output.split())
        assert "--schema TEXT The schema of the tables. [default: public]" in text
        assert "--local [FOLDER] The embedded PostgreSQL in FOLDER, or the default one." in text
