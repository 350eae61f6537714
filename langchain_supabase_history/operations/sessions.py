"""Sessions: list them, look at one, name and label it, clear it, delete it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from types import EllipsisType
from typing import Any, Final, Literal, TypedDict, Unpack, get_args

import orjson

from ..core.arguments import (
    MAX_PAGE,
    check_flag,
    check_id,
    check_keyset,
    check_metadata,
    check_tags,
    check_text,
    check_time,
    check_whole,
)
from ..core.call import Call, Function, Json, Plan
from ..core.rows import read_keyset_page, read_session
from ..errors import InvalidInput, NotFound
from ..records import Page, Session
from .base import Operations
from .scope import Scope

ERASE_BATCH: Final = 5000  # messages and turns that one call deletes: well within a try's seconds

MAX_QUERY: Final = 1000
MAX_TITLE: Final = 1000
Order = Literal["activity", "-activity", "created", "-created", "title"]

LIST_SESSIONS: Final = Function(
    "chat_history_list_sessions",
    {
        "tags": "text[]",
        "metadata": "json",
        "since": "timestamptz",
        "until": "timestamptz",
        "archived": "boolean",
        "after": "json",
        "max_items": "integer",
        "all_users": "boolean",
        "hidden": "boolean",
    },
)
UPDATE_SESSION: Final = Function("chat_history_update_session", {"changes": "json"})
GET_SESSION: Final = Function("chat_history_get_session")
CLEAR: Final = Function("chat_history_clear", {"request": "uuid"})
DELETE_SESSION: Final = Function("chat_history_delete_session", {"request": "uuid", "batch": "integer"})


class SessionFilter(TypedDict, total=False):
    """Which sessions; see `Sessions.sessions`."""

    tags: Sequence[str] | None
    metadata: dict[str, Any] | None
    since: datetime | None
    until: datetime | None
    archived: bool | None
    prefix: str | None


class SessionsOptions(SessionFilter, total=False):
    """The options of `sessions`; see there."""

    order: Order
    limit: int
    cursor: str | None
    all_users: bool
    hidden: bool


def list_sessions(
    scope: Scope,
    query: str | None = None,
    *,
    tags: Sequence[str] | None = None,
    metadata: dict[str, Any] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    archived: bool | None = False,
    prefix: str | None = None,
    order: Order = "activity",
    limit: int = 50,
    cursor: str | None = None,
    all_users: bool = False,
    hidden: bool = False,
) -> Plan[Page[Session]]:
    """See `Sessions.sessions`."""
    if not isinstance(order, str) or order not in get_args(Order):
        raise InvalidInput(f"order must be one of {', '.join(map(repr, get_args(Order)))}.")
    if check_flag(all_users, "all_users") and scope.user_id is not None:
        raise InvalidInput("This store is one user's: ask for all_users on the one that for_user was called on.")
    args = {
        "query": _part(query, "query"),
        "tags": None if tags is None else check_tags(tags),
        "metadata": None if metadata is None else Json(orjson.dumps(check_metadata(metadata))),
        "since": check_time(since, "since"),
        "until": check_time(until, "until"),
        "archived": None if archived is None else check_flag(archived, "archived"),
        "prefix": _part(prefix, "prefix"),
        "sort": order,
        "after": check_keyset(cursor, order),
        "max_items": check_whole(limit, "limit", 1, MAX_PAGE),
        "user_id": scope.user_id,
        "all_users": all_users or None,
        "hidden": check_flag(hidden, "hidden") or None,
    }
    page: Page[Session] = yield Call(LIST_SESSIONS, args, read_keyset_page(read_session, order))
    return page


def _part(value: str | None, name: str) -> str | None:
    """Part of a title or an id to look for; None, or an empty box, for no matter which."""
    return None if value is None or (isinstance(value, str) and not value) else check_text(value, name, MAX_QUERY)


class SessionChanges(TypedDict, total=False):
    """What `update_session` changes; see there."""

    title: str | None
    tags: Sequence[str]
    metadata: dict[str, Any]
    pinned: bool
    archived: bool


def update_session(
    scope: Scope,
    session_id: str,
    *,
    title: str | EllipsisType | None = ...,
    tags: Sequence[str] | EllipsisType = ...,
    metadata: dict[str, Any] | EllipsisType = ...,
    pinned: bool | EllipsisType = ...,
    archived: bool | EllipsisType = ...,
) -> Plan[Session]:
    """See `Sessions.update_session`."""
    changes: dict[str, Any] = {}
    if title is not ...:
        changes["title"] = None if title is None else check_text(title, "title", MAX_TITLE)
    if tags is not ...:
        changes["tags"] = check_tags(tags)
    if metadata is not ...:
        changes["metadata"] = check_metadata(metadata)
    if pinned is not ...:
        changes["pinned"] = check_flag(pinned, "pinned")
    if archived is not ...:
        changes["archived"] = check_flag(archived, "archived")
    args = {"session_id": check_id(session_id), "changes": Json(orjson.dumps(changes)), "user_id": scope.user_id}
    changed: Session = yield Call(UPDATE_SESSION, args, read_session)
    return changed


def get_session(scope: Scope, session_id: str) -> Plan[Session]:
    """See `Sessions.session`."""
    args = {"session_id": check_id(session_id), "user_id": scope.user_id}
    found: Session | None = yield Call(GET_SESSION, args, lambda row: None if row is None else read_session(row))
    if found is None:
        raise NotFound(f"There is no session {session_id[:100]!r}.")
    return found


def clear_call(scope: Scope, session_id: str) -> Call[int]:
    """The call of `chat_history_clear`. A retry is the same request, and hides nothing more."""
    args = {"session_id": check_id(session_id), "user_id": scope.user_id, "request": str(uuid.uuid4())}
    return Call(CLEAR, args, lambda reply: int(reply["cleared"]))


def clear(scope: Scope, session_id: str) -> Plan[int]:
    """See `Sessions.clear`."""
    cleared: int = yield clear_call(scope, session_id)
    return cleared


def delete_call(scope: Scope, session_id: str) -> Call[tuple[bool, bool]]:
    """The call of `chat_history_delete_session`: whether there was one, and whether there is more to delete.

    Executed again, it deletes what is left.
    """
    args = {
        "session_id": check_id(session_id),
        "user_id": scope.user_id,
        "request": str(uuid.uuid4()),
        "batch": ERASE_BATCH,
    }
    return Call(DELETE_SESSION, args, lambda reply: (bool(reply["deleted"]), bool(reply["more"])))


def delete_session(scope: Scope, session_id: str) -> Plan[bool]:
    """See `Sessions.delete_session`."""
    call = delete_call(scope, session_id)
    deleted, more = False, True
    while more:
        deleted, more = yield call
    return deleted


class Sessions(Operations):
    """The part of a store that lists and changes sessions as a whole."""

    def sessions(self, query: str | None = None, **options: Unpack[SessionsOptions]) -> Page[Session]:
        """The sessions of this store's user, or of the application itself, a page at a time.

        Deleted and cleared ones are left out, and those with neither a message nor a title. The orders by activity and
        creation read no more of many sessions than of few; the one by title reads all of them.

        Args:
            query: Part of the title or the session id, whatever its case and accents.
            tags: Tags that a session must have, all of them.
            metadata: What its metadata must contain.
            since: Last active at this time or later, with a time zone.
            until: Last active before this time, with a time zone.
            archived: False leaves archived ones out, True gives only these, None both; by default False.
            prefix: What the session id begins with.
            order: `activity` or `created`, the newest first; `-activity` or `-created`, the oldest first; or `title`.
            limit: Items in a page, 1 to 1000; by default 50.
            cursor: The `next_cursor` of the page before, of the same order.
            all_users: The sessions of everybody, which reads the whole table; for the application alone.
            hidden: Deleted, cleared and empty ones too, which reads all of the user's.

        Returns:
            A page of sessions.

        Raises:
            InvalidInput: An argument cannot be right, or this store is one user's and asks for all.
            Forbidden: Row level security, and `all_users`.
        """
        return self.run(list_sessions(self.scope, query, **options))

    async def asessions(self, query: str | None = None, **options: Unpack[SessionsOptions]) -> Page[Session]:
        """Async version of `sessions`."""
        return await self.arun(list_sessions(self.scope, query, **options))

    def update_session(self, session_id: str, **changes: Unpack[SessionChanges]) -> Session:
        """Change what is said about a session, and return it. What is left out stays as it is.

        Args:
            session_id: The session's name.
            title: 1 to 1000 characters; None for the first question again.
            tags: At most 100, of 1 to 200 characters, in place of those there are.
            metadata: Merged into what there is; a None removes its key. 64 KB as JSON at the most.
            pinned: For the application to sort by.
            archived: Whether `sessions` leaves it out.

        Returns:
            The session as it is now.

        Raises:
            NotFound: There is no such session, or it was deleted.
            InvalidInput: An argument cannot be right.
        """
        return self.run(update_session(self.scope, session_id, **changes))

    async def aupdate_session(self, session_id: str, **changes: Unpack[SessionChanges]) -> Session:
        """Async version of `update_session`."""
        return await self.arun(update_session(self.scope, session_id, **changes))

    def session(self, session_id: str) -> Session:
        """A session without its messages.

        Args:
            session_id: The session's name.

        Returns:
            The session.

        Raises:
            NotFound: There is none of this name (and user), or it was deleted.
        """
        return self.run(get_session(self.scope, session_id))

    async def asession(self, session_id: str) -> Session:
        """Async version of `session`."""
        return await self.arun(get_session(self.scope, session_id))

    def clear(self, session_id: str) -> int:
        """Hide all messages and turns of a session.

        Args:
            session_id: The session's name.

        Returns:
            How many messages were hidden; 0 where there is no such session.

        Raises:
            InvalidSession: The session's name cannot be right.
        """
        return self.run(clear(self.scope, session_id))

    async def aclear(self, session_id: str) -> int:
        """Async version of `clear`."""
        return await self.arun(clear(self.scope, session_id))

    def delete_session(self, session_id: str) -> bool:
        """Remove a session with all it holds. A write that arrives late does not bring it back.

        Args:
            session_id: The session's name.

        Returns:
            Whether there was such a session.

        Raises:
            InvalidSession: The session's name cannot be right.
        """
        return self.run(delete_session(self.scope, session_id))

    async def adelete_session(self, session_id: str) -> bool:
        """Async version of `delete_session`."""
        return await self.arun(delete_session(self.scope, session_id))
