"""What `HistoryStore` tells of its turns: usage, feedback, and where their traces are."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from . import values
from .calls import Call, Json, _cursor, _known, _page, _time, _whole, check_id, check_number
from .errors import HistoryError, InvalidInput
from .records import Feedback, Page, StoredMessage, Turn, Usage

if TYPE_CHECKING:
    from .langsmith import LangSmith

T = TypeVar("T")

GROUPS: Final = ("session", "user", "model", "day")
MAX_KEY: Final = 200
MAX_COMMENT: Final = 10_000
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_OID, "langchain_supabase_history.feedback")


# --- the calls ------------------------------------------------------------------------------------------------------


def _at(value: object, name: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidInput(f"{name} must be a datetime with a time zone.")
    return value.isoformat()


def _usage(row: dict[str, Any]) -> Usage:
    day = None if row["day"] is None else date.fromisoformat(row["day"])
    cost = None if row["total_cost"] is None else float(row["total_cost"])
    return Usage(**{**_known(Usage, row), "day": day, "total_cost": cost})


def _usages(reply: Any) -> list[Usage]:
    return [_usage(row) for row in reply]


def _total(reply: Any) -> list[Usage]:
    return _usages(reply) or [Usage(0, 0, 0, None, None, None, None)]


def usage(
    *, session_id: str | None = None, user_id: str | None = None, since: datetime | None = None,
    until: datetime | None = None, group_by: str | Sequence[str] = (),
) -> Call[list[Usage]]:  # fmt: skip
    """`chat_history_usage`: see `HistoryStore.usage`."""
    groups = [group_by] if isinstance(group_by, str) else group_by
    if not isinstance(groups, Sequence) or not all(isinstance(group, str) and group in GROUPS for group in groups):
        raise InvalidInput(f"group_by must be one or some of {', '.join(map(repr, GROUPS))}.")
    args = _scope(session_id, user_id, since, until) | {"group_by": list(groups)}
    return Call("chat_history_usage", args, _usages if groups else _total)


def _scope(session_id: str | None, user_id: str | None, since: Any, until: Any) -> dict[str, Any]:
    return {
        "session_id": None if session_id is None else check_id(session_id),
        "user_id": None if user_id is None else check_id(user_id, "user_id"),
        "since": _at(since, "since"), "until": _at(until, "until"),
    }  # fmt: skip


def uncosted_turns(
    *, session_id: str | None = None, user_id: str | None = None, since: datetime | None = None,
    until: datetime | None = None, after: uuid.UUID | None = None,
) -> Call[list[dict[str, Any]]]:  # fmt: skip
    """`chat_history_uncosted_turns`: turns with a trace and without a cost, after the turn with this id."""
    args = _scope(session_id, user_id, since, until) | {
        "after_turn": None if after is None else str(after),
        "max_items": 500,
    }
    return Call("chat_history_uncosted_turns", args, list)


def set_costs(costs: Sequence[Mapping[str, Any]], *, user_id: str | None = None) -> Call[int]:
    """`chat_history_set_costs`: what turns cost, in US dollars."""
    return Call("chat_history_set_costs", {"costs": Json(orjson.dumps(list(costs))), "user_id": user_id}, _set)


def _set(reply: Any) -> int:
    return int(reply["set"])


def _text(value: object, name: str, most: int) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= most or not values.is_plain(value):
        raise InvalidInput(f"{name} must be a str of 1 to {most} characters, without NUL or lone surrogates.")
    return value


def _feedback(row: dict[str, Any]) -> Feedback:
    wrapped = row["value"] or {}
    return Feedback(
        uuid.UUID(row["id"]), uuid.UUID(row["turn_id"]), uuid.UUID(row["message_id"]) if row["message_id"] else None,
        row["key"], None if row["score"] is None else float(row["score"]), values.decode(wrapped.get("value")),
        row["comment"],
        datetime.fromisoformat(row["created_at"]), datetime.fromisoformat(row["updated_at"]), _time(row["sent_at"]),
        row["unsent"],
    )  # fmt: skip


def _added(reply: Any) -> tuple[Feedback, list[dict[str, Any]]]:
    return _feedback(reply["feedback"]), reply["unsent"]


def add_feedback(
    session_id: str, on: StoredMessage | Turn, key: str, *, score: float | None = None, value: Any = None,
    comment: str | None = None, user_id: str | None = None, id: uuid.UUID | None = None,
    sent_at: datetime | None = None, created_at: datetime | None = None,
) -> Call[tuple[Feedback, list[dict[str, Any]]]]:  # fmt: skip
    """`chat_history_add_feedback`: see `HistoryStore.add_feedback`. With `sent_at` it is LangSmith's, under `id`."""
    if not isinstance(on, (StoredMessage, Turn)):
        raise InvalidInput(f"Feedback is on a StoredMessage or a Turn, got {type(on).__name__}.")
    if value is not None and not isinstance(value, (str, int, float, bool, dict)):
        raise InvalidInput(f"value must be a str, a number, a bool or a dict, got {type(value).__name__}.")
    turn_id, message_id = (on.id, None) if isinstance(on, Turn) else (on.turn_id, on.id)
    key = _text(key, "key", MAX_KEY)
    sent: dict[str, Any] = {
        "id": str(id or uuid.uuid5(_NAMESPACE, f"{turn_id}\x00{message_id}\x00{key}")), "turn_id": str(turn_id),
        "message_id": None if message_id is None else str(message_id), "key": key,
        "score": None if score is None else check_number(score, "score"),
        "comment": None if comment is None else _text(comment, "comment", MAX_COMMENT),
        "sent_at": _at(sent_at, "sent_at"), "created_at": _at(created_at, "created_at"),
    }  # fmt: skip
    if value is not None:
        try:
            sent["value"] = {"value": values.to_json(value, "value")}
        except values.Unencodable as error:
            raise InvalidInput(f"{error.path[:200]} cannot be stored: {error.reason}.") from None
    args = {"session_id": check_id(session_id), "feedback": Json(orjson.dumps(sent)), "user_id": user_id}
    return Call("chat_history_add_feedback", args, _added)


def feedback_sent(marks: Sequence[Mapping[str, Any]], *, user_id: str | None = None) -> Call[int]:
    """`chat_history_feedback_sent`: what LangSmith has taken."""
    return Call("chat_history_feedback_sent", {"feedback": Json(orjson.dumps(list(marks))), "user_id": user_id}, _sent)


def _sent(reply: Any) -> int:
    return int(reply["sent"])


def list_feedback(
    session_id: str, *, user_id: str | None = None, limit: int = 100, cursor: str | None = None
) -> Call[Page[Feedback]]:
    """`chat_history_list_feedback`: see `HistoryStore.feedback`."""
    args = {"session_id": check_id(session_id), "user_id": user_id, "after": _cursor(cursor),
            "max_items": _whole(limit, "limit", 1, 1000)}  # fmt: skip
    return Call("chat_history_list_feedback", args, _page(_feedback))


# --- the store's methods ----------------------------------------------------------------------------------------------


class Insights:
    """The part of `HistoryStore` that looks at turns from outside: what they used, and what people thought of them."""

    _user_id: str | None
    _langsmith: LangSmith

    def _do(self, call: Call[T]) -> T:
        raise NotImplementedError

    async def _ado(self, call: Call[T]) -> T:
        raise NotImplementedError

    def usage(
        self, *, session_id: str | None = None, user_id: str | None = None, since: datetime | None = None,
        until: datetime | None = None, group_by: str | Sequence[str] = (),
    ) -> list[Usage]:  # fmt: skip
        """What turns used: one `Usage` for each group, or one for all.

        Failed and cleared turns count, for their tokens were spent; deleted ones are gone. Cost is what LangSmith has
        reckoned, where that has been asked for (`langchain-supabase-history usage --with-langsmith`, or a restore).

        Args:
            session_id: Of one session.
            user_id: Of one user's sessions; by default this store's user, else all that the database shows.
            since: From this time on; `until` up to, but without, this time. With a time zone.
            group_by: One or some of `session`, `user`, `model`, `day` (in UTC).

        Raises:
            InvalidInput: An argument cannot be right.
        """
        return self._do(self._usage(session_id, user_id, since, until, group_by))

    async def ausage(
        self, *, session_id: str | None = None, user_id: str | None = None, since: datetime | None = None,
        until: datetime | None = None, group_by: str | Sequence[str] = (),
    ) -> list[Usage]:  # fmt: skip
        """Async version of usage."""
        return await self._ado(self._usage(session_id, user_id, since, until, group_by))

    def _usage(self, session_id: Any, user_id: Any, since: Any, until: Any, group_by: Any) -> Call[list[Usage]]:
        if self._user_id is not None and user_id not in (None, self._user_id):
            raise InvalidInput("This store is another user's: call usage on the one that for_user was called on.")
        user_id = self._user_id if user_id is None else user_id
        return usage(session_id=session_id, user_id=user_id, since=since, until=until, group_by=group_by)

    def add_feedback(
        self, session_id: str, on: StoredMessage | Turn, key: str, *, score: float | None = None,
        value: str | float | dict[str, Any] | None = None, comment: str | None = None,
    ) -> Feedback:  # fmt: skip
        """Store what somebody thought of a turn or of a message, and tell LangSmith, where the turn has a trace.

        Given again for the same turn or message and key, it replaces what was given before, in both. Where LangSmith
        cannot be told within a few seconds, the feedback is stored all the same, and sent with the next.

        Args:
            on: The message or the turn that is judged.
            key: What is judged: `"helpful"`, say.
            score: A number (or True and False).
            value: What is no number.
            comment: In the user's words.

        Raises:
            NotFound: The session has no such turn or message (any more).
            InvalidInput: An argument cannot be right.
        """
        found, unsent = self._do(self._add_feedback(session_id, on, key, score, value, comment))
        if not unsent or not (marks := self._langsmith.send(unsent)):
            return found
        try:
            self._do(feedback_sent(marks, user_id=self._user_id))
        except HistoryError:
            return found  # stored, and sent; it will be sent again, which changes nothing
        return _as_marked(found, marks)

    async def aadd_feedback(
        self, session_id: str, on: StoredMessage | Turn, key: str, *, score: float | None = None,
        value: str | float | dict[str, Any] | None = None, comment: str | None = None,
    ) -> Feedback:  # fmt: skip
        """Async version of add_feedback."""
        found, unsent = await self._ado(self._add_feedback(session_id, on, key, score, value, comment))
        if not unsent or not (marks := await asyncio.to_thread(self._langsmith.send, unsent)):
            return found
        try:
            await self._ado(feedback_sent(marks, user_id=self._user_id))
        except HistoryError:
            return found
        return _as_marked(found, marks)

    def _add_feedback(
        self, session_id: str, on: StoredMessage | Turn, key: str, score: float | None, value: Any, comment: str | None
    ) -> Call[tuple[Feedback, list[dict[str, Any]]]]:
        return add_feedback(session_id, on, key, score=score, value=value, comment=comment, user_id=self._user_id)

    def feedback(self, session_id: str, *, limit: int = 100, cursor: str | None = None) -> Page[Feedback]:
        """The feedback on a session, in the order it was first given, a page at a time.

        Args:
            limit: Items in a page, 1 to 1000.
            cursor: The `next_cursor` of the page before.
        """
        return self._do(list_feedback(session_id, user_id=self._user_id, limit=limit, cursor=cursor))

    async def afeedback(self, session_id: str, *, limit: int = 100, cursor: str | None = None) -> Page[Feedback]:
        """Async version of feedback."""
        return await self._ado(list_feedback(session_id, user_id=self._user_id, limit=limit, cursor=cursor))

    def trace_url(self, turn: Turn) -> str | None:
        """The address of a turn's trace in LangSmith, which is asked for it; None where the turn has no trace.

        Raises:
            NotFound: LangSmith has no such project or run (yet).
            Forbidden: It refuses the key.
            Unavailable: It cannot be reached.
        """
        return self._langsmith.trace_url(turn)

    async def atrace_url(self, turn: Turn) -> str | None:
        """Async version of trace_url."""
        return await asyncio.to_thread(self._langsmith.trace_url, turn)


def _as_marked(found: Feedback, marks: Sequence[Mapping[str, Any]]) -> Feedback:
    taken = any(mark["id"] == str(found.id) and not mark.get("refused") for mark in marks)
    return replace(found, sent_at=datetime.now(found.updated_at.tzinfo), unsent=False) if taken else found
