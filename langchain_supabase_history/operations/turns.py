"""Turns: list them, and mark those whose process was lost."""

from __future__ import annotations

from typing import Final, Unpack

from ..core.arguments import LONGEST_SECONDS, check_id, check_number
from ..core.call import Call, Function, Plan
from ..core.rows import read_turn
from ..records import Page, Turn
from .base import Operations
from .messages import PAGE_TYPES, PageOptions, listing, page_arguments
from .scope import Scope

LIST_TURNS: Final = Function("chat_history_list_turns", PAGE_TYPES)
INTERRUPT_TURNS: Final = Function("chat_history_interrupt_turns", {"older_than": "double precision"})


def list_turns(scope: Scope, session_id: str, **options: Unpack[PageOptions]) -> Plan[Page[Turn]]:
    """See `Turns.turns`."""
    return (yield from listing(LIST_TURNS, page_arguments(scope, session_id, **options), read_turn))


def interrupt_turns(scope: Scope, session_id: str, older_than: float) -> Plan[int]:
    """See `Turns.interrupt_turns`."""
    args = {
        "session_id": check_id(session_id),
        "older_than": min(check_number(older_than, "older_than", 0), LONGEST_SECONDS),
        "user_id": scope.user_id,
    }
    interrupted: int = yield Call(INTERRUPT_TURNS, args, lambda reply: int(reply["interrupted"]))
    return interrupted


class Turns(Operations):
    """The part of a store that lists turns."""

    def turns(self, session_id: str, **options: Unpack[PageOptions]) -> Page[Turn]:
        """The turns of a session, failed ones included, a page at a time.

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
        return self.run(list_turns(self.scope, session_id, **options))

    async def aturns(self, session_id: str, **options: Unpack[PageOptions]) -> Page[Turn]:
        """Async version of `turns`."""
        return await self.arun(list_turns(self.scope, session_id, **options))

    def interrupt_turns(self, session_id: str, *, older_than: float) -> int:
        """Mark turns whose process was lost as interrupted, and count them.

        Only their status changes: the question stays on the turn, and a late answer still completes it.

        Args:
            session_id: The session's name.
            older_than: Seconds: turns that have been running for longer are marked.

        Returns:
            How many were marked.

        Raises:
            InvalidInput: An argument cannot be right.
        """
        return self.run(interrupt_turns(self.scope, session_id, older_than))

    async def ainterrupt_turns(self, session_id: str, *, older_than: float) -> int:
        """Async version of `interrupt_turns`."""
        return await self.arun(interrupt_turns(self.scope, session_id, older_than))
