"""Retention: remove what need not be kept, and all that there is of one person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, TypedDict, Unpack

from ..core.arguments import check_callable, check_flag, check_id, check_whole
from ..core.call import Call, Function, Plan
from ..errors import InvalidInput
from ..records import Pruned
from .base import Operations
from .scope import Scope

BATCH: Final = 500
MAX_BATCH: Final = 10_000
_LONGEST_IDLE: Final = timedelta(days=365_000)

PRUNE: Final = Function(
    "chat_history_prune",
    {
        "idle_for": "interval",
        "keep_messages": "integer",
        "dry_run": "boolean",
        "batch": "integer",
        "after_session": "uuid",
    },
)
DELETE_USER: Final = Function("chat_history_delete_user", {"batch": "integer"})


class PruneOptions(TypedDict, total=False):
    """The options of `prune`; see there."""

    idle: timedelta | None
    keep_messages: int | None
    dry_run: bool
    batch: int
    progress: Callable[[Pruned], None] | None


def prune(
    scope: Scope,
    *,
    idle: timedelta | None = None,
    keep_messages: int | None = None,
    dry_run: bool = True,
    batch: int = BATCH,
    progress: Callable[[Pruned], None] | None = None,
) -> Plan[Pruned]:
    """See `Retention.prune`."""
    check_callable(progress, "progress")
    if idle is not None and (not isinstance(idle, timedelta) or not timedelta(0) < idle <= _LONGEST_IDLE):
        raise InvalidInput("idle must be a timedelta above 0: timedelta(days=90), say.")
    args: dict[str, Any] = {
        "idle_for": None if idle is None else f"{idle.total_seconds():f} seconds",
        "keep_messages": None if keep_messages is None else check_whole(keep_messages, "keep_messages", 1, 2**31 - 1),
        "dry_run": check_flag(dry_run, "dry_run"),
        "batch": check_whole(batch, "batch", 1, MAX_BATCH),
        "user_id": scope.user_id,
    }
    total, after = Pruned(0, 0, 0, 0, 0, dry_run), None
    while True:
        reply = yield Call(PRUNE, {**args, "after_session": after}, lambda reply: reply)
        total, after = _sum(total, reply), reply["next"]
        if progress is not None:
            progress(total)
        if after is None:
            return total


def delete_user(scope: Scope, user_id: str, *, batch: int = BATCH) -> Plan[Pruned]:
    """See `Retention.delete_user`."""
    scope.user_or_own(user_id)
    args = {"user_id": check_id(user_id, "user_id"), "batch": check_whole(batch, "batch", 1, MAX_BATCH)}
    total, more = Pruned(0, 0, 0, 0, 0), True
    while more:
        reply = yield Call(DELETE_USER, args, lambda reply: reply)
        total, more = _sum(total, reply), reply["more"]
    return total


def _sum(total: Pruned, reply: Any) -> Pruned:
    return replace(
        total,
        sessions=total.sessions + reply["sessions"],
        trimmed=total.trimmed + reply.get("trimmed", 0),
        messages=total.messages + reply["messages"],
        turns=total.turns + reply["turns"],
        feedback=total.feedback + reply["feedback"],
    )


class Retention(Operations):
    """The part of a store that removes what need not be kept. Each batch is one short transaction."""

    def prune(self, **options: Unpack[PruneOptions]) -> Pruned:
        """Remove for good what need not be kept; by default nothing is removed, and the numbers are returned.

        What `clear` has hidden always goes. Sessions of this store's user, else all that the database shows. Sessions
        that are being written to are passed over, and pruned the next time.

        Args:
            idle: Delete sessions without a write for so long.
            keep_messages: Remove all but so many of the newest messages of each session, and their turns. The turn that
                the oldest of them belongs to stays whole, unless that keeps more than as many again. A retry of a turn
                that began before and was not stored yet is refused afterwards, as after `clear`.
            dry_run: Change nothing, and return what would be removed; by default True.
            batch: How much one transaction removes at most, in sessions, messages and turns together; up to 10,000,
                by default 500.
            progress: Called after each batch with the sum so far.

        Returns:
            The sums over all batches.

        Raises:
            InvalidInput: An argument cannot be right.
        """
        return self.run(prune(self.scope, **options))

    async def aprune(self, **options: Unpack[PruneOptions]) -> Pruned:
        """Async version of `prune`."""
        return await self.arun(prune(self.scope, **options))

    def delete_user(self, user_id: str, *, batch: int = BATCH) -> Pruned:
        """Remove all that is stored of one person.

        Of each session a row without content stays (ids, times and counters), so that nothing that was still on
        its way comes back. Should this be interrupted, call it again.

        Args:
            user_id: The person.
            batch: How much one transaction removes at most, in sessions, messages and turns together; up to 10,000.

        Returns:
            The sums over all batches.

        Raises:
            InvalidInput: The user id cannot be right, or this store is another user's.
            Forbidden: Row level security: it is another user than the one who is signed in.
        """
        return self.run(delete_user(self.scope, user_id, batch=batch))

    async def adelete_user(self, user_id: str, *, batch: int = BATCH) -> Pruned:
        """Async version of `delete_user`."""
        return await self.arun(delete_user(self.scope, user_id, batch=batch))
