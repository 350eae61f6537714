"""The shapes of input and output that LangChain's chains know, models that tell what they were given, the six modes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import LLM, BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableLambda


def reply(messages: list[BaseMessage]) -> str:
    return "you said: " + " ".join(m.text for m in messages if m.type == "human")


class Echo(BaseChatModel):
    """A chat model that repeats what humans said to it; streamed, word by word."""

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(reply(messages)))])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for word in re.split(r"(?<= )", reply(messages)):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))

    @property
    def _llm_type(self) -> str:
        return "echo"


class EchoLLM(LLM):
    """A completion model that repeats what humans said in its prompt."""

    def _call(self, prompt: str, *args: Any, **kwargs: Any) -> str:
        return "you said: " + " ".join(re.findall(r"(?m)^Human: (.*)$", prompt))

    @property
    def _llm_type(self) -> str:
        return "echo"


@dataclass
class Shape:
    """A runnable, the keys to wrap it with, and how a text goes in and comes out."""

    runnable: Runnable[Any, Any]
    keys: dict[str, Any] = field(default_factory=dict)
    give: Callable[[str], Any] = lambda text: [HumanMessage(text)]
    take: Callable[[Any], str] = lambda output: output if isinstance(output, str) else output.text


def with_prompt(given: dict[str, Any]) -> list[BaseMessage]:
    return [*given["history"], HumanMessage(given["input"])]


PROMPT = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{input}")])
IN: dict[str, Any] = {
    "keys": {"input_messages_key": "input", "history_messages_key": "history"},
    "give": lambda text: {"input": text},
}
SHAPES = {
    "text": Shape(RunnableLambda(reply), give=lambda text: text),
    "message": Shape(RunnableLambda(reply), give=HumanMessage),
    "messages": Shape(RunnableLambda(reply)),
    "dict of messages": Shape(
        RunnableLambda(lambda given: reply(given["messages"])),
        {"input_messages_key": "messages"},
        lambda text: {"messages": [HumanMessage(text)]},
    ),
    "dict of text": Shape(
        RunnableLambda(lambda given: reply(given["question"])),
        {"input_messages_key": "question"},
        lambda text: {"question": text, "language": "en"},
    ),
    "history key": Shape(RunnableLambda(lambda given: reply(with_prompt(given))), **IN),
    "message out": Shape(RunnableLambda(lambda given: AIMessage(reply(with_prompt(given)))), **IN),
    "messages out": Shape(
        RunnableLambda(lambda given: [AIMessage(reply(with_prompt(given)))]), take=lambda out: out[0].text, **IN
    ),
    "dict out": Shape(
        RunnableLambda(lambda given: {"output": AIMessage(reply(with_prompt(given)))}),
        take=lambda out: out["output"].text,
        **IN,
    ),
    "output key": Shape(
        RunnableLambda(lambda given: {"context": ["a document"], "answer": reply(with_prompt(given))}),
        {**IN["keys"], "output_messages_key": "answer"},
        IN["give"],
        lambda out: out["answer"],
    ),
    "chat model": Shape(Echo()),
    "prompt | chat model": Shape(PROMPT | Echo(), **IN),
    "prompt | llm": Shape(PROMPT | EchoLLM(), **IN),
}

MODES = ["invoke", "stream", "batch", "ainvoke", "astream", "abatch"]


def run(chain: Runnable[Any, Any], mode: str, input: Any, config: Any) -> Any:
    """One turn in one of the six modes; what a stream gives is added up."""

    async def arun() -> Any:
        if mode == "ainvoke":
            return await chain.ainvoke(input, config)
        if mode == "abatch":
            return (await chain.abatch([input], [config]))[0]
        return total([chunk async for chunk in chain.astream(input, config)])

    def total(chunks: list[Any]) -> Any:
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole = whole + chunk
        return whole

    if mode.startswith("a"):
        return asyncio.run(arun())
    if mode == "invoke":
        return chain.invoke(input, config)
    return chain.batch([input], [config])[0] if mode == "batch" else total(list(chain.stream(input, config)))


def config_of(session: str, **more: Any) -> Any:
    return {"configurable": {"session_id": session, **more}}


def texts(messages: Any) -> list[str]:
    return [m.text for m in messages]
