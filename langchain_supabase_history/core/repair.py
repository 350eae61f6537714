"""What a provider accepts: a list of messages in which every tool call has its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from ..records import Loaded

_CALL_BLOCKS: Final = {"tool_use", "tool_call", "invalid_tool_call", "function_call", "tool_call_chunk"}


def without_unanswered_calls(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages without tool calls that have no result, and without results that have no call.

    Providers refuse either. An AI message that is left with neither text nor calls is left out. The messages given are
    not changed. A result counts where it stands between the call and the next message that is no result.
    """
    kept: list[BaseMessage] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        index += 1
        if isinstance(message, ToolMessage):
            continue  # its call is not in front of it
        if not isinstance(message, AIMessage) or not (message.tool_calls or message.invalid_tool_calls):
            kept.append(message)
            continue
        called = {call["id"] for call in (*message.tool_calls, *message.invalid_tool_calls)}
        results: dict[str | None, BaseMessage] = {}
        while index < len(messages) and isinstance(result := messages[index], ToolMessage):
            if result.tool_call_id in called:
                results.setdefault(result.tool_call_id, result)
            index += 1
        repaired = message if called <= results.keys() else _with_calls(message, set(results))
        if repaired is not None:
            kept.append(repaired)
        kept.extend(results.values())
    return kept


def history_before(loaded: Loaded, question: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The conversation so far, to be shown in front of a question.

    A question may be the result of a tool that the application itself has run: then the call that it answers is not
    unanswered.
    """
    if not question or not isinstance(question[0], ToolMessage):
        return loaded.messages
    whole = without_unanswered_calls([*loaded.unrepaired, *question])
    return whole[: -len(question)] if whole[-len(question) :] == list(question) else loaded.messages


def _with_calls(message: AIMessage, answered: set[str | None]) -> AIMessage | None:
    """The message with the answered calls alone, in each of the places where providers' packages put calls."""
    content = message.content
    if isinstance(content, list):
        content = [
            block
            for block in content
            if not (isinstance(block, dict) and block.get("type") in _CALL_BLOCKS)
            or (block.get("call_id") or block.get("id")) in answered
        ]
    if not content and not answered:
        return None
    extra = {k: v for k, v in message.additional_kwargs.items() if k not in ("tool_calls", "function_call")}
    raw = [call for call in message.additional_kwargs.get("tool_calls", ()) if call.get("id") in answered]
    if raw:
        extra["tool_calls"] = raw
    return message.model_copy(
        update={
            "content": content,
            "tool_calls": [call for call in message.tool_calls if call["id"] in answered],
            "invalid_tool_calls": [call for call in message.invalid_tool_calls if call["id"] in answered],
            "additional_kwargs": extra,
        }
    )
