"""The assistant: it looks up documents, lets the model call a tool, and streams the answer.

Without a key a scripted model answers, so that the app runs anywhere. With `OPENAI_API_KEY` or `ANTHROPIC_API_KEY` (and
`langchain-openai` or `langchain-anthropic` installed) a real one does; `CHAT_MODEL` names another.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_community.retrievers import BM25Retriever
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator
from langchain_core.tools import tool

DOCUMENTS = {
    "po.md": "The river Po is 652 km long. It rises on Monte Viso and ends in the Adriatic sea.",
    "turin.md": "Turin stands on the Po. Its tallest building, the Mole Antonelliana, is 167 m high.",
    "museum.md": "The Egyptian museum of Turin opens at nine, on Mondays too until two in the afternoon.",
    "tram.md": "Tram line 15 climbs to Sassi, where the rack railway to Superga begins.",
    "market.md": "The market of Porta Palazzo is open every morning but Sunday, and all day on Saturday.",
}
STORY = "Once upon a time a river set out for the sea, and on its way it met a town that never slept."
PACE = float(os.environ.get("CHAT_PACE", "0.03"))
"""Seconds between two words of the scripted model."""
AS_BLOCKS = os.environ.get("CHAT_BLOCKS") == "1"
"""Whether the scripted model streams content blocks, as some providers do, in place of strings."""


@tool
def multiply(a: float, b: float) -> float:
    """Multiply two numbers."""
    return a * b


class ScriptedModel(BaseChatModel):
    """Answers from a script, word by word, and tells its usage as real models do."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chunks = [chunk.message for chunk in self._stream(messages)]
        whole = sum(chunks[1:], chunks[0])
        message = AIMessage(whole.content, tool_calls=whole.tool_calls, usage_metadata=whole.usage_metadata)  # type: ignore[attr-defined]
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        asked = sum(len(message.text.split()) for message in messages)
        factors = re.search(r"(\d+)\s*[*x×]\s*(\d+)", messages[-1].text)
        if factors and messages[-1].type == "human":
            call = {"name": "multiply", "args": f'{{"a": {factors[1]}, "b": {factors[2]}}}', "id": "call-1", "index": 0}
            yield _generation("", asked, 1, tool_call_chunks=[call])
            return
        words = re.findall(r"\S+\s*", script(messages))
        for number, word in enumerate(words):
            chunk = _generation(word, asked if number == 0 else 0, 1, last=number == len(words) - 1)
            if run_manager:
                run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk
            time.sleep(PACE)


def _generation(word: str, asked: int, said: int, *, last: bool = True, **more: Any) -> ChatGenerationChunk:
    content: Any = [{"type": "text", "text": word, "index": 0}] if AS_BLOCKS and word else word
    message = AIMessageChunk(
        content=content,
        usage_metadata=UsageMetadata(input_tokens=asked, output_tokens=said, total_tokens=asked + said),
        response_metadata={"model_name": "scripted-1"} if last else {},
        chunk_position="last" if last else None,
        **more,
    )
    return ChatGenerationChunk(message=message)


def script(messages: list[BaseMessage]) -> str:
    """What the scripted model says."""
    if isinstance(messages[-1], ToolMessage):
        return f"That makes {float(messages[-1].text):g}."
    said = [message.text for message in messages if message.type == "human"]
    question = said[-1].lower()
    if "fail" in question:
        raise RuntimeError("the scripted model was asked to fail")
    if "story" in question:
        wanted = re.search(r"(\d+) words", question)
        words = int(wanted[1]) if wanted else 120
        return " ".join(itertools.islice(itertools.cycle(STORY.split()), words))
    if "who am i" in question:
        names = [found[1] for text in said if (found := re.search(r"my name is (\w+)", text, re.IGNORECASE))]
        return f"Your name is {names[-1]}." if names else "You have not told me yet."
    if found := re.search(r"my name is (\w+)", said[-1], re.IGNORECASE):
        return f"Nice to meet you, {found[1]}. I will remember that."
    known = messages[0].text.partition("\n")[2]
    return known.partition("\n")[0] or "I know nothing about that."


def make_model() -> BaseChatModel:
    """The model that a key in the environment asks for, else the scripted one."""
    names = {"OPENAI_API_KEY": "openai:gpt-4.1-mini", "ANTHROPIC_API_KEY": "anthropic:claude-haiku-4-5"}
    name = os.environ.get("CHAT_MODEL") or next((names[key] for key in names if os.environ.get(key)), None)
    if name is None:
        return ScriptedModel()
    from langchain.chat_models import init_chat_model

    model: BaseChatModel = init_chat_model(name)
    return model


def make_assistant() -> Runnable[Any, Any]:
    """The runnable that `with_history` gives memory to: it takes the conversation, and streams messages."""
    model = make_model().bind_tools([multiply])
    pages = [Document(text, id=source, metadata={"source": source}) for source, text in DOCUMENTS.items()]
    retriever = BM25Retriever.from_documents(pages, k=2, preprocess_func=_words)

    def assistant(inputs: Iterator[list[BaseMessage]], config: RunnableConfig) -> Iterator[BaseMessage]:
        messages = [message for part in inputs for message in part]
        found = retriever.invoke(messages[-1].text, config)
        known = "\n".join(document.page_content for document in found)
        given = [SystemMessage(f"Answer briefly. Use what you know of Turin:\n{known}"), *messages]
        while True:
            whole: Any = None
            for chunk in model.stream(given, config):
                whole = chunk if whole is None else whole + chunk
                yield chunk
            if not whole.tool_calls:
                return
            results: list[BaseMessage] = [multiply.invoke(call, config) for call in whole.tool_calls]
            yield from results
            given += [AIMessage(whole.content, tool_calls=whole.tool_calls), *results]

    generate: Any = assistant  # which takes the config too
    return RunnableGenerator(generate)


_words: Callable[[str], list[str]] = re.compile(r"\w{3,}").findall
