"""Conversations restored from what the tracer has sent: equal, once only, and through every interruption."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langsmith import traceable

from langchain_supabase_history import Conflict, HistoryStore, InvalidInput, NotFound, Turn, Unavailable
from langchain_supabase_history.commands.main import main
from langchain_supabase_history.langsmith.restore import Restore, Restored
from langchain_supabase_history.langsmith.run_messages import as_message
from tests import servers
from tests.langsmith_server import PROJECT, LangSmithServer, environment, flush, langsmith_server, metadata, tracing
from tests.metered import KEYS, PARSED, PLAIN
from tests.shapes import MODES, SHAPES, Echo, config_of, run

SINCE = datetime(2020, 1, 1, tzinfo=UTC)
Conversations = dict[tuple[str | None, str], list[BaseMessage]]


def record_agent(session: str) -> list[BaseMessage]:
    """An agent with a memory of its own: its root runs tell the whole conversation each time, with ids."""
    state: list[BaseMessage] = []

    def agent(given: dict[str, Any]) -> dict[str, Any]:
        (question,) = convert_to_messages(given["messages"])
        call = {"name": "add", "args": {"a": 1, "b": 2}, "id": f"call-{len(state)}", "type": "tool_call"}
        state.extend(
            [
                HumanMessage(question.text, id=str(uuid.uuid4())),
                AIMessage("", tool_calls=[call], id=str(uuid.uuid4())),
                ToolMessage("3", tool_call_id=call["id"], name="add", id=str(uuid.uuid4())),
                AIMessage("that is 3", id=str(uuid.uuid4())),
            ]
        )
        return {"messages": list(state)}

    for n in range(4):
        question = "the same question" if n else {"role": "user", "content": "the first"}
        given = {"messages": [HumanMessage(question) if isinstance(question, str) else question]}
        RunnableLambda(agent).invoke(given, {"configurable": {"thread_id": session}})
    return state


def record_models(session: str) -> list[BaseMessage]:
    """A chat model without anything around it, given the whole conversation by its application."""
    messages: list[BaseMessage] = [SystemMessage("be brief")]
    for n in range(4):
        messages.append(HumanMessage(f"word{n}"))
        messages.append(Echo().invoke(messages, {"metadata": {"conversation_id": session}}))
    return messages


def record_functions(session: str) -> list[BaseMessage]:
    """The application's own functions: a question and an answer as strings, and dictionaries like a provider's."""

    @traceable(metadata={"session_id": session})
    def ask(question: str) -> str:
        return f"you asked {question}"

    @traceable(metadata={"session_id": session})
    def chat(messages: list[dict[str, str]]) -> dict[str, Any]:
        return {"role": "assistant", "content": "hello to you"}

    @traceable(metadata={"session_id": session})
    def rag(question: str, chat_history: list[str]) -> dict[str, Any]:
        return {"context": ["a document"], "answer": "it says so"}

    ask("why?")
    chat([{"role": "user", "content": "hello"}])
    rag("what does it say?", ["an older question"])
    return [
        HumanMessage("why?"),
        AIMessage("you asked why?"),
        HumanMessage("hello"),
        AIMessage("hello to you"),
        HumanMessage("what does it say?"),
        AIMessage("it says so"),
    ]


@pytest.fixture(scope="module")
def recorded(pg: servers.Postgres) -> Iterator[tuple[LangSmithServer, HistoryStore, Conversations]]:
    """A project of more than 200 root runs, the store that they were recorded beside, and the conversations."""
    live = pg.url(pg.create_database("template_history"))
    with langsmith_server() as smith, tracing(smith.url), HistoryStore.from_postgres(live) as store:
        expected: Conversations = {}
        for name, shape in SHAPES.items():
            for wrapper in ("ours", "theirs"):
                session = f"{wrapper} {name}"
                chain: Any
                if wrapper == "ours":
                    chain = store.with_history(shape.runnable, **shape.keys)
                else:
                    chain = RunnableWithMessageHistory(shape.runnable, store.get_session_history, **shape.keys)
                for n in range(8):
                    run(chain, MODES[n % len(MODES)], shape.give(f"question {n}"), config_of(session))
                expected[None, session] = store.load(session)
        for user in ("ada", "bob"):
            for chain in (PLAIN, PARSED):
                mine = store.with_history(chain, **KEYS)
                mine.invoke({"input": f"I am {user}"}, config_of("default", user_id=user))
            expected[user, "default"] = store.for_user(user).load("default")
        broken = store.with_history(PARSED | (lambda answer: 1 / 0), **KEYS)
        with pytest.raises(ZeroDivisionError):
            broken.invoke({"input": "this fails"}, config_of("broken"))
        expected[None, "broken"] = []
        expected[None, "agent"] = record_agent("agent")
        expected[None, "models"] = record_models("models")
        expected[None, "functions"] = record_functions("functions")
        Echo().invoke("no session")

        flush(smith)
        for n, root in enumerate(smith.roots()):
            root["total_cost"] = (n + 1) / 1000
        for n, turn in enumerate(store.turns("ours text")):
            store.add_feedback("ours text", turn, "helpful", score=n, comment=f"comment {n}")
        judged = next(iter(store.turns("ours text"))).run_id
        smith.take_feedback(
            {
                "id": str(uuid.uuid4()),
                "run_id": judged,
                "key": "helpful",
                "score": 0.25,
                "value": "another rater",
                "session_id": smith.projects[PROJECT],
            }
        )
        yield smith, store, expected


@pytest.fixture
def smith(recorded: Any) -> Iterator[LangSmithServer]:
    server: LangSmithServer = recorded[0]
    server.behave, server.fail_first = "well", 0
    yield server
    server.behave, server.fail_first = "well", 0


@pytest.fixture
def empty(database: str) -> Iterator[HistoryStore]:
    with HistoryStore.from_postgres(database) as store:
        yield store


def said(messages: list[BaseMessage]) -> list[tuple[Any, ...]]:
    return [(m.type, m.content, getattr(m, "tool_calls", None), getattr(m, "tool_call_id", None)) for m in messages]


def assert_equal(store: HistoryStore, recorded: Any) -> None:
    """Everything that was recorded is in the store: conversations, turns, tokens, costs, feedback."""
    smith, live, expected = recorded
    for (user, session), messages in expected.items():
        view = store if user is None else store.for_user(user)
        assert said(view.load(session)) == said(messages), (user, session)
        lived = list((live if user is None else live.for_user(user)).turns(session))
        turns = list(view.turns(session))
        roots = [root for root in smith.roots() if thread(root) == session and metadata(root).get("user_id") == user]
        assert [turn.run_id for turn in turns] == [turn.trace_id for turn in turns] == [root["id"] for root in roots]
        for turn, root in zip(turns, roots, strict=True):
            assert turn.total_cost == root["total_cost"]
            assert turn.project == PROJECT
            assert turn.total_tokens == (smith.usage(root["id"]).get("total_tokens") or None)
            assert turn.started_at is not None
            assert turn.started_at.isoformat()[:26] == root["start_time"][:26]
        for turn, was in zip(turns, lived, strict=False):
            assert (turn.status, turn.trace_id, turn.input_tokens) == (was.status, was.trace_id, was.input_tokens)
    judged = [(f.key, f.score, f.value, f.comment, f.unsent) for f in store.feedback("ours text")]
    assert sorted(judged, key=repr) == sorted(
        [("helpful", float(n), None, f"comment {n}", False) for n in range(8)]
        + [("helpful", 0.25, "another rater", None, False)],
        key=repr,
    )


def thread(root: dict[str, Any]) -> Any:
    told = metadata(root)
    return told.get("session_id") or told.get("conversation_id") or told.get("thread_id")


def dump(url: str) -> dict[str, list[Any]]:
    """All that a database holds."""
    tables = ("sessions", "messages", "turns", "feedback")
    with psycopg.connect(url) as conn:
        return {
            table: conn.execute(f"select to_json(t)::text from chat_history_{table} t order by 1").fetchall()
            for table in tables
        }


def test_a_project_of_every_shape_is_restored(
    recorded: Any, smith: LangSmithServer, empty: HistoryStore, database: str
) -> None:
    assert len(smith.roots()) >= 200
    seen: list[tuple[int, int]] = []
    report = Restore(empty, PROJECT, SINCE, on_progress=lambda *p: seen.append(p)).run()
    assert report.runs == len(smith.roots())
    assert report.turns == report.runs - 1
    assert (report.without_session, report.without_messages, report.known, report.refused) == (1, 0, 0, 0)
    assert (report.sessions, report.feedback) == (len(recorded[2]), 9)
    assert seen[0] == (0, report.turns)
    assert seen[-1] == (report.turns, report.turns)
    assert_equal(empty, recorded)

    before = dump(database)
    again = Restore(empty, PROJECT, SINCE).run()
    assert again == Restored(runs=report.runs, known=report.turns, without_session=1)
    assert dump(database) == before


def test_messages_come_back_with_what_the_trace_knows_of_them(
    smith: LangSmithServer, recorded: Any, empty: HistoryStore
) -> None:
    Restore(empty, PROJECT, SINCE).run()
    live = recorded[1]
    assert empty.load("ours prompt | chat model") == live.load("ours prompt | chat model")
    assert empty.load("theirs message out") == live.load("theirs message out")
    first, second = (store.for_user("ada").load("default")[1] for store in (empty, live))
    assert first == second
    assert isinstance(first, AIMessage)
    assert first.usage_metadata is not None
    (failed,) = empty.turns("broken")
    assert failed.status == "failed"
    assert "ZeroDivisionError" in (failed.error or "")
    assert len(empty.messages("broken")) == 1


def test_a_dry_run_writes_nothing(smith: LangSmithServer, empty: HistoryStore, database: str) -> None:
    before = dump(database)
    dry = Restore(empty, PROJECT, SINCE, dry_run=True).run()
    assert dump(database) == before
    assert dry == Restore(empty, PROJECT, SINCE).run()


def test_beside_what_was_recorded_live_only_costs_are_filled_in(smith: LangSmithServer, pg: servers.Postgres) -> None:
    url = pg.url(pg.create_database("template_history"))
    with langsmith_server() as own, tracing(own.url), HistoryStore.from_postgres(url) as store:
        chain = store.with_history(PARSED, **KEYS)
        for n in range(3):
            chain.invoke({"input": str(n)}, config_of("s"))
        flush(own)
        for root in own.roots():
            root["total_cost"] = 0.5
        messages, turns = list(store.messages("s")), list(store.turns("s"))
        report = Restore(store, PROJECT, SINCE).run()
        assert (report.turns, report.messages, report.known, report.costs) == (0, 0, 3, 3)
        assert list(store.messages("s")) == messages
        assert [turn.total_cost for turn in store.turns("s")] == [0.5] * 3
        assert [turn.id for turn in store.turns("s")] == [turn.id for turn in turns]


def test_what_was_erased_does_not_come_back(smith: LangSmithServer, empty: HistoryStore) -> None:
    Restore(empty, PROJECT, SINCE).run()
    empty.delete_session("ours text")
    empty.clear("theirs text")
    report = Restore(empty, PROJECT, SINCE).run()
    assert (report.turns, report.refused) == (0, 16)
    assert empty.load("ours text") == empty.load("theirs text") == []
    with pytest.raises(NotFound):
        empty.session("ours text")


def test_a_run_that_is_still_running_is_restored_when_it_has_ended(empty: HistoryStore, database: str) -> None:
    """Its answer repeats the question with an id that it has not had before, as agents' do."""
    with langsmith_server() as own, tracing(own.url):
        now = datetime.now(UTC)
        first, run_id = str(uuid.uuid4()), str(uuid.uuid4())
        asked: dict[str, Any] = {"type": "human", "content": "question"}
        for n, id in enumerate((first, run_id)):
            order = f"2026010{n + 1}T000000000000Z{id}"
            own.take(
                {
                    "id": id,
                    "trace_id": id,
                    "dotted_order": order,
                    "name": "agent",
                    "run_type": "chain",
                    "start_time": now.isoformat(),
                    "session_name": PROJECT,
                    "extra": {"metadata": {"session_id": "s"}},
                    "inputs": {"messages": [asked]},
                }
            )
        own.take({"id": first, "end_time": now.isoformat(), "outputs": {"output": "first answer"}})
        report = Restore(empty, PROJECT, SINCE).run()
        assert (report.turns, report.running, report.refused) == (1, 1, 0)
        command = ["import", "langsmith", "--project", PROJECT, "--since", "2020-01-01"]
        shown = CliRunner(env={"SUPABASE_DB_URL": database}).invoke(main, command, catch_exceptions=False)
        assert "1 runs are still running; restore again when they have ended." in shown.output
        assert [turn.status for turn in empty.turns("s")] == ["completed"]
        answer = {"type": "ai", "content": "answer", "id": "12"}
        own.take({"id": run_id, "end_time": now.isoformat(), "outputs": {"messages": [{**asked, "id": "11"}, answer]}})
        report = Restore(empty, PROJECT, SINCE).run()
        assert (report.turns, report.known, report.running, report.refused) == (1, 1, 0, 0)
        assert [turn.status for turn in empty.turns("s")] == ["completed"] * 2
        assert [m.text for m in empty.load("s")] == ["question", "first answer", "question", "answer"]
        assert Restore(empty, PROJECT, SINCE).run().turns == 0


def test_only_what_was_erased_counts_as_refused(
    smith: LangSmithServer, empty: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.append("ours text", [HumanMessage("here since before")])

    def taken(*args: Any, **kwargs: Any) -> Any:
        raise Conflict("a message with this id is stored with other content")

    monkeypatch.setattr(HistoryStore, "append", taken)
    with pytest.raises(Conflict, match="other content"):
        Restore(empty, PROJECT, SINCE).run()


def test_only_what_began_since(smith: LangSmithServer, empty: HistoryStore) -> None:
    middle = smith.roots()[100]["start_time"]
    report = Restore(empty, PROJECT, datetime.fromisoformat(middle).replace(microsecond=0, tzinfo=UTC)).run()
    assert 0 < report.runs <= len(smith.roots())
    with pytest.raises(InvalidInput, match="time zone"):
        Restore(empty, PROJECT, datetime(2026, 1, 1)).run()


def test_a_limited_rate_is_respected(recorded: Any, smith: LangSmithServer, empty: HistoryStore) -> None:
    smith.fail_first = 6
    Restore(empty, PROJECT, SINCE).run()
    assert smith.fail_first == 0
    assert_equal(empty, recorded)


def test_a_langsmith_that_is_away_says_so(smith: LangSmithServer, empty: HistoryStore, monkeypatch: Any) -> None:
    monkeypatch.setattr("langchain_supabase_history.langsmith.client._RETRIES", 1)
    with pytest.raises(NotFound, match="'elsewhere'"):
        Restore(empty, "elsewhere", SINCE).run()
    smith.behave = "garbage"
    with pytest.raises(Unavailable, match="LangSmith did not give"):
        Restore(empty, PROJECT, SINCE).run()


def test_killed_halfway_it_goes_on(recorded: Any, smith: LangSmithServer, database: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from langchain_supabase_history.commands.main import main; main()",
        "import",
        "langsmith",
        "--project",
        PROJECT,
        "--since",
        "2020-01-01",
    ]
    smith.behave = 0.05  # so that there is a half-way
    environ = {**os.environ, **environment(smith.url, tracing=False), "SUPABASE_DB_URL": database}
    with (tmp_path / "out").open("wb") as out:
        child = subprocess.Popen(command, env=environ, stdout=out, stderr=out)
        with psycopg.connect(database, autocommit=True) as conn:
            end = time.monotonic() + 60
            while time.monotonic() < end and child.poll() is None:
                row = conn.execute("select count(*) from chat_history_turns").fetchone()
                if row and row[0] >= 60:
                    break
                time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, (tmp_path / "out").read_text()
    with HistoryStore.from_postgres(database) as store:
        done = store.usage()[0].turns
        assert 60 <= done < len(smith.roots()) - 1
        smith.behave = "well"
        runner = CliRunner(env={"SUPABASE_DB_URL": database})
        result = runner.invoke(main, command[3:], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert f"Restored {len(smith.roots()) - 1 - done} turns" in result.output
        assert f"{done} turns were stored already" in result.output
        assert "1 runs name no session" in result.output
        assert "\x1b" not in result.output  # no progress bar where nobody looks
        assert_equal(store, recorded)


@pytest.mark.parametrize(
    "value",
    [
        {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "AIMessage"], "kwargs": {"content": "x"}},
        {"lc": 1, "id": [""], "kwargs": {"content": "x", "type": "AIMessageChunk", "chunk_position": "last"}},
        {"type": "ai", "data": {"content": "x", "type": "ai"}},
        {"type": "ai", "content": "x"},
        {"role": "assistant", "content": "x"},
        ("ai", "x"),
        ["assistant", "x"],
        AIMessage("x"),
    ],
)
def test_messages_in_every_form(value: Any) -> None:
    assert as_message(value) == AIMessage("x")


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "x",
        {},
        {"type": "file", "content": "x"},
        {"role": 3, "content": 4},
        ["a", "b", "c"],
        ["colour", "red"],
        {"type": "ai", "data": 3},
        {"lc": 1, "kwargs": {}, "id": None},
    ],
)
def test_what_is_no_message(value: Any) -> None:
    assert as_message(value) is None


# --- traces as a table


def exported(smith: LangSmithServer, *arguments: str) -> Any:
    runner = CliRunner(env=environment(smith.url, tracing=False))
    return runner.invoke(main, ["export", "traces", "--project", PROJECT, *arguments], catch_exceptions=False)


@pytest.mark.parametrize(
    ("format", "read"),
    [
        ("csv", lambda text: list(csv.DictReader(io.StringIO(text)))),
        ("json", json.loads),
        ("jsonl", lambda text: [json.loads(line) for line in text.splitlines()]),
    ],
)
def test_traces_as_a_table(
    recorded: Any, smith: LangSmithServer, tmp_path: Path, format: str, read: Callable[[str], list[dict[str, Any]]]
) -> None:
    path = tmp_path / "traces"
    result = exported(smith, "--format", format, "--output", str(path))
    assert result.exit_code == 0
    assert result.stderr.strip() == f"{len(smith.roots())} runs"
    rows = {row["run_id"]: row for row in read(path.read_text())}
    assert set(rows) == {root["id"] for root in smith.roots()}
    live: Turn = next(iter(recorded[1].for_user("ada").turns("default")))
    row = rows[live.run_id or ""]
    assert (row["session_id"], row["user_id"], row["status"]) == ("default", "ada", "success")
    assert str(row["total_tokens"]) == str(live.total_tokens)
    assert float(row["total_cost"]) == smith.runs[live.run_id or ""]["total_cost"]
    (failed,) = [row for row in rows.values() if row["session_id"] == "broken"]
    assert failed["status"] == "error"
    assert "ZeroDivisionError" in failed["error"]
    unknown = next(row for row in rows.values() if row["session_id"] == "functions")
    assert unknown["total_tokens"] in ("", None)
    judged = next(row for row in rows.values() if row["feedback"] not in ("", {}))
    told = json.loads(judged["feedback"]) if format == "csv" else judged["feedback"]
    assert list(told) == ["helpful"]


def test_a_table_of_nothing_and_of_no_project(smith: LangSmithServer) -> None:
    assert json.loads(exported(smith, "--format", "json", "--since", "2999-01-01").stdout) == []
    runner = CliRunner(env=environment(smith.url, tracing=False))
    result = runner.invoke(main, ["export", "traces", "--project", "elsewhere"])
    assert result.exit_code == 1
    assert "LangSmith does not know the project 'elsewhere'" in result.stderr
