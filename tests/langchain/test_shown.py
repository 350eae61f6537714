"""What a model is shown: history and question are one list, which every provider accepts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.checkpoint.memory import InMemorySaver

from langchain_supabase_history import HistoryStore, Window
from tests.langchain.test_agent_turns import RUNS, Recording, config_of, model
from tests.validator import assert_accepted

CALL = {"name": "clock", "args": {}, "id": "k1", "type": "tool_call"}
WAYS = ["invoke", "ainvoke", "batch", "stream-default", "astream-default"]


class Model:
    """Answers what it was told to, and keeps what it was shown."""

    def __init__(self, *answers: BaseMessage) -> None:
        self.shown: list[list[BaseMessage]] = []
        self._answers = iter(answers)

    def __call__(self, messages: list[BaseMessage]) -> BaseMessage:
        assert_accepted(messages[:-1] if messages[-1].type == "human" else messages, but=["call_ids_are_unique"])
        self.shown.append(messages)
        return next(self._answers)

    def types(self) -> list[list[str]]:
        return [[message.type for message in messages] for messages in self.shown]


def wrapped(store: HistoryStore, runnable: Any, wrapper: str) -> Any:
    if wrapper == "with_history":
        return store.with_history(runnable)
    return RunnableWithMessageHistory(runnable, store.get_session_history)


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrapper", ["with_history", "RunnableWithMessageHistory"])
@pytest.mark.parametrize("beside", [False, True])
def test_an_input_that_answers_the_open_call(
    store: HistoryStore, session: str, way: str, wrapper: str, beside: bool
) -> None:
    """The application runs the tools, perhaps with a new question behind the results."""
    second = {**CALL, "id": "k2"}
    answers = [AIMessage("", tool_calls=[CALL, second]), AIMessage("Ten past four."), AIMessage("You are welcome.")]
    says = Model(*answers)
    bot = wrapped(store, RunnableLambda(says), wrapper)
    RUNS[way](bot, "Time?", config_of(session))
    results: list[BaseMessage] = [ToolMessage("16:10", tool_call_id=id) for id in ("k1", "k2")]
    RUNS[way](bot, [*results, *([HumanMessage("Well?")] if beside else [])], config_of(session))
    RUNS[way](bot, "Thanks.", config_of(session))
    done = ["human", "ai", "tool", "tool", *(["human"] if beside else [])]
    assert says.types() == [["human"], done, [*done, "ai", "human"]]
    assert says.shown[1][1] == answers[0]
    assert [m.type for m in store.load(session)] == [*done, "ai", "human", "ai"]


def test_an_input_that_answers_one_of_two_calls(store: HistoryStore, session: str) -> None:
    store.append(session, [HumanMessage("Time?"), AIMessage("I look.", tool_calls=[CALL, {**CALL, "id": "k2"}])])
    says = Model(AIMessage("Ten."))
    store.with_history(RunnableLambda(says)).invoke([ToolMessage("16:10", tool_call_id="k2")], config_of(session))
    assert says.types() == [["human", "ai", "tool"]]
    assert [call["id"] for call in says.shown[0][1].tool_calls] == ["k2"]  # type: ignore[attr-defined]


def test_an_input_that_answers_a_call_within_a_window(store: HistoryStore, session: str) -> None:
    store.append(session, [HumanMessage("old"), AIMessage("older")])
    store.append(session, [HumanMessage("Time?"), AIMessage("", tool_calls=[CALL])])
    for window in (Window(messages=1), Window(messages=2), Window(turns=1), Window(tokens=40)):
        says = Model(AIMessage("Ten."))
        at = f"{session}-{uuid.uuid4()}"
        store.append(at, [stored.message for stored in store.messages(session)])
        bot = store.with_history(RunnableLambda(says), window=window)
        bot.invoke([ToolMessage("16:10", tool_call_id="k1")], config_of(at))
        assert says.types()[0][-3:] == ["human", "ai", "tool"], window


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["function", "agent", "checkpointer"])
def test_instructions_with_each_question_are_shown_once(store: HistoryStore, session: str, kind: str, way: str) -> None:
    said = ["Be brief.", "Be brief.", "Be kind.", "Be brief."]
    shown: list[list[str]] = []

    class Seeing(Recording):
        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            shown.append([m.text for m in messages])
            return super()._generate(messages, *args, **kwargs)

        def _stream(self, messages: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            shown.append([m.text for m in messages])
            yield from super()._stream(messages, *args, **kwargs)

    says = model("a0", "a1", "a2", "a3", cls=Seeing)
    saver = InMemorySaver() if kind == "checkpointer" else None
    bot = store.with_history(says if kind == "function" else create_agent(says, [], checkpointer=saver))
    for n, text in enumerate(said):
        question = [SystemMessage(text), HumanMessage(f"q{n}")]
        given = question if kind == "function" else {"messages": question}
        RUNS[way](bot, given, config_of(session, thread_id=session))
    if kind != "checkpointer":  # whose state has them where they came
        assert shown[1] == ["Be brief.", "q0", "a0", "q1"]
        assert shown[2] == ["Be brief.", "Be kind.", "q0", "a0", "q1", "a1", "q2"]
    assert [m.text for m in store.load(session)][:2] == ["Be brief.", "Be kind."]
    assert sum(m.message.type == "system" for m in store.messages(session)) == 2
    assert [m.message.text for m in store.messages(session) if m.message.type == "ai"] == ["a0", "a1", "a2", "a3"]


SEARCH = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}, "index": 1}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [], "index": 2}
STREAM: list[Any] = [
    {"type": "thinking", "thinking": "Hm.", "index": 0},
    {"type": "thinking", "signature": "c2ln", "index": 0},
    {"type": "text", "text": "I ", "index": 3},
    {"type": "text", "text": "look.", "index": 3},
    SEARCH,
    FOUND,
    {"type": "tool_use", "id": "k1", "name": "clock", "input": {}, "index": 4},
    {"type": "input_json_delta", "partial_json": "{", "index": 4},
]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_that_is_cut_at_each_chunk(store: HistoryStore, session: str, is_async: bool) -> None:
    def chunks(_: Any) -> Iterator[AIMessageChunk]:
        for block in STREAM:
            calls: Any = [{"name": "clock", "args": "", "id": "k1", "index": 4}] if block["type"] == "tool_use" else []
            yield AIMessageChunk(content=[block], tool_call_chunks=calls)

    async def achunks(_: Any) -> AsyncIterator[AIMessageChunk]:
        for found in chunks(None):
            yield found

    async def consume(config: Any, count: int) -> None:
        stream = bot.astream("q", config)
        for _ in range(count):
            await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    bot = store.with_history(RunnableGenerator(chunks, achunks))
    for count in range(1, len(STREAM) + 1):
        config = config_of(f"{session}-{count}")
        if is_async:
            asyncio.run(consume(config, count))
        else:
            stream = bot.stream("q", config)
            for _ in range(count):
                next(stream)
            stream.close()  # type: ignore[attr-defined]
        loaded = store.load(f"{session}-{count}")  # judged
        assert [m.type for m in loaded] == (["human"] if count < 3 else ["human", "ai"]), count
        kinds = [block["type"] for block in loaded[-1].content] if count >= 3 else []  # type: ignore[index]
        assert (SEARCH["type"] in kinds) == (FOUND["type"] in kinds) == (count >= 6)
        assert len(store.messages(f"{session}-{count}").items) == 2  # all of it is stored
