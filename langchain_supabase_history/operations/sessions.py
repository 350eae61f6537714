"""Sessions: look at one, clear it, delete it."""

from __future__ import annotations

import uuid
from typing import Final

from ..core.arguments import check_id
from ..core.call import Call, Function, Plan
from ..core.rows import read_session
from ..errors import NotFound
from ..records import Session
from .base import Operations
from .scope import Scope

ERASE_BATCH: Final = 5000  # messages and turns that one call deletes: well within a try's seconds

GET_SESSION: Final = Function("chat_history_get_session")
CLEAR: Final = Function("chat_history_clear", {"request": "uuid"})
DELETE_SESSION: Final = Function("chat_history_delete_session", {"request": "uuid", "batch": "integer"})


def get_session(scope: Scope, session_id: str) -> Plan[Session]:
    """See `Sessions.session`."""
    args = {"session_id": check_id(session_id), "user_id": scope.user_id}
    found: Session | None = yield Call(GET_SESSION, args, read_session)
    if found is None:
        raise NotFound(f"There is no session {session_id[:100]!r}.")
    return found


def clear_call(scope: Scope, session_id: str) -> Call[int]:
    """The call of `chat_history_clear`. A retry is the same request, and hides nothing more."""
    args = {"session_id": check_id(session_id), "user_id": scope.user_id, "request": str(uuid.uuid4())}
    return Call(CLEAR, args, lambda reply: int(reply["cleared"]))


def clear(scope: Scope, session_id: str) -> Plan[int]:
    """See `Sessions.clear`."""
    cleared: int = yield clear_call(scope, session_id)
    return cleared


def delete_call(scope: Scope, session_id: str) -> Call[tuple[bool, bool]]:
    """The call of `chat_history_delete_session`: whether there was one, and whether there is more to delete.

    Executed again, it deletes what is left.
    """
    args = {
        "session_id": check_id(session_id),
        "user_id": scope.user_id,
        "request": str(uuid.uuid4()),
        "batch": ERASE_BATCH,
    }
    return Call(DELETE_SESSION, args, lambda reply: (bool(reply["deleted"]), bool(reply["more"])))


def delete_session(scope: Scope, session_id: str) -> Plan[bool]:
    """See `Sessions.delete_session`."""
    call = delete_call(scope, session_id)
    deleted, more = False, True
    while more:
        deleted, more = yield call
    return deleted


class Sessions(Operations):
    """The part of a store that looks after sessions as a whole."""

    def session(self, session_id: str) -> Session:
        """A session without its messages.

        Args:
            session_id: The session's name.

        Raises:
            NotFound: There is none of this name (and user), or it was deleted.
        """
        return self.run(get_session(self.scope, session_id))

    async def asession(self, session_id: str) -> Session:
        """Async version of `session`."""
        return await self.arun(get_session(self.scope, session_id))

    def clear(self, session_id: str) -> int:
        """Hide all messages and turns of a session, and tell how many messages these were.

        Args:
            session_id: The session's name.
        """
        return self.run(clear(self.scope, session_id))

    async def aclear(self, session_id: str) -> int:
        """Async version of `clear`."""
        return await self.arun(clear(self.scope, session_id))

    def delete_session(self, session_id: str) -> bool:
        """Remove a session with all it holds, and tell whether there was one. A late replay does not bring it back.

        Args:
            session_id: The session's name.
        """
        return self.run(delete_session(self.scope, session_id))

    async def adelete_session(self, session_id: str) -> bool:
        """Async version of `delete_session`."""
        return await self.arun(delete_session(self.scope, session_id))
