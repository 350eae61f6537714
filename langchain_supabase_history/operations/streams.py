"""Streams: the text of answers that are written in the background, followed and stopped from anywhere."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypedDict, Unpack

from ..core.arguments import check_id, check_number, check_uuid, check_whole
from ..core.call import Call, Function, Plan
from ..errors import InvalidInput
from .base import Operations, require_asyncio
from .scope import Scope
from .streamlit_page import current_page

MAX_TEXT: Final = 100_000
"""Characters that one call writes at the most."""

_SLOWEST: Final = 1.0  # seconds between two looks at an answer that does not go on
_PATIENCE: Final = 20.0  # seconds in which a writer that was there may come back, after a crash of the database
_LONGEST_ANSWER: Final = 2**31 - 1

WRITE: Final = Function(
    "chat_history_write_deltas",
    {"turn_id": "uuid", "answer_id": "uuid", "after": "integer", "lease": "double precision"},
)
FOLLOW: Final = Function("chat_history_follow_turn", {"turn_id": "uuid", "after": "integer"})
STOP: Final = Function("chat_history_stop_turn", {"turn_id": "uuid"})


@dataclass(frozen=True, slots=True)
class Delta:
    """A part of an answer's text, as `follow` gives it while the answer is being written.

    Attributes:
        turn_id: The turn that it is the answer of.
        position: How many characters of the answer there are up to its end: `follow(after=...)` goes on from there.
        text: The part.
    """

    turn_id: uuid.UUID
    position: int
    text: str


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer is answered.

    Attributes:
        running: Whether the turn is still to be stored.
        stopped: Whether somebody has asked for a stop, or the turn was cleared, deleted or taken out.
        position: How many characters the database has now.
    """

    running: bool
    stopped: bool
    position: int


def write_call(
    scope: Scope,
    session_id: str,
    turn_id: uuid.UUID,
    answer_id: uuid.UUID,
    after: int,
    text: str,
    *,
    lease: float,
) -> Call[Written]:
    """The call of `chat_history_write_deltas`: add text to an answer, and learn whether to go on.

    Args:
        answer_id: The row id that the answer's first message is going to have.
        after: How many characters are in front of the text.
        lease: Seconds within which the next call comes. Without one, the turn counts as lost.
    """
    args = {
        "session_id": session_id,
        "turn_id": turn_id,
        "answer_id": answer_id,
        "after": after,
        "text": text or None,
        "lease": lease,
        "user_id": scope.user_id,
    }
    return Call(WRITE, args, lambda reply: Written(reply["running"], reply["stopped"], reply["position"]))


class FollowOptions(TypedDict, total=False):
    """The options of `follow`; see there."""

    turn_id: uuid.UUID | str | None
    after: int
    interval: float


class Following:
    """One who follows an answer: what to ask next, and when."""

    def __init__(
        self,
        scope: Scope,
        session_id: str,
        *,
        turn_id: uuid.UUID | str | None = None,
        after: int = 0,
        interval: float = 0.2,
    ) -> None:
        self._args = {"session_id": check_id(session_id), "user_id": scope.user_id}
        self._turn_id = None if turn_id is None else check_uuid(turn_id, "turn_id")
        self._position = check_whole(after, "after", 0, _LONGEST_ANSWER)
        self._interval = check_number(interval, "interval", 0)
        if not 0.01 <= self._interval <= 3600:
            raise InvalidInput("interval must be 0.01 to 3600 seconds.")
        self._patient_until: float | None = None
        self.pause: float = self._interval
        self.is_over: bool = False

    def call(self) -> Call[Delta | None]:
        """Ask what has come; None: nothing."""
        return Call(FOLLOW, {**self._args, "turn_id": self._turn_id, "after": self._position}, self._read)

    def _read(self, reply: Any) -> Delta | None:
        if reply is None:
            self.is_over = True
            return None
        self._turn_id = uuid.UUID(reply["turn_id"])
        self._position = reply["position"]
        self._see(is_written=reply["running"], is_open=reply["status"] == "running")
        text = reply["text"]
        self.pause = self._interval if text else min(self.pause * 1.5, max(self._interval, _SLOWEST))
        return Delta(self._turn_id, self._position, text) if text else None

    def _see(self, *, is_written: bool, is_open: bool) -> None:
        now = time.monotonic()
        if is_written:
            self._patient_until = now + _PATIENCE
        elif not is_open:
            self.is_over = True
        elif self._patient_until is None:
            self._patient_until = now  # one more look: it may have been stored between two statements
        else:
            self.is_over = now >= self._patient_until


def stop_turn(scope: Scope, session_id: str, turn_id: uuid.UUID | str | None = None) -> Plan[bool]:
    """See `Streams.stop_turn`."""
    args = {
        "session_id": check_id(session_id),
        "turn_id": None if turn_id is None else check_uuid(turn_id, "turn_id"),
        "user_id": scope.user_id,
    }
    stopping: int = yield Call(STOP, args, lambda reply: int(reply["stopping"]))
    return stopping > 0


class Streams(Operations):
    """The part of a store that follows and stops turns which run in the background."""

    def follow(self, session_id: str, **options: Unpack[FollowOptions]) -> Iterator[Delta]:
        """An answer that is being written, in this process or another one: what is there, then what comes.

        It ends when the turn is stored, cleared or lost; `turns` tells how it ended. Where nothing is being written it
        gives nothing; with `turn_id`, also the text of a turn that has ended meanwhile. Any number may follow, from
        anywhere, and go on where they were with `after`.

        Args:
            session_id: The session's name.
            turn_id: The turn, as `turns` lists it; by default the newest that is being written.
            after: How many characters to leave out, a delta's `position`.
            interval: Seconds between two looks, 0.01 to 3600; up to 1 while nothing comes.

        Returns:
            An iterator over the parts of the text, in order.

        Raises:
            InvalidInput: An argument cannot be right.
            Unavailable: The database was away for longer than the deadline. Follow again, `after` the last position.
        """
        return self._deltas(Following(self.scope, session_id, **options))

    def _deltas(self, following: Following) -> Iterator[Delta]:
        page = current_page()
        while True:
            if page is not None:
                page.check()  # while nothing comes, Streamlit would not be asked whether the page is still wanted
            delta = self.execute(following.call())
            if delta is not None:
                yield delta
            if following.is_over:
                return
            time.sleep(following.pause)

    def afollow(self, session_id: str, **options: Unpack[FollowOptions]) -> AsyncIterator[Delta]:
        """Async version of `follow`."""
        require_asyncio()
        return self._adeltas(Following(self.scope, session_id, **options))

    async def _adeltas(self, following: Following) -> AsyncIterator[Delta]:
        while True:
            delta = await self.aexecute(following.call())
            if delta is not None:
                yield delta
            if following.is_over:
                return
            await asyncio.sleep(following.pause)

    def stop_turn(self, session_id: str, turn_id: uuid.UUID | str | None = None) -> bool:
        """Ask for a stop of an answer that is being written, wherever that runs.

        It ends within about a second, as interrupted with what was there; `follow` ends with it. May be called twice.

        Args:
            session_id: The session's name.
            turn_id: Which turn; by default all that run in the session.

        Returns:
            Whether anything was running, or had been left by a process that is gone.

        Raises:
            InvalidInput: The turn's id cannot be one.
        """
        return self.run(stop_turn(self.scope, session_id, turn_id))

    async def astop_turn(self, session_id: str, turn_id: uuid.UUID | str | None = None) -> bool:
        """Async version of `stop_turn`."""
        return await self.arun(stop_turn(self.scope, session_id, turn_id))
