"""`store.with_history`: every shape and mode, and turns that fail, are cut short, or cannot be saved."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

from langchain_supabase_history import (
    HistoryStore,
    InvalidMessage,
    InvalidSession,
    NotSaved,
    Unavailable,
    Window,
)
from tests.conftest import Api
from tests.langchain.test_history import assert_whole, meeting, overlap, unreachable
from tests.shapes import IN, MODES, PROMPT, SHAPES, Echo, EchoLLM, Shape, config_of, reply, run, texts

modes = pytest.mark.parametrize("mode", MODES)
SHAPES_HERE = {**SHAPES, "llm": Shape(EchoLLM())}  # LangChain's wrapper cannot take a completion model directly


def streaming(answer: Callable[[list[BaseMessage]], Iterator[Any]]) -> Runnable[Any, Any]:
    """A model that streams, on either face, what a generator function gives."""

    async def aanswer(messages: list[BaseMessage]) -> AsyncIterator[Any]:
        for chunk in answer(messages):
            yield chunk

    return RunnableLambda(answer, aanswer)


def stored(store: HistoryStore, session: str) -> list[tuple[str, str]]:
    """What is stored: (text, the status of its turn) each."""
    statuses = {turn.id: turn.status for turn in store.turns(session)}
    return [(m.message.text, statuses[m.turn_id]) for m in store.messages(session)]


@modes
@pytest.mark.parametrize("shape", SHAPES_HERE.values(), ids=SHAPES_HERE.keys())
def test_every_shape_is_remembered(store: HistoryStore, session: str, shape: Shape, mode: str) -> None:
    chain = store.with_history(shape.runnable, **shape.keys)
    assert shape.take(run(chain, mode, shape.give("hello"), config_of(session))) == "you said: hello"
    assert shape.take(run(chain, mode, shape.give("bye"), config_of(session))) == "you said: hello bye"
    messages = [m.message for m in store.messages(session)]
    assert texts(messages) == ["hello", "you said: hello", "bye", "you said: hello bye"]
    assert [type(m) for m in messages] == [HumanMessage, AIMessage] * 2
    assert [status for _, status in stored(store, session)] == ["completed"] * 4
    assert len(store.turns(session)) == 2


class Roots(BaseTracer):
    """Keeps the root runs that it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)


@modes
def test_a_turn_is_two_calls_and_one_root_run(
    store: HistoryStore, session: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    tracer = Roots()

    def noted(attempt: Any, call: Any, *args: Any) -> Any:
        called.append(call.function.name)
        return attempt(call, *args)

    for name in ("attempt", "aattempt"):
        monkeypatch.setattr(store.driver, name, partial(noted, getattr(store.driver, name)))
    chain = store.with_history(PROMPT | Echo(), **IN["keys"])
    run(chain, mode, {"input": "q"}, {**config_of(session), "callbacks": [tracer]})
    assert called == ["chat_history_begin", "chat_history_append"]
    (root,) = tracer.roots
    assert (root.name, root.error) == ("RunnableWithHistory", None)
    assert len(root.child_runs) == 1


def test_streams_pass_chunk_by_chunk(store: HistoryStore, session: str) -> None:
    received = threading.Event()

    def answer(messages: list[BaseMessage]) -> Iterator[str]:
        yield "first "
        yield "in time" if received.wait(5) else "late"

    async def aanswer(messages: list[BaseMessage]) -> AsyncIterator[str]:
        yield "first "
        yield "in time" if await asyncio.to_thread(received.wait, 5) else "late"

    def sync() -> Iterator[str]:
        for chunk in store.with_history(RunnableLambda(answer)).stream("q", config_of(session)):
            received.set()
            yield chunk

    async def anext_too() -> list[str]:
        chunks = []
        async for chunk in store.with_history(RunnableLambda(aanswer)).astream("q", config_of(session)):
            received.set()
            chunks.append(chunk)
        return chunks

    assert list(sync()) == ["first ", "in time"]
    received.clear()
    assert asyncio.run(anext_too()) == ["first ", "in time"]
    assert texts(store.load(session)) == ["q", "first in time"] * 2


def test_chunks_without_a_last_one_are_whole_when_the_stream_ends(store: HistoryStore, session: str) -> None:
    def answer(messages: list[BaseMessage]) -> Iterator[AIMessageChunk]:
        yield AIMessageChunk(content="one ")
        yield AIMessageChunk(content="two")

    for mode in MODES:
        run(store.with_history(streaming(answer)), mode, "q", config_of(session))
    assert stored(store, session) == [("q", "completed"), ("one two", "completed")] * 6


def test_events_of_a_turn(store: HistoryStore, session: str) -> None:
    async def kinds() -> set[str]:
        chain = store.with_history(Echo())
        return {event["event"] async for event in chain.astream_events("q", config_of(session), version="v2")}

    assert {"on_chain_start", "on_chat_model_stream", "on_chain_end"} <= asyncio.run(kinds())
    assert stored(store, session) == [("q", "completed"), ("you said: q", "completed")]


# --- composition


@modes
def test_it_composes(store: HistoryStore, session: str, mode: str) -> None:
    inside = store.with_history(PROMPT | Echo() | StrOutputParser(), **IN["keys"])
    before = store.with_history(PROMPT | Echo(), **IN["keys"])
    chains: list[Runnable[Any, Any]] = [
        inside,
        before | StrOutputParser(),
        RunnablePassthrough.assign(answer=inside) | RunnableLambda(lambda both: both["answer"]),
        {"a": inside} | RunnableLambda(lambda both: both["a"]),
        RunnableLambda(lambda given: inside.invoke(given)),
    ]
    for n, chain in enumerate(chains):
        assert run(chain, mode, {"input": "q"}, config_of(session)) == "you said: q" + " q" * n
    assert [status for _, status in stored(store, session)] == ["completed"] * 10
    assert len(store.turns(session)) == 5


@modes
def test_an_input_that_arrives_in_chunks(store: HistoryStore, session: str, mode: str) -> None:
    def rephrase(question: Any) -> Iterator[str]:
        yield from ("more ", "than ", "one")

    assert run(streaming(rephrase) | store.with_history(RunnableLambda(reply)), mode, "q", config_of(session)) == (
        "you said: more than one"
    )
    assert texts(store.load(session)) == ["more than one", "you said: more than one"]


@pytest.mark.parametrize("mode", ["invoke", "batch", "ainvoke", "abatch"])
def test_a_retry_inside_is_one_turn(store: HistoryStore, session: str, mode: str) -> None:
    tries = itertools.count(1)

    def answer(messages: list[BaseMessage]) -> str:
        if next(tries) % 2:
            raise ConnectionError("busy")
        return "answer"

    model = RunnableLambda(answer).with_retry(wait_exponential_jitter=False)
    run(store.with_history(model), mode, "q", config_of(session))
    assert stored(store, session) == [("q", "completed"), ("answer", "completed")]


def test_the_fake_model_that_gives_one_object_again(store: HistoryStore, session: str) -> None:
    message = AIMessage("again", id="run-1")
    chain = store.with_history(GenericFakeChatModel(messages=itertools.repeat(message)))
    for mode in ("invoke", "stream", "ainvoke"):
        run(chain, mode, "q", config_of(session))
    assert texts(store.load(session)) == ["q", "again"] * 3


def test_user_window_and_kwargs(store: HistoryStore, session: str) -> None:
    user = session + "-user"
    chain = store.with_history(Echo(), window=Window(turns=1))
    for n, mode in enumerate(MODES):
        run(chain, mode, f"q{n}", config_of(session, user_id=user))
    assert store.load(session) == []
    assert texts(store.for_user(user).load(session))[-1] == "you said: q4 q5"
    given: list[Any] = []

    def spy(_: Any, **kwargs: Any) -> str:
        given.append(kwargs)
        return "ok"

    spied = store.with_history(RunnableLambda(spy))
    spied.invoke("q", config_of(session), stop=["x"])
    assert given[0]["stop"] == ["x"]


def test_it_describes_itself(postgres_store: HistoryStore) -> None:
    chain = postgres_store.with_history(PROMPT | Echo(), **IN["keys"])
    assert {spec.id for spec in chain.config_specs} == {"session_id", "user_id"}
    assert chain.get_config_jsonschema()["properties"]["configurable"]
    assert "WithHistory" in chain.get_graph().draw_mermaid()


def test_overlapping_turns_are_stored_whole(api: Api, session: str) -> None:
    asked = overlap(lambda n: api.store.with_history(meeting(n)), api.is_async, session)
    assert_whole(api.store, session, asked)


# --- what cannot be right


@modes
@pytest.mark.parametrize("config", [{}, {"configurable": {}}, config_of(""), config_of(7), config_of("s", user_id="")])  # type: ignore[arg-type]
def test_a_config_that_names_no_session(postgres_store: HistoryStore, mode: str, config: Any) -> None:
    told: list[Any] = []
    store = postgres_store.within(on_error=lambda *args: told.append(args))
    with pytest.raises(InvalidSession, match=r"session_id|user_id") as caught:
        run(store.with_history(Echo()), mode, "q", config)
    assert not told
    assert not hasattr(caught.value, "__notes__")


@modes
@pytest.mark.parametrize(("input", "names"), [({"a": "q", "b": "en"}, "'a', 'b'"), (7, "int")])
def test_an_input_without_a_question(
    postgres_store: HistoryStore, session: str, mode: str, input: Any, names: str
) -> None:
    with pytest.raises(InvalidMessage, match=names):
        run(postgres_store.with_history(Echo()), mode, input, config_of(session))
    assert stored(postgres_store, session) == []


@modes
def test_an_output_without_an_answer(store: HistoryStore, session: str, mode: str) -> None:
    output = {"result": "answer", "sources": []}
    chain = store.with_history(RunnableLambda(lambda _: output), output_messages_key="answer")
    with pytest.raises(NotSaved, match=r"no key 'answer'.*'result', 'sources'") as caught:
        run(chain, mode, "q", config_of(session))
    assert caught.value.output == output
    assert texts(caught.value.messages) == ["q"]
    assert stored(store, session) == [("q", "failed")]
    assert store.load(session) == []


# --- turns that fail, and turns that cannot be saved


@modes
def test_a_failed_turn_is_recorded_with_its_question(store: HistoryStore, session: str, mode: str) -> None:
    def answer(messages: list[BaseMessage]) -> Iterator[str]:
        yield "half "
        raise ValueError("model is out of order")

    with pytest.raises(ValueError, match="out of order"):
        run(store.with_history(streaming(answer)), mode, "q", config_of(session))
    assert stored(store, session) == [("q", "failed")]
    assert store.load(session) == []
    (turn,) = store.turns(session)
    assert turn.error == "ValueError: model is out of order"


@contextlib.contextmanager
def failing(store: HistoryStore, answer: Any) -> Iterator[tuple[Runnable[Any, Any], list[tuple[Any, list[str]]]]]:
    """A chain whose store is out of reach once the model has been asked; and what `on_error` is told."""
    told: list[tuple[Any, list[str]]] = []
    view = store.within(on_error=lambda error, messages: told.append((error, texts(messages))))

    def model(messages: list[BaseMessage]) -> Iterator[Any]:
        view.executor = dead.executor
        yield "half "
        if isinstance(answer, Exception):
            raise answer
        yield answer

    with unreachable() as dead:
        yield view.with_history(streaming(model)), told


@modes
def test_a_save_that_fails_raises_with_the_output(store: HistoryStore, session: str, mode: str) -> None:
    with (
        failing(store, "answer") as (chain, told),
        pytest.raises(NotSaved, match=r"could not be reached.*\.output") as caught,
    ):
        run(chain, mode, "q", config_of(session))
    assert caught.value.output == "half answer"
    assert texts(caught.value.messages) == ["q", "half answer"]
    assert isinstance(caught.value.__cause__, Unavailable)
    assert told == []  # the caller was
    store.append(session, caught.value.messages)  # what it carries is enough to mend it
    assert texts(store.load(session)) == ["q", "half answer"]


@modes
def test_the_models_error_wins_over_the_saves(store: HistoryStore, session: str, mode: str) -> None:
    with (
        failing(store, ValueError("model is out of order")) as (chain, told),
        pytest.raises(ValueError, match="out of order") as caught,
    ):
        run(chain, mode, "q", config_of(session))
    assert any("could not be recorded" in note for note in caught.value.__notes__)
    ((error, messages),) = told
    assert isinstance(error, Unavailable)
    assert messages == ["q"]


@modes
def test_a_conversation_that_cannot_be_loaded_is_the_error(session: str, mode: str) -> None:
    asked: list[Any] = []
    with unreachable() as dead, pytest.raises(Unavailable) as caught:
        run(dead.with_history(RunnableLambda(asked.append)), mode, "q", config_of(session))
    assert not asked
    assert not hasattr(caught.value, "__notes__")  # no second deadline was spent on recording it


@modes
def test_an_answer_that_cannot_be_stored(store: HistoryStore, session: str, mode: str) -> None:
    bad = AIMessage("answer", additional_kwargs={"bad": object()})
    with pytest.raises(NotSaved, match=r"output\[0\].*additional_kwargs\.bad") as caught:
        run(store.with_history(RunnableLambda(lambda _: bad)), mode, "q", config_of(session))
    assert caught.value.output is bad
    assert store.load(session) == []
    assert stored(store, session) == [("q", "failed")]
