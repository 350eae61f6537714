"""Branches: go back in a conversation and on from there, return to what was said before, copy a conversation."""

from __future__ import annotations

import uuid
from typing import Any, Final, TypedDict, Unpack

from ..core.arguments import check_id, check_place, check_uuid, check_whole
from ..core.call import Call, Function, Plan
from ..core.rows import read_alternative, read_messages, read_session
from ..records import Alternative, Session, StoredMessage
from .base import Operations
from .scope import Scope

MAX_POP: Final = 1000

REWIND: Final = Function(
    "chat_history_rewind_session", {"before": "bigint", "message_id": "uuid", "alternative": "uuid"}
)
POP: Final = Function("chat_history_pop_messages", {"n": "integer", "alternative": "uuid"})
ALTERNATIVES: Final = Function("chat_history_list_alternatives")
ALTERNATIVE: Final = Function("chat_history_list_alternative", {"alternative": "uuid"})
SWITCH: Final = Function("chat_history_switch_to", {"alternative": "uuid", "request": "uuid"})
FORK: Final = Function("chat_history_fork_session", {"upto": "bigint", "message_id": "uuid", "request": "uuid"})


def rewind_session(scope: Scope, session_id: str, before: StoredMessage | int) -> Plan[Alternative | None]:
    """See `Branches.rewind_session`."""
    position, message_id = check_place(before, "before")
    args = {
        "session_id": check_id(session_id),
        "before": position,
        "message_id": message_id,
        "alternative": str(uuid.uuid4()),
        "user_id": scope.user_id,
    }
    made: Alternative | None = yield Call(
        REWIND, args, lambda reply: None if reply is None else read_alternative(reply)
    )
    return made


def pop_messages(scope: Scope, session_id: str, n: int = 1) -> Plan[list[StoredMessage]]:
    """See `Branches.pop_messages`."""
    args = {
        "session_id": check_id(session_id),
        "n": check_whole(n, "n", 1, MAX_POP),
        "alternative": str(uuid.uuid4()),
        "user_id": scope.user_id,
    }
    popped: list[StoredMessage] = yield Call(POP, args, read_messages)
    return popped


def alternatives(scope: Scope, session_id: str) -> Plan[list[Alternative]]:
    """See `Branches.alternatives`."""
    args = {"session_id": check_id(session_id), "user_id": scope.user_id}
    found: list[Alternative] = yield Call(ALTERNATIVES, args, lambda reply: [read_alternative(row) for row in reply])
    return found


def _alternative_arguments(scope: Scope, session_id: str, alternative: Alternative | uuid.UUID) -> dict[str, Any]:
    id = alternative.id if isinstance(alternative, Alternative) else alternative
    return {
        "session_id": check_id(session_id),
        "alternative": str(check_uuid(id, "alternative")),
        "user_id": scope.user_id,
    }


def alternative_messages(
    scope: Scope, session_id: str, alternative: Alternative | uuid.UUID
) -> Plan[list[StoredMessage]]:
    """See `Branches.alternative_messages`."""
    args = _alternative_arguments(scope, session_id, alternative)
    found: list[StoredMessage] = yield Call(ALTERNATIVE, args, read_messages)
    return found


def switch_to(scope: Scope, session_id: str, alternative: Alternative | uuid.UUID) -> Plan[Session]:
    """See `Branches.switch_to`."""
    args = {**_alternative_arguments(scope, session_id, alternative), "request": str(uuid.uuid4())}
    session: Session = yield Call(SWITCH, args, read_session)
    return session


class ForkOptions(TypedDict, total=False):
    """The options of `fork_session`; see there."""

    upto: StoredMessage | int | None


def fork_session(
    scope: Scope, session_id: str, new_session_id: str, *, upto: StoredMessage | int | None = None
) -> Plan[Session]:
    """See `Branches.fork_session`."""
    position, message_id = (None, None) if upto is None else check_place(upto, "upto")
    args = {
        "session_id": check_id(session_id),
        "new_session_id": check_id(new_session_id, "new_session_id"),
        "upto": position,
        "message_id": message_id,
        "request": str(uuid.uuid4()),
        "user_id": scope.user_id,
    }
    session: Session = yield Call(FORK, args, read_session)
    return session


class Branches(Operations):
    """The part of a store that branches conversations.

    Whoever has loaded a conversation before it was taken back, or switched, and appends with the epoch that it had then
    (as histories and `with_history` do) is refused with `Conflict`: a turn is never spread over two branches.
    """

    def rewind_session(self, session_id: str, *, before: StoredMessage | int) -> Alternative | None:
        """Take a message and all after it out of a conversation, to ask or to answer something else in its place.

        What was taken out is an alternative from then on, until `prune` removes it. The next message gets the
        position that has become free.

        Args:
            session_id: The session's name.
            before: The message, or its position.

        Returns:
            The alternative, or None where there was nothing to take out.

        Raises:
            NotFound: There is no such session, or the message is not in the conversation any more.
        """
        return self.run(rewind_session(self.scope, session_id, before))

    async def arewind_session(self, session_id: str, *, before: StoredMessage | int) -> Alternative | None:
        """Async version of `rewind_session`."""
        return await self.arun(rewind_session(self.scope, session_id, before))

    def pop_messages(self, session_id: str, n: int = 1) -> list[StoredMessage]:
        """Take the last messages out of a conversation, as `rewind_session` does, and return them, the newest last.

        Args:
            session_id: The session's name.
            n: How many, 1 to 1000; fewer where there are fewer.

        Returns:
            The messages that were taken out, in order; none where there is no such session.

        Raises:
            InvalidInput: An argument cannot be right.
        """
        return self.run(pop_messages(self.scope, session_id, n))

    async def apop_messages(self, session_id: str, n: int = 1) -> list[StoredMessage]:
        """Async version of `pop_messages`."""
        return await self.arun(pop_messages(self.scope, session_id, n))

    def alternatives(self, session_id: str) -> list[Alternative]:
        """What was taken out of a conversation and may be put back, the oldest first.

        Args:
            session_id: The session's name.

        Returns:
            The alternatives; none where there is no such session.

        Raises:
            InvalidSession: The session's name cannot be right.
        """
        return self.run(alternatives(self.scope, session_id))

    async def aalternatives(self, session_id: str) -> list[Alternative]:
        """Async version of `alternatives`."""
        return await self.arun(alternatives(self.scope, session_id))

    def alternative_messages(self, session_id: str, alternative: Alternative | uuid.UUID) -> list[StoredMessage]:
        """The messages of an alternative, at the positions that they had in the conversation.

        Args:
            session_id: The session's name.
            alternative: The alternative, or its id.

        Returns:
            The messages, in order.

        Raises:
            NotFound: The conversation has no such alternative any more.
        """
        return self.run(alternative_messages(self.scope, session_id, alternative))

    async def aalternative_messages(self, session_id: str, alternative: Alternative | uuid.UUID) -> list[StoredMessage]:
        """Async version of `alternative_messages`."""
        return await self.arun(alternative_messages(self.scope, session_id, alternative))

    def switch_to(self, session_id: str, alternative: Alternative | uuid.UUID) -> Session:
        """Put an alternative back. What is in its place now becomes an alternative in its turn.

        An alternative that follows a message of another alternative brings that one back too.

        Args:
            session_id: The session's name.
            alternative: The alternative, or its id.

        Returns:
            The session, with its new counts and revision.

        Raises:
            NotFound: There is no such session, or it has no such alternative any more.
        """
        return self.run(switch_to(self.scope, session_id, alternative))

    async def aswitch_to(self, session_id: str, alternative: Alternative | uuid.UUID) -> Session:
        """Async version of `switch_to`."""
        return await self.arun(switch_to(self.scope, session_id, alternative))

    def fork_session(self, session_id: str, new_session_id: str, **options: Unpack[ForkOptions]) -> Session:
        """Copy a conversation, its turns and the feedback on them into a new session, and return that.

        The copies of turns count for the new session, but not for `usage`. Feedback is not sent again.

        Args:
            session_id: The session's name.
            new_session_id: The name of the new one.
            upto: The last message to copy, or its position; by default all are copied.

        Returns:
            The new session.

        Raises:
            NotFound: There is no such session, or the message is not in the conversation any more.
            Conflict: There is a session of the new name.
        """
        return self.run(fork_session(self.scope, session_id, new_session_id, **options))

    async def afork_session(self, session_id: str, new_session_id: str, **options: Unpack[ForkOptions]) -> Session:
        """Async version of `fork_session`."""
        return await self.arun(fork_session(self.scope, session_id, new_session_id, **options))
