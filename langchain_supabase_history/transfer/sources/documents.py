"""JSON documents of other programs: lists of messages, exports of ChatGPT and Claude, an application's rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from ..parts import Part, Unreadable
from .building import Found, FoundConversation, parts_of
from .chat_messages import NotAMessage, read_messages

Reader = Callable[[Any, str], FoundConversation]


def kind_of(value: Any) -> str | None:
    """Which kind of conversation a value is; None where it is none that is known."""
    if isinstance(value, list):
        return "messages" if value and all(_is_message(item) for item in value) else None
    if not isinstance(value, dict):
        return None
    if "mapping" in value and ("current_node" in value or "title" in value):
        return "chatgpt"
    if isinstance(value.get("chat_messages"), list):
        return "claude"
    if "conversation_id" in value and isinstance(value.get("messages"), list):
        return "conversations-table"
    if isinstance(value.get("messages"), list):
        return "messages"
    return None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and ("role" in value or "type" in value) and ("content" in value or "data" in value)


def read_conversation(value: Any, kind: str, where: str) -> Iterator[Part | Unreadable]:
    """The parts of one conversation of a kind; why, where it cannot be read."""
    try:
        yield from parts_of(_READERS[kind](value, where))
    except NotAMessage as error:
        yield Unreadable(where, f"it holds {error}")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        yield Unreadable(where, f"it is no conversation of kind {kind} ({type(error).__name__})")


def _messages(value: Any, where: str) -> FoundConversation:
    messages = value if isinstance(value, list) else value["messages"]
    given = {} if isinstance(value, list) else value
    digest = hashlib.sha256(orjson.dumps(messages)).hexdigest()[:16]
    return FoundConversation(
        source="messages",
        session_id=str(given.get("session_id") or given.get("id") or f"import-{digest}"),
        user_id=given.get("user_id") or None,
        title=given.get("title") or None,
        messages=[Found(message) for message in read_messages(messages)],
    )


# --- ChatGPT: a tree of messages; the branch that ends at `current_node` is the conversation --------------------------


def _chatgpt(value: dict[str, Any], where: str) -> FoundConversation:
    nodes: dict[str, Any] = value["mapping"]
    branch: list[Any] = []
    node_id = value.get("current_node") or _newest(nodes)
    while node_id is not None and len(branch) <= len(nodes):
        branch.append(nodes[node_id])
        node_id = nodes[node_id].get("parent")
    found = [item for node in reversed(branch) if (item := _chatgpt_message(node)) is not None]
    return FoundConversation(
        source="chatgpt",
        session_id=str(value.get("conversation_id") or value.get("id") or f"chatgpt-{where}"),
        title=value.get("title") or None,
        messages=found,
        created_at=_at(value.get("create_time")),
        updated_at=_at(value.get("update_time")),
    )


def _newest(nodes: dict[str, Any]) -> str | None:
    leaves = [node_id for node_id, node in nodes.items() if not node.get("children")]
    return max(leaves, key=lambda n: (nodes[n].get("message") or {}).get("create_time") or 0, default=None)


def _chatgpt_message(node: dict[str, Any]) -> Found | None:
    said = node.get("message")
    if not said or (said.get("metadata") or {}).get("is_visually_hidden_from_conversation"):
        return None
    text = _chatgpt_text(said.get("content") or {})
    if not text:
        return None
    role = said["author"]["role"]
    model = (said.get("metadata") or {}).get("model_slug")
    message: BaseMessage
    if role == "user":
        message = HumanMessage(text)
    elif role == "assistant":
        message = AIMessage(text, response_metadata={"model_name": model} if model else {})
    elif role == "system":
        message = SystemMessage(text)
    else:  # a tool's output; its call is no message of its own in these exports
        message = AIMessage(text, name=said["author"].get("name"))
    return Found(message, key=str(said["id"]), created_at=_at(said.get("create_time")))


def _chatgpt_text(content: dict[str, Any]) -> str:
    parts = content.get("parts")
    if parts is None:
        return str(content.get("text") or content.get("result") or "")
    texts = [part if isinstance(part, str) else f"[{part.get('content_type', 'content')}]" for part in parts if part]
    return "\n".join(texts)


# --- Claude -----------------------------------------------------------------------------------------------------------


def _claude(value: dict[str, Any], where: str) -> FoundConversation:
    found = []
    for said in value["chat_messages"]:
        at = _at(said.get("created_at"))
        for n, message in enumerate(_claude_messages(said)):
            found.append(Found(message, key=f"{said['uuid']}:{n}", created_at=at))
    return FoundConversation(
        source="claude",
        session_id=str(value["uuid"]),
        title=value.get("name") or None,
        messages=found,
        created_at=_at(value.get("created_at")),
        updated_at=_at(value.get("updated_at")),
    )


def _claude_messages(said: dict[str, Any]) -> Iterator[BaseMessage]:
    blocks = said.get("content") or []
    text = (
        "\n".join(block.get("text") or "" for block in blocks if block.get("type") == "text") or said.get("text") or ""
    )
    if said["sender"] == "human":
        names = [item.get("file_name") for item in (said.get("attachments") or []) + (said.get("files") or [])]
        yield HumanMessage("\n".join([text, *(f"[file: {name}]" for name in names if name)]).strip())
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


def _result_text(result: dict[str, Any]) -> str:
    content = result.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(str(block.get("text", "")) for block in content or [] if isinstance(block, dict))


# --- the table `conversations` of an application ----------------------------------------------------------------------


def _table_row(value: dict[str, Any], where: str) -> FoundConversation:
    metadata = value.get("metadata") if isinstance(value.get("metadata"), dict) else {}
    kept = {name: value[name] for name in ("tokens_history", "retriever_audits", "analytics") if value.get(name)}
    return FoundConversation(
        source="conversations-table",
        session_id=str(value["conversation_id"]),
        user_id=str(value["user_id"]) if value.get("user_id") else None,
        messages=[Found(message) for message in read_messages(value["messages"])],
        created_at=_at(value.get("created_at") or value.get("timestamp")),
        updated_at=_at(value.get("timestamp")),
        metadata={**(metadata or {}), **kept},
    )


def _at(value: Any) -> datetime | None:
    """A time as sources write it: seconds since 1970, or ISO 8601; None where it is neither."""
    try:
        if isinstance(value, (int, float)):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            return at if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


_READERS: Final[dict[str, Reader]] = {
    "messages": _messages,
    "chatgpt": _chatgpt,
    "claude": _claude,
    "conversations-table": _table_row,
}
KINDS: Final = tuple(_READERS)
