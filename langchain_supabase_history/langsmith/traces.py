"""Where the traces of turns are."""

from __future__ import annotations

from functools import partial

from ..core.call import Blocking, Plan
from ..operations.conversations import Conversations
from ..records import Turn
from .client import LangSmith


def trace_url(smith: LangSmith, turn: Turn) -> Plan[str | None]:
    """See `TracedConversations.trace_url`."""
    url: str | None = yield Blocking(partial(smith.trace_url, turn))
    return url


class TracedConversations(Conversations):
    """Conversations, with the LangSmith workspace that their turns are traced in."""

    langsmith: LangSmith

    def trace_url(self, turn: Turn) -> str | None:
        """The address of a turn's trace in LangSmith, which is asked for it; None where the turn has no trace.

        Args:
            turn: The turn.

        Returns:
            The address, or None.

        Raises:
            NotFound: LangSmith has no such project or run (yet).
            Forbidden: It refuses the key.
            Unavailable: It cannot be reached.
        """
        return self.run(trace_url(self.langsmith, turn))

    async def atrace_url(self, turn: Turn) -> str | None:
        """Async version of `trace_url`."""
        return await self.arun(trace_url(self.langsmith, turn))
