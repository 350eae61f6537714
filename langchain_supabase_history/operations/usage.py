"""Usage: what turns used, and what LangSmith says they cost."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypedDict, Unpack

import orjson

from ..core.arguments import check_optional_id, check_time
from ..core.call import Call, Function, Json, Plan
from ..core.rows import read_usage
from ..errors import InvalidInput
from ..records import Usage
from .base import Operations
from .scope import Scope

GROUPS: Final = ("session", "user", "model", "day")
UNCOSTED_PAGE: Final = 500

_FILTER_TYPES: Final = {"since": "timestamptz", "until": "timestamptz"}
USAGE: Final = Function("chat_history_usage", {**_FILTER_TYPES, "group_by": "text[]"})
UNCOSTED_TURNS: Final = Function(
    "chat_history_uncosted_turns", {**_FILTER_TYPES, "after_turn": "uuid", "max_items": "integer"}
)
SET_COSTS: Final = Function("chat_history_set_costs", {"costs": "json"})


class UsageFilter(TypedDict, total=False):
    """Which turns; see `UsageOperations.usage`."""

    session_id: str | None
    user_id: str | None
    since: datetime | None
    until: datetime | None


class UsageOptions(UsageFilter, total=False):
    """The options of `usage`; see there."""

    group_by: str | Sequence[str]


def _filter_arguments(
    scope: Scope,
    *,
    session_id: str | None = None,
    user_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> dict[str, Any]:
    return {
        "session_id": check_optional_id(session_id, "session_id"),
        "user_id": check_optional_id(scope.user_or_own(user_id), "user_id"),
        "since": check_time(since, "since"),
        "until": check_time(until, "until"),
    }


def usage(scope: Scope, group_by: str | Sequence[str] = (), **which: Unpack[UsageFilter]) -> Plan[list[Usage]]:
    """See `UsageOperations.usage`."""
    groups = [group_by] if isinstance(group_by, str) else group_by
    if not isinstance(groups, Sequence) or not all(isinstance(group, str) and group in GROUPS for group in groups):
        raise InvalidInput(f"group_by must be one or some of {', '.join(map(repr, GROUPS))}.")
    args = {**_filter_arguments(scope, **which), "group_by": list(groups)}
    found: list[Usage] = yield Call(USAGE, args, lambda reply: [read_usage(row) for row in reply])
    if not found and not groups:
        return [Usage(0, 0, 0, None, None, None, None)]
    return found


def uncosted_turns(
    scope: Scope, after: uuid.UUID | None = None, **which: Unpack[UsageFilter]
) -> Plan[list[dict[str, Any]]]:
    """A page of the turns with a trace and without a cost, after the turn with this id."""
    args = {
        **_filter_arguments(scope, **which),
        "after_turn": None if after is None else str(after),
        "max_items": UNCOSTED_PAGE,
    }
    rows: list[dict[str, Any]] = yield Call(UNCOSTED_TURNS, args, list)
    return rows


def set_costs(scope: Scope, costs: Sequence[Mapping[str, Any]]) -> Plan[int]:
    """Store what turns cost, in US dollars, and return for how many."""
    args = {"costs": Json(orjson.dumps(list(costs))), "user_id": scope.user_id}
    written: int = yield Call(SET_COSTS, args, lambda reply: int(reply["set"]))
    return written


class UsageOperations(Operations):
    """The part of a store that says what turns used."""

    def usage(self, **options: Unpack[UsageOptions]) -> list[Usage]:
        """What turns used: one `Usage` for each group, or one for all.

        Failed and cleared turns count, for their tokens were spent; deleted ones are gone. Cost is LangSmith's own
        figure, where it has been asked for (`langchain-supabase-history usage --with-langsmith`, or a restore).

        Args:
            session_id: Of one session.
            user_id: Of one user's sessions; by default this store's user, else all that the database shows.
            since: From this time on, with a time zone.
            until: Up to, but without, this time, with a time zone.
            group_by: One or some of `session`, `user`, `model`, `day` (in UTC).

        Returns:
            A `Usage` for each group; without `group_by`, one.

        Raises:
            InvalidInput: An argument cannot be right, or this store is another user's.
        """
        return self.run(usage(self.scope, **options))

    async def ausage(self, **options: Unpack[UsageOptions]) -> list[Usage]:
        """Async version of `usage`."""
        return await self.arun(usage(self.scope, **options))
