"""Search: messages by their words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypedDict, Unpack

from ..core.arguments import (
    MAX_PAGE,
    check_keyset,
    check_optional_id,
    check_text,
    check_time,
    check_whole,
)
from ..core.call import Call, Function, Plan
from ..core.rows import read_hit, read_keyset_page
from ..errors import InvalidInput
from ..records import Page, SearchHit
from .base import Operations
from .scope import Scope

MAX_QUERY: Final = 1000
MAX_TYPE: Final = 100

SEARCH: Final = Function(
    "chat_history_search",
    {
        "types": "text[]",
        "since": "timestamptz",
        "until": "timestamptz",
        "after": "json",
        "max_items": "integer",
    },
)


class SearchOptions(TypedDict, total=False):
    """The options of `search`; see there."""

    session_id: str | None
    types: Sequence[str]
    since: datetime | None
    until: datetime | None
    limit: int
    cursor: str | None


def search(
    scope: Scope,
    query: str,
    *,
    session_id: str | None = None,
    types: Sequence[str] = ("human", "ai"),
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 20,
    cursor: str | None = None,
) -> Plan[Page[SearchHit]]:
    """See `Search.search`."""
    if not check_text(query, "query", MAX_QUERY).strip():
        raise InvalidInput("query must not be blank.")
    if isinstance(types, str) or not isinstance(types, Sequence) or not types:
        raise InvalidInput('types must be a list of message types, such as ["human", "ai", "tool"].')
    args = {
        "query": query,
        "session_id": check_optional_id(session_id, "session_id"),
        "types": [check_text(kind, "a type", MAX_TYPE) for kind in types],
        "since": check_time(since, "since"),
        "until": check_time(until, "until"),
        "max_items": check_whole(limit, "limit", 1, MAX_PAGE),
        "after": check_keyset(cursor, "score", ("score", "position")),
        "user_id": scope.user_id,
    }
    page: Page[SearchHit] = yield Call(SEARCH, args, read_keyset_page(read_hit, "score"))
    return page


class Search(Operations):
    """The part of a store that searches."""

    def search(self, query: str, **options: Unpack[SearchOptions]) -> Page[SearchHit]:
        """Find messages of this store's user, or of the application itself, by their words, a page at a time.

        All words must be in one message, whatever their case and accents, in any form that the language knows which
        `migrate --search` was given; of the last one the beginning is enough. In scripts without spaces between words
        it is the text itself that is looked for. The best come first, then the newest; of more than 1,000 that are
        found, the newest 1,000 are compared. Only text is searched, no images or tool calls.

        Args:
            query: 1 to 1000 characters.
            session_id: Only in this session.
            types: Of messages; by default human and ai.
            since: Stored at this time or later, with a time zone.
            until: Stored before this time, with a time zone.
            limit: Items in a page, 1 to 1000; by default 20.
            cursor: The `next_cursor` of the page before, of the same search.

        Returns:
            A page of what was found.

        Raises:
            InvalidInput: An argument cannot be right.
            StatementTimeout: There are many messages and no index: run `migrate --search`.
        """
        return self.run(search(self.scope, query, **options))

    async def asearch(self, query: str, **options: Unpack[SearchOptions]) -> Page[SearchHit]:
        """Async version of `search`."""
        return await self.arun(search(self.scope, query, **options))
