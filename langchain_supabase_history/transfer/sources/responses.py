"""Items of OpenAI's Responses API, as OpenAI's Agents SDK stores them, as messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from .chat_messages import NotAMessage


def read_items(items: Iterable[Any]) -> Iterator[BaseMessage]:
    """The messages that items are: a model's text, reasoning and calls between two results are one message.

    Raises:
        NotAMessage: An item is no object.
    """
    blocks: list[Any] = []
    calls: list[Any] = []
    for item in items:
        if not isinstance(item, dict):
            raise NotAMessage(f"a {type(item).__name__} where an item should be")
        kind, role = item.get("type", "message"), item.get("role")
        if kind == "function_call":
            calls.append(item)
        elif kind == "message" and role == "assistant" and not calls:
            blocks += _content(item.get("content"))
        elif kind in ("function_call_output", "message"):
            yield from _answer(blocks, calls)
            blocks, calls = [], []
            if kind == "function_call_output":
                yield ToolMessage(_text(item.get("output")), tool_call_id=str(item.get("call_id")))
            elif role == "assistant":
                blocks = _content(item.get("content"))
            else:
                make = SystemMessage if role in ("system", "developer") else HumanMessage
                yield make(_content_or_text(item.get("content")))
        else:  # reasoning, a server's own tool
            blocks.append(item)
    yield from _answer(blocks, calls)


def _answer(blocks: list[Any], calls: list[Any]) -> Iterator[BaseMessage]:
    if not blocks and not calls:
        return
    tool_calls, invalid = [], []
    for call in calls:
        named = {"id": call.get("call_id"), "name": str(call.get("name"))}
        try:
            args = json.loads(call.get("arguments") or "{}")
        except ValueError:
            args = None
        if isinstance(args, dict):
            tool_calls.append({**named, "args": args})
        else:
            invalid.append({**named, "args": call.get("arguments"), "error": "its arguments are no JSON object"})
    texts = [block.get("text") for block in blocks if block.get("type") == "text"]
    content: Any = texts[0] if len(texts) == len(blocks) == 1 else blocks or ""
    yield AIMessage(content, tool_calls=tool_calls, invalid_tool_calls=invalid)


def _content(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    blocks = []
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict) and block.get("type") in ("input_text", "output_text"):
            blocks.append({"type": "text", "text": block.get("text") or ""})
        elif isinstance(block, dict):
            blocks.append(block)
    return blocks


def _content_or_text(content: Any) -> Any:
    blocks = _content(content)
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0].get("type") == "text" else blocks


def _text(output: Any) -> Any:
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
