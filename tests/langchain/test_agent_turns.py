"""What is stored of an agent's turn: what its state has gained, in every mode in which it streams."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentState,
    HumanInTheLoopMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    after_model,
    before_model,
)
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableGenerator, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config
from langgraph.graph import START, StateGraph, add_messages
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from langchain_supabase_history import HistoryStore, InvalidInput, InvalidMessage, InvalidSession, NotSaved
from langchain_supabase_history.operations.messages import append_call

CALL = {"name": "clock", "args": {}, "id": "k1"}


@tool
def clock() -> str:
    """The time."""
    return "16:10"


class Scripted(GenericFakeChatModel):
    """Says what it was told to, and takes tools; it remembers what it was shown."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        """Word by word, the calls of tools too, which the fake model would leave out."""
        message = next(iter(self.messages))
        assert isinstance(message, AIMessage)
        for word in re.split(r"(?<= )", message.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        calls: list[Any] = [
            {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"], "index": n}
            for n, call in enumerate(message.tool_calls)
        ]
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=calls, chunk_position="last"))


SHOWN: list[list[str]] = []


class Recording(Scripted):
    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        SHOWN.append([str(m.text) for m in messages])
        return super()._generate(messages, *args, **kwargs)

    def _stream(self, messages: Any, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        SHOWN.append([str(m.text) for m in messages])
        yield from super()._stream(messages, *args, **kwargs)


def model(*answers: str | AIMessage, cls: type[Scripted] = Scripted) -> Scripted:
    return cls(messages=iter([AIMessage(a) if isinstance(a, str) else a for a in answers]))


def config_of(session: str, **more: Any) -> Any:
    return {"configurable": {"session_id": session, **more}}


def config_with(session: str, more: dict[str, Any]) -> Any:
    return {**config_of(session), **more}


def question(text: str = "Time?", **more: Any) -> dict[str, Any]:
    return {"messages": [HumanMessage(text, **more)]}


def stored(store: HistoryStore, session: str) -> list[str]:
    return [f"{s.message.type}: {s.message.text}" for s in store.messages(session)]


def statuses(store: HistoryStore, session: str) -> list[str]:
    return [turn.status for turn in store.turns(session)]


async def _alist(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


Run = Callable[[Any, Any, Any], Any]
STREAMS: dict[str, dict[str, Any]] = {
    "default": {},
    "values": {"stream_mode": "values"},
    "updates": {"stream_mode": "updates"},
    "messages": {"stream_mode": "messages"},
    "custom": {"stream_mode": "custom"},
    "debug": {"stream_mode": "debug"},
    "tasks": {"stream_mode": "tasks"},
    "several": {"stream_mode": ["updates", "messages"]},
    "list-of-one": {"stream_mode": ["values"]},
    "subgraphs": {"stream_mode": "updates", "subgraphs": True},
    "several-subgraphs": {"stream_mode": ["messages", "values"], "subgraphs": True},
    "v2": {"stream_mode": "updates", "version": "v2"},
    "v2-several": {"stream_mode": ["messages", "updates"], "version": "v2"},
}


def _stream(kwargs: dict[str, Any], bot: Any, input: Any, config: Any) -> list[Any]:
    return list(bot.stream(input, config, **kwargs))


def _astream(kwargs: dict[str, Any], bot: Any, input: Any, config: Any) -> list[Any]:
    return asyncio.run(_alist(bot.astream(input, config, **kwargs)))


RUNS: dict[str, Run] = {
    "invoke": lambda bot, input, config: bot.invoke(input, config),
    "ainvoke": lambda bot, input, config: asyncio.run(bot.ainvoke(input, config)),
    "invoke-v2": lambda bot, input, config: bot.invoke(input, config, version="v2"),
    "invoke-updates": lambda bot, input, config: bot.invoke(input, config, stream_mode="updates"),
    "batch": lambda bot, input, config: bot.batch([input], config)[0],
    **{f"stream-{name}": partial(_stream, kwargs) for name, kwargs in STREAMS.items()},
    **{
        f"astream-{name}": partial(_astream, kwargs)
        for name, kwargs in STREAMS.items()
        if name in ("default", "messages", "several-subgraphs", "v2")
    },
}
every_way = pytest.mark.parametrize("way", RUNS)


@every_way
def test_three_turns_with_a_tool_are_stored_once(store: HistoryStore, session: str, way: str) -> None:
    answers = [
        m for n in range(3) for m in (AIMessage("I look.", tool_calls=[{**CALL, "id": f"k{n}"}]), AIMessage(f"a{n}"))
    ]
    bot = store.with_history(create_agent(model(*answers), [clock]))
    for n in range(3):
        RUNS[way](bot, question(f"q{n}"), config_of(session))
    expected = [line for n in range(3) for line in (f"human: q{n}", "ai: I look.", "tool: 16:10", f"ai: a{n}")]
    assert stored(store, session) == expected
    assert [f"{m.type}: {m.text}" for m in store.load(session)] == expected
    assert statuses(store, session) == ["completed"] * 3


@pytest.mark.parametrize("name", STREAMS)
def test_what_a_stream_passes_on_is_what_the_agent_streams(store: HistoryStore, session: str, name: str) -> None:
    def shape(chunk: Any) -> Any:
        if isinstance(chunk, dict):
            return sorted(chunk)
        return [shape(part) for part in chunk] if isinstance(chunk, (tuple, list)) else type(chunk).__name__

    kwargs = STREAMS[name]
    agent: Any = create_agent(model("one two"), [])
    bare = list(agent.stream(question(), **kwargs))
    with_history = store.with_history(create_agent(model("one two"), []))
    assert [*map(shape, with_history.stream(question(), config_of(session), **kwargs))] == [*map(shape, bare)]


# --- agents whose state is edited


@after_model
def forget_old(state: Any, runtime: Any) -> Any:
    old = state["messages"][:-2]
    return {"messages": [RemoveMessage(id=m.id) for m in old]} if old else None


@after_model
def censor(state: Any, runtime: Any) -> Any:
    return {"messages": [state["messages"][-1].model_copy(update={"content": "(withheld)"})]}


@before_model
def rewrite(state: Any, runtime: Any) -> Any:
    *old, asked = state["messages"]
    new = [RemoveMessage(id=REMOVE_ALL_MESSAGES), *old, HumanMessage("[ctx] " + asked.text)]
    return {"messages": new}


@before_model(can_jump_to=["end"])
def leave(state: Any, runtime: Any) -> Any:
    return {"jump_to": "end"}


@every_way
def test_an_agent_that_forgets(store: HistoryStore, session: str, way: str) -> None:
    bot = store.with_history(create_agent(model(*"abc"), [], middleware=[forget_old]))
    for _ in range(3):
        RUNS[way](bot, question(), config_of(session))
    assert stored(store, session) == ["human: Time?", "ai: a", "human: Time?", "ai: b", "human: Time?", "ai: c"]


@every_way
def test_what_a_guard_withholds_is_not_stored(store: HistoryStore, session: str, way: str) -> None:
    bot = store.with_history(create_agent(model("The code is 4711."), [], middleware=[censor]))
    RUNS[way](bot, question(), config_of(session))
    assert stored(store, session) == ["human: Time?", "ai: (withheld)"]


@every_way
def test_a_summary_is_nothing_that_was_said(store: HistoryStore, session: str, way: str) -> None:
    summing = SummarizationMiddleware(model(*["Summed up."] * 9), trigger=("messages", 6), keep=("messages", 2))
    answers: list[str | AIMessage] = ["a0", "a1", AIMessage("I look.", tool_calls=[CALL]), "a2"]
    bot = store.with_history(create_agent(model(*answers), [clock], middleware=[summing]))
    for n in range(3):
        RUNS[way](bot, question(f"q{n}"), config_of(session))
    assert stored(store, session) == [
        *("human: q0", "ai: a0", "human: q1", "ai: a1"),
        *("human: q2", "ai: I look.", "tool: 16:10", "ai: a2"),
    ]


@every_way
def test_an_agent_without_an_answer(store: HistoryStore, session: str, way: str) -> None:
    bot = store.with_history(create_agent(model(), [], middleware=[leave]))
    RUNS[way](bot, question("exit"), config_of(session))
    assert stored(store, session) == ["human: exit"]
    assert statuses(store, session) == ["completed"]


@every_way
def test_what_is_redacted_is_stored_redacted(store: HistoryStore, session: str, way: str) -> None:
    SHOWN.clear()
    bot = store.with_history(create_agent(model("a1", "a2", cls=Recording), [], middleware=[PIIMiddleware("email")]))
    RUNS[way](bot, question("I am a@b.com"), config_of(session))
    RUNS[way](bot, question("hi"), config_of(session))
    assert "a@b.com" not in str(stored(store, session))
    assert "a@b.com" not in str(SHOWN)
    assert stored(store, session)[0].startswith("human: I am [REDACTED")


@every_way
@pytest.mark.parametrize("same", ["id", "object"])
def test_a_question_that_is_sent_again(store: HistoryStore, session: str, way: str, same: str) -> None:
    bot = store.with_history(create_agent(model("1st", "2nd", "3rd"), []))
    asked = question("A joke.", id="page-1" if same == "id" else None)
    for _ in range(3):
        RUNS[way](bot, asked, config_of(session))
    assert stored(store, session)[1::2] == ["ai: 1st", "ai: 2nd", "ai: 3rd"]
    assert asked["messages"][0].id == ("page-1" if same == "id" else None), "the caller's object is left alone"


# --- checkpointers and people in the loop


@every_way
def test_an_agent_that_keeps_the_conversation_itself(store: HistoryStore, session: str, way: str) -> None:
    SHOWN.clear()
    bot = store.with_history(
        create_agent(model("one", "two", "three", cls=Recording), [], checkpointer=InMemorySaver())
    )
    for n in (1, 2, 3):
        RUNS[way](bot, question(f"Q{n}"), config_of(session, thread_id=session))
    assert SHOWN == [["Q1"], ["Q1", "one", "Q2"], ["Q1", "one", "Q2", "two", "Q3"]]
    assert stored(store, session) == ["human: Q1", "ai: one", "human: Q2", "ai: two", "human: Q3", "ai: three"]


@tool
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


def payer(saver: InMemorySaver) -> Any:
    calls = [{"name": "pay", "args": {"amount": 5}, "id": "k1"}]
    return create_agent(
        model(AIMessage("I pay.", tool_calls=calls), "Done."),
        [pay],
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"pay": True})],
        checkpointer=saver,
    )


@every_way
def test_a_turn_that_waits_for_a_person(store: HistoryStore, session: str, way: str) -> None:
    agent, config = payer(InMemorySaver()), config_of(session, thread_id=session)
    RUNS[way](store.with_history(agent), question("Pay 5."), config)
    assert statuses(store, session) == ["interrupted"]
    assert stored(store, session) == ["human: Pay 5.", "ai: I pay."]
    assert [m.type for m in store.load(session)] == ["human", "ai"]  # its text, without the call
    # Another process has made another runnable.
    RUNS[way](store.with_history(agent), Command(resume={"decisions": [{"type": "approve"}]}), config)
    assert stored(store, session) == ["human: Pay 5.", "ai: I pay.", "tool: paid 5", "ai: Done."]
    assert statuses(store, session) == ["completed"]
    assert [m.type for m in store.load(session)] == ["human", "ai", "tool", "ai"]


def test_a_turn_that_a_person_rejects(store: HistoryStore, session: str) -> None:
    bot, config = store.with_history(payer(InMemorySaver())), config_of(session, thread_id=session)
    bot.invoke(question("Pay 5."), config)
    bot.invoke(Command(resume={"decisions": [{"type": "reject", "message": "No."}]}), config)
    assert [m.type for m in store.load(session)] == ["human", "ai", "tool", "ai"]
    assert statuses(store, session) == ["completed"]


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream-default", "stream-messages"])
def test_what_is_edited_after_an_interrupt_is_edited_in_the_store(store: HistoryStore, session: str, way: str) -> None:
    @after_model
    def decide(state: Any, runtime: Any) -> Any:
        last = state["messages"][-1]
        if not last.tool_calls:
            return None
        amount = interrupt("How much?")
        edited = [{**call, "args": {"amount": amount}} for call in last.tool_calls]
        return {"messages": [last.model_copy(update={"tool_calls": edited, "content": "(withheld)"})]}

    calls = [{"name": "pay", "args": {"amount": 5}, "id": "k1"}]
    paying = model(AIMessage("I pay 5.", tool_calls=calls), "Done.")
    agent = create_agent(paying, [pay], middleware=[decide], checkpointer=InMemorySaver())
    config = config_of(session, thread_id=session)
    store.append(session, [HumanMessage("q"), AIMessage("a")])
    RUNS[way](store.with_history(agent), question("Pay."), config)
    assert stored(store, session)[2:] == ["human: Pay.", "ai: I pay 5."]
    RUNS[way](store.with_history(agent), Command(resume=3), config)
    assert stored(store, session)[2:] == ["human: Pay.", "ai: (withheld)", "tool: paid 3", "ai: Done."]
    assert store.load(session)[3].tool_calls[0]["args"] == {"amount": 3}  # type: ignore[attr-defined]


# --- what fails or is cut


def test_finished_steps_stay_with_a_turn_that_fails(store: HistoryStore, session: str) -> None:
    answers = [AIMessage("", tool_calls=[{**CALL, "id": f"k{n}"}]) for n in range(9)]
    bot = store.with_history(create_agent(model(*answers), [clock]))
    with pytest.raises(RecursionError):
        bot.invoke(question(), config_with(session, {"recursion_limit": 5}))
    assert "tool: 16:10" in stored(store, session)
    assert store.load(session) == []
    assert statuses(store, session) == ["failed"]


def test_the_agents_own_limit_of_steps_holds(store: HistoryStore, session: str) -> None:
    rounds = [AIMessage("", tool_calls=[{**CALL, "id": f"k{n}"}]) for n in range(13)]
    for way in ("invoke", "ainvoke", "stream-default"):
        bot = store.with_history(create_agent(model(*rounds, "Done."), [clock]))
        RUNS[way](bot, question(), config_of(f"{session}-{way}"))
        assert len(store.load(f"{session}-{way}")) == 28


def test_the_text_shown_so_far_is_kept(store: HistoryStore, session: str) -> None:
    bot = store.with_history(create_agent(model("one two three"), []))
    stream: Any = bot.stream(question(), config_of(session), stream_mode="messages")
    shown = next(stream)[0].text + next(stream)[0].text
    stream.close()
    assert stored(store, session) == ["human: Time?", f"ai: {shown}"]
    assert statuses(store, session) == ["interrupted"]


# --- answers that are no message


class City(BaseModel):
    name: str


@dataclasses.dataclass
class Town:
    name: str


BLOCKS = [{"type": "text", "text": "Turin", "index": 0}]
ANSWERS: dict[str, tuple[Any, Any]] = {
    "blocks": (BLOCKS, BLOCKS),
    "blocks-in-a-dictionary": ({"output": BLOCKS}, BLOCKS),
    "pydantic": (City(name="Turin"), '{"name":"Turin"}'),
    "dataclass": (Town("Turin"), '{"name": "Turin"}'),
    "dictionary": ({"name": "Turin", "bridges": ["Isabella"]}, '{"name": "Turin", "bridges": ["Isabella"]}'),
    "objects": ([City(name="Turin"), City(name="Asti")], '[{"name": "Turin"}, {"name": "Asti"}]'),
    "number": (42, "42"),
    "text": ("Turin", "Turin"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_that_are_no_message(store: HistoryStore, session: str, kind: str) -> None:
    output, content = ANSWERS[kind]
    assert store.with_history(RunnableLambda(lambda _: output)).invoke("Which?", config_of(session)) == output
    assert [m.content for m in store.load(session)] == ["Which?", content]
    assert statuses(store, session) == ["completed"]


def test_blocks_as_a_question_and_an_answer_of_ones_own(store: HistoryStore, session: str) -> None:
    bot = store.with_history(RunnableLambda(lambda _: {"a": 1, "b": 2}), answer=lambda out: f"a is {out['a']}")
    bot.invoke([{"type": "text", "text": "Which?"}], config_of(session))
    assert [(m.type, m.text) for m in store.load(session)] == [("human", "Which?"), ("ai", "a is 1")]
    found = {"context": [Document("Turin is on the Po.")], "answer": "On the Po."}  # a chain's, and no object
    with pytest.raises(NotSaved, match="answer=function"):
        store.with_history(RunnableLambda(lambda _: found)).invoke("q", config_of(session))


# --- streams of mixed chunks


def streams(*chunks: Any) -> RunnableGenerator[Any, Any]:
    def generate(_: Iterator[Any]) -> Iterator[Any]:
        yield from chunks

    return RunnableGenerator(generate)


MIXED: dict[str, tuple[Sequence[Any], list[str]]] = {
    "chunk-then-message": ([AIMessageChunk(content="a"), AIMessage("b")], ["a", "b"]),
    "none-between": (["a", None, "b"], ["ab"]),
    "dictionaries": ([{"answer": "He"}, {"answer": "llo"}], ["Hello"]),
    "messages": ([AIMessage("a"), AIMessage("b")], ["a", "b"]),
    "text-then-message": (["a", AIMessage("b")], ["a", "b"]),
}


@pytest.mark.parametrize("kind", MIXED)
def test_streams_lose_nothing(store: HistoryStore, session: str, kind: str) -> None:
    chunks, said = MIXED[kind]
    keys: dict[str, Any] = {"output_messages_key": "answer"} if kind == "dictionaries" else {}
    assert list(store.with_history(streams(*chunks), **keys).stream("q", config_of(session))) == list(chunks)
    assert [m.text for m in store.load(session)] == ["q", *said]


def test_the_key_of_the_answer_is_honoured_where_values_look_like_updates(store: HistoryStore, session: str) -> None:
    both = RunnableParallel(a=create_agent(model("from a"), []), b=create_agent(model("from b"), []))
    store.with_history(both, output_messages_key="a").invoke(question(), config_of(session))
    assert stored(store, session) == ["human: Time?", "ai: from a"]


# --- turns within turns


def test_a_turn_inside_a_turn_of_its_session_passes_through(store: HistoryStore, session: str) -> None:
    bot = store.with_history(store.with_history(RunnableLambda(lambda m: f"saw {len(m)}")))
    for _ in range(2):
        bot.invoke("q", config_of(session))
    assert stored(store, session) == ["human: q", "ai: saw 1", "human: q", "ai: saw 3"]


def test_a_turn_inside_a_turn_of_another_session(store: HistoryStore, session: str) -> None:
    inner = store.with_history(RunnableLambda(lambda m: f"inner saw {len(m)}"))
    other = f"inner-{uuid.uuid4()}"
    outer = store.with_history(RunnableLambda(lambda m: inner.invoke("sub", config_of(other))))
    outer.invoke("q", config_of(session))
    assert stored(store, session) == ["human: q", "ai: inner saw 1"]
    assert stored(store, other) == ["human: sub", "ai: inner saw 1"]


# --- what is no message, and other ways in


def test_an_edit_is_nothing_that_was_said(store: HistoryStore, session: str) -> None:
    with pytest.raises(InvalidMessage, match="RemoveMessage"):
        store.append(session, [RemoveMessage(id="x")])
    assert stored(store, session) == []


def test_a_message_of_ones_own_type_comes_back_as_a_chat_message(store: HistoryStore, session: str) -> None:
    store.append(session, [HumanMessage("q"), BaseMessage(content="hm", type="basic")])
    (_, own) = store.load(session)
    assert (own.type, own.content, own.role) == ("chat", "hm", "basic")  # type: ignore[attr-defined]


def test_a_client_that_runs_the_tools_itself(store: HistoryStore, session: str) -> None:
    shown: list[list[str]] = []

    def answer(messages: list[BaseMessage]) -> AIMessage:
        shown.append([m.type for m in messages])
        return AIMessage("", tool_calls=[CALL]) if len(shown) == 1 else AIMessage("Ten.")

    bot = store.with_history(RunnableLambda(answer))
    bot.invoke("Time?", config_of(session))
    bot.invoke([ToolMessage("16:10", tool_call_id="k1")], config_of(session))
    assert shown == [["human"], ["human", "ai", "tool"]]
    assert [m.type for m in store.load(session)] == ["human", "ai", "tool", "ai"]


def test_another_key_names_the_session(store: HistoryStore, session: str) -> None:
    bot: Any = RunnableLambda(lambda m: f"saw {len(m)}")
    with pytest.raises(InvalidSession, match="session_key='thread_id'"):
        store.with_history(bot).invoke("q", {"configurable": {"thread_id": session}})
    store.with_history(bot, session_key="thread_id").invoke("q", {"configurable": {"thread_id": session}})
    assert stored(store, session) == ["human: q", "ai: saw 1"]
    with pytest.raises(InvalidInput, match="session_key"):
        store.with_history(bot, session_key="")


# --- edits under another id, and graphs within other runnables


@every_way
def test_a_question_that_is_replaced_is_stored_as_the_agent_has_it(store: HistoryStore, session: str, way: str) -> None:
    bot = store.with_history(create_agent(model("a0", "a1", "a2"), [], middleware=[rewrite]))
    for n in range(3):
        RUNS[way](bot, question(f"q{n}"), config_of(session))
    assert stored(store, session) == [line for n in range(3) for line in (f"human: [ctx] q{n}", f"ai: a{n}")]


@before_model
def trim_to_copies(state: Any, runtime: Any) -> Any:
    kept = [m.model_copy(update={"id": None}) for m in state["messages"][-3:]]
    return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), *kept]}


@every_way
def test_copies_of_what_was_shown_are_not_new(store: HistoryStore, session: str, way: str) -> None:
    bot = store.with_history(create_agent(model("a0", "a1", "a2"), [], middleware=[trim_to_copies]))
    for n in range(3):
        RUNS[way](bot, question(f"q{n}"), config_of(session))
    assert stored(store, session) == [line for n in range(3) for line in (f"human: q{n}", f"ai: a{n}")]


INSIDE: dict[str, Callable[[Any], Any]] = {
    "sequence": lambda agent: RunnablePassthrough() | agent,
    "function": lambda agent: RunnableLambda(lambda state: agent),
    "bound": lambda agent: agent.bind().with_config(tags=["x"]),
    "retry": lambda agent: agent.with_retry(),
    "fallbacks": lambda agent: agent.with_fallbacks([RunnableLambda(lambda _: "no")]),
}


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream-default", "astream-default", "batch"])
@pytest.mark.parametrize("edit", [censor, forget_old, rewrite, leave, PIIMiddleware("email")], ids=lambda m: m.name)
def test_an_agent_inside_another_runnable(
    postgres_store: HistoryStore, session: str, inside: str, way: str, edit: Any
) -> None:
    def turns(wrap: Callable[[Any], Any], session: str) -> list[str]:
        agent = create_agent(model("a0 b@c.de", "a1", "a2"), [], middleware=[edit])
        bot = postgres_store.with_history(wrap(agent), input_messages_key="messages")
        for n in range(3):
            RUNS[way](bot, question(f"q{n} a@b.com"), config_of(session))
        return stored(postgres_store, session)

    assert turns(INSIDE[inside], session) == turns(lambda agent: agent, f"{session}-bare")


def test_an_interrupt_of_an_agent_inside_another_runnable(store: HistoryStore, session: str) -> None:
    agent, config = payer(InMemorySaver()), config_of(session, thread_id=session)
    for way in ("invoke", "stream-default"):
        config = config_of(f"{session}-{way}", thread_id=f"{session}-{way}")
        agent = payer(InMemorySaver())
        RUNS[way](store.with_history(RunnablePassthrough() | agent), question("Pay 5."), config)
        assert statuses(store, f"{session}-{way}") == ["interrupted"]
        assert stored(store, f"{session}-{way}") == ["human: Pay 5.", "ai: I pay."]


# --- what the runnable brings along, and how it is described


def test_the_runnables_own_config_survives(store: HistoryStore, session: str) -> None:
    seen: dict[str, Any] = {}

    class Watch(BaseCallbackHandler):
        def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            seen["called"] = True

    @before_model
    def look(state: Any, runtime: Any) -> None:
        seen.update(get_config())

    own: Any = {
        "tags": ["mine"],
        "metadata": {"team": "blue"},
        "callbacks": [Watch()],
        "configurable": {"tone": "kind"},
        "recursion_limit": 77,
    }
    agent = create_agent(model("a"), [], middleware=[look]).with_config(own)
    store.with_history(agent).invoke(question(), config_with(session, {"tags": ["theirs"]}))
    assert {"mine", "theirs"} <= {*seen["tags"]}
    assert seen["metadata"]["team"] == "blue"
    assert (seen["configurable"]["tone"], seen["configurable"]["session_id"]) == ("kind", session)
    assert (seen["recursion_limit"], seen["called"]) == (77, True)


def test_a_limit_of_the_callers_own_holds(store: HistoryStore, session: str) -> None:
    rounds = [AIMessage("", tool_calls=[{**CALL, "id": f"k{n}"}]) for n in range(20)]
    bot = store.with_history(create_agent(model(*rounds, "Done."), [clock]))
    with pytest.raises(RecursionError):
        bot.invoke(question(), config_with(session, {"recursion_limit": 25}))


def test_a_graph_gives_what_it_gives_without_history(store: HistoryStore, session: str) -> None:
    class Inner(TypedDict):
        messages: Annotated[list[Any], add_messages]
        scratch: str

    class Outer(TypedDict):
        messages: Annotated[list[Any], add_messages]

    graph = StateGraph(Inner, output_schema=Outer)
    graph.add_node("say", lambda state: {"messages": [AIMessage("a")], "scratch": "hidden"})
    graph.add_edge(START, "say")
    compiled: Any = graph.compile()
    output = store.with_history(compiled).invoke(question(), config_of(session))
    assert output.keys() == compiled.invoke(question()).keys() == {"messages"}
    assert stored(store, session) == ["human: Time?", "ai: a"]


def test_a_prompt_in_front(store: HistoryStore, session: str) -> None:
    prompt = ChatPromptTemplate.from_messages([("human", "About {topic}?")])
    chain = prompt | store.with_history(RunnableLambda(lambda m: f"saw {len(m)}"))
    for way in ("invoke", "stream-default", "ainvoke"):
        RUNS[way](chain, {"topic": "rivers"}, config_of(session))
    assert stored(store, session)[::2] == ["human: About rivers?"] * 3
    assert stored(store, session)[1::2] == ["ai: saw 1", "ai: saw 3", "ai: saw 5"]


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream-default", "batch"])
@pytest.mark.parametrize("kind", ["function", "agent"])
def test_instructions_that_come_with_each_question(store: HistoryStore, session: str, kind: str, way: str) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{q}")])
    says = model("a0", "a1", "a2")
    bot = prompt | store.with_history(says if kind == "function" else create_agent(says, []))
    for n in range(3):
        RUNS[way](bot, {"q": f"q{n}"}, config_of(session))
    turns = [line for n in range(3) for line in (f"human: q{n}", f"ai: a{n}")]
    assert stored(store, session) == ["system: Be brief.", *turns]


def test_an_agent_with_further_fields(store: HistoryStore, session: str) -> None:
    class State(AgentState):
        mood: str

    bot = store.with_history(create_agent(model("a0", "a1"), [], state_schema=State))
    for n in range(2):
        bot.invoke({**question(f"q{n}"), "mood": "good"}, config_of(session))
    assert stored(store, session) == ["human: q0", "ai: a0", "human: q1", "ai: a1"]


@pytest.mark.filterwarnings("ignore:This API is in beta")
def test_as_a_tool(store: HistoryStore, session: str) -> None:
    inner = store.with_history(
        RunnableLambda(lambda given: f"{given['q']} {len(given['h'])}"),
        input_messages_key="q",
        history_messages_key="h",
    )
    bot = inner.as_tool(name="ask", description="Ask it.")
    assert list(bot.args) == ["q"]
    assert bot.invoke({"q": "Where?"}, config_of(session)) == "Where? 0"
    plain = store.with_history(RunnableLambda(lambda m: f"saw {len(m)}")).as_tool(name="ask", description="Ask it.")
    assert plain.invoke("Where?", config_of(session)) == "saw 3"
    assert "RunnableLambda" in repr(inner)


@pytest.mark.parametrize("way", ["invoke", "stream", "explicit"])
def test_a_tool_that_asks_its_own_agents_session_passes_through(store: HistoryStore, session: str, way: str) -> None:
    inner = store.with_history(RunnableLambda(lambda m: f"inner saw {m if isinstance(m, str) else len(m)}"))

    def ask(_: Any) -> Any:
        if way == "stream":
            return "".join(inner.stream("sub"))
        return inner.invoke("sub", config_of(session) if way == "explicit" else None)

    store.with_history(RunnableLambda(ask)).invoke("q", config_of(session))
    assert stored(store, session) == ["human: q", "ai: inner saw sub"]


def test_what_a_model_was_made_to_give_is_shown_to_it_again(store: HistoryStore, session: str) -> None:
    shown: list[list[BaseMessage]] = []

    def answer(messages: list[BaseMessage]) -> dict[str, Any]:
        shown.append(messages)
        call = {"name": "City", "args": {"name": "Turin"}, "id": f"k{len(shown)}", "type": "tool_call"}
        return {"raw": AIMessage("", tool_calls=[call]), "parsed": City(name="Turin"), "parsing_error": None}

    bot = store.with_history(RunnableLambda(answer))
    for _ in range(2):
        bot.invoke("Which?", config_of(session))
    assert [m.type for m in shown[1]] == ["human", "ai", "tool", "human"]
    assert shown[1][1].tool_calls[0]["args"] == {"name": "Turin"}  # type: ignore[attr-defined]


def test_a_parser_that_streams_what_it_has_so_far(store: HistoryStore, session: str) -> None:
    whole = '{"name": "Turin", "rivers": ["Po", "Dora"]}'
    bot = store.with_history(RunnableLambda(lambda m: AIMessage(whole)) | JsonOutputParser())
    list(bot.stream("Which?", config_of(session)))
    growing = streams({}, {"name": "Tu"}, {"name": "Turin"}, {"name": "Turin", "rivers": ["Po"]}, json.loads(whole))
    list(store.with_history(growing).stream("Which?", config_of(session)))
    objects = streams(City(name="Tu"), City(name="Turin"))
    list(store.with_history(objects).stream("Which?", config_of(session)))
    assert [m.text for m in store.load(session)][1::2] == [whole, whole, '{"name":"Turin"}']


def test_a_command_that_brings_a_question(store: HistoryStore, session: str) -> None:
    bot = store.with_history(create_agent(model("a0", "a1"), []))
    bot.invoke(question("q0"), config_of(session))
    bot.invoke(Command(update=question("q1")), config_of(session))
    assert stored(store, session) == ["human: q0", "ai: a0", "human: q1", "ai: a1"]


def test_an_edit_that_lies_among_the_messages_is_not_loaded(postgres_store: HistoryStore, session: str) -> None:
    postgres_store.append(session, [HumanMessage("q"), AIMessage("a")])
    call = append_call(postgres_store.scope, session, [AIMessage("x")])
    call.args["types"] = ["remove"]
    postgres_store.execute(call)
    assert [m.type for m in postgres_store.load(session)] == ["human", "ai"]
    assert len(postgres_store.messages(session).items) == 3


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "batch"])
def test_an_agent_under_langchains_own_wrapper(store: HistoryStore, session: str, way: str) -> None:
    answers = [m for n in range(3) for m in (AIMessage("", tool_calls=[{**CALL, "id": f"k{n}"}]), AIMessage(f"a{n}"))]
    keys: dict[str, Any] = {"input_messages_key": "messages", "output_messages_key": "messages"}
    agent: Any = create_agent(model(*answers), [clock])
    bot = RunnableWithMessageHistory(agent, store.get_session_history, **keys)
    for _ in range(3):
        RUNS[way](bot, question("again"), config_of(session))
    turns = [line for n in range(3) for line in ("human: again", "ai: ", "tool: 16:10", f"ai: a{n}")]
    assert stored(store, session) == turns


def test_content_blocks_under_langchains_own_wrapper(store: HistoryStore, session: str) -> None:
    history = store.get_session_history(session)
    history.add_messages([HumanMessage("Which?"), *BLOCKS])  # type: ignore[list-item]
    assert [(m.type, m.content) for m in store.load(session)] == [("human", "Which?"), ("ai", BLOCKS)]
