"""What a turn row knows of its trace, its tokens, its documents and tools, in every mode and over each transport."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from langsmith import traceable

from langchain_supabase_history import HistoryStore, SupabaseChatMessageHistory, Turn, TurnAudit
from langchain_supabase_history.langchain import progress, trace
from tests import servers
from tests.langsmith_server import LangSmithServer, flush, forget_traces, metadata, smith_fixture, tracing  # noqa: F401
from tests.metered import DOCUMENTS, KEYS, PARSED, PLAIN, RETRIEVING, TWO_MODELS, Metered, Shelf
from tests.shapes import MODES, PROMPT, config_of, run

Wrap = Callable[[HistoryStore, Runnable[Any, Any]], Runnable[Any, Any]]
WRAPPERS: dict[str, Wrap] = {
    "with_history": lambda store, chain: store.with_history(chain, **KEYS),
    "langchain": lambda store, chain: RunnableWithMessageHistory(chain, store.get_session_history, **KEYS),
}
wrappers = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
modes = pytest.mark.parametrize("mode", MODES)


@contextmanager
def counted(store: HistoryStore) -> Iterator[list[str]]:
    """The functions that the driver is called with."""
    called: list[str] = []
    driver = store.driver
    execute, aexecute = driver.execute, driver.aexecute

    def count(call: Any, identity: Any = None) -> Any:
        called.append(call.function.name)
        return execute(call, identity)

    async def acount(call: Any, identity: Any = None) -> Any:
        called.append(call.function.name)
        return await aexecute(call, identity)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "execute", count)
        patch.setattr(driver, "aexecute", acount)
        yield called


def tokens(turn: Turn) -> dict[str, int | None]:
    return {name: getattr(turn, name) for name in ("input_tokens", "output_tokens", "total_tokens")}


@wrappers
@modes
@pytest.mark.parametrize("chain", [PLAIN, PARSED, TWO_MODELS], ids=["model", "parser", "two models and a parser"])
def test_ten_turns_know_their_traces_and_tokens(
    store: HistoryStore, session: str, smith: LangSmithServer, wrap: Wrap, mode: str, chain: Runnable[Any, Any]
) -> None:
    wrapped = wrap(store, chain)
    with counted(store) as called:
        for n in range(10):
            run(wrapped, mode, {"input": f"question {n}"}, config_of(session))
    reads = "chat_history_begin" if wrap is WRAPPERS["with_history"] else "chat_history_load"
    assert called == [reads, "chat_history_append"] * 10
    flush(smith)
    turns, roots = list(store.turns(session)), smith.roots(session)
    assert len(turns) == 10
    assert [turn.trace_id for turn in turns] == [turn.run_id for turn in turns] == [root["id"] for root in roots]
    assert [metadata(root)["session_id"] for root in roots] == [session] * 10  # one thread, also in a batch
    end = time.monotonic() + 10  # a model's run may come after the root that it is in
    while [tokens(turn) for turn in turns] != [smith.usage(root["id"]) for root in roots] and time.monotonic() < end:
        time.sleep(0.05)
    for n, (turn, root) in enumerate(zip(turns, roots, strict=True)):
        assert (turn.status, turn.project, turn.error, turn.model) == ("completed", "tests", None, "metered-1")
        assert tokens(turn) == smith.usage(root["id"])
        assert turn.total_tokens
        shown = (2 * n + 1) * (2 if chain is TWO_MODELS else 1)
        assert turn.token_details == {
            "input_token_details": {"cache_read": shown},
            "output_token_details": {"reasoning": 2 if chain is TWO_MODELS else 1},
        }
        assert turn.started_at is not None
        assert turn.ended_at is not None
        assert turn.started_at <= turn.ended_at
        assert turn.metadata["trace_started_at"][:19] == root["start_time"][:19]
    for answer in store.load(session)[1::2]:
        assert isinstance(answer, AIMessage)
        if chain is not TWO_MODELS:  # whose answers are alike
            assert answer.usage_metadata is not None  # behind a parser too
            assert answer.response_metadata["model_name"] == "metered-1"


@wrappers
@modes
def test_without_tracing_turns_know_their_tokens(store: HistoryStore, session: str, wrap: Wrap, mode: str) -> None:
    wrapped = wrap(store, TWO_MODELS)
    config = config_of(session)
    if wrap is WRAPPERS["langchain"]:
        config["callbacks"] = [TurnAudit()]
    run(wrapped, mode, {"input": "one"}, config)
    (turn,) = store.turns(session)
    assert (turn.trace_id, turn.run_id, turn.project, turn.model) == (None, None, None, "metered-1")
    assert tokens(turn) == {"input_tokens": 20, "output_tokens": 6, "total_tokens": 26}
    assert turn.metadata["model_runs"] == 2
    assert ("first_token_seconds" in turn.metadata) is (mode in ("stream", "astream"))
    assert "trace_started_at" not in turn.metadata


def test_unknown_is_none(store: HistoryStore, session: str) -> None:
    class Silent(Metered):
        def _usage(self, messages: Any) -> Any:
            return None

    store.with_history(PROMPT | Silent() | StrOutputParser(), **KEYS).invoke({"input": "q"}, config_of(session))
    store.with_history(RunnableLambda(lambda given: "no model"), **KEYS).invoke({"input": "q"}, config_of(session))
    silent, none = store.turns(session)
    assert tokens(silent) == tokens(none) == {"input_tokens": None, "output_tokens": None, "total_tokens": None}
    assert silent.token_details == {"unreported_runs": 1}
    assert (silent.model, none.model, none.token_details) == ("metered-1", None, None)


@wrappers
def test_turns_at_once_with_one_handler_stay_apart(store: HistoryStore, session: str, wrap: Wrap) -> None:
    audit = TurnAudit()
    wrapped = wrap(store, TWO_MODELS).with_config(callbacks=[audit])
    sessions = [f"{session}-{n}" for n in range(12)]
    inputs = [{"input": "word " * (n + 1)} for n in range(12)]
    wrapped.batch(inputs, [config_of(name) for name in sessions])
    asyncio.run(wrapped.abatch(inputs, [config_of(name) for name in sessions]))
    for n, name in enumerate(sessions):
        first, second = sorted(store.turns(name), key=lambda turn: turn.ordinal or 0)
        assert first.output_tokens == 2 * (2 + n + 1)
        assert second.output_tokens == 2 * (2 + 2 * (n + 1))
    assert not audit._roots
    assert not audit._root_of


def test_two_conversations_in_one_trace_count_their_own(
    store: HistoryStore, session: str, smith: LangSmithServer
) -> None:
    inner = RunnableWithMessageHistory(PARSED, store.get_session_history, **KEYS)

    @traceable
    def outer() -> None:
        for name in ("a", "b", "a"):
            inner.invoke({"input": name}, config_of(f"{session}-{name}"))

    outer()
    flush(smith)
    a1, a2 = store.turns(f"{session}-a")
    (b,) = store.turns(f"{session}-b")
    (root,) = [run for run in smith.roots() if run["name"] == "outer"]
    assert {turn.trace_id for turn in (a1, a2, b)} == {root["id"]}
    assert (a1.input_tokens, a2.input_tokens, b.input_tokens) == (10, 30, 10)
    assert smith.usage(root["id"])["input_tokens"] == 50


@wrappers
def test_a_root_around_several_sessions_is_in_no_thread(
    store: HistoryStore, session: str, smith: LangSmithServer, wrap: Wrap
) -> None:
    inner = wrap(store, PARSED)
    a, b = f"{session}-a", f"{session}-b"

    def nightly(sessions: list[str]) -> None:
        for name in sessions:
            inner.invoke({"input": "q"}, config_of(name))

    def batched(sessions: list[str]) -> None:
        inner.batch([{"input": "q"}] * len(sessions), [config_of(name) for name in sessions])

    for around in (nightly, batched):
        traceable(around)([a, b, a])
        RunnableLambda(around).invoke([a, b, a])
    asyncio.run(RunnableLambda(nightly).ainvoke([a, b]))
    flush(smith)
    assert len(smith.roots()) == 5
    assert not any("session_id" in metadata(root) for root in smith.roots())
    smith.runs.clear()

    traceable(nightly)([a, a])  # of one session alone
    for name in ("session_id", "thread_id"):
        traceable(metadata={name: "theirs"})(nightly)([a, b])
    (wrap(store, PARSED) | (lambda answer: answer)).batch([{"input": "q"}] * 2, [config_of(a), config_of(b)])
    flush(smith)
    told = [(metadata(root).get("session_id"), metadata(root).get("thread_id")) for root in smith.roots()]
    assert told[:3] == [(a, None), ("theirs", None), (None, "theirs")]
    assert sorted(told[3:]) == [(a, None), (b, None)]


def test_an_application_that_names_the_thread_is_left_alone(
    store: HistoryStore, session: str, smith: LangSmithServer
) -> None:
    config: Any = {**config_of(session), "metadata": {"thread_id": "theirs"}}
    wrapped = RunnableWithMessageHistory(PARSED, store.get_session_history, **KEYS)
    wrapped.batch([{"input": "q"}], [config])
    flush(smith)
    (root,) = smith.roots()
    assert metadata(root)["thread_id"] == "theirs"
    assert "session_id" not in metadata(root)


def test_nothing_of_the_user_is_added_to_a_trace(
    data_api: servers.Lite, users: list[tuple[str, str]], session: str, smith: LangSmithServer
) -> None:
    user_id, token = users[0]
    with HistoryStore.from_supabase(data_api.url, servers.PUBLISHABLE_KEY) as public:
        mine = public.as_user(token).for_user(user_id)
        mine.with_history(PARSED, **KEYS).invoke({"input": "q"}, config_of(session))
        RunnableWithMessageHistory(PARSED, mine.get_session_history, **KEYS).batch(
            [{"input": "q"}], [config_of(session)]
        )
    flush(smith)
    assert len(smith.roots(session)) == 2
    sent = repr(smith.requests)
    assert token not in sent
    assert user_id not in sent


@wrappers
@modes
def test_a_retriever_chains_turn_lists_its_documents(store: HistoryStore, session: str, wrap: Wrap, mode: str) -> None:
    config = {**config_of(session), "callbacks": [TurnAudit()]}
    run(wrap(store, RETRIEVING), mode, {"input": "How long is the Po?"}, config)
    run(wrap(store, RETRIEVING), mode, {"input": "Who was Ada?"}, config)
    found, none = store.turns(session)
    assert found.documents == [
        {
            "id": "d1",
            "source": "turin.md",
            "score": 0.75,
            "retriever": "Shelf",
            "excerpt": DOCUMENTS[0].page_content[:200],
        },
        {"id": "7", "source": "po.md", "score": 0.5, "retriever": "Shelf", "excerpt": "The Po is 652 km long."},
    ]
    (asked,) = found.metadata["retrievers"]
    assert 0 <= asked.pop("seconds") < 10
    assert asked == {"name": "Shelf", "query": "How long is the Po?", "documents": 2}
    assert none.documents is None
    assert none.metadata["retrievers"][0]["documents"] == 0


def test_whole_documents_where_asked_for(store: HistoryStore, session: str) -> None:
    chain = store.with_history(RETRIEVING, **KEYS, document_content=True)
    chain.invoke({"input": "the Po"}, config_of(session))
    (turn,) = store.turns(session)
    assert turn.documents is not None
    assert [document["content"] for document in turn.documents] == [d.page_content for d in DOCUMENTS[:2]]
    assert "excerpt" not in turn.documents[0]


def test_a_handler_by_itself(session: str) -> None:
    audit = TurnAudit(excerpt=5)
    Shelf().invoke("porticoes.", {"callbacks": [audit]})
    assert audit.last is not None
    assert audit.last.documents == [
        {"id": "d3", "source": None, "score": None, "retriever": "Shelf", "excerpt": "Bolog"}
    ]
    TWO_MODELS.invoke({"input": "q", "history": []}, {"callbacks": [audit]})
    assert audit.last.fields()["total_tokens"] == 26
    assert audit.last.documents == []


def test_odd_documents_never_cost_a_turn(store: HistoryStore, session: str) -> None:
    class Odd(Shelf):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [
                Document("nul \x00 \ud800", metadata={"source": object(), "score": math.nan}),
                Document("x", metadata={"score": "high", "id": [1]}),
            ]

    chain: Any = RunnableLambda(lambda given: Odd().invoke("q") and "answer")
    store.with_history(chain, **KEYS).invoke({"input": "q"}, config_of(session))
    (turn,) = store.turns(session)
    assert turn.documents is not None
    first, second = turn.documents
    assert first["excerpt"] == "nul \x00 \ud800"
    assert math.isnan(first["score"])
    assert first["source"].startswith("<object")
    assert (second["id"], second["score"]) == ("[1]", None)


@modes
def test_tools_and_failures_are_recorded(store: HistoryStore, session: str, mode: str) -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @tool
    def fail() -> str:
        """Fail."""
        raise ValueError("it broke")

    class Broken(Shelf):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            raise ConnectionError("no index")

    def work(given: Any) -> str:
        add.invoke({"name": "add", "args": {"a": 1, "b": 2}, "id": "call-1", "type": "tool_call"})
        with pytest.raises(ValueError, match="broke"):
            fail.invoke({})
        with pytest.raises(ConnectionError):
            Broken().invoke("q")
        return "done"

    run(store.with_history(RunnableLambda(work), **KEYS), mode, {"input": "q"}, config_of(session))
    (turn,) = store.turns(session)
    added, failed = turn.metadata["tools"]
    assert added.pop("seconds") >= 0
    assert failed.pop("seconds") >= 0
    assert added == {"name": "add", "tool_call_id": "call-1"}
    assert failed == {"name": "fail", "error": "ValueError: it broke"}
    (broken,) = turn.metadata["retrievers"]
    assert (broken["error"], broken["documents"]) == ("ConnectionError: no index", 0)


def test_a_failed_turn_keeps_what_was_used(store: HistoryStore, session: str, smith: LangSmithServer) -> None:
    def fail(answer: Any) -> Any:
        raise ValueError("after the model")

    with pytest.raises(ValueError, match="after the model"):
        store.with_history(PARSED | fail, **KEYS).invoke({"input": "q"}, config_of(session))
    flush(smith)
    (turn,) = store.turns(session)
    (root,) = smith.roots(session)
    assert (turn.status, turn.error, turn.trace_id) == ("failed", "ValueError: after the model", root["id"])
    assert tokens(turn) == smith.usage(root["id"])


def test_a_cut_stream_keeps_its_trace(store: HistoryStore, session: str, smith: LangSmithServer) -> None:
    chain = store.with_history(PLAIN, **KEYS)
    stream = chain.stream({"input": "many words to say"}, config_of(session))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    flush(smith)
    (turn,) = store.turns(session)
    assert turn.status == "interrupted"
    assert turn.trace_id == smith.roots(session)[0]["id"]
    assert turn.metadata["first_token_seconds"] > 0


def test_a_history_by_itself_inside_a_trace(store: HistoryStore, session: str, smith: LangSmithServer) -> None:
    @traceable
    def turn() -> None:
        history = SupabaseChatMessageHistory(session, store)
        history.add_messages([HumanMessage("q"), AIMessage("a")])

    turn()
    flush(smith)
    (stored,) = store.turns(session)
    assert stored.trace_id == next(run["id"] for run in smith.roots() if run["name"] == "turn")


@pytest.mark.parametrize("behave", ["429", "500", "garbage", 0.5])
@wrappers
def test_an_ailing_langsmith_does_not_touch_the_conversation(
    store: HistoryStore, session: str, smith: LangSmithServer, wrap: Wrap, behave: Any
) -> None:
    smith.behave = behave
    wrapped = wrap(store, TWO_MODELS)
    for mode in MODES:
        run(wrapped, mode, {"input": "q"}, config_of(session))
    turns = list(store.turns(session))
    assert [turn.status for turn in turns] == ["completed"] * 6
    assert all(turn.trace_id and turn.total_tokens for turn in turns)
    assert len(store.load(session)) == 12
    smith.behave = "well"
    forget_traces()


def test_no_langsmith_at_all_does_not_touch_the_conversation(store: HistoryStore, session: str) -> None:
    with tracing(f"http://127.0.0.1:{servers.free_port()}"):
        store.with_history(PARSED, **KEYS).invoke({"input": "q"}, config_of(session))
        forget_traces()
    (turn,) = store.turns(session)
    assert turn.trace_id is not None
    assert turn.total_tokens == 13


def test_a_broken_tracer_does_not_touch_the_conversation(
    store: HistoryStore, session: str, smith: LangSmithServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("changed in a later release")

    helpers = SimpleNamespace(get_current_run_tree=broken)
    monkeypatch.setattr(trace, "sys", SimpleNamespace(modules={"langsmith.run_helpers": helpers}))
    monkeypatch.setattr(progress, "climb", broken)
    store.with_history(PARSED, **KEYS).invoke({"input": "q"}, config_of(session))
    RunnableWithMessageHistory(PLAIN, store.get_session_history, **KEYS).invoke({"input": "q"}, config_of(session))
    first, second = store.turns(session)
    assert first.trace_id is second.trace_id is None
    assert (first.total_tokens, second.total_tokens) == (13, 34)
