"""The formats for people and other programs: what is in them, and that they are what they claim to be."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import uuid
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    ToolMessage,
)

from langchain_supabase_history import HistoryStore, Turn
from tests.conftest import Api
from tests.transfer.conversations import CALL, exported, fill


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4()}"


FORMATS = ["json", "csv", "parquet", "openai", "openai-preferences", "markdown", "html"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_four_ways(api: Api, user: str, format: str) -> None:
    store = api.for_user(user)
    fill(store, "s")
    first = exported(store, format=format)
    assert first or format == "openai-preferences"
    if format != "openai-preferences":
        assert (b"hello" in first) or format == "parquet"
    assert exported(store, format=format) == first  # there is nothing in it that depends on when it was made


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_to_export(postgres_store: HistoryStore, user: str, format: str) -> None:
    data = exported(postgres_store.for_user(user), format=format)
    if format == "json":
        assert json.loads(data) == []
    elif format == "csv":
        assert len(list(csv.reader(io.StringIO(data.decode())))) == 1
    elif format == "parquet":
        assert table(data).num_rows == 0
    elif format == "html":
        assert b"</html>" in data
    else:
        assert data == b""


def test_json_can_be_imported_again(api: Api, user: str) -> None:
    ada, bob = api.for_user(user), api.for_user(f"{user}-copy")
    fill(ada, "s")
    file = exported(ada, format="json")
    done = bob.import_sessions(io.BytesIO(file))
    assert done.unreadable == 0

    def without_user(data: bytes) -> Any:
        return [{**one, "user_id": None} for one in json.loads(data)]

    assert without_user(exported(bob, format="json")) == without_user(file)


# --- tables


def table(data: bytes) -> Any:
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO(data))


@pytest.mark.parametrize("rows", ["messages", "conversations"])
def test_csv_and_parquet_say_the_same(store: HistoryStore, user: str, rows: str) -> None:
    ada = store.for_user(user)
    names = fill(ada, "s")
    lines = list(csv.DictReader(io.StringIO(exported(ada, format="csv", rows=rows).decode(), newline="")))
    found = table(exported(ada, format="parquet", rows=rows)).to_pylist()
    assert len(lines) == len(found)
    for line, row in zip(lines, found, strict=True):
        assert line.keys() == row.keys()
        for name, value in row.items():
            assert line[name] == ("" if value is None else str(value))
    if rows == "conversations":
        assert [line["session_id"] for line in lines] == names
        assert [row["messages"] for row in found] == [2, 5, 3, 2, 1, 1, 2]
        failed = found[4]
        assert (failed["failed_turns"], failed["total_tokens"], failed["total_cost"]) == (1, 7, 0.25)
    else:
        texts = [row["text"] for row in found]
        assert "It is 42. \ufffd \ufffd é 😀" in texts
        assert {row["turn_status"] for row in found} == {"completed", "failed"}
        assert json.loads(next(row["tool_calls"] for row in found if row["tool_calls"])) == [CALL]
        assert "second" not in texts  # what was taken out of a conversation is not in it


# --- fine-tuning: the published rules


def check_example(messages: list[dict[str, Any]]) -> None:
    """What OpenAI's documentation asks of the messages of an example."""
    assert any(m["role"] == "assistant" for m in messages)
    waiting: list[str] = []  # a model may give two calls one id
    for message in messages:
        assert message["role"] in ("system", "user", "assistant", "tool")
        assert message.get("content") is not None or message.get("tool_calls")
        assert message["role"] == "user" or isinstance(message.get("content", ""), str)
        assert set(message) <= {"role", "content", "name", "tool_calls", "tool_call_id", "weight"}
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting
        for call in message.get("tool_calls", ()):
            assert set(call) == {"type", "id", "function"}
            assert isinstance(orjson.loads(call["function"]["arguments"]), dict)
            waiting.append(call["id"])
        assert message.get("weight", 1) in (0, 1)
    assert not waiting


MESSAGES = st.one_of(
    st.builds(HumanMessage, st.text(max_size=5)),
    st.builds(AIMessage, st.text(max_size=5)),
    st.builds(lambda ids: AIMessage("", tool_calls=[{**CALL, "id": i} for i in ids]), st.lists(st.sampled_from("abc"))),
    st.builds(lambda i: ToolMessage("r", tool_call_id=i), st.sampled_from("abcd")),
    st.builds(ChatMessage, role=st.sampled_from(["critic", "user", "assistant"]), content=st.just("c")),
    st.just(FunctionMessage(content="42", name="f")),
    st.just(AIMessage([{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a"}, "b"])),
    st.just(AIMessage("", tool_calls=[{**CALL, "id": "a", "args": {"x": float("nan"), "y": "\ud800"}}])),
    st.just(ToolMessage([{"type": "text", "text": "r \ud800"}], tool_call_id="a")),
    st.just(HumanMessage("\ud800 \x00 \\ud800")),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversation=st.lists(MESSAGES, min_size=1, max_size=8))
@example(
    conversation=[
        AIMessage("", tool_calls=[{**CALL, "id": "a"}, {**CALL, "id": "a"}]),
        ToolMessage("r", tool_call_id="a"),
        ToolMessage("r", tool_call_id="a"),
    ]
)
def test_whatever_was_said_an_example_keeps_the_rules(
    postgres_store: HistoryStore, conversation: list[BaseMessage]
) -> None:
    ada = postgres_store.for_user(f"user-{uuid.uuid4()}")
    ada.append("s", conversation)
    for line in exported(ada, format="openai").splitlines():
        check_example(orjson.loads(line)["messages"])


def test_fine_tuning_with_tools_weights_and_failures(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    tools = [{"type": "function", "function": {"name": "search", "parameters": {}}}]
    asked = [HumanMessage("q"), AIMessage("", tool_calls=[CALL]), ToolMessage("42", tool_call_id="c1"), AIMessage("42")]
    stored = ada.append("tools", asked)
    ada.add_feedback("tools", stored[3], "helpful", score=0)
    ada.append("failed", [HumanMessage("q")], turn=Turn(uuid.uuid4(), status="failed"))
    ada.append("plain", [HumanMessage("q"), AIMessage("a")])
    file = exported(ada, format="openai", tools=tools, feedback_key="helpful")
    with_tools, plain = map(json.loads, file.splitlines())
    check_example(with_tools["messages"])
    assert with_tools["tools"] == tools
    assert [m.get("weight") for m in with_tools["messages"]] == [None, None, None, 0]
    assert plain == {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def test_preferences_are_answers_that_feedback_tells_apart(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    (_, bad) = ada.append("s", [HumanMessage("one"), AIMessage("bad")])
    ada.add_feedback("s", bad, "helpful", score=0)
    ada.rewind_session("s", before=2)
    (fair,) = ada.append("s", [AIMessage("fair")])
    ada.add_feedback("s", fair, "helpful", score=0.5)
    ada.append("s", [HumanMessage("two"), AIMessage("of fair")])
    ada.rewind_session("s", before=2)
    (good,) = ada.append("s", [AIMessage("good")])
    ada.add_feedback("s", good, "helpful", score=1)
    ada.add_feedback("s", good, "other", score=-9)
    ada.append("s", [HumanMessage("two"), AIMessage("unrated")])
    (example,) = map(json.loads, exported(ada, format="openai-preferences", feedback_key="helpful").splitlines())
    assert example == {
        "input": {"messages": [{"role": "user", "content": "one"}]},
        "preferred_output": [{"role": "assistant", "content": "good"}],
        "non_preferred_output": [{"role": "assistant", "content": "bad"}],
    }
    (other,) = map(json.loads, exported(ada, format="openai-preferences").splitlines())
    assert other["preferred_output"] == [{"role": "assistant", "content": "fair"}]


# --- transcripts


class Elements(html.parser.HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


HARMFUL = "<script>alert(1)</script>\n<img src=x onerror=y>\n# heading\n</pre></section>\n\x00 &amp; \ud800"


def test_a_transcript_shows_what_was_written_and_runs_none_of_it(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    ada.append(HARMFUL.replace("\x00", "").replace("\ud800", ""), [HumanMessage(HARMFUL, name=HARMFUL)])
    ada.append("tools", [HumanMessage("q"), AIMessage("", tool_calls=[CALL]), ToolMessage(HARMFUL, tool_call_id="c1")])
    page = Elements(exported(ada, format="html").decode())
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.addresses == []
    assert page.text.count("<script>alert(1)</script>") >= 3
    assert "Calls search" in page.text
    markdown = exported(ada, format="markdown").decode()
    headings = [line for line in markdown.splitlines() if line.startswith("#")]
    assert len(headings) == 2  # one a conversation
    assert "> # heading" in markdown
    assert "\\<script\\>" in markdown  # in names and titles, which are not quoted


@pytest.mark.parametrize("format", ["markdown", "html"])
def test_line_ends_of_other_systems_are_line_ends(store: HistoryStore, user: str, format: str) -> None:
    ada = store.for_user(user)
    ada.append("s", [HumanMessage("one\r\ntwo\rthree"), AIMessage("a")])
    text = exported(ada, format=format).decode()
    assert "\ufffd" not in text
    assert "one\ntwo\nthree" in text.replace("> ", "")
