"""Turns that go on: what a graph's checkpointer has kept of a turn that stopped, in whatever way."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langchain_supabase_history import HistoryStore
from tests.langchain.test_agent_turns import RUNS, config_of, model, question, statuses, stored

WAYS = ["invoke", "ainvoke", "stream-messages", "stream-v2"]


def flaky_agent(**options: Any) -> Any:
    """An agent whose tool fails at its first call."""
    failures = iter([LookupError("away")])

    @tool
    def look() -> str:
        """Look it up."""
        for failure in failures:
            raise failure
        return "found"

    call = {"name": "look", "args": {}, "id": "k1"}
    scripted = model(AIMessage("I look.", tool_calls=[call]), "Done.", "Welcome.")
    return create_agent(scripted, [look], checkpointer=InMemorySaver(), **options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asks", [False, True])
def test_a_turn_that_failed_goes_on(store: HistoryStore, session: str, way: str, asks: bool) -> None:
    """LangGraph takes a run up again where it failed: its question and its steps are that run's."""
    asking: list[Any] = [HumanInTheLoopMiddleware(interrupt_on={"look": True})] if asks else []
    agent, config = flaky_agent(middleware=asking), config_of(session, thread_id=session)
    approved: Any = Command(resume={"decisions": [{"type": "approve"}]})
    if asks:
        RUNS[way](store.with_history(agent), question(), config)
    with pytest.raises(LookupError):
        RUNS[way](store.with_history(agent), approved if asks else question(), config)
    assert statuses(store, session) == ["failed"]
    assert store.load(session) == []
    RUNS[way](store.with_history(agent), None, config)
    assert statuses(store, session) == ["completed"]
    RUNS[way](store.with_history(agent), question("Thanks."), config)
    said = ["human: Time?", "ai: I look.", "tool: found", "ai: Done.", "human: Thanks.", "ai: Welcome."]
    assert stored(store, session) == [f"{m.type}: {m.text}" for m in store.load(session)] == said
