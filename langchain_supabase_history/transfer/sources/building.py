"""Parts made of messages from elsewhere: row ids come from the source, so that a second import stores nothing twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from langchain_core.messages import BaseMessage

from ...core.messages import encode_message
from ...errors import InvalidMessage
from ..parts import Part, Unreadable

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_OID, "langchain_supabase_history.import")


@dataclass(slots=True)
class Found:
    """A message as a source has it."""

    message: BaseMessage
    key: str | None = None  # the source's own id of it; without one, place and content identify it
    created_at: datetime | None = None


@dataclass(slots=True)
class FoundConversation:
    """A conversation as a source has it.

    Attributes:
        source: Names the kind of source: the same session id from two kinds are two conversations' row ids.
        messages: In order.
    """

    source: str
    session_id: str
    messages: Sequence[Found]
    user_id: str | None = None
    title: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def parts_of(found: FoundConversation) -> Iterator[Part | Unreadable]:
    """The parts of a conversation; instead of them why, where a message of it cannot be stored."""
    try:
        parts = list(_parts(found))
    except InvalidMessage as error:
        yield Unreadable(f"session {found.session_id[:100]!r}", error.says)
    else:
        yield from parts


def _parts(found: FoundConversation) -> Iterator[Part]:
    start = found.created_at or next((m.created_at for m in found.messages if m.created_at), None) or datetime.now(UTC)
    session = {
        "session_id": found.session_id,
        "user_id": found.user_id,
        "title": found.title,
        "metadata": found.metadata or None,
        "created_at": start.isoformat(),
        "updated_at": (found.updated_at or _last_time(found) or start).isoformat(),
    }
    yield {"kind": "session", **session}
    rows = list(_messages(found, start))
    turns = dict.fromkeys(row["turn_id"] for row in rows)
    for ordinal, turn_id in enumerate(turns, 1):
        at = next(row["created_at"] for row in rows if row["turn_id"] == turn_id)
        yield {"kind": "turn", "id": turn_id, "ordinal": ordinal, "status": "completed", "created_at": at}
    yield from rows
    ids = {"session_id": found.session_id, "user_id": found.user_id}
    yield {"kind": "end", **ids, "turns": len(turns), "messages": len(rows), "feedback": 0}


def _last_time(found: FoundConversation) -> datetime | None:
    times = [message.created_at for message in found.messages if message.created_at]
    return max(times, default=None)


def _messages(found: FoundConversation, start: datetime) -> Iterator[Part]:
    turn_id = ""
    for position, item in enumerate(found.messages, 1):
        encoded = encode_message(item.message, f"messages[{position - 1}]")
        key = item.key or f"{position}\x00{encoded.type}\x00{encoded.data.decode()}"
        row_id = _row_id(found, "message", key)
        begins = encoded.type == "human" or not turn_id
        if begins:
            turn_id = _row_id(found, "turn", key)
        yield {
            "kind": "message",
            "id": row_id,
            "position": position,
            "turn_id": turn_id,
            "type": encoded.type,
            "data": orjson.loads(encoded.data),
            "tokens": encoded.tokens,
            "in_context": True,
            "begins_turn": begins,
            "created_at": (item.created_at or start).isoformat(),
        }


def _row_id(found: FoundConversation, kind: str, key: str) -> str:
    name = "\x00".join((found.source, found.user_id or "", found.session_id, kind, key))
    return str(uuid.uuid5(_NAMESPACE, name))
