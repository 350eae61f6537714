"""Exports of Claude: a conversation is a list of messages, each of text and blocks of tool calls and results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from .building import Found, FoundConversation, read_time


def read_claude(value: dict[str, Any], where: str) -> FoundConversation:
    """A conversation of `conversations.json`."""
    found = []
    for said in value["chat_messages"]:
        at = read_time(said.get("created_at"))
        for n, message in enumerate(_messages(said)):
            found.append(Found(message, key=f"{said['uuid']}:{n}", created_at=at))
    return FoundConversation(
        source="claude",
        session_id=str(value["uuid"]),
        title=value.get("name") or None,
        messages=found,
        created_at=read_time(value.get("created_at")),
        updated_at=read_time(value.get("updated_at")),
    )


def _messages(said: dict[str, Any]) -> Iterator[BaseMessage]:
    blocks = said.get("content") or []
    text = (
        "\n".join(block.get("text") or "" for block in blocks if block.get("type") == "text") or said.get("text") or ""
    )
    if said["sender"] == "human":
        files = (said.get("attachments") or []) + (said.get("files") or [])
        yield HumanMessage("\n".join([text, *filter(None, map(_file_text, files))]).strip())
        return
    calls = [block for block in blocks if block.get("type") == "tool_use"]
    results = [block for block in blocks if block.get("type") == "tool_result"]
    ids = [str(call.get("id") or f"{said['uuid']}:call:{n}") for n, call in enumerate(calls)]
    answered = ids[: len(results)]
    if answered:
        tool_calls = [
            {"id": i, "name": c.get("name", ""), "args": c.get("input") or {}} for i, c in zip(ids, calls, strict=True)
        ]
        yield AIMessage("", tool_calls=tool_calls[: len(answered)])
        for call_id, result in zip(answered, results, strict=False):
            yield ToolMessage(_result_text(result), tool_call_id=call_id)
    if text:
        yield AIMessage(text)


def _file_text(item: dict[str, Any]) -> str:
    """A file's name, and the text that the export has of it, as of what was pasted."""
    name, text = item.get("file_name"), item.get("extracted_content")
    return "\n".join([*([f"[file: {name}]"] if name else []), *([str(text)] if text else [])])


def _result_text(result: dict[str, Any]) -> str:
    content = result.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(str(block.get("text", "")) for block in content or [] if isinstance(block, dict))
