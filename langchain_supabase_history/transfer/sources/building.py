"""Parts made of messages from elsewhere: row ids come from the source, so that a second import stores nothing twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from langchain_core.messages import BaseMessage

from ...core.messages import Encoded, encode_message
from ...core.values import encode
from ...errors import InvalidMessage
from ..parts import Part, Unreadable

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS: Final = 1e11  # from here on a number is no seconds: they would be of the year 5138
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_OID, "langchain_supabase_history.import")


@dataclass(slots=True)
class Found:
    """A message as a source has it."""

    message: BaseMessage
    key: str | None = None  # the source's own id of it; without one, place and content identify it
    created_at: datetime | None = None


@dataclass(slots=True)
class FoundBranch:
    """Messages that once stood in the place of others.

    Attributes:
        follows: The key of the message that they follow, in the conversation or a branch before; None: they begin it.
        messages: In order, each with its key.
    """

    follows: str | None
    messages: Sequence[Found]


@dataclass(slots=True)
class FoundConversation:
    """A conversation as a source has it.

    Attributes:
        source: Names the kind of source: the same session id from two kinds are two conversations' row ids.
        messages: In order.
        turns: What is known besides of the turns that begin with a question, in order: columns of their rows.
    """

    source: str
    session_id: str
    messages: Sequence[Found]
    user_id: str | None = None
    title: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    branches: Sequence[FoundBranch] = ()
    turns: Sequence[Mapping[str, Any]] = ()


def parts_of(found: FoundConversation) -> Iterator[Part | Unreadable]:
    """The parts of a conversation; instead of them why, where a message of it cannot be stored."""
    try:
        parts = list(_Builder(found).parts())
    except InvalidMessage as error:
        yield Unreadable(f"session {found.session_id[:100]!r}", error.says)
    else:
        yield from parts


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a message is stored: its row id, its position and its turn."""

    id: str
    position: int
    turn_id: str


class _Builder:
    """Builds the parts of one conversation."""

    def __init__(self, found: FoundConversation) -> None:
        self._found = found
        first = next((m.created_at for m in found.messages if m.created_at), None)
        self._start = found.created_at or first or datetime.now(UTC)
        self._turns: dict[str, dict[str, Any]] = {}
        self._asked: list[str] = []  # those that begin with a question
        self._places: dict[str, _Place] = {}

    def parts(self) -> Iterator[Part]:
        """All parts, from the session to the end."""
        found = self._found
        rows = list(self._rows(found.messages, None, None))
        for turn_id, known in zip(self._asked, found.turns, strict=False):
            self._turns[turn_id].update({name: encode(value, name) for name, value in known.items()})
        rows += self._branches()
        ids = {"session_id": found.session_id, "user_id": found.user_id}
        yield {
            "kind": "session",
            **ids,
            "title": found.title,
            "metadata": encode(found.metadata, "metadata") or None,
            "created_at": self._start.isoformat(),
            "updated_at": (found.updated_at or self._last_time()).isoformat(),
        }
        yield from self._turns.values()
        yield from rows
        counts = {"messages": sum(row["kind"] == "message" for row in rows), "turns": len(self._turns), "feedback": 0}
        yield {"kind": "end", **ids, **counts, "alternatives": sum(row["kind"] == "alternative" for row in rows)}

    def _last_time(self) -> datetime:
        return max((m.created_at for m in self._found.messages if m.created_at), default=self._start)

    def _branches(self) -> Iterator[Part]:
        room = sum(len(branch.messages) for branch in self._found.branches)
        for branch in self._found.branches:
            before = None if branch.follows is None else self._places[branch.follows]
            alternative_id = self._row_id("alternative", str(branch.messages[0].key))
            yield {
                "kind": "alternative",
                "id": alternative_id,
                "position": before.position + 1 if before else 1,
                "parked": room,
                "message_count": len(branch.messages),
                "follows": before.id if before else None,
                "created_at": (branch.messages[0].created_at or self._start).isoformat(),
            }
            room -= len(branch.messages)
            yield from self._rows(branch.messages, before, alternative_id)

    def _rows(self, messages: Sequence[Found], before: _Place | None, alternative_id: str | None) -> Iterator[Part]:
        turn_id = before.turn_id if before else ""
        start = before.position + 1 if before else 1
        for position, item in enumerate(messages, start):
            encoded = encode_message(item.message, f"messages[{position - 1}]")
            key = item.key or _key(position, encoded)
            begins = encoded.type == "human" or not turn_id
            at = (item.created_at or self._start).isoformat()
            if begins:
                turn_id = self._begin_turn(key, at, alternative_id)
                self._asked += [turn_id] if encoded.type == "human" else []
            place = self._places[key] = _Place(self._row_id("message", key), position, turn_id)
            row = {
                "kind": "message",
                "id": place.id,
                "position": position,
                "turn_id": turn_id,
                "type": encoded.type,
                "data": orjson.loads(encoded.data),
                "tokens": encoded.tokens,
                "in_context": True,
                "begins_turn": begins,
                "created_at": at,
            }
            yield row if alternative_id is None else {**row, "alternative_id": alternative_id}

    def _begin_turn(self, key: str, at: str, alternative_id: str | None) -> str:
        turn_id = self._row_id("turn", key)
        turn: dict[str, Any] = {"kind": "turn", "id": turn_id, "ordinal": len(self._turns) + 1, "status": "completed"}
        self._turns[turn_id] = {**turn, "created_at": at, "alternative_id": alternative_id}
        return turn_id

    def _row_id(self, kind: str, key: str) -> str:
        found = self._found
        name = "\x00".join((found.source, found.user_id or "", found.session_id, kind, key))
        return str(uuid.uuid5(_NAMESPACE, name))


def key_of(message: BaseMessage, position: int) -> str:
    """The key of a message that has none of its own: its place and its content."""
    return _key(position, encode_message(message, f"messages[{position - 1}]"))


def _key(position: int, encoded: Encoded) -> str:
    return f"{position}\x00{encoded.type}\x00{encoded.data.decode()}"


def read_time(value: Any) -> datetime | None:
    """A time as sources write it: seconds or milliseconds since 1970, or ISO 8601; None where it is neither."""
    try:
        if isinstance(value, (int, float)):
            if abs(value) >= _MILLISECONDS:
                value /= 1000
            if value < 0:  # fromtimestamp refuses these on Windows
                return _EPOCH + timedelta(seconds=value)
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            return at if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None
