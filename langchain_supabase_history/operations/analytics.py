"""Analytics: how an application is used, for its owner."""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypedDict, Unpack

from ..core.analytics import Analytics, read_analytics
from ..core.arguments import check_optional_id, check_text, check_time, check_whole
from ..core.call import Call, Function
from .base import Operations
from .scope import Scope

ANALYTICS: Final = Function(
    "chat_history_analytics", {"since": "timestamptz", "until": "timestamptz", "max_documents": "integer"}
)


class AnalyticsOptions(TypedDict, total=False):
    """The options of `analytics`; see there."""

    since: datetime | None
    until: datetime | None
    time_zone: str
    user_id: str | None
    documents: int


def analytics_call(
    scope: Scope,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    time_zone: str = "UTC",
    user_id: str | None = None,
    documents: int = 20,
) -> Call[Analytics]:
    """See `AnalyticsOperations.analytics`."""
    args = {
        "since": check_time(since, "since"),
        "until": check_time(until, "until"),
        "time_zone": check_text(time_zone, "time_zone", 100),
        "max_documents": check_whole(documents, "documents", 0, 1000),
        "user_id": check_optional_id(scope.user_or_own(user_id), "user_id"),
    }
    return Call(ANALYTICS, args, read_analytics)


class AnalyticsOperations(Operations):
    """The part of a store that says how the application is used."""

    def analytics(self, **options: Unpack[AnalyticsOptions]) -> Analytics:
        """How the application is used: altogether, by day and by model, with feedback and the most used documents.

        Turns count as in `usage`: those of failed turns and cleared conversations too, copies of a fork not. It is
        computed by the database, which reads all turns of the time asked for.

        Args:
            since: From this time on, with a time zone.
            until: Up to, but without, this time, with a time zone.
            time_zone: That of the days, by its IANA name: `America/Sao_Paulo`, say.
            user_id: Of one user; by default this store's user, else all that the database shows.
            documents: How many of the most used documents, 0 to 1000; by default 20.

        Returns:
            The numbers. Where there are no turns, they are 0 or None.

        Raises:
            InvalidInput: An argument cannot be right, there is no such time zone, or this store is another user's.
        """
        return self.execute(analytics_call(self.scope, **options))

    async def aanalytics(self, **options: Unpack[AnalyticsOptions]) -> Analytics:
        """Async version of `analytics`."""
        return await self.aexecute(analytics_call(self.scope, **options))
