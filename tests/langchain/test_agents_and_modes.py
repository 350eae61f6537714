"""Ten agents, every way in which they run, and what may go wrong: what is loaded is what memory would hold.

The reference is the same agent with the messages that accumulate in memory, as an application without a store would
keep them.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from langchain_supabase_history import HistoryStore
from tests.langchain.test_agent_turns import (
    RUNS,
    STREAMS,
    Scripted,
    censor,
    config_of,
    forget_old,
    leave,
    model,
    pay,
    question,
    rewrite,
    statuses,
    stored,
)
from tests.validator import assert_accepted

TURNS = 3
FEW_RUNS = ["invoke", "ainvoke", "invoke-v2", "stream-default", "stream-messages", "stream-several", "astream-v2"]


class City(BaseModel):
    """A city."""

    name: str


@tool
def look(n: int) -> str:
    """Look something up."""
    if n == 13:
        raise LookupError("nothing there")
    return f"found {n}"


def call(n: int, tool: str = "look", **args: Any) -> AIMessage:
    return AIMessage(f"I call {n}.", tool_calls=[{"name": tool, "args": args or {"n": n}, "id": f"k{n}"}])


def answers(fails_in: int | None = None) -> list[AIMessage]:
    """For each turn a call of the tool and an answer with an address in it; the turn that fails has a broken tool."""
    return [
        message
        for n in range(TURNS)
        for message in (call(13 if n == fails_in else n), AIMessage(f"Answer {n}, write to a{n}@b.com."))
    ]


def agent(*middleware: Any, **options: Any) -> Callable[[Scripted], Any]:
    return lambda scripted: create_agent(scripted, [look], middleware=list(middleware), **options)


def summarizing(scripted: Scripted) -> Any:
    middleware = SummarizationMiddleware(model(*["Summed up."] * 99), trigger=("messages", 5), keep=("messages", 3))
    return create_agent(scripted, [look], middleware=[middleware])


def as_a_node(scripted: Scripted) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("agent", create_agent(scripted, [look]))
    graph.add_edge(START, "agent")
    return graph.compile()


@dataclass(frozen=True)
class Kind:
    """An agent, whether memory alone is a reference for it, and what its model answers in place of the usual."""

    make: Callable[[Scripted], Any]
    like_memory: bool = True
    calls_tools: bool = True
    answers: Callable[..., Sequence[AIMessage]] = answers


def structured(fails_in: int | None = None) -> list[AIMessage]:
    return [call(n, "City", name=f"Turin {n}") for n in range(TURNS)]


def without_tools(fails_in: int | None = None) -> list[AIMessage]:
    return [AIMessage(f"Answer {n}.") for n in range(TURNS)]


AGENTS: dict[str, Kind] = {
    "plain": Kind(agent()),
    "redacting": Kind(agent(PIIMiddleware("email", apply_to_output=True, apply_to_tool_results=True))),
    # These drop what came before from their state, which the store keeps.
    "summarizing": Kind(summarizing, like_memory=False),
    "pruning": Kind(agent(forget_old), like_memory=False),
    "withholding": Kind(agent(censor)),
    "rewriting": Kind(agent(rewrite), calls_tools=False, answers=without_tools),
    "leaving": Kind(agent(leave), calls_tools=False),
    "limited": Kind(agent(ToolCallLimitMiddleware(run_limit=5), ModelCallLimitMiddleware(run_limit=5))),
    "structured": Kind(
        lambda scripted: create_agent(scripted, [look], response_format=ToolStrategy(City)),
        calls_tools=False,
        answers=structured,
    ),
    "keeping": Kind(agent(checkpointer=InMemorySaver())),
    "as-a-node": Kind(as_a_node),
}


def said(messages: Sequence[BaseMessage]) -> list[tuple[str, str]]:
    return [(message.type, message.text) for message in messages]


def asked(n: int) -> dict[str, Any]:
    return question(f"Question {n} from q{n}@c.com")


def in_memory(kind: Kind) -> list[tuple[str, str]]:
    """What an application would hold that gives the agent all its messages again."""
    bare = kind.make(model(*kind.answers()))
    messages: list[BaseMessage] = []
    for n in range(TURNS):
        config = config_of("memory", thread_id=uuid.uuid4().hex)
        messages = bare.invoke({"messages": [*messages, *asked(n)["messages"]]}, config)["messages"]
    return said(messages)


@pytest.mark.parametrize("way", RUNS)
@pytest.mark.parametrize("name", AGENTS)
def test_three_turns_as_memory_holds_them(postgres_store: HistoryStore, session: str, name: str, way: str) -> None:
    kind = AGENTS[name]
    bot = postgres_store.with_history(kind.make(model(*kind.answers())))
    for n in range(TURNS):
        RUNS[way](bot, asked(n), config_of(session, thread_id=session))
    loaded = said(postgres_store.load(session))
    if kind.like_memory:
        assert loaded == in_memory(kind)
    assert [text for kind_, text in loaded if kind_ == "human"] == [
        text for kind_, text in said([m.message for m in postgres_store.messages(session)]) if kind_ == "human"
    ]
    assert sum(type == "human" for type, _ in loaded) == TURNS
    assert statuses(postgres_store, session) == ["completed"] * TURNS
    assert_accepted(postgres_store.load(session))


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream-several-subgraphs", "astream-v2"])
@pytest.mark.parametrize("name", ["plain", "redacting", "withholding", "keeping"])
def test_the_same_over_the_data_api(data_api_store: HistoryStore, session: str, name: str, way: str) -> None:
    kind = AGENTS[name]
    bot = data_api_store.with_history(kind.make(model(*kind.answers())))
    for n in range(TURNS):
        RUNS[way](bot, asked(n), config_of(session, thread_id=session))
    assert said(data_api_store.load(session)) == in_memory(kind)


@pytest.mark.parametrize("way", [pytest.param(way, marks=() if way in FEW_RUNS else pytest.mark.soak) for way in RUNS])
@pytest.mark.parametrize("name", [name for name, kind in AGENTS.items() if kind.calls_tools])
@pytest.mark.parametrize("broken", ["tool", "model"])
def test_a_turn_that_fails_between_two_that_do_not(
    postgres_store: HistoryStore, session: str, name: str, way: str, broken: str
) -> None:
    kind = AGENTS[name]
    said_by_model = list(answers(fails_in=1))
    if broken == "model":
        said_by_model = [*answers()[:2], call(5)]  # then it has nothing more to say
    bot = postgres_store.with_history(kind.make(model(*said_by_model)))
    # A graph that keeps its own state would go on with what failed: each turn is a thread of its own.
    turns = [config_of(session, thread_id=f"{session}-{n}") for n in range(TURNS)]
    RUNS[way](bot, asked(0), turns[0])
    with pytest.raises((LookupError, RuntimeError, StopIteration)):
        RUNS[way](bot, asked(1), turns[1])
    bot = postgres_store.with_history(kind.make(model(*answers()[4:])))
    RUNS[way](bot, asked(2), turns[2])
    assert statuses(postgres_store, session) == ["completed", "failed", "completed"]
    loaded = said(postgres_store.load(session))
    assert not any("Question 1" in text for _, text in loaded)
    assert_accepted(postgres_store.load(session))
    kept = [text for text in stored(postgres_store, session) if "I call" in text]
    if name not in ("summarizing", "pruning", "withholding", "as-a-node"):  # a node's own steps are not the graph's
        assert len(kept) == TURNS, "the call of the turn that failed is kept with it"


@pytest.mark.parametrize("decision", ["approve", "edit", "reject"])
@pytest.mark.parametrize("way", RUNS)
def test_a_person_decides_in_each_turn(postgres_store: HistoryStore, session: str, way: str, decision: str) -> None:
    decisions: dict[str, dict[str, Any]] = {
        "approve": {"type": "approve"},
        "edit": {"type": "edit", "edited_action": {"name": "pay", "args": {"amount": 3}}},
        "reject": {"type": "reject", "message": "No."},
    }
    middleware = HumanInTheLoopMiddleware(interrupt_on={"pay": True})
    scripted = model(*(m for n in range(TURNS) for m in (call(n, "pay", amount=n), AIMessage(f"Done {n}."))))
    paying = create_agent(scripted, [pay], middleware=[middleware], checkpointer=InMemorySaver())
    config = config_of(session, thread_id=session)
    for n in range(TURNS):
        RUNS[way](postgres_store.with_history(paying), question(f"Pay {n}"), config)
        assert statuses(postgres_store, session) == [*["completed"] * n, "interrupted"]
        assert stored(postgres_store, session)[-1] == f"ai: I call {n}."
        resume: Any = Command(resume={"decisions": [decisions[decision]]})
        RUNS[way](postgres_store.with_history(paying), resume, config)
        assert statuses(postgres_store, session) == ["completed"] * (n + 1)
    loaded = postgres_store.load(session)
    assert [m.type for m in loaded] == ["human", "ai", "tool", "ai"] * TURNS
    assert said(loaded) == said(paying.get_state(config).values["messages"])
    assert_accepted(loaded)


ASKING: dict[str, tuple[Any, ...]] = {
    "redacting": (PIIMiddleware("email", apply_to_output=True, apply_to_tool_results=True),),
    "summarizing": (
        SummarizationMiddleware(model(*["Summed up."] * 99), trigger=("messages", 9), keep=("messages", 5)),
    ),
    "pruning": (forget_old,),
    "withholding": (censor,),
    "limited": (ToolCallLimitMiddleware(run_limit=5), ModelCallLimitMiddleware(run_limit=5)),
}


@pytest.mark.soak
@pytest.mark.parametrize("way", RUNS)
@pytest.mark.parametrize("name", ASKING)
def test_a_person_decides_with_other_middleware(
    postgres_store: HistoryStore, session: str, name: str, way: str
) -> None:
    asking = HumanInTheLoopMiddleware(interrupt_on={"look": True})
    scripted, saver = model(*answers()), InMemorySaver()
    agent = create_agent(scripted, [look], middleware=[*ASKING[name], asking], checkpointer=saver)
    config = config_of(session, thread_id=session)
    for n in range(TURNS):
        RUNS[way](postgres_store.with_history(agent), asked(n), config)
        assert statuses(postgres_store, session) == [*["completed"] * n, "interrupted"]
        RUNS[way](postgres_store.with_history(agent), Command(resume={"decisions": [{"type": "approve"}]}), config)
        assert statuses(postgres_store, session) == ["completed"] * (n + 1)
    loaded = postgres_store.load(session)
    assert sum(m.type == "human" for m in loaded) == TURNS
    if name in ("redacting", "withholding", "limited"):
        assert said(loaded) == said(agent.get_state(config).values["messages"])
    assert_accepted(loaded)


def cut_after(bot: Any, config: Any, chunks: int, kwargs: dict[str, Any], *, is_async: bool) -> list[Any] | None:
    """What was shown of a stream that its consumer leaves after so many chunks; None where it had no more of them."""

    async def consume() -> list[Any] | None:
        stream = bot.astream(asked(1), config, **kwargs)
        try:
            return [await anext(stream) for _ in range(chunks)]
        except StopAsyncIteration:
            return None
        finally:
            await stream.aclose()

    if is_async:
        return asyncio.run(consume())
    stream = bot.stream(asked(1), config, **kwargs)
    found = list(itertools.islice(stream, chunks))
    stream.close()
    return found if len(found) == chunks else None


def tokens_of(shown: Sequence[Any]) -> str:
    """The text of the messages that streamed token by token, `messages` being the only mode."""
    return "".join(message.text for message, _ in shown if isinstance(message, AIMessage))


def cut_everywhere(store: HistoryStore, session: str, name: str, mode: str, *, is_async: bool, step: int) -> None:
    kind = AGENTS[name]
    for chunks in itertools.count(1, step):
        cut = f"{session}-{chunks}"
        config = config_of(cut, thread_id=cut)
        store.append(cut, [HumanMessage("q"), AIMessage("a")])
        bot = store.with_history(kind.make(model(*kind.answers()[:2])))
        shown = cut_after(bot, config, chunks, STREAMS[mode], is_async=is_async)
        loaded = store.load(cut)
        assert_accepted(loaded)
        assert [type for type, _ in said(loaded)[:3]] == ["human", "ai", "human"]
        if shown is None:
            assert statuses(store, cut)[1:] == ["completed"]
            break
        assert statuses(store, cut)[1:] == ["interrupted"] or chunks > 1
        if name in ("plain", "limited"):  # whose messages are stored as the model says them
            whole = in_memory(kind)[: len(loaded) - 2]
            assert all(
                a == b and y.startswith(x.strip()) for (a, x), (b, y) in zip(said(loaded)[3:], whole[1:], strict=True)
            )
        if mode == "messages" and name in ("plain", "limited"):
            text = "".join(message.text for message in loaded[3:] if isinstance(message, AIMessage))
            assert text.startswith(tokens_of(shown))
        # The next turn, on a thread of its own: a graph that keeps its state would go on with what was cut.
        bot = store.with_history(kind.make(model(*kind.answers()[-len(kind.answers()) // TURNS :])))
        bot.invoke(asked(2), config_of(cut, thread_id=f"{cut}-next"))
        assert statuses(store, cut)[1:] in (["interrupted", "completed"], ["completed", "completed"])
        assert_accepted(store.load(cut))
        if kind.like_memory:
            assert said(store.load(cut))[-1] == in_memory(kind)[-1]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("mode", ["default", "messages", "v2-several"])
@pytest.mark.parametrize("name", ["plain", "redacting", "summarizing", "structured", "as-a-node"])
def test_streams_cut_short(postgres_store: HistoryStore, session: str, name: str, mode: str, is_async: bool) -> None:
    cut_everywhere(postgres_store, session, name, mode, is_async=is_async, step=3)


@pytest.mark.soak
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("mode", STREAMS)
@pytest.mark.parametrize("name", AGENTS)
def test_streams_cut_short_at_every_chunk(
    postgres_store: HistoryStore, session: str, name: str, mode: str, is_async: bool
) -> None:
    cut_everywhere(postgres_store, session, name, mode, is_async=is_async, step=1)
