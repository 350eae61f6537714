"""Feedback: what people thought of turns and messages, stored here and sent to LangSmith."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final, TypedDict, Unpack

import orjson

from ..core import values
from ..core.arguments import (
    MAX_PAGE,
    check_cursor,
    check_id,
    check_number,
    check_text,
    check_time,
    check_whole,
)
from ..core.call import Blocking, Call, Function, Json, Plan
from ..core.rows import read_feedback, read_page
from ..errors import HistoryError, InvalidInput
from ..records import Feedback, Page, StoredMessage, Turn
from .base import Operations
from .scope import Scope

MAX_KEY: Final = 200
MAX_COMMENT: Final = 10_000
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_OID, "langchain_supabase_history.feedback")

ADD_FEEDBACK: Final = Function("chat_history_add_feedback", {"feedback": "json"})
FEEDBACK_SENT: Final = Function("chat_history_feedback_sent", {"feedback": "json"})
LIST_FEEDBACK: Final = Function("chat_history_list_feedback", {"after": "bigint", "max_items": "integer"})


class FeedbackOptions(TypedDict, total=False):
    """The options of `add_feedback`; see there."""

    score: float | None
    value: str | float | dict[str, Any] | None
    comment: str | None


def put_feedback(
    scope: Scope,
    session_id: str,
    on: StoredMessage | Turn,
    key: str,
    *,
    score: float | None = None,
    value: Any = None,
    comment: str | None = None,
    id: uuid.UUID | None = None,
    sent_at: datetime | None = None,
    created_at: datetime | None = None,
) -> Plan[tuple[Feedback, list[dict[str, Any]]]]:
    """Store feedback, and return what of the session's has still to be sent to LangSmith.

    Args:
        id: Of feedback that came from LangSmith, which has it under this id; `sent_at` then says since when.
    """
    if not isinstance(on, (StoredMessage, Turn)):
        raise InvalidInput(f"Feedback is on a StoredMessage or a Turn, got {type(on).__name__}.")
    if value is not None and not isinstance(value, (str, int, float, bool, dict)):
        raise InvalidInput(f"value must be a str, a number, a bool or a dict, got {type(value).__name__}.")
    turn_id, message_id = (on.id, None) if isinstance(on, Turn) else (on.turn_id, on.id)
    key = check_text(key, "key", MAX_KEY)
    feedback: dict[str, Any] = {
        "id": str(id or uuid.uuid5(_NAMESPACE, f"{turn_id}\x00{message_id}\x00{key}")),
        "turn_id": str(turn_id),
        "message_id": None if message_id is None else str(message_id),
        "key": key,
        "score": None if score is None else check_number(score, "score"),
        "comment": None if comment is None else check_text(comment, "comment", MAX_COMMENT),
        "sent_at": check_time(sent_at, "sent_at"),
        "created_at": check_time(created_at, "created_at"),
    }
    if value is not None:
        try:
            feedback["value"] = {"value": values.to_json(value, "value")}
        except values.Unencodable as error:
            raise InvalidInput(f"{error.path[:200]} cannot be stored: {error.reason}.") from None
    args = {"session_id": check_id(session_id), "feedback": Json(orjson.dumps(feedback)), "user_id": scope.user_id}
    stored: tuple[Feedback, list[dict[str, Any]]] = yield Call(
        ADD_FEEDBACK, args, lambda reply: (read_feedback(reply["feedback"]), reply["unsent"])
    )
    return stored


def mark_sent(scope: Scope, marks: Sequence[Mapping[str, Any]]) -> Plan[int]:
    """Store what LangSmith has accepted or refused, and return of how many."""
    args = {"feedback": Json(orjson.dumps(list(marks))), "user_id": scope.user_id}
    marked: int = yield Call(FEEDBACK_SENT, args, lambda reply: int(reply["sent"]))
    return marked


def add_feedback(
    scope: Scope, session_id: str, on: StoredMessage | Turn, key: str, **options: Unpack[FeedbackOptions]
) -> Plan[Feedback]:
    """See `FeedbackOperations.add_feedback`."""
    feedback, unsent = yield from put_feedback(scope, session_id, on, key, **options)
    if not unsent or scope.feedback is None:
        return feedback
    marks: Sequence[Mapping[str, Any]] = yield Blocking(partial(scope.feedback.send, unsent))
    if not marks:
        return feedback
    try:
        yield from mark_sent(scope, marks)
    except HistoryError:
        return feedback  # stored, and sent; it will be sent again, which changes nothing
    taken = any(mark["id"] == str(feedback.id) and not mark.get("refused") for mark in marks)
    if not taken:
        return feedback
    return replace(feedback, sent_at=datetime.now(feedback.updated_at.tzinfo), unsent=False)


class ListOptions(TypedDict, total=False):
    """The options of `feedback`; see there."""

    limit: int
    cursor: str | None


def list_feedback(
    scope: Scope, session_id: str, *, limit: int = 100, cursor: str | None = None
) -> Plan[Page[Feedback]]:
    """See `FeedbackOperations.feedback`."""
    args = {
        "session_id": check_id(session_id),
        "user_id": scope.user_id,
        "after": check_cursor(cursor),
        "max_items": check_whole(limit, "limit", 1, MAX_PAGE),
    }
    page: Page[Feedback] = yield Call(LIST_FEEDBACK, args, read_page(read_feedback))
    return page


class FeedbackOperations(Operations):
    """The part of a store that keeps feedback."""

    def add_feedback(
        self, session_id: str, on: StoredMessage | Turn, key: str, **options: Unpack[FeedbackOptions]
    ) -> Feedback:
        """Store what somebody thought of a turn or of a message, and send it to LangSmith, where the turn has a trace.

        Given again for the same turn or message and key, it replaces what was given before, in both. Where LangSmith
        cannot be reached within a few seconds, the feedback is stored all the same, and sent with the next.

        Args:
            session_id: The session's name.
            on: The message or the turn that is judged.
            key: What is judged: `"helpful"`, say.
            score: A number (or True and False).
            value: What is no number.
            comment: In the user's words.

        Returns:
            The feedback as it is stored; `unsent` where LangSmith has yet to be sent it.

        Raises:
            NotFound: The session has no such turn or message (any more).
            InvalidInput: An argument cannot be right.
        """
        return self.run(add_feedback(self.scope, session_id, on, key, **options))

    async def aadd_feedback(
        self, session_id: str, on: StoredMessage | Turn, key: str, **options: Unpack[FeedbackOptions]
    ) -> Feedback:
        """Async version of `add_feedback`."""
        return await self.arun(add_feedback(self.scope, session_id, on, key, **options))

    def feedback(self, session_id: str, **options: Unpack[ListOptions]) -> Page[Feedback]:
        """The feedback on a session, in the order it was first given, a page at a time.

        Args:
            session_id: The session's name.
            limit: Items in a page, 1 to 1000; by default 100.
            cursor: The `next_cursor` of the page before.

        Returns:
            A page; empty where there is no such session.

        Raises:
            InvalidInput: An argument cannot be right.
        """
        return self.run(list_feedback(self.scope, session_id, **options))

    async def afeedback(self, session_id: str, **options: Unpack[ListOptions]) -> Page[Feedback]:
        """Async version of `feedback`."""
        return await self.arun(list_feedback(self.scope, session_id, **options))
