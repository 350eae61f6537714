"""Messages: append them, load what the model should see, list what is stored."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypedDict, TypeVar, Unpack

import orjson
from langchain_core.messages import BaseMessage

from ..core.arguments import (
    MAX_PAGE,
    MessageLike,
    check_cursor,
    check_flag,
    check_id,
    check_messages,
    check_uuid,
    check_whole,
    message_ids,
    message_ids_of_key,
    turn_json,
)
from ..core.call import Call, Function, Json, Plan
from ..core.messages import Encoded, encode_message
from ..core.rows import read_loaded, read_loaded_rows, read_message, read_page
from ..core.window import Window
from ..errors import InvalidMessage, InvalidSession
from ..records import Loaded, Page, StoredMessage, Turn
from .base import Operations
from .scope import Scope

R = TypeVar("R")

WINDOW_TYPES: Final = {
    "max_messages": "integer",
    "max_turns": "integer",
    "max_tokens": "bigint",
    "keep_system": "boolean",
}
PAGE_TYPES: Final = {"after": "bigint", "max_items": "integer", "newest_first": "boolean"}

APPEND: Final = Function(
    "chat_history_append",
    {
        "ids": "uuid[]",
        "types": "text[]",
        "data": "json[]",
        "tokens": "integer[]",
        "turn": "json",
        "epoch": "integer",
        "replace": "boolean",
        "replay": "boolean",
        "whole": "boolean",
    },
)
LOAD: Final = Function("chat_history_load", {"after_position": "bigint", "known_revision": "bigint", **WINDOW_TYPES})
BEGIN: Final = Function("chat_history_begin", {"turn": "json", **WINDOW_TYPES})
LIST_MESSAGES: Final = Function("chat_history_list_messages", PAGE_TYPES)


# --- append -----------------------------------------------------------------------------------------------------------


class AppendOptions(TypedDict, total=False):
    """The options of `append`; see there."""

    ids: Sequence[uuid.UUID | str] | None
    idempotency_key: str | None
    turn: Turn | None
    epoch: int | None


def append_call(
    scope: Scope,
    session_id: str,
    messages: MessageLike | Sequence[MessageLike],
    *,
    ids: Sequence[uuid.UUID | str] | None = None,
    idempotency_key: str | None = None,
    turn: Turn | None = None,
    epoch: int | None = None,
    known_epoch: int | None = None,
    replace: bool = False,
    asked: bool = False,
    question: Sequence[tuple[uuid.UUID, BaseMessage]] | None = None,
    edited: Sequence[tuple[uuid.UUID, BaseMessage]] = (),
) -> Call[list[StoredMessage]]:
    """The call of `chat_history_append`. What of the messages cannot be stored as it was given is reported.

    Args:
        known_epoch: The session's epoch when its turn began: sent with the first try too, but no sign of a replay.
        replace: The messages take the place of all that there are.
        asked: The turn was begun and its question waits on it; the messages are the answer.
        question: Takes the place of the question that waits, which has changed meanwhile; with the same row ids.
        edited: Messages of the turn that have changed since they were stored, with their row ids.
    """
    messages = check_messages(messages)
    row_ids = _row_ids(len(messages), ids, idempotency_key)
    if epoch is not None:
        check_whole(epoch, "epoch", 0, 2**31 - 1)
    encoded = _encode(scope, messages, "output" if asked else "messages")
    new_ids = ids is None and idempotency_key is None
    more: dict[str, Any] = {"asked": True} if asked else {}
    if question is not None:
        more["question"] = _waiting(scope, [id for id, _ in question], [message for _, message in question])
    if edited:
        more["edited"] = _waiting(scope, [id for id, _ in edited], [message for _, message in edited])
    args = {
        "session_id": check_id(session_id),
        "ids": row_ids,
        "types": [message.type for message in encoded],
        "data": [Json(message.data) for message in encoded],
        "tokens": [message.tokens for message in encoded],
        "turn": None if turn is None else turn_json(turn, **more),
        "user_id": scope.user_id,
        "epoch": known_epoch if epoch is None else epoch,
        "replace": replace or None,
        "replay": True if epoch is not None else False if new_ids else None,
        "whole": True if idempotency_key is not None else None,
    }
    return Call(APPEND, args, _reader_of_append(row_ids, messages), replay_args={"replay": True})


def _row_ids(count: int, ids: Sequence[uuid.UUID | str] | None, idempotency_key: str | None) -> list[uuid.UUID]:
    if ids is None:
        return message_ids(count) if idempotency_key is None else message_ids_of_key(count, idempotency_key)
    if idempotency_key is not None:
        raise InvalidMessage("Give ids or idempotency_key, not both.")
    if isinstance(ids, str) or not isinstance(ids, Sequence) or len(ids) != count:
        raise InvalidMessage("ids must have one UUID for each message.")
    return [check_uuid(id, "ids") for id in ids]


def _encode(scope: Scope, messages: Sequence[BaseMessage], name: str) -> list[Encoded]:
    encoded = [
        encode_message(message, f"{name}[{n}]", scope.max_message_bytes, scope.count_tokens)
        for n, message in enumerate(messages)
    ]
    scope.report_warnings([warning for message in encoded for warning in message.warnings], messages)
    return encoded


def _reader_of_append(
    row_ids: Sequence[uuid.UUID], messages: Sequence[BaseMessage]
) -> Callable[[Any], list[StoredMessage]]:
    def parse(reply: Any) -> list[StoredMessage]:
        # The new ones are the last of all: a question that waited on its turn has come in front of them.
        known = {row["id"]: row for row in reply["known"]}
        position = reply["last_position"] - len(row_ids) + len(known)
        at = datetime.fromisoformat(reply["created_at"])
        turn_id = uuid.UUID(reply["turn_id"]) if reply["turn_id"] else uuid.UUID(int=0)
        stored = []
        for id, message in zip(row_ids, messages, strict=True):
            if known and (row := known.get(str(id))):
                stored.append(read_message(row, message))
            else:
                position += 1
                stored.append(StoredMessage(id, position, at, turn_id, message))
        return stored

    return parse


def append(
    scope: Scope, session_id: str, messages: MessageLike | Sequence[MessageLike], **options: Unpack[AppendOptions]
) -> Plan[list[StoredMessage]]:
    """See `Messages.append`."""
    call = append_call(scope, session_id, messages, **options)
    if not messages and not options.get("turn"):
        return []
    stored: list[StoredMessage] = yield call
    return stored


# --- load -------------------------------------------------------------------------------------------------------------


def load_call(
    scope: Scope,
    session_id: str,
    window: Window | None = None,
    *,
    after_position: int | None = None,
    known_revision: int | None = None,
) -> Call[Loaded]:
    """The call of `chat_history_load`: by default with the scope's window."""
    args = {
        "session_id": check_id(session_id),
        "user_id": scope.user_id,
        "after_position": after_position,
        "known_revision": known_revision,
        **_window_arguments(scope.window if window is None else window),
    }
    return Call(LOAD, args, read_loaded, read_loaded_rows)


def begin_call(
    scope: Scope,
    session_id: str,
    question: Sequence[BaseMessage],
    turn: Turn,
    *,
    ids: Sequence[uuid.UUID] | None = None,
) -> Call[Loaded]:
    """The call of `chat_history_begin`: load a session, and leave the question with the turn until it is answered."""
    waiting = _waiting(scope, message_ids(len(question)) if ids is None else ids, question)
    args = {
        "session_id": check_id(session_id),
        "user_id": scope.user_id,
        "turn": turn_json(turn, question=waiting),
        **_window_arguments(scope.window),
    }
    return Call(BEGIN, args, read_loaded, read_loaded_rows)


def _waiting(scope: Scope, ids: Sequence[uuid.UUID], question: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    return [
        {"id": str(id), "type": message.type, "data": orjson.Fragment(message.data), "tokens": message.tokens}
        for id, message in zip(ids, _encode(scope, question, "input"), strict=True)
    ]


def _window_arguments(window: Window | None) -> dict[str, Any]:
    if window is None:
        return {}
    if not isinstance(window, Window):
        raise InvalidSession(f"window must be a Window, got {type(window).__name__}.")
    return {
        "max_messages": window.messages,
        "max_turns": window.turns,
        "max_tokens": window.tokens,
        "keep_system": window.keep_system,
    }


def load(scope: Scope, session_id: str, window: Window | None = None) -> Plan[list[BaseMessage]]:
    """See `Messages.load`."""
    loaded: Loaded = yield load_call(scope, session_id, window)
    return loaded.messages


# --- list -------------------------------------------------------------------------------------------------------------


class PageOptions(TypedDict, total=False):
    """The options of a listing within a session; see `Messages.messages`."""

    limit: int
    cursor: str | None
    newest_first: bool


def page_arguments(
    scope: Scope, session_id: str, *, limit: int = 100, cursor: str | None = None, newest_first: bool = False
) -> dict[str, Any]:
    """The arguments of a listing within a session."""
    return {
        "session_id": check_id(session_id),
        "user_id": scope.user_id,
        "after": check_cursor(cursor),
        "max_items": check_whole(limit, "limit", 1, 2**31 - 1),
        "newest_first": check_flag(newest_first, "newest_first"),
    }


def listing(function: Function, args: dict[str, Any], read: Callable[[dict[str, Any]], R]) -> Plan[Page[R]]:
    """A page of a listing within a session, in as many calls as its limit needs."""
    items: list[R] = []
    limit = args["max_items"]
    while True:
        args = {**args, "max_items": min(limit - len(items), MAX_PAGE)}
        page: Page[R] = yield Call(function, args, read_page(read))
        items.extend(page.items)
        if page.next_cursor is None or len(items) >= limit:
            return Page(items, page.next_cursor)
        args["after"] = check_cursor(page.next_cursor)


def list_messages(scope: Scope, session_id: str, **options: Unpack[PageOptions]) -> Plan[Page[StoredMessage]]:
    """See `Messages.messages`."""
    return (yield from listing(LIST_MESSAGES, page_arguments(scope, session_id, **options), read_message))


class Messages(Operations):
    """The part of a store that writes and reads messages."""

    def append(
        self, session_id: str, messages: MessageLike | Sequence[MessageLike], **options: Unpack[AppendOptions]
    ) -> list[StoredMessage]:
        """Append messages to a session, all or none, in one run of positions, each exactly once.

        A retry inside stores nothing twice, nor does a call repeated with the same `ids` or `idempotency_key`: it is
        answered like the first. Without either, equal messages are stored again, as a list would.

        Args:
            session_id: The session's name; it is made where there is none.
            messages: The messages, in order; or one. A pair `(role, content)` and a dictionary `{"role": ...,
                "content": ...}` are taken for the message that LangChain makes of them.
            ids: A row id for each message.
            idempotency_key: The application's name for this append (a request id, say), from which the ids are made.
                Sent again it must come with the same messages.
            turn: The turn they belong to. Without one, messages that begin with a human one open a turn, others join
                the session's last.
            epoch: The session's epoch as last seen; new messages are refused where it has been raised since.

        Returns:
            The messages as they are stored, in order. Empty where an outbox has kept them to send them later.

        Raises:
            InvalidMessage: A message cannot be stored; the text names it and its field.
            Conflict: A known id with other content, the same id twice, or an older epoch.
        """
        return self.run(append(self.scope, session_id, messages, **options))

    async def aappend(
        self, session_id: str, messages: MessageLike | Sequence[MessageLike], **options: Unpack[AppendOptions]
    ) -> list[StoredMessage]:
        """Async version of `append`."""
        return await self.arun(append(self.scope, session_id, messages, **options))

    def load(self, session_id: str, window: Window | None = None) -> list[BaseMessage]:
        """What the model should see of a session: its messages in order, none where there is no such session.

        Failed turns are left out, and what providers refuse: calls without a result, say, and what belongs to them.

        Args:
            session_id: The session's name.
            window: How much of it; by default this store's window, else all.

        Returns:
            The messages, in order; empty where there is no such session.

        Raises:
            InvalidSession: The session's name or the window cannot be right.
        """
        return self.run(load(self.scope, session_id, window))

    async def aload(self, session_id: str, window: Window | None = None) -> list[BaseMessage]:
        """Async version of `load`."""
        return await self.arun(load(self.scope, session_id, window))

    def messages(self, session_id: str, **options: Unpack[PageOptions]) -> Page[StoredMessage]:
        """What is stored of a session, failed turns included, a page at a time.

        Args:
            session_id: The session's name.
            limit: Items in a page; by default 100. More than 1000 take a call for each 1000.
            cursor: The `next_cursor` of the page before.
            newest_first: Whether to begin at the end.

        Returns:
            A page; empty where there is no such session.

        Raises:
            InvalidInput: An argument cannot be right.
        """
        return self.run(list_messages(self.scope, session_id, **options))

    async def amessages(self, session_id: str, **options: Unpack[PageOptions]) -> Page[StoredMessage]:
        """Async version of `messages`."""
        return await self.arun(list_messages(self.scope, session_id, **options))
