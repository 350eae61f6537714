"""The one shape in which conversations travel: a stream of parts, as JSON objects.

A conversation is the parts from its `session` to its `end`::

    {"kind": "session", "session_id": ..., "user_id": ..., "title": ..., ...}
    {"kind": "turn", "id": ..., "ordinal": 1, "status": "completed", ...}
    {"kind": "message", "id": ..., "position": 1, "turn_id": ..., "type": "human", "data": {...}, ...}
    {"kind": "alternative", "id": ..., "position": 2, "message_count": 1, "follows": ..., ...}
    {"kind": "message", "alternative_id": ..., "position": 2, ...}
    {"kind": "feedback", "id": ..., "turn_id": ..., "key": ..., "score": ..., ...}
    {"kind": "end", "session_id": ..., "user_id": ..., "turns": 1, "messages": 2, "alternatives": 1, "feedback": 1}

Parts are rows of the database as they are, so nothing is lost or rounded on the way; formats for people and other
programs read them as records (`Conversation`). Messages that were taken out of a conversation follow their alternative
and name it. What an alternative follows comes before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

from ..core.rows import read_alternative, read_feedback, read_message, read_turn
from ..records import Alternative, Feedback, StoredMessage, Turn

Part: TypeAlias = Mapping[str, Any]

COUNTED: Final = {"turn": "turns", "message": "messages", "alternative": "alternatives", "feedback": "feedback"}
KINDS: Final = ("session", *COUNTED, "end")


@dataclass(slots=True)
class Branch:
    """An alternative with its messages."""

    alternative: Alternative
    messages: list[StoredMessage] = field(default_factory=list)


@dataclass(slots=True)
class Conversation:
    """A whole conversation, as records."""

    session_id: str
    user_id: str | None
    title: str | None
    created_at: datetime
    turns: list[Turn] = field(default_factory=list)
    messages: list[StoredMessage] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    feedback: list[Feedback] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something in a source that could not be read, and why."""

    where: str
    reason: str


class Ends:
    """Adds the `end` of each conversation to a stream of parts without them; it counts what the conversation has."""

    def __init__(self) -> None:
        self._session: Part | None = None
        self._counts = dict.fromkeys(COUNTED.values(), 0)

    def take(self, part: Part) -> list[Part]:
        """The part, behind the end of the conversation in front of it where it begins another."""
        if part["kind"] != "session":
            self._counts[COUNTED[part["kind"]]] += 1
            return [part]
        before = self.finish()
        self._session = part
        return [*before, part]

    def finish(self) -> list[Part]:
        """The end of the conversation that is open, if any."""
        session, self._session = self._session, None
        counts, self._counts = self._counts, dict.fromkeys(COUNTED.values(), 0)
        if session is None:
            return []
        return [{"kind": "end", "session_id": session["session_id"], "user_id": session["user_id"], **counts}]


class Assembler:
    """Puts parts together to conversations, each when its end has come."""

    def __init__(self) -> None:
        self._open: Conversation | None = None

    def take(self, part: Part) -> Conversation | None:
        """Take the next part; the whole conversation where this was its end."""
        kind, row = part["kind"], dict(part)
        if kind == "session":
            at = datetime.fromisoformat(row["created_at"])
            self._open = Conversation(row["session_id"], row["user_id"], row["title"], at)
            return None
        assert self._open is not None
        if kind == "end":
            whole, self._open = self._open, None
            return whole
        if kind == "turn":
            self._open.turns.append(read_turn(row))
        elif kind == "alternative":
            self._open.branches.append(Branch(read_alternative({"excerpt": None, **row})))
        elif kind == "feedback":
            self._open.feedback.append(read_feedback({"unsent": False, **row}))
        elif row.get("alternative_id") is not None:
            self._open.branches[-1].messages.append(read_message(row))
        else:
            self._open.messages.append(read_message(row))
        return None


# --- what a part of a file must be, before anything of its conversation is stored -------------------------------------

_UUID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_STATUSES: Final = ("running", "interrupted", "failed", "completed")
_TIMES: Final = ("created_at", "updated_at", "started_at", "ended_at", "sent_at")


def problem_with(part: Part) -> str | None:
    """Why a part of a file cannot be one; None where it can."""
    kind = part.get("kind")
    if wrong := next((name for name in _TIMES if not _is_time(part.get(name))), None):
        return f"the {wrong} of a {kind} is no time of the years 1 to 9999"
    if kind == "session":
        return _session_problem(part)
    if kind not in COUNTED:
        return None if kind == "end" else "it is no part of a conversation"
    if not _is_uuid(part.get("id")):
        return f"a {kind} has no id, which is a UUID"
    if kind == "message":
        return _message_problem(part)
    if kind == "turn" and part.get("status", "completed") not in _STATUSES:
        return f"the status of a turn is none of {', '.join(_STATUSES)}"
    if kind == "feedback" and not (_is_uuid(part.get("turn_id")) and isinstance(part.get("key"), str)):
        return "feedback has no turn_id or no key"
    if kind == "alternative" and not _is_whole(part.get("message_count"), 2**31 - 1):
        return "an alternative has no message_count"
    return None


def _session_problem(part: Part) -> str | None:
    name, user, title, tags = (part.get(key) for key in ("session_id", "user_id", "title", "tags"))
    if not isinstance(name, str) or not 1 <= len(name) <= 1000:
        return "its session_id is not text of 1 to 1000 characters"
    if user is not None and (not isinstance(user, str) or not user or len(user.encode("utf-8", "replace")) > 2500):
        return "its user_id is not text of 1 to 2500 bytes"
    if title is not None and not isinstance(title, str):
        return "its title is not text"
    if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        return "its tags are not a list of text"
    return "its metadata is no object" if not isinstance(part.get("metadata") or {}, dict) else None


def _message_problem(part: Part) -> str | None:
    if not _is_uuid(part.get("turn_id")):
        return "a message has no turn_id, which is a UUID"
    kind = part.get("type")
    if not isinstance(kind, str) or not 1 <= len(kind.encode("utf-8", "replace")) <= 100:
        return "the type of a message is not text of 1 to 100 bytes"
    if not isinstance(part.get("data"), dict):
        return "the data of a message is no object"
    if not _is_whole(part.get("position"), 2**63 - 1):
        return "a message has no position"
    tokens = part.get("tokens")
    return None if tokens is None or _is_whole(tokens, 2**31 - 1) else "the tokens of a message are no count"


def _is_whole(value: Any, high: int) -> bool:
    return type(value) is int and 0 <= value <= high


def _is_time(value: Any) -> bool:
    try:
        return value is None or bool(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False


def _is_uuid(value: Any) -> bool:
    return isinstance(value, UUID) or (isinstance(value, str) and _UUID.fullmatch(value) is not None)
