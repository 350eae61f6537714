"""Whose conversations, as whom, through which window, within which limits, and whom to tell."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from langchain_core.messages import BaseMessage

from ..core.identity import Identity
from ..core.messages import MAX_MESSAGE_BYTES
from ..errors import HistoryError, InvalidInput, InvalidMessage
from ..records import Window

logger = logging.getLogger(__name__)

OnError = Callable[[HistoryError, Sequence[BaseMessage]], None]


class FeedbackReceiver(Protocol):
    """Who is sent the feedback that is stored: LangSmith."""

    def send(self, unsent: Sequence[dict[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Send feedback, and return a mark for each that was taken or refused. Never raises."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What every operation of a store, or of a view of it, has in common. Immutable: a view is a replaced scope.

    Attributes:
        user_id: Whose sessions; None for the application itself.
        identity: As whom requests run; None for the login or key of the store.
        window: How much of a conversation is loaded; None for all.
        max_message_bytes: The largest message, as JSON.
        count_tokens: Counts a message's tokens; None for the provider's usage or an estimate.
        on_error: Called with errors that no caller will see, and the messages they concern.
        feedback: Who is sent feedback.
    """

    user_id: str | None = None
    identity: Identity | None = None
    window: Window | None = None
    max_message_bytes: int = MAX_MESSAGE_BYTES
    count_tokens: Callable[[BaseMessage], int] | None = None
    on_error: OnError | None = None
    feedback: FeedbackReceiver | None = None

    def report(self, error: HistoryError, messages: Sequence[BaseMessage]) -> None:
        """Log an error that no caller will see, and tell `on_error` of it. Never raises."""
        if sys.is_finalizing():  # a generator that the interpreter's end closes: the turn stays `running`
            return
        logger.warning("%s: %s", type(error).__name__, error)
        if self.on_error is not None:
            try:
                self.on_error(error, messages)
            except Exception:  # the application's own code; the turn must not fail because of it
                logger.exception("on_error raised")

    def report_warnings(self, warnings: Sequence[str], messages: Sequence[BaseMessage]) -> None:
        """Report what could not be stored of messages as it was given."""
        for warning in warnings:
            self.report(InvalidMessage(f"{warning}.", advice=""), messages)

    def user_or_all(self, user_id: str | None, method: str) -> str | None:
        """The user whose sessions an operation over many sessions is about; None for all that the database shows.

        Raises:
            InvalidInput: It is another user than this scope's.
        """
        if self.user_id is not None and user_id not in (None, self.user_id):
            raise InvalidInput(f"This store is another user's: call {method} on the one that for_user was called on.")
        return self.user_id if user_id is None else user_id
