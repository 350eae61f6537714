"""Handover: a conversation, or all of a user's, becomes another user's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, TypedDict, Unpack

from ..core.arguments import check_flag, check_id
from ..core.call import Call, Function, Plan
from ..errors import InvalidInput
from ..records import Reassigned
from .base import Operations
from .scope import Scope

REASSIGN: Final = Function("chat_history_reassign", {"dry_run": "boolean", "batch": "integer", "after_session": "uuid"})


class ReassignOptions(TypedDict, total=False):
    """The options of `reassign_session` and `reassign_user`; see there."""

    dry_run: bool


def _reassign(
    from_user_id: str | None, to_user_id: str, dry_run: bool, session_id: str | None = None
) -> Plan[Reassigned]:
    if check_id(to_user_id, "to_user_id") == from_user_id:
        raise InvalidInput("to_user_id must be another user.")
    args: dict[str, Any] = {
        "to_user_id": to_user_id,
        "from_user_id": from_user_id,
        "session_id": session_id,
        "dry_run": check_flag(dry_run, "dry_run"),
    }
    total, after = Reassigned(0, 0, 0, dry_run), None
    while True:
        reply = yield Call(REASSIGN, {**args, "after_session": after}, lambda reply: reply)
        total = replace(
            total,
            sessions=total.sessions + reply["sessions"],
            messages=total.messages + reply["messages"],
            renamed=total.renamed + reply["renamed"],
        )
        after = reply["next"]
        if after is None:
            return total


def reassign_session(scope: Scope, session_id: str, to_user_id: str, *, dry_run: bool = False) -> Plan[Reassigned]:
    """See `Handover.reassign_session`."""
    return (yield from _reassign(scope.user_id, to_user_id, dry_run, check_id(session_id)))


def reassign_user(scope: Scope, from_user_id: str, to_user_id: str, *, dry_run: bool = False) -> Plan[Reassigned]:
    """See `Handover.reassign_user`."""
    scope.user_or_own(check_id(from_user_id, "from_user_id"))
    return (yield from _reassign(from_user_id, to_user_id, dry_run))


class Handover(Operations):
    """The part of a store that hands conversations over. Only the application itself may, no signed-in user."""

    def reassign_session(self, session_id: str, to_user_id: str, **options: Unpack[ReassignOptions]) -> Reassigned:
        """Hand a session of this store's user, or of the application itself, over to another user.

        It is copied with its turns, feedback, alternatives and shares, and deleted here, in one transaction. What is
        written to it afterwards is the first user's again, and can be handed over by calling this again; what carries
        an older epoch is refused. Where there is nothing to hand over, nothing happens.

        Args:
            session_id: The session's name. It keeps it; where the other user has one of that name, it gets a suffix.
            to_user_id: The other user.
            dry_run: Change nothing, and return what would be handed over; by default False.

        Returns:
            How much was handed over.

        Raises:
            InvalidInput: An argument cannot be right.
            Forbidden: Row level security applies.
        """
        return self.run(reassign_session(self.scope, session_id, to_user_id, **options))

    async def areassign_session(
        self, session_id: str, to_user_id: str, **options: Unpack[ReassignOptions]
    ) -> Reassigned:
        """Async version of `reassign_session`."""
        return await self.arun(reassign_session(self.scope, session_id, to_user_id, **options))

    def reassign_user(self, from_user_id: str, to_user_id: str, **options: Unpack[ReassignOptions]) -> Reassigned:
        """Hand all sessions of a user over to another, as `reassign_session` does: a guest who signs in to an account.

        Some sessions make one transaction. Should this be interrupted, or the guest have written more meanwhile, call
        it again.

        Args:
            from_user_id: Whose sessions.
            to_user_id: The other user.
            dry_run: Change nothing, and return what would be handed over; by default False.

        Returns:
            How much was handed over, of all sessions together.

        Raises:
            InvalidInput: An argument cannot be right, or this store is another user's.
            Forbidden: Row level security applies.
        """
        return self.run(reassign_user(self.scope, from_user_id, to_user_id, **options))

    async def areassign_user(
        self, from_user_id: str, to_user_id: str, **options: Unpack[ReassignOptions]
    ) -> Reassigned:
        """Async version of `reassign_user`."""
        return await self.arun(reassign_user(self.scope, from_user_id, to_user_id, **options))
