"""`SupabaseChatMessageHistory`: under LangChain's own `RunnableWithMessageHistory`, and by itself."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_supabase_history import (
    HistoryError,
    HistoryStore,
    InvalidMessage,
    InvalidSession,
    NotConfigured,
    SupabaseChatMessageHistory,
    Unavailable,
    Window,
)
from langchain_supabase_history.langchain import history as history_module
from tests import servers
from tests.conftest import Api
from tests.shapes import IN, MODES, PROMPT, SHAPES, Echo, Shape, config_of, reply, run, texts, with_prompt

QA = [HumanMessage("question"), AIMessage("answer")]

Factory = Callable[[str], SupabaseChatMessageHistory]
FACTORIES: dict[str, Callable[[HistoryStore], Factory]] = {
    "factory": lambda store: store.get_session_history,
    "lambda": lambda store: lambda session: SupabaseChatMessageHistory(session, store),
}
factories = pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES.keys())
modes = pytest.mark.parametrize("mode", MODES)


@factories
@modes
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_shape_is_remembered(
    store: HistoryStore, session: str, shape: Shape, mode: str, factory: Callable[[HistoryStore], Factory]
) -> None:
    chain = RunnableWithMessageHistory(shape.runnable, factory(store), **shape.keys)
    assert shape.take(run(chain, mode, shape.give("hello"), config_of(session))) == "you said: hello"
    assert shape.take(run(chain, mode, shape.give("bye"), config_of(session))) == "you said: hello bye"
    stored = list(store.messages(session))
    assert [(m.message.type, m.message.text) for m in stored] == [
        ("human", "hello"),
        ("ai", "you said: hello"),
        ("human", "bye"),
        ("ai", "you said: hello bye"),
    ]
    assert [type(m.message) for m in stored] == [HumanMessage, AIMessage] * 2  # no chunks
    assert [(t.id, t.status) for t in store.turns(session)] == [(m.turn_id, "completed") for m in stored[::2]]


@modes
def test_a_factory_of_two_keys(store: HistoryStore, session: str, mode: str) -> None:
    specs = [ConfigurableFieldSpec(id=name, annotation=str) for name in ("user_id", "session_id")]
    chain = RunnableWithMessageHistory(Echo(), store.get_session_history, history_factory_config=specs)
    for user in ("ada", "bob"):
        run(chain, mode, f"from {user}", config_of(session, user_id=user + session))
        user_store = store.for_user(user + session)
        assert texts(user_store.load(session)) == [f"from {user}", f"you said: from {user}"]
    assert store.load(session) == []


def test_the_factory_takes_two_keys_exactly(postgres_store: HistoryStore) -> None:
    # LangChain compares the names with those of its config; a third, even with a default, would break two-key configs.
    assert list(inspect.signature(postgres_store.get_session_history).parameters) == ["session_id", "user_id"]


def test_what_reading_raises_reaches_the_caller(session: str) -> None:
    with (
        unreachable() as dead,
        pytest.raises(Unavailable),
    ):
        RunnableWithMessageHistory(Echo(), dead.get_session_history).invoke("hello", config_of(session))


# --- turns that overlap on one session


def assert_whole(store: HistoryStore, session: str, questions: set[str]) -> None:
    """Each question and its answer are stored once, side by side, as a turn of their own."""
    stored = list(store.messages(session))
    assert [m.position for m in stored] == list(range(1, 2 * len(questions) + 1))
    assert {m.message.text for m in stored[::2]} == questions
    for question, answer in zip(stored[::2], stored[1::2], strict=True):
        assert answer.message.text == f"re: {question.message.text}"
        assert question.turn_id == answer.turn_id
    assert len({m.turn_id for m in stored}) == len(questions) == len(store.turns(session))


def meeting(turns: int) -> Runnable[Any, Any]:
    """A model that answers when so many turns have asked it: all have read by then, and none has written."""
    barrier, abarrier = threading.Barrier(turns), asyncio.Barrier(turns)

    def answer(messages: list[BaseMessage]) -> AIMessage:
        barrier.wait(20)
        return AIMessage(f"re: {messages[-1].text}")

    async def aanswer(messages: list[BaseMessage]) -> AIMessage:
        await asyncio.wait_for(abarrier.wait(), 20)
        return AIMessage(f"re: {messages[-1].text}")

    return RunnableLambda(answer, aanswer)


def overlap(chain: Callable[[int], Runnable[Any, Any]], is_async: bool, session: str) -> set[str]:
    """Two turns at once, then a batch of three; on either face. Answers what was asked."""
    two, three = ["one", "two"], ["three", "four", "five"]
    config = config_of(session)

    async def both(pair: Runnable[Any, Any]) -> None:
        await asyncio.gather(*(pair.ainvoke(text, config) for text in two))

    if is_async:
        asyncio.run(both(chain(2)))
        asyncio.run(chain(3).abatch(three, config))
    else:
        pair = chain(2)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda text: pair.invoke(text, config), two))
        chain(3).batch(three, config)
    return {*two, *three}


@factories
def test_overlapping_turns_are_stored_whole(api: Api, session: str, factory: Callable[[HistoryStore], Factory]) -> None:
    asked = overlap(lambda n: RunnableWithMessageHistory(meeting(n), factory(api.store)), api.is_async, session)
    assert_whole(api.store, session, asked)


@factories
@modes
def test_a_turn_that_ends_within_another(
    store: HistoryStore, session: str, mode: str, factory: Callable[[HistoryStore], Factory]
) -> None:
    """The surest overlap: the inner turn is stored after the outer one has read and before it looks again."""
    echo: Any = RunnableLambda(lambda ms: f"re: {ms[-1].text}")
    inner = RunnableWithMessageHistory(echo, factory(store))

    def answer(messages: list[BaseMessage]) -> str:
        inner.invoke("inner", config_of(session))
        return f"re: {messages[-1].text}"

    run(RunnableWithMessageHistory(RunnableLambda(answer), factory(store)), mode, "outer", config_of(session))
    assert_whole(store, session, {"inner", "outer"})


def test_the_first_turns_of_a_new_session_at_once(api: Api, session: str) -> None:
    """Whoever comes first makes the session; the others' turns are stored all the same."""

    async def first(name: str) -> None:
        histories = [api.store.get_session_history(name) for _ in range(8)]
        await asyncio.gather(*(history.aadd_messages(QA) for history in histories))

    for n in range(10):
        name = f"{session}-{n}"
        if api.is_async:
            asyncio.run(first(name))
        else:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda s: api.store.get_session_history(s).add_messages(QA), [name] * 8))
        assert texts(api.load(name)) == ["question", "answer"] * 8


# --- one object


def read(history: SupabaseChatMessageHistory, is_async: bool) -> list[str]:
    return texts(asyncio.run(history.aget_messages()) if is_async else history.messages)


def add(history: SupabaseChatMessageHistory, messages: list[BaseMessage], is_async: bool) -> None:
    if is_async:
        asyncio.run(history.aadd_messages(messages))
    else:
        history.add_messages(messages)


def clear(history: SupabaseChatMessageHistory, is_async: bool) -> None:
    if is_async:
        asyncio.run(history.aclear())
    else:
        history.clear()


def test_reads_are_fresh_and_own_writes_are_seen(api: Api, session: str) -> None:
    history = SupabaseChatMessageHistory(session, api.store)
    assert read(history, api.is_async) == []
    api.append(session, QA)
    assert read(history, api.is_async) == ["question", "answer"]
    add(history, [HumanMessage("own")], api.is_async)
    assert read(history, api.is_async) == ["question", "answer", "own"]
    clear(history, api.is_async)
    assert read(history, api.is_async) == []


def test_the_factorys_object_keeps_its_first_read_until_its_own_write(api: Api, session: str) -> None:
    history = api.store.get_session_history(session)
    assert read(history, api.is_async) == []
    api.append(session, QA)
    assert read(history, api.is_async) == []
    add(history, [HumanMessage("own")], api.is_async)
    assert read(history, api.is_async) == ["question", "answer", "own"]
    api.append(session, QA)
    assert read(history, api.is_async) == ["question", "answer", "own"]
    clear(history, api.is_async)
    assert read(history, api.is_async) == []


def test_a_turn_begins_at_the_read_before_it(api: Api, session: str) -> None:
    history = SupabaseChatMessageHistory(session, api.store)
    read(history, api.is_async)
    time.sleep(0.05)
    before = datetime.now(UTC)
    read(history, api.is_async)
    add(history, QA, api.is_async)
    (turn,) = api.turns(session)
    assert before <= turn.started_at <= turn.ended_at <= datetime.now(UTC)


def test_what_is_read_is_the_callers_to_change(store: HistoryStore, session: str) -> None:
    store.append(session, QA)
    history = store.get_session_history(session)
    history.messages.clear()
    assert texts(history.messages) == ["question", "answer"]


@pytest.mark.refused("the_first_message_is_the_users")  # a greeting of the application's own
@pytest.mark.parametrize(
    "make", [HistoryStore.get_session_history, lambda s, name: SupabaseChatMessageHistory(name, s)]
)
def test_the_setter_puts_messages_in_the_place_of_all(store: HistoryStore, session: str, make: Any) -> None:
    history = make(store, session)
    history.add_messages(QA)
    history.messages = [SystemMessage("be brief"), HumanMessage("anew")]
    assert texts(history.messages) == texts(store.load(session)) == ["be brief", "anew"]
    with pytest.raises(InvalidMessage, match=r"additional_kwargs\.bad"):
        history.messages = [HumanMessage("lost", additional_kwargs={"bad": object()})]
    assert texts(store.load(session)) == ["be brief", "anew"]  # all or none
    history.messages = [AIMessage("welcome")]
    assert texts(history.messages) == texts(store.load(session)) == ["welcome"]
    history.messages = []
    assert history.messages == store.load(session) == []
    assert list(store.messages(session)) == []


def test_the_base_classs_ways_to_add(store: HistoryStore, session: str) -> None:
    history = SupabaseChatMessageHistory(session, store)
    history.add_user_message("one")
    history.add_ai_message("two")
    history.add_message(HumanMessage("three"))
    history.add_messages([])
    assert str(history) == "Human: one\nAI: two\nHuman: three"
    turns = [m.turn_id for m in store.messages(session)]
    assert turns[0] == turns[1] != turns[2]  # an answer joins its question's turn


def test_a_system_message_before_the_question_belongs_to_its_turn(store: HistoryStore, session: str) -> None:
    store.append(session, QA)
    SupabaseChatMessageHistory(session, store).add_messages([SystemMessage("be brief"), *QA])
    first, second = store.turns(session)
    assert [m.turn_id for m in store.messages(session)] == [first.id] * 2 + [second.id] * 3
    SupabaseChatMessageHistory(session, store).add_messages([ToolMessage("late", tool_call_id="1"), AIMessage("done")])
    assert [m.turn_id for m in store.messages(session)][5:] == [second.id] * 2


def test_chunks_are_stored_as_messages_and_the_callers_object_stays(store: HistoryStore, session: str) -> None:
    chunk = AIMessageChunk(
        content="answer",
        chunk_position="last",
        usage_metadata=UsageMetadata(input_tokens=2, output_tokens=2, total_tokens=2),
    )
    before = chunk.model_copy(deep=True)
    history = SupabaseChatMessageHistory(session, store)
    history.add_messages([HumanMessage("question"), chunk])
    assert chunk == before
    assert [type(m) for m in history.messages] == [HumanMessage, AIMessage]
    (turn,) = store.turns(session)
    assert (turn.status, turn.input_tokens, turn.total_tokens) == ("completed", 2, 2)


def words(messages: list[BaseMessage]) -> Iterator[AIMessageChunk]:
    """A model of the application's own, which does not mark its last chunk."""
    yield from (AIMessageChunk(content=word) for word in re.split(r"(?<= )", reply(messages)))


CHUNKED = {
    "prompt | chat model": PROMPT | Echo(),
    "parser": PROMPT | Echo() | StrOutputParser(),
    "generator": RunnableLambda(with_prompt) | RunnableLambda(words),
}


@factories
@pytest.mark.parametrize("runnable", CHUNKED.values(), ids=CHUNKED.keys())
def test_a_sync_stream_cut_short_is_told_from_a_whole_one(
    store: HistoryStore, session: str, factory: Callable[[HistoryStore], Factory], runnable: Runnable[Any, Any]
) -> None:
    chain = RunnableWithMessageHistory(runnable, factory(store), **IN["keys"])
    assert len(list(chain.stream({"input": "first"}, config_of(session)))) >= 3
    stream: Any = chain.stream({"input": "next"}, config_of(session))
    next(stream), next(stream)
    stream.close()  # LangChain has added up what came before the last chunk
    stored = [m.message for m in store.messages(session)]
    assert texts(stored) == ["first", "you said: first", "next", "you "]
    assert [type(m) for m in stored] == [HumanMessage, AIMessage] * 2
    assert [t.status for t in store.turns(session)] == ["completed", "interrupted"]
    assert texts(store.load(session)) == texts(stored)


def test_window_and_user(store: HistoryStore, session: str) -> None:
    history = SupabaseChatMessageHistory(session, store, user_id=session, window=Window(turns=1))
    history.add_messages(QA)
    history.add_messages([HumanMessage("q2"), AIMessage("a2")])
    assert texts(history.messages) == ["q2", "a2"]
    assert store.load(session) == []
    assert texts(store.get_session_history(session, session).messages) == ["question", "answer", "q2", "a2"]
    windowed = store.with_window(Window(messages=2)).get_session_history(session, session)
    assert texts(windowed.messages) == ["q2", "a2"]


@pytest.mark.parametrize("bad", ["", "x" * 1001, "nul\x00", None, 7])
def test_bad_ids_are_refused_at_once(postgres_store: HistoryStore, bad: Any) -> None:
    for make in (postgres_store.get_session_history, lambda s: SupabaseChatMessageHistory(s, postgres_store)):
        with pytest.raises(InvalidSession, match="session_id"):
            make(bad)
    if bad is not None:
        with pytest.raises(InvalidSession, match="user_id"):
            postgres_store.get_session_history("s", bad)


def test_its_repr_tells_no_secret() -> None:
    store = HistoryStore.from_postgres("postgresql://postgres:hunter2@127.0.0.1/postgres")
    assert "'s'" in repr(SupabaseChatMessageHistory("s", store))
    assert "hunter2" not in repr(SupabaseChatMessageHistory("s", store))


# --- when saving fails


def unreachable(**options: Any) -> HistoryStore:
    """A store whose port nobody listens on."""
    return HistoryStore.from_postgres(
        f"postgresql://postgres@127.0.0.1:{servers.free_port()}/postgres", deadline=0.3, **options
    )


@modes
@pytest.mark.parametrize("why", ["unreachable", "unencodable"])
def test_a_failed_save_is_told_and_the_output_still_returned(
    store: HistoryStore, session: str, mode: str, why: str
) -> None:
    told: list[tuple[HistoryError, list[str]]] = []
    dead = unreachable(on_error=lambda error, messages: told.append((error, texts(messages))))
    history = SupabaseChatMessageHistory(session, store)

    def answer(messages: list[BaseMessage]) -> AIMessage:
        history._store = dead  # read from the one, written to the other
        return AIMessage("answer", additional_kwargs={"bad": object()} if why == "unencodable" else {})

    chain = RunnableWithMessageHistory(RunnableLambda(answer), lambda _: history)
    with dead:
        assert run(chain, mode, "question", config_of(session)).text == "answer"
    ((error, messages),) = told
    assert error is history.last_error
    assert isinstance(error, Unavailable if why == "unreachable" else InvalidMessage)
    assert messages == ["question", "answer"]
    assert store.load(session) == []
    history._store = store
    history.add_messages(QA)
    assert history.last_error is None
    dead.close()


def test_a_save_that_is_cancelled_is_told(database: str) -> None:
    told: list[str] = []

    async def main(history: SupabaseChatMessageHistory) -> None:
        with psycopg.connect(database) as conn:
            conn.execute("select from chat_history_sessions for update")
            save = asyncio.ensure_future(history.aadd_messages([HumanMessage("question")]))
            await asyncio.sleep(0.2)
            save.cancel()
            with pytest.raises(asyncio.CancelledError):
                await save

    def on_error(error: HistoryError, messages: Sequence[BaseMessage]) -> None:
        told.append(f"{error} {messages[0].text}")

    with HistoryStore.from_postgres(database, on_error=on_error) as store:
        store.append("s", [HumanMessage("before")])
        history = store.get_session_history("s")
        asyncio.run(main(history))
    assert told == ["Saving was cancelled: the messages may be stored or not. question"]
    assert str(history.last_error).startswith("Saving was cancelled")


def test_on_error_that_raises_does_no_harm(session: str) -> None:
    def on_error(error: HistoryError, messages: Any) -> None:
        raise RuntimeError("the application's own mistake")

    with unreachable(on_error=on_error) as dead, pytest.raises(Unavailable):
        dead.get_session_history(session).add_messages(QA)


# --- without a store; imports


def test_the_default_store_is_one_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, shared_database: str, session: str
) -> None:
    monkeypatch.setattr(history_module, "_shared", None)
    for name in ("SUPABASE_DB_URL", "SUPABASE_URL", "SUPABASE_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotConfigured, match=r"SUPABASE_DB_URL.*SUPABASE_URL and SUPABASE_KEY"):
        SupabaseChatMessageHistory(session)
    monkeypatch.setenv("SUPABASE_DB_URL", shared_database)
    SupabaseChatMessageHistory(session).add_messages(QA)
    assert texts(SupabaseChatMessageHistory(session).messages) == ["question", "answer"]
    assert SupabaseChatMessageHistory(session)._store is history_module.shared_store()
    shared: Any = history_module.shared_store()
    shared.executor.close()


def imported_by(code: str) -> list[str]:
    """The heavy or deprecated modules that a fresh interpreter has imported after this code."""
    names = ("supabase", "postgrest", "psycopg", "langchain_core.chat_history", "langsmith.run_helpers")
    script = f"import sys\n{code}\nprint(*[name for name in {names!r} if name in sys.modules])"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LANGSMITH", "LANGCHAIN", "COVERAGE"))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    return done.stdout.split()


def test_importing_the_package_imports_no_driver() -> None:
    assert imported_by("import langchain_supabase_history") == []
    package = "from langchain_supabase_history import HistoryStore, Window; "
    assert imported_by(package) == []
    assert imported_by("from langchain_supabase_history import RunnableWithHistory") == []
    assert imported_by(package + "HistoryStore.from_postgres('postgresql://127.0.0.1/x')") == ["psycopg"]
    assert "psycopg" not in imported_by(package + "HistoryStore.from_supabase('http://127.0.0.1', 'key')")
