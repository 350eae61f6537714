"""Around LangChain's own agent, whose answer is its whole state: only what is new of it is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool

from langchain_supabase_history import HistoryStore, InvalidMessage
from tests.shapes import config_of


@tool
def lookup(river: str) -> str:
    """How long a river is."""
    return f"{river} is 652 km long"


class Scripted(BaseChatModel):
    """Calls its tool once for each question, then answers with what it was told and how much it was shown."""

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            answer = AIMessage(f"{last.text}; {len(messages)} messages shown")
        else:
            call = {"name": "lookup", "args": {"river": last.text}, "id": f"call-{len(messages)}", "type": "tool_call"}
            answer = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=answer)])

    @property
    def _llm_type(self) -> str:
        return "scripted"


def ainvoke(bot: Any, given: Any, config: Any) -> Any:
    return asyncio.run(bot.ainvoke(given, config))


def stream(bot: Any, given: Any, config: Any) -> Any:
    return list(bot.stream(given, config))


def astream(bot: Any, given: Any, config: Any) -> Any:
    async def run() -> Any:
        return [chunk async for chunk in bot.astream(given, config)]

    return asyncio.run(run())


def values(bot: Any, given: Any, config: Any) -> Any:
    return list(bot.stream(given, config, stream_mode="values"))


MODES: dict[str, Callable[..., Any]] = {
    "invoke": lambda bot, given, config: bot.invoke(given, config),
    "ainvoke": ainvoke,
    "stream": stream,
    "astream": astream,
    "values": values,
}
QUESTIONS: dict[str, Callable[[str], Any]] = {
    "message": HumanMessage,
    "dictionary": lambda text: {"role": "user", "content": text},
    "pair": lambda text: ("human", text),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_each_message_of_an_agent_is_stored_once(store: HistoryStore, session: str, mode: str, question: str) -> None:
    bot = store.with_history(create_agent(Scripted(), [lookup]))
    for river in ("Po", "Po", "Adige"):  # the same question twice
        MODES[mode](bot, {"messages": [QUESTIONS[question](river)]}, config_of(session))

    def turn(river: str, shown: int) -> list[tuple[str, str]]:
        told = f"{river} is 652 km long"
        return [("human", river), ("ai", ""), ("tool", told), ("ai", f"{told}; {shown} messages shown")]

    said = [(m.type, m.text) for m in store.load(session)]
    assert said == [*turn("Po", 3), *turn("Po", 7), *turn("Adige", 11)]
    turns = list(store.turns(session))
    assert [turn.status for turn in turns] == ["completed"] * 3
    assert [tool["name"] for tool in turns[0].metadata["tools"]] == ["lookup"]


def test_a_question_that_is_no_message_is_told(store: HistoryStore, session: str) -> None:
    bot = store.with_history(create_agent(Scripted(), []))
    for odd in ([{"no": "role"}], [7], ["text"]):
        with pytest.raises(InvalidMessage, match="in it"):
            bot.invoke({"messages": odd}, config_of(session))
    assert list(store.turns(session)) == []
