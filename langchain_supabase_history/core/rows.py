"""Rows that the database answers with, as records."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import date, datetime
from typing import Any, TypeVar

from langchain_core.messages import BaseMessage

from ..records import (
    Alternative,
    Feedback,
    Loaded,
    Page,
    SearchHit,
    Session,
    StoredMessage,
    Turn,
    Usage,
)
from . import messages as codec, values
from .arguments import TURN_JSON, keyset_cursor
from .repair import without_unanswered_calls

R = TypeVar("R")


def read_time(text: str | None) -> datetime | None:
    """A time of the database's."""
    return None if text is None else datetime.fromisoformat(text)


def fields_of(cls: type[Any], row: dict[str, Any]) -> dict[str, Any]:
    """The entries of a row that the record has; a newer schema may give more."""
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in row.items() if name in names}


def read_session(row: dict[str, Any]) -> Session:
    """A session's row."""
    times = {name: read_time(row.get(name)) for name in ("created_at", "updated_at", "deleted_at")}
    return Session(**fields_of(Session, {**row, **times, "metadata": values.decode(row["metadata"] or {})}))


def read_turn(row: dict[str, Any]) -> Turn:
    """A turn's row."""
    times = {name: read_time(row[name]) for name in ("started_at", "ended_at", "created_at")}
    jsons = {name: values.decode(row[name]) for name in TURN_JSON}
    waiting = row["question"] if isinstance(row["question"], list) else ()
    question = [
        codec.decode_or_wrap(message["type"], message.get("data"))
        for message in waiting
        if isinstance(message, dict) and isinstance(message.get("type"), str)
    ]
    read = {**times, **jsons, "id": uuid.UUID(row["id"]), "metadata": jsons["metadata"] or {}, "question": question}
    if row["total_cost"] is not None:
        read["total_cost"] = float(row["total_cost"])
    return Turn(**fields_of(Turn, row | read))


def read_message(row: dict[str, Any], message: BaseMessage | None = None) -> StoredMessage:
    """A message's row; with `message`, of one whose content the caller has."""
    return StoredMessage(
        id=uuid.UUID(row["id"]),
        position=row["position"],
        created_at=datetime.fromisoformat(row["created_at"]),
        turn_id=uuid.UUID(row["turn_id"]),
        message=message if message is not None else codec.decode_or_wrap(row["type"], row["data"]),
    )


def read_messages(reply: Any) -> list[StoredMessage]:
    """Messages' rows, all at once."""
    return [read_message(row) for row in reply["items"] or ()]


def read_hit(row: dict[str, Any]) -> SearchHit:
    """A row of what a search has found."""
    found = row["found"]
    return SearchHit(
        session_id=row["session_id"],
        user_id=row["user_id"],
        title=row["title"],
        message=read_message(row["message"]),
        excerpt=found["excerpt"],
        score=float(row["score"]),
        marks=[(start, end) for start, end in found["marks"]],
    )


def read_alternative(row: dict[str, Any]) -> Alternative:
    """An alternative's row."""
    follows = None if row["follows"] is None else uuid.UUID(row["follows"])
    created_at = datetime.fromisoformat(row["created_at"])
    read = {"id": uuid.UUID(row["id"]), "created_at": created_at, "follows": follows}
    return Alternative(**fields_of(Alternative, row | read))


def read_feedback(row: dict[str, Any]) -> Feedback:
    """A row of feedback."""
    wrapped = row["value"] or {}
    return Feedback(
        id=uuid.UUID(row["id"]),
        turn_id=uuid.UUID(row["turn_id"]),
        message_id=uuid.UUID(row["message_id"]) if row["message_id"] else None,
        key=row["key"],
        score=None if row["score"] is None else float(row["score"]),
        value=values.decode(wrapped.get("value")),
        comment=row["comment"],
        created_at=datetime.fromisoformat(row["created_at"]),
        updated_at=datetime.fromisoformat(row["updated_at"]),
        sent_at=read_time(row["sent_at"]),
        unsent=row["unsent"],
    )


def read_usage(row: dict[str, Any]) -> Usage:
    """A row of usage."""
    day = None if row["day"] is None else date.fromisoformat(row["day"])
    cost = None if row["total_cost"] is None else float(row["total_cost"])
    return Usage(**{**fields_of(Usage, row), "day": day, "total_cost": cost})


def read_keyset_page(item: Callable[[dict[str, Any]], R], order: str) -> Callable[[Any], Page[R]]:
    """Reads a page of a listing by `order`, whose cursor is a place in that order."""

    def parse(reply: Any) -> Page[R]:
        following = reply["next"]
        cursor = None if following is None else keyset_cursor(order, following)
        return Page([item(row) for row in reply["items"]], cursor)

    return parse


def read_page(item: Callable[[dict[str, Any]], R]) -> Callable[[Any], Page[R]]:
    """Reads a page whose items `item` reads."""

    def parse(reply: Any) -> Page[R]:
        following = reply["next"]
        return Page([item(row) for row in reply["items"]], None if following is None else str(following))

    return parse


def read_loaded(reply: Any) -> Loaded:
    """What `chat_history_load` answers."""
    return _loaded(reply["header"], *codec.decode_items(reply["messages"]))


def read_loaded_rows(rows: Sequence[tuple[Any, ...]]) -> Loaded:
    """What `chat_history_load_rows` answers: the header's row, then the messages'."""
    return _loaded(values.loads(rows[0][1]), *codec.decode_rows(rows[1:]))


def _loaded(header: dict[str, Any], found: list[BaseMessage], unreadable: int) -> Loaded:
    shown = without_unanswered_calls(found)
    return Loaded(shown, header["epoch"], header["revision"], header["last_position"], unreadable, found)
