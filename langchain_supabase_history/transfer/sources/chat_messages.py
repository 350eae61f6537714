"""Messages as other programs write them: OpenAI's and Anthropic's role and content, LangChain's type and data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    ToolMessage,
    convert_to_messages,
)

from ...core.messages import decode_message

# LangChain's type for the names that applications give to roles and types, in lower case.
_TYPES: Final = {
    **dict.fromkeys(("human", "user", "humanmessage"), "human"),
    **dict.fromkeys(("ai", "assistant", "aimessage", "bot", "model"), "ai"),
    **dict.fromkeys(("system", "systemmessage"), "system"),
    **dict.fromkeys(("tool", "toolmessage"), "tool"),
    **dict.fromkeys(("function", "functionmessage"), "function"),
}
_ROLES: Final = {"human": "user", "ai": "assistant"}  # of OpenAI, where it is another than the type


class NotAMessage(Exception):
    """Something that stands where a message should, and is none."""


def read_messages(values: Iterable[Any]) -> list[BaseMessage]:
    """The messages of a list in any of these forms; one value may be several messages (Anthropic's tool results).

    Raises:
        NotAMessage: A value is none.
    """
    return [message for value in values for message in read_message(value)]


def read_message(value: Any) -> Iterator[BaseMessage]:
    """The messages that one value is."""
    if not isinstance(value, dict):
        raise NotAMessage(f"a {type(value).__name__} where a message should be")
    try:
        if isinstance(value.get("data"), dict) and isinstance(value.get("type"), str):
            yield _decoded(value["type"], value["data"])
        elif "role" in value:
            yield from _of_role(value)
        elif isinstance(value.get("type"), str) and "content" in value:
            yield _of_type(value)
        else:
            raise NotAMessage(f"an object with the keys {', '.join(map(repr, list(value)[:10]))}")
    except NotAMessage:
        raise
    except Exception as error:  # whatever LangChain raises where it is no message
        raise NotAMessage(f"an object that LangChain does not read as a message ({type(error).__name__})") from error


def _of_type(value: dict[str, Any]) -> BaseMessage:
    data = {name: item for name, item in value.items() if name != "type"}
    try:
        return _decoded(value["type"], data)
    except Exception:  # a type of the application's own
        return ChatMessage(role=value["type"] or "unknown", content=_text(value["content"]))


def _decoded(kind: str, data: dict[str, Any]) -> BaseMessage:
    known = _TYPES.get(kind.lower(), kind)
    return decode_message(known, data if known == kind else {**data, "type": known})


def _of_role(value: dict[str, Any]) -> Iterator[BaseMessage]:
    kind = _TYPES.get(str(value["role"]).lower(), value["role"])
    role, content = _ROLES.get(kind, kind), value.get("content")
    if isinstance(content, list) and any(isinstance(b, dict) and b.get("type") == "tool_result" for b in content):
        yield from _tool_results(content)
        return
    if role == "assistant" and isinstance(content, list):
        calls = [b for b in content if isinstance(b, dict) and b.get("type") == "tool_use"]
        if calls:
            tool_calls = [{"id": c.get("id"), "name": c.get("name", ""), "args": c.get("input") or {}} for c in calls]
            yield AIMessage(content=content, tool_calls=tool_calls)
            return
    if role in ("user", "assistant", "system", "developer", "tool", "function"):
        yield _converted({**value, "role": role, "content": "" if content is None else content})
    else:
        yield ChatMessage(role=str(role), content=_text(content))


def _converted(value: dict[str, Any]) -> BaseMessage:
    """A message by its role. A call whose arguments are no JSON object is kept as an invalid one."""
    calls = value.get("tool_calls") or []
    bad = [call for call in calls if not _has_arguments(call)]
    if bad:
        value = {**value, "tool_calls": [call for call in calls if call not in bad]}
    (message,) = convert_to_messages([value])
    if bad and isinstance(message, AIMessage):
        message.invalid_tool_calls = [
            {
                "type": "invalid_tool_call",
                "id": call.get("id"),
                "name": call["function"]["name"],
                "args": call["function"]["arguments"],
                "error": None,
            }
            for call in bad
        ]
    return message


def _has_arguments(call: Any) -> bool:
    if "function" not in call:  # as LangChain writes calls
        return True
    try:
        return isinstance(json.loads(call["function"]["arguments"]), dict)
    except ValueError:
        return False


def _tool_results(content: list[Any]) -> Iterator[BaseMessage]:
    rest = []
    for block in content:
        if isinstance(block, dict) and block.get("type") == "tool_result":
            status = "error" if block.get("is_error") else "success"
            result = block.get("content") or ""
            yield ToolMessage(content=result, tool_call_id=str(block.get("tool_use_id")), status=status)
        else:
            rest.append(block)
    if rest:
        yield HumanMessage(content=rest)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
