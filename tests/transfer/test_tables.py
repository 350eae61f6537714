"""Tables of other libraries, each made by that library: what is imported is what it reads itself."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_supabase_history import HistoryStore, InvalidInput, NotConfigured, NotFound, Unavailable
from tests import servers
from tests.conftest import Api, missing

CALL = {"name": "search", "args": {"q": "x"}, "id": "c1", "type": "tool_call"}
TALK: list[BaseMessage] = [
    SystemMessage("be brief"),
    HumanMessage("look it up", name="ada"),
    AIMessage("", tool_calls=[CALL], id="run-1"),
    ToolMessage("42", tool_call_id="c1"),
    AIMessage("It is 42. é 😀", response_metadata={"model_name": "m"}),
]


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4()}"


@pytest.fixture(autouse=True)
def no_deprecations() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def sessions() -> list[str]:
    return [str(uuid.UUID(int=n)) for n in (1, 2)]


# --- who makes which table: each returns the table's name and what the library reads from it


def langchain_postgres(url: str) -> tuple[str, dict[str, list[BaseMessage]]]:
    from langchain_postgres import PostgresChatMessageHistory

    read = {}
    with psycopg.connect(url) as conn:
        PostgresChatMessageHistory.create_tables(conn, "lc_history")
        for name in sessions():
            history = PostgresChatMessageHistory("lc_history", name, sync_connection=conn)
            history.add_messages(TALK)
            history.add_messages([HumanMessage(name)])
            read[name] = history.messages
    return "lc_history", read


def community_sql(url: str) -> tuple[str, dict[str, list[BaseMessage]]]:
    from langchain_community.chat_message_histories import SQLChatMessageHistory
    from sqlalchemy import create_engine

    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    read = {}
    for name in ("one", "two"):
        history = SQLChatMessageHistory(name, connection=engine, table_name="Message Store")
        history.add_messages(TALK)
        read[name] = history.messages
    engine.dispose()
    return "Message Store", read


def community_postgres(url: str) -> tuple[str, dict[str, list[BaseMessage]]]:
    from langchain_community.chat_message_histories import PostgresChatMessageHistory

    read = {}
    for name in ("one", "two"):
        history = PostgresChatMessageHistory(name, connection_string=url)
        history.add_messages(TALK)
        read[name] = history.messages
        del history  # closes its connection
    return "message_store", read


def openai_agents(url: str) -> tuple[str, dict[str, list[BaseMessage]]]:
    from agents.extensions.memory.sqlalchemy_session import SQLAlchemySession

    items: list[Any] = [
        {"role": "user", "content": "look it up"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "search", "arguments": '{"q": "x"}', "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [{"type": "output_text", "text": "It is 42.", "annotations": []}],
        },
    ]

    async def make() -> None:
        for name in ("one", "two"):
            session = SQLAlchemySession.from_url(
                name, url=url.replace("postgresql://", "postgresql+psycopg://"), create_tables=True
            )
            await session.add_items(items)
            assert await session.get_items() == items
            await session.engine.dispose()

    asyncio.run(make())
    messages: list[BaseMessage] = [
        HumanMessage("look it up"),
        AIMessage([{"type": "reasoning", "id": "rs_1", "summary": []}], tool_calls=[CALL]),
        ToolMessage("42", tool_call_id="c1"),
        AIMessage("It is 42."),
    ]
    return "agent_messages", {"one": messages, "two": messages}


def langgraph(url: str) -> tuple[str, dict[str, list[BaseMessage]]]:
    from langgraph.checkpoint.postgres import PostgresSaver
    from langgraph.graph import START, MessagesState, StateGraph

    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"answer to {state['messages'][-1].text}")]}

    read = {}
    with PostgresSaver.from_conn_string(url) as saver:
        saver.setup()
        builder = StateGraph(MessagesState)
        builder.add_node("answer", answer)
        builder.add_edge(START, "answer")
        graph = builder.compile(checkpointer=saver)
        for name in ("one", "two"):
            config: Any = {"configurable": {"thread_id": name}}
            for n in range(3):
                graph.invoke({"messages": [HumanMessage(f"{n}")]}, config)
            read[name] = graph.get_state(config).values["messages"]
    return "checkpoints", read


LANGCHAIN_JS = servers.ROOT / ".cache" / "langchain-js" / "node_modules"
WRITE = """
const { PostgresChatMessageHistory } = require("@langchain/community/stores/message/postgres");
const { AIMessage, HumanMessage, SystemMessage, ToolMessage } = require("@langchain/core/messages");
const call = { name: "search", args: { q: "x" }, id: "c1", type: "tool_call" };
const talk = [new SystemMessage("be brief"), new HumanMessage("look it up"),
  new AIMessage({ content: "", tool_calls: [call] }), new ToolMessage({ content: "42", tool_call_id: "c1" }),
  new AIMessage("It is 42. é 😀")];
(async () => {
  const read = {};
  for (const sessionId of ["one", "two"]) {
    const history = new PostgresChatMessageHistory({ sessionId, poolConfig: { connectionString: process.argv[2] } });
    for (const message of talk) await history.addMessage(message);
    read[sessionId] = (await history.getMessages()).map((m) => [m.getType(), m.content, m.tool_calls || []]);
    await history.end();
  }
  console.log(JSON.stringify(read));
})();
"""


def langchain_js(url: str) -> tuple[str, dict[str, list[BaseMessage]]]:
    node = servers.node()
    if node is None or not LANGCHAIN_JS.exists():
        missing("LangChain.js", "make .cache/langchain-js.stamp")
    environ = {**os.environ, "NODE_PATH": str(LANGCHAIN_JS)}
    with tempfile.NamedTemporaryFile("w", suffix=".cjs") as script:
        script.write(WRITE)
        script.flush()
        done = subprocess.run([node, script.name, url], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    make: dict[str, Any] = {
        "system": lambda text, _: SystemMessage(text),
        "human": lambda text, _: HumanMessage(text),
        "ai": lambda text, calls: AIMessage(text, tool_calls=calls),
        "tool": lambda text, _: ToolMessage(text, tool_call_id="c1"),
    }
    read = {
        name: [make[kind](text, calls) for kind, text, calls in messages]
        for name, messages in json.loads(done.stdout).items()
    }
    return "langchain_chat_histories", read


def n8n(url: str) -> tuple[str, dict[str, list[BaseMessage]]]:
    """As n8n's memory node writes them, which is a server of its own: its rows are written by hand."""
    with psycopg.connect(url) as conn:
        conn.execute("create table n8n_chat_histories (id serial primary key, session_id varchar(255), message jsonb)")
        conn.execute(
            "insert into n8n_chat_histories (session_id, message) values "
            """('one', '{"type": "human", "content": "q", "additional_kwargs": {}, "response_metadata": {}}'),"""
            """('one', '{"type": "ai", "content": "a", "tool_calls": [], "invalid_tool_calls": []}'),"""
            """('two', '{"type": "human", "data": {"content": "q", "additional_kwargs": {}}}'),"""
            """('two', '{"type": "ai", "data": {"content": "a", "additional_kwargs": {}}}')"""
        )
    return "n8n_chat_histories", {name: [HumanMessage("q"), AIMessage("a")] for name in ("one", "two")}


MAKERS = [langchain_postgres, community_sql, community_postgres, openai_agents, langgraph, langchain_js, n8n]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_what_is_imported_is_what_the_library_reads(
    api: Api, user: str, empty_database: str, make: Callable[[str], tuple[str, dict[str, list[BaseMessage]]]]
) -> None:
    table, read = make(empty_database)
    store = api.for_user(user)
    would = store.import_table(empty_database, table, dry_run=True)
    assert store.sessions().items == []
    done = store.import_table(empty_database, table)
    assert (done.sessions, done.messages, done.problems) == (len(read), sum(map(len, read.values())), ())
    assert would == done
    for name, messages in read.items():
        assert [m.message for m in store.messages(name)] == messages
    again = store.import_table(empty_database, table)
    assert (again.sessions, again.messages, again.known) == (0, 0, done.messages)


def test_a_table_conversations(store: HistoryStore, user: str, empty_database: str) -> None:
    ada = store.for_user(user)
    with psycopg.connect(empty_database) as conn:
        conn.execute(
            "create table conversations (id uuid default gen_random_uuid(), conversation_id text, user_id text, "
            "session_id text, timestamp timestamptz default now(), messages jsonb, tokens_history jsonb, "
            "retriever_audits jsonb, analytics jsonb, metadata jsonb, created_at timestamptz default now())"
        )
        conn.execute(
            "insert into conversations (conversation_id, messages, tokens_history) values "
            """('one', '[{"role": "user", "content": "q"}, {"type": "ai", "content": "a"}]', """
            """'[{"total_tokens": 3}]'),"""
            """('bad', '[7]', null), ('empty', '[]', null)"""
        )
    done = ada.import_table(empty_database, format="conversations-table")
    assert (done.sessions, done.messages, done.unreadable) == (2, 2, 1)
    assert "bad" in done.problems[0]
    assert ada.turns("one").items[0].total_tokens == 3


def test_the_saves_of_a_conversation_are_one_conversation(store: HistoryStore, user: str, empty_database: str) -> None:
    """Such applications insert the whole list again; where two go on otherwise, the latest is the conversation."""
    ada = store.for_user(user)

    def lists(*texts: str) -> list[dict[str, str]]:
        return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]

    saves = [
        (1, "c", lists("q")),
        (2, "c", lists("q", "A")),
        (3, "c", lists("q", "A", "why?", "so")),
        (4, "c", lists("q", "B", "why?", "because")),
        (5, "c", lists("Q", "B")),
        (6, "c", lists("q", "B", "why?", "because", "ok")),
        (7, "c", lists("q", "B")),  # it comes late, and takes nothing away
        (7, "d", lists("q")),
        (7, "d", lists("q", "A")),  # at the same time
        (8, "d", 7),
    ]
    with psycopg.connect(empty_database) as conn:
        conn.execute("create table conversations (conversation_id text, messages jsonb, timestamp timestamptz)")
        for minute, name, messages in saves:
            at = f"2026-01-02 03:{minute:02}:00Z"
            conn.execute("insert into conversations values (%s, %s, %s)", [name, json.dumps(messages), at])
    done = ada.import_table(empty_database, "conversations")
    assert (done.sessions, done.messages, done.unreadable) == (2, 12, 1)
    assert [m.text for m in ada.load("c")] == ["q", "B", "why?", "because", "ok"]
    assert [m.text for m in ada.load("d")] == ["q", "A"]
    taken = {tuple(str(m.message.text) for m in ada.alternative_messages("c", a)): a for a in ada.alternatives("c")}
    assert {said: a.position for said, a in taken.items()} == {("Q", "B"): 1, ("A", "why?", "so"): 2}
    assert ada.session("c").created_at == datetime(2026, 1, 2, 3, 1, tzinfo=UTC)
    assert ada.import_table(empty_database, "conversations").messages == 0
    ada.switch_to("c", taken["A", "why?", "so"])
    assert [m.text for m in ada.load("c")] == ["q", "A", "why?", "so"]


def test_a_table_that_has_grown_is_continued(store: HistoryStore, user: str, empty_database: str) -> None:
    ada = store.for_user(user)
    table, _ = n8n(empty_database)
    ada.import_table(empty_database, table)
    with psycopg.connect(empty_database) as conn:
        conn.execute(
            "insert into n8n_chat_histories (session_id, message) values "
            """('one', '{"type": "human", "content": "more"}')"""
        )
    done = ada.import_table(empty_database, table)
    assert (done.sessions, done.messages, done.known) == (0, 1, 4)
    assert [m.message.text for m in ada.messages("one")] == ["q", "a", "more"]


def test_what_cannot_be_read_says_why(store: HistoryStore, user: str, empty_database: str) -> None:
    ada = store.for_user(user)
    with psycopg.connect(empty_database) as conn:
        conn.execute(
            "create table other (a int); create schema s; create table s.t (id int, session_id text, message text)"
        )
        conn.execute(
            "insert into s.t values (1, 'bad', 'no json'), (2, 'good', '{\"type\": \"human\", \"content\": \"q\"}')"
        )
    with pytest.raises(NotFound, match="no table"):
        ada.import_table(empty_database, "missing")
    with pytest.raises(InvalidInput, match="none that is known"):
        ada.import_table(empty_database, "other")
    with pytest.raises(InvalidInput, match="cannot be read"):
        ada.import_table(empty_database, "other", format="messages-table")
    with pytest.raises(InvalidInput, match="Name the table"):
        ada.import_table(empty_database)
    with pytest.raises(NotConfigured):
        ada.import_table("https://x.supabase.co", "t")
    with pytest.raises(Unavailable):
        ada.import_table(f"postgresql://postgres:s3cret@127.0.0.1:{servers.free_port()}/x", "t")
    done = ada.import_table(empty_database, "s.t")
    assert (done.sessions, done.unreadable) == (1, 1)
    assert "'bad'" in done.problems[0]
