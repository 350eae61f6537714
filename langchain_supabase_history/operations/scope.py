"""Whose conversations, as whom, through which window, within which limits, and who is informed of errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from langchain_core.messages import BaseMessage

from ..core.identity import Identity
from ..core.messages import MAX_MESSAGE_BYTES
from ..core.window import Window
from ..errors import HistoryError, InvalidInput, InvalidMessage

logger: Final = logging.getLogger(__name__)

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
        """Log an error that no caller will see, and give it to `on_error`. Never raises."""
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

    def user_or_own(self, user_id: str | None) -> str | None:
        """The user whom an operation names, else this scope's; None for the application itself, or all users.

        The one rule of bound stores: whoever is given a store of `for_user` reaches that user's conversations alone.
        A scope that runs as a signed-in user without being bound names anybody, and the database refuses others.

        Raises:
            InvalidInput: It is another user than the one that this scope is bound to.
        """
        if self.user_id is not None and user_id not in (None, self.user_id):
            raise InvalidInput(
                "This store is bound to another user.",
                advice="Call for_user on the store that is bound to none, and use what it gives.",
            )
        return self.user_id if user_id is None else user_id
