"""The commands that read LangSmith: where it fails midway, is away, or was asked without a key."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import HistoryStore, NotConfigured, Turn
from langchain_supabase_history.commands.main import main
from langchain_supabase_history.langsmith.client import LangSmith
from tests.langsmith_server import PROJECT, LangSmithServer, environment, langsmith_server, with_langsmith

WITHOUT_KEY = "LangSmith was asked without a key. Set LANGSMITH_API_KEY (LangSmith: Settings > API Keys)."


@pytest.fixture
def smith(monkeypatch: pytest.MonkeyPatch) -> Iterator[LangSmithServer]:
    """A LangSmith with 150 root runs, two pages of them."""
    monkeypatch.setattr("langchain_supabase_history.langsmith.client._RETRIES", 0)
    with langsmith_server() as server:
        for n in range(150):
            at, run_id = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n), str(uuid.uuid4())
            server.take(
                {
                    "id": run_id,
                    "trace_id": run_id,
                    "dotted_order": at.strftime("%Y%m%dT%H%M%S%fZ") + run_id,
                    "name": "run",
                    "run_type": "chain",
                    "start_time": at.isoformat(),
                    "end_time": at.isoformat(),
                    "session_name": PROJECT,
                }
            )
        yield server


def invoke(smith_url: str, *arguments: str, **environ: Any) -> Any:
    return CliRunner(env={**environment(smith_url, tracing=False), **environ}).invoke(main, arguments)


def export(smith: LangSmithServer, *arguments: str) -> Any:
    return invoke(smith.url, "export", "traces", "--project", PROJECT, *arguments)


def fail_after_a_page(smith: LangSmithServer, monkeypatch: pytest.MonkeyPatch) -> None:
    query = smith.query_runs

    def once(body: dict[str, Any]) -> tuple[int, Any]:
        smith.behave = "500"
        return query(body)

    monkeypatch.setattr(smith, "query_runs", once)


# --- export traces


@pytest.mark.parametrize("format", ["csv", "json", "jsonl"])
def test_a_file_is_replaced_as_a_whole_or_not_at_all(
    smith: LangSmithServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    path = tmp_path / "traces"
    path.write_text("of yesterday")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    with monkeypatch.context() as patch:
        fail_after_a_page(smith, patch)
        failed = export(smith, "--format", format, "--output", str(link))
    assert failed.exit_code == 1
    assert "LangSmith did not give" in failed.stderr
    assert path.read_text() == "of yesterday"
    assert sorted(tmp_path.iterdir()) == [link, path]
    smith.behave = "well"
    assert export(smith, "--format", format, "--output", str(link)).exit_code == 0
    assert path.read_text().count('"run"' if format != "csv" else ",run,") == 150
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(tmp_path.iterdir()) == [link, path]


def test_a_new_file_is_not_begun_where_langsmith_fails(
    smith: LangSmithServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_after_a_page(smith, monkeypatch)
    assert export(smith, "--output", str(tmp_path / "traces")).exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["csv", "json", "jsonl"])
def test_nothing_is_written_where_langsmith_is_away(smith: LangSmithServer, format: str) -> None:
    smith.behave = "500"
    failed = export(smith, "--format", format)
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: LangSmith did not give")


def test_what_is_no_file_is_written_to(smith: LangSmithServer, tmp_path: Path) -> None:
    read, write = os.pipe()
    with open(read) as out:
        assert export(smith, "--until", "2026-01-01", "--output", f"/dev/fd/{write}").exit_code == 0
        os.close(write)
        assert out.read().count(",run,") == 1
    refused = export(smith, "--output", str(tmp_path / "no" / "such" / "folder"))
    assert refused.exit_code == 1
    assert "No such file or directory" in refused.stderr
    assert export(smith, "--output", str(tmp_path)).exit_code == 2


# --- without a key


@pytest.mark.parametrize(
    "command",
    [
        ["export", "traces", "--project", PROJECT],
        ["import", "langsmith", "--project", PROJECT, "--since", "2020-01-01"],
        ["usage", "--with-langsmith"],
    ],
)
def test_without_a_key_a_command_says_so(smith: LangSmithServer, database: str, command: list[str]) -> None:
    for blank in ("", " "):
        keys = {"LANGSMITH_API_KEY": blank, "LANGCHAIN_API_KEY": blank}
        failed = invoke(smith.url, *command, SUPABASE_DB_URL=database, **keys)
        assert (failed.exit_code, failed.stdout, failed.stderr.strip()) == (1, "", f"Error: {WITHOUT_KEY}")
    assert not smith.requests


@pytest.fixture
def keyless(smith: LangSmithServer, monkeypatch: pytest.MonkeyPatch) -> LangSmithServer:
    """The LangSmith that this process is told of, without a key."""
    from langsmith import utils

    for name, value in environment(smith.url, tracing=False).items():
        monkeypatch.setenv(name, value)
    for name in ("LANGSMITH_API_KEY", "LANGCHAIN_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    utils.get_env_var.cache_clear()  # type: ignore[attr-defined]
    return smith


def test_without_a_key_feedback_is_stored(
    store: HistoryStore,
    session: str,
    keyless: LangSmithServer,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    smith = LangSmith()
    request.addfinalizer(smith.close)
    store = with_langsmith(store, smith).for_user(session)  # with nothing unsent of other tests
    traced = Turn(uuid.uuid4(), trace_id=str(uuid.uuid4()), run_id=str(uuid.uuid4()), project=PROJECT)
    store.append(session, [HumanMessage("q"), AIMessage("a")], turn=traced)
    began = time.monotonic()
    assert store.add_feedback(session, traced, "helpful", score=1).unsent
    assert time.monotonic() - began < 1
    assert [given.unsent for given in store.feedback(session)] == [True]
    with pytest.raises(NotConfigured) as caught:
        store.trace_url(traced)
    assert str(caught.value) == WITHOUT_KEY
    assert not keyless.requests

    monkeypatch.setenv("LANGCHAIN_API_KEY", "lsv2_later")  # a key that comes later is taken, under its old name too
    assert not store.add_feedback(session, traced, "helpful", score=1).unsent
    assert [given["key"] for given in keyless.feedback.values()] == ["helpful"]


def test_a_client_of_ones_own_needs_no_key(session: str, database: str, keyless: LangSmithServer) -> None:
    from langsmith import Client

    own = Client(api_url=keyless.url, auto_batch_tracing=False)
    with HistoryStore.from_postgres(database, langsmith_client=own) as store:
        traced = Turn(uuid.uuid4(), trace_id=str(uuid.uuid4()), run_id=str(uuid.uuid4()), project=PROJECT)
        store.append(session, [HumanMessage("q"), AIMessage("a")], turn=traced)
        assert not store.add_feedback(session, traced, "helpful", score=1).unsent
    own.close(timeout=0)
