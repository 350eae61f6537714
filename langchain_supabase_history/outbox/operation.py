"""An operation on its way through the outbox, and what is known of the sessions that wait in it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ..core.call import Call
from ..core.identity import Identity
from ..errors import HistoryError, Unavailable
from ..operations.messages import APPEND
from ..operations.retention import DELETE_USER
from ..operations.sessions import CLEAR, DELETE_SESSION

F = TypeVar("F", bound=Future[Any])
Key: TypeAlias = tuple[str, str]  # whose session ('': the application's own), and its name
Asking: TypeAlias = Mapping[str, Identity | None]  # who asks that something be sent, with a token as it is now


class Sent(NamedTuple):
    """The outcome of a delivery: how many appends were stored, and why the next still waits."""

    stored: int
    error: HistoryError | None


class Hold(Future[Sent]):
    """Stands in the place of a session's delivery while the session is erased."""


class Blocked(NamedTuple):
    """Why what waits of a session could not be sent, and until when an append need not try it again."""

    until: float
    error: HistoryError


class Operation:
    """A call on its way, with all that is asked about it once: an access token may cost its application a request.

    Attributes:
        identity: As whom it runs, the token being what it was at the beginning.
        given: The same as the application gave it, for a fresh token later.
        subject: The user whom the token, or a client of the application's, is of; '' for the store's own.
        hold: Of an erasure of a session.
        upto: Of an erasure: the last that waited before it.
        tried: Why the delivery before it could not send what waits.
        epoch: The session's, where the reply has it.
    """

    def __init__(self, call: Call[Any], given: Identity | None, identity: Identity | None, subject: str) -> None:
        self.given: Identity | None = given
        self.identity: Identity | None = identity
        self.subject: str = subject
        self.epoch: int | None = None

        def parse(raw: Any) -> Any:
            self.epoch = raw["epoch"]
            return call.parse(raw)

        self.call: Call[Any] = replace(call, parse=parse) if call.function in (APPEND, CLEAR) else call
        self.user_id = call.args.get("user_id") or ""
        self.key: Key = (self.subject or self.user_id, call.args.get("session_id") or "")
        self.is_append: bool = call.function == APPEND
        self.erased_user = self.user_id if call.function == DELETE_USER else None
        self.hold: Hold | None = begun(Hold()) if call.function in (CLEAR, DELETE_SESSION) else None
        self.upto = 0
        self.kept = False
        self.tried: HistoryError | None = None

    def may_be_late(self) -> bool:
        """Whether it is an append that may be kept.

        One that replaces all there is would wipe what others write before it is sent; one that names another user than
        its token is refused whenever it comes.
        """
        another = self.subject and self.user_id and self.subject != self.user_id
        return self.is_append and not self.call.args.get("replace") and not another


def begun(delivery: F) -> F:
    """A delivery that cannot be cancelled by whoever waits for it."""
    delivery.set_running_or_notify_cancel()
    return delivery


def outcome_of(delivery: Future[Sent]) -> HistoryError | None:
    """Why a delivery could not send everything; None where it could.

    Raises:
        Unavailable: It has not ended.
    """
    if not delivery.done():
        raise Unavailable("What waits of this session is still being sent.", advice="Try again.")
    return delivery.result().error


def without_traceback(error: HistoryError) -> HistoryError:
    """The error again, without its traceback: the frames there hold messages."""
    return type(error)(error.says, code=error.code, advice=error.advice)
