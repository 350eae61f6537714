"""JSON documents of other programs: lists of messages, exports of ChatGPT and Claude, an application's rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ...errors import InvalidMessage
from ..formats.jsonl import dumps
from ..parts import Part, Unreadable
from .building import Found, FoundConversation, parts_of
from .chat_messages import NotAMessage, read_messages
from .chatgpt import read_chatgpt
from .claude import read_claude
from .conversations_table import Saves, read_table_row

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
    if "conversation_id" in value and isinstance(value.get("messages"), (list, str)):
        return "conversations-table"
    if isinstance(value.get("messages"), list):
        return "messages"
    return None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and ("role" in value or "type" in value) and ("content" in value or "data" in value)


def read_conversation(value: Any, kind: str, where: str) -> Iterator[Part | Unreadable]:
    """The parts of one conversation of a kind; why, where it cannot be read."""
    found = _read(value, kind, where)
    yield from (found,) if isinstance(found, Unreadable) else parts_of(found)


def read_saves(values: Iterable[Any], where: str) -> Iterator[Part | Unreadable]:
    """The parts of the one conversation that rows of a table `conversations` hold, the latest first."""
    saves = Saves()
    for value in values:
        found = _read(value, "conversations-table", where)
        if isinstance(found, Unreadable):
            yield found
            continue
        try:
            saves.add(found)
        except InvalidMessage as error:
            yield Unreadable(where, error.says)
    if (whole := saves.conversation()) is not None:
        yield from parts_of(whole)


def _read(value: Any, kind: str, where: str) -> FoundConversation | Unreadable:
    try:
        return _READERS[kind](value, where)
    except NotAMessage as error:
        return Unreadable(where, f"it holds {error}")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        return Unreadable(where, f"it is no conversation of kind {kind} ({type(error).__name__})")


def _messages(value: Any, where: str) -> FoundConversation:
    messages = value if isinstance(value, list) else value["messages"]
    given = {} if isinstance(value, list) else value
    digest = hashlib.sha256(dumps(messages)).hexdigest()[:16]
    return FoundConversation(
        source="messages",
        session_id=str(given.get("session_id") or given.get("id") or f"import-{digest}"),
        user_id=str(given["user_id"]) if given.get("user_id") else None,
        title=given.get("title") or None,
        messages=[Found(message) for message in read_messages(messages)],
    )


_READERS: Final[dict[str, Reader]] = {
    "messages": _messages,
    "chatgpt": read_chatgpt,
    "claude": read_claude,
    "conversations-table": read_table_row,
}
KINDS: Final = tuple(_READERS)
