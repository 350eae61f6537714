"""Files of other programs: lists of messages, exports of ChatGPT and Claude, rows of a table `conversations`."""

from __future__ import annotations

import io
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_to_dict,
)

from langchain_supabase_history import HistoryStore, InvalidInput
from tests.conftest import Api

CALL = {"name": "search", "args": {"q": "x"}, "id": "c1", "type": "tool_call"}


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4()}"


def imported(store: Any, value: Any, **options: Any) -> Any:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return store.import_sessions(io.BytesIO(data), **options)


def said(store: HistoryStore, name: str) -> list[tuple[str, Any]]:
    return [(m.message.type, m.message.content) for m in store.messages(name)]


# --- lists of messages

OPENAI = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "text", "text": "look it up"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}},
            {"id": "c2", "type": "function", "function": {"name": "search", "arguments": "{oops"}},
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
    {"role": "assistant", "content": "It is 42."},
]
ANTHROPIC = [
    {"role": "user", "content": "look it up"},
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "c1", "name": "search", "input": {"q": "x"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": "42"},
            {"type": "text", "text": "and now?"},
        ],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "It is 42."}]},
]
LANGCHAIN = [
    SystemMessage("s"),
    HumanMessage("h"),
    AIMessage("", tool_calls=[CALL]),
    ToolMessage("r", tool_call_id="c1"),
]


def test_openai_messages(api: Api, user: str) -> None:
    store = api.for_user(user)
    done = imported(store, {"session_id": "s", "title": "T", "messages": OPENAI})
    assert (done.sessions, done.messages, done.problems) == (1, 5, ())
    system, human, ai, tool, last = (m.message for m in store.messages("s"))
    assert (system.type, human.type, tool.type, last.text) == ("system", "human", "tool", "It is 42.")
    assert ai.tool_calls == [CALL]
    assert [call["args"] for call in ai.invalid_tool_calls] == ["{oops"]
    assert store.session("s").title == "T"
    assert store.session("s").turn_count == 2  # the system message, and the question


def test_anthropic_messages(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    imported(ada, {"id": "s", "messages": ANTHROPIC})
    stored = [m.message for m in ada.messages("s")]
    assert [m.type for m in stored] == ["human", "ai", "tool", "human", "ai"]
    assert stored[1].tool_calls == [CALL]  # type: ignore[attr-defined]
    assert stored[2].tool_call_id == "c1"  # type: ignore[attr-defined]
    assert ada.load("s") == stored


@pytest.mark.parametrize("shape", ["type and data", "type and content"])
def test_langchain_messages(store: HistoryStore, user: str, shape: str) -> None:
    ada = store.for_user(user)
    values = messages_to_dict(LANGCHAIN)
    if shape == "type and content":
        values = [{**value["data"], "type": value["type"]} for value in values]
    imported(ada, {"session_id": "s", "messages": values})
    assert [m.message for m in ada.messages("s")] == LANGCHAIN


def test_one_list_or_many_in_a_file_or_in_lines(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    pair = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert imported(ada, pair).sessions == 1
    assert imported(ada, pair).known == 2  # a list without a name is named by its content
    assert imported(ada, [pair, [*pair, *pair]]).sessions == 1
    assert imported(ada, {"conversations": [{"id": "x", "messages": pair}]}).sessions == 1
    lines = b"\n".join(json.dumps({"session_id": f"l{n}", "messages": pair}).encode() for n in range(3))
    assert imported(ada, lines).sessions == 3
    assert imported(ada, json.dumps({"id": "pretty", "messages": pair}, indent=2).encode()).sessions == 1


def test_a_list_that_has_grown_is_continued(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    grown = [{"role": "user", "content": f"{n}"} for n in range(5)]
    assert imported(ada, {"id": "s", "messages": grown[:3]}).messages == 3
    done = imported(ada, {"id": "s", "messages": grown})
    assert (done.messages, done.known) == (2, 3)
    assert [text for _, text in said(ada, "s")] == ["0", "1", "2", "3", "4"]


def test_roles_that_are_nobodys_are_kept(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    imported(ada, {"id": "s", "messages": [{"role": "critic", "content": {"a": 1}}, {"type": "note", "content": "n"}]})
    assert [m.message for m in ada.messages("s")] == [
        ChatMessage(role="critic", content='{"a": 1}'),
        ChatMessage(role="note", content="n"),
    ]


@pytest.mark.parametrize(
    "messages",
    [["text"], [7], [None], [{"role": "user"}, 5], [{"x": 1}], [{"role": "tool", "content": "x"}], [{"type": "human"}]],
)
def test_what_is_no_conversation_is_reported_with_its_place(
    store: HistoryStore, user: str, messages: list[Any]
) -> None:
    ada = store.for_user(user)
    good = {"session_id": "good", "messages": [{"role": "user", "content": "q"}]}
    done = imported(ada, [{"session_id": "bad", "messages": messages}, good])
    assert (done.sessions, done.unreadable) == (1, 1), done
    assert "conversation 1" in done.problems[0] or "'bad'" in done.problems[0]
    assert [session.session_id for session in ada.sessions().items] == ["good"]


def test_the_names_of_types_and_roles_are_those_of_many_applications(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    names = ("HumanMessage", "user", "USER", "Human", "AIMessage", "assistant", "bot", "SystemMessage")
    forms: list[Any] = [{form: name, "content": "x"} for name in names for form in ("type", "role")]
    forms += [{"type": name, "data": {"content": "x", "type": name}} for name in names]
    forms.append({"type": "ToolMessage", "content": "x", "tool_call_id": "c1"})
    assert imported(ada, {"id": "s", "messages": forms}).unreadable == 0
    types = [m.message.type for m in ada.messages("s", limit=100)]
    expected = [*["human"] * 4, *["ai"] * 3, "system"]
    assert types == [*(kind for kind in expected for _ in range(2)), *expected, "tool"]


def test_text_that_only_python_reads_and_numbers_as_names(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    list_of_two = b'[{"role": "user", "content": "\\ud800 \\u0000"}, {"role": "assistant", "content": "a"}]'
    for lines in (list_of_two, list_of_two + b"\n" + list_of_two.replace(b"user", b"human")):
        done = ada.import_sessions(io.BytesIO(lines))
        assert done.unreadable == 0, done
    (one, _) = ada.sessions().items
    assert [m.message.text for m in ada.messages(one.session_id)] == ["\ud800 \x00", "a"]
    assert imported(store, {"id": user, "user_id": 7, "messages": [{"role": "user", "content": "q"}]}).messages == 1
    assert store.for_user("7").delete_session(user)


@pytest.mark.parametrize(("before", "problems"), [("\n \r\n", ()), ('{"id": "x", "mess\n', ("line 1",))])
def test_a_file_of_lines_that_does_not_begin_with_one(
    store: HistoryStore, user: str, before: str, problems: tuple[str, ...]
) -> None:
    ada = store.for_user(user)
    lines = [json.dumps({"id": f"s{n}", "messages": [{"role": "user", "content": "q"}]}) for n in range(3)]
    done = ada.import_sessions(io.BytesIO((before + "\n".join([*lines, "oops"])).encode()))
    assert (done.sessions, done.unreadable) == (3, len(problems) + 1)
    number = 3 + before.count("\n") + 1
    assert [problem.partition(":")[0] for problem in done.problems] == [*problems, f"line {number}"]


# --- ChatGPT


def node(
    node_id: str, parent: str | None, role: str | None, text: str = "", at: float = 0, **more: Any
) -> dict[str, Any]:
    message = role and {
        "id": f"m-{node_id}",
        "author": {"role": role, "name": more.get("name")},
        "create_time": at or None,
        "content": more.get("content") or {"content_type": "text", "parts": [text]},
        "metadata": more.get("metadata", {}),
    }
    return {"id": node_id, "parent": parent, "message": message, "children": []}


def chatgpt(nodes: list[dict[str, Any]], current: str | None) -> dict[str, Any]:
    mapping = {one["id"]: {**one, "children": []} for one in nodes}
    for one in nodes:
        if one["parent"]:
            mapping[one["parent"]]["children"].append(one["id"])
    return {
        "title": "A tree",
        "create_time": 1.7e9,
        "update_time": 1.7e9 + 60,
        "mapping": mapping,
        "current_node": current,
        "conversation_id": "tree",
    }


TREE = [
    node("root", None, None),
    node("sys", "root", "system", "hidden", metadata={"is_visually_hidden_from_conversation": True}),
    node("q1", "sys", "user", "question", 1.7e9),
    node("a1", "q1", "assistant", "first answer", 1.7e9 + 1),
    node("q2", "a1", "user", "of the first", 1.7e9 + 2),
    node("b2", "q2", "assistant", "its answer", 1.7e9 + 3),
    node("b3", "q2", "assistant", "its other answer", 1.7e9 + 4),
    node("a2", "q1", "assistant", "second answer", 1.7e9 + 5, metadata={"model_slug": "gpt-9"}),
    node(
        "pic",
        "a2",
        "user",
        at=1.7e9 + 6,
        content={"content_type": "multimodal_text", "parts": [{"content_type": "image"}, "see"]},
    ),
    node("end", "pic", "assistant", "I see.", 1.7e9 + 7),
]


def test_chatgpts_tree_is_its_current_branch_and_the_others_are_alternatives(api: Api, user: str) -> None:
    store = api.for_user(user)
    done = imported(store, [chatgpt(TREE, "end")])
    assert (done.sessions, done.messages, done.problems) == (1, 8, ())
    texts = ["question", "second answer", "[image]\nsee", "I see."]
    assert [m.message.text for m in store.messages("tree")] == texts
    session = store.session("tree")
    assert (session.title, session.message_count, session.created_at.timestamp()) == ("A tree", 4, 1.7e9)
    one, two = store.alternatives("tree")
    assert (one.position, one.message_count, one.excerpt) == (2, 3, "first answer")
    assert (two.position, two.message_count, two.excerpt) == (4, 1, "its answer")
    store.switch_to("tree", two)
    assert [m.message.text for m in store.messages("tree")] == [
        "question",
        "first answer",
        "of the first",
        "its answer",
    ]
    again = imported(store, [chatgpt(TREE, "end")])
    assert (again.sessions, again.messages, again.known) == (0, 0, 8)


@pytest.mark.parametrize("current", ["a1", "b2", "b3", None])
def test_wherever_a_tree_is_read_nothing_of_it_is_lost(store: HistoryStore, user: str, current: str | None) -> None:
    ada = store.for_user(user)
    imported(ada, [chatgpt(TREE, current)])
    shown = {m.message.text for m in ada.messages("tree")}
    for alternative in ada.alternatives("tree"):
        shown |= {m.message.text for m in ada.alternative_messages("tree", alternative)}
    assert len(shown) == 8


# --- Claude

CLAUDE = {
    "uuid": "cl",
    "name": "A chat",
    "created_at": "2025-01-01T00:00:00.000000Z",
    "updated_at": "2025-01-01T00:01:00.000000Z",
    "chat_messages": [
        {"uuid": "u1", "sender": "human", "text": "read it", "created_at": "2025-01-01T00:00:01Z",
         "content": [{"type": "text", "text": "read it"}], "attachments": [{"file_name": "a.txt"}], "files": []},
        {"uuid": "u2", "sender": "assistant", "text": "", "created_at": "2025-01-01T00:00:02Z",
         "content": [{"type": "tool_use", "id": "c1", "name": "search", "input": {"q": "x"}},
                     {"type": "tool_result", "content": [{"type": "text", "text": "42"}]},
                     {"type": "text", "text": "It is 42."}]},
    ],
}  # fmt: skip


def test_claudes_export(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    assert imported(ada, [CLAUDE]).messages == 4
    assert said(ada, "cl") == [("human", "read it\n[file: a.txt]"), ("ai", ""), ("tool", "42"), ("ai", "It is 42.")]
    assert len(ada.load("cl")) == 4
    assert ada.session("cl").title == "A chat"
    assert imported(ada, [CLAUDE]).known == 4


def test_what_was_pasted_into_claude_is_in_its_attachments(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    files = [{"file_name": "pasted.txt", "extracted_content": "line 1\nline 2"}, {"extracted_content": "no name"}]
    first: Any = CLAUDE["chat_messages"][0]
    said_with = {**first, "attachments": files, "files": [{"file_name": "b.png"}]}
    imported(ada, [{**CLAUDE, "chat_messages": [said_with]}])
    assert said(ada, "cl") == [("human", "read it\n[file: pasted.txt]\nline 1\nline 2\nno name\n[file: b.png]")]


# --- an application's table, and its files


def row(messages: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "conversation_id": "conv_1",
        "user_id": None,
        "session_id": "browser",
        "timestamp": "2025-11-13T10:00:00+00:00",
        "messages": messages,
        "tokens_history": [],
        "retriever_audits": [],
        "analytics": {},
        "metadata": {},
        **more,
    }


MESSAGES = [
    {"type": "ai", "content": "Welcome!"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "1"},
    {"type": "human", "data": {"content": "two"}},
    {"type": "ai", "data": {"content": "2"}},
]
TOKENS = [
    {"turno_id": 1, "total_tokens": 30, "total_custo": 0.5},
    {"turno_id": 2, "prompt_tokens": 4, "completion_tokens": 6},
]
AUDITS = [{"query": "one", "turno_id": 1}, {"query": "two", "turno_id": 2}, {"query": "two again", "turno_id": 2}]


def test_a_row_of_the_table_with_what_it_knows_of_its_turns(api: Api, user: str) -> None:
    store = api.for_user(user)
    value = row(
        MESSAGES, tokens_history=TOKENS, retriever_audits=AUDITS, analytics={"clicks": 3}, metadata={"app": "x"}
    )
    assert imported(store, value).messages == 5
    assert [m.message.text for m in store.messages("conv_1")] == ["Welcome!", "one", "1", "two", "2"]
    _, first, second = store.turns("conv_1")
    assert (first.total_tokens, first.total_cost, first.documents) == (30, 0.5, [AUDITS[0]])
    assert (second.input_tokens, second.output_tokens, second.documents) == (4, 6, AUDITS[1:])
    assert first.metadata == {"tokens_history": [TOKENS[0]]}
    session = store.session("conv_1")
    assert session.metadata == {"app": "x", "analytics": {"clicks": 3}}
    assert session.total_tokens == 30


def test_a_row_whose_columns_are_text_with_json_in_it(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    value = row(MESSAGES, tokens_history=TOKENS, retriever_audits=AUDITS, metadata={"app": "x"})
    names = ("messages", "tokens_history", "retriever_audits", "metadata")
    assert imported(ada, {**value, **{name: json.dumps(value[name]) for name in names}}).messages == 5
    assert ada.session("conv_1").metadata == {"app": "x"}
    assert ada.turns("conv_1").items[1].total_tokens == 30
    assert imported(ada, value).known == 5
    assert imported(ada, {**value, "conversation_id": "no list", "messages": "hello"}).unreadable == 1


def test_whatever_is_in_a_rows_metadata_is_kept(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    odd = {"a": "nul \x00", "b": {"$type": "bytes"}, "c": 1e300}
    for name, metadata, expected in (
        ("odd", odd, odd),
        ("list", [1], {"metadata": [1]}),
        ("text", "x", {"metadata": "x"}),
    ):
        value = row(MESSAGES, conversation_id=name, metadata=metadata, tokens_history=[odd], timestamp=1763028000000)
        assert imported(ada, value).unreadable == 0
        assert ada.session(name).metadata == expected
        assert ada.turns(name).items[1].metadata == {"tokens_history": [odd]}
        assert ada.session(name).updated_at.isoformat() == "2025-11-13T10:00:00+00:00"  # milliseconds
    assert len(ada.sessions(metadata={"c": 1e300}).items) == 1


def test_a_folder_of_such_files(store: HistoryStore, user: str, tmp_path: Path) -> None:
    ada = store.for_user(user)
    for n in range(3):
        (tmp_path / f"conv_{n}.json").write_text(json.dumps(row(MESSAGES, conversation_id=f"conv_{n}"), indent=1))
    (tmp_path / "broken.json").write_text('{"conversation_id": ')
    (tmp_path / "notes.txt").write_text("no conversation")
    done = ada.import_sessions(tmp_path)
    assert (done.sessions, done.messages, done.unreadable) == (3, 15, 1)
    assert done.problems[0].startswith("broken.json")
    assert ada.import_sessions(str(tmp_path)).known == 15
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidInput, match=r"\.jsonl"):
        ada.import_sessions(empty)


class ListHistory(BaseChatMessageHistory):
    """A history of an application's own."""

    def __init__(self, messages: list[BaseMessage]) -> None:
        self.messages = list(messages)

    def clear(self) -> None:
        self.messages = []


def test_histories_of_other_kinds(api: Api, user: str) -> None:
    store = api.for_user(user)
    messages: list[BaseMessage] = [HumanMessage("q"), AIMessage("a")]
    history = ListHistory(messages)
    assert store.import_history(history, "s").messages == 2
    history.messages.append(HumanMessage("more"))
    done = store.import_history(history, "s")
    assert (done.messages, done.known) == (1, 2)
    assert [m.message for m in store.messages("s")] == history.messages
    with pytest.raises(InvalidInput):
        store.import_history(messages, "s")
