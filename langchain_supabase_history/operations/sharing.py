"""Sharing: a conversation as it stands, for whoever holds a token."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final, TypedDict, Unpack

from ..core.arguments import check_id, check_text, check_time
from ..core.call import Call, Function, Plan
from ..core.rows import read_messages
from ..errors import InvalidInput
from ..records import Share, StoredMessage
from .base import Operations
from .scope import Scope

TOKEN_BYTES: Final = 32
MAX_TOKEN: Final = 200
_LONGEST: Final = timedelta(days=36_500)

SHARE: Final = Function("chat_history_share_session", {"expires_at": "timestamptz"})
REVOKE: Final = Function("chat_history_revoke_share")
SHARED: Final = Function("chat_history_shared")


class ShareOptions(TypedDict, total=False):
    """The options of `share_session`; see there."""

    expires: datetime | timedelta | None


def _end(expires: datetime | timedelta | None) -> datetime | None:
    if isinstance(expires, timedelta):
        if not timedelta(0) < expires <= _LONGEST:
            raise InvalidInput("expires must be a timedelta above 0 and of at most 100 years.")
        return datetime.now(UTC) + expires
    if check_time(expires, "expires") is not None and expires is not None and expires <= datetime.now(UTC):
        raise InvalidInput("expires must be in the future.")
    return expires


def share_session(scope: Scope, session_id: str, *, expires: datetime | timedelta | None = None) -> Plan[Share]:
    """See `Sharing.share_session`."""
    expires_at = _end(expires)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    args = {
        "session_id": check_id(session_id),
        "token_hash": hashlib.sha256(token.encode()).hexdigest(),
        "expires_at": check_time(expires_at, "expires"),
        "user_id": scope.user_id,
    }
    yield Call(SHARE, args, lambda reply: reply)
    return Share(token, expires_at)


def revoke_share(scope: Scope, token: str) -> Plan[None]:
    """See `Sharing.revoke_share`."""
    args = {"token": check_text(token, "token", MAX_TOKEN), "user_id": scope.user_id}
    yield Call(REVOKE, args, lambda reply: reply)


def shared(scope: Scope, token: str) -> Plan[list[StoredMessage]]:
    """See `Sharing.shared`."""
    del scope  # whoever holds the token
    found: list[StoredMessage] = yield Call(SHARED, {"token": check_text(token, "token", MAX_TOKEN)}, read_messages)
    return found


class Sharing(Operations):
    """The part of a store that shares conversations."""

    def share_session(self, session_id: str, **options: Unpack[ShareOptions]) -> Share:
        """Make a copy of a conversation as it stands now, for whoever holds the token.

        What is shared stays as it is, whatever becomes of the conversation, until that is cleared or deleted. Every
        stored message of it is in the copy, tool results and system messages included.

        Args:
            session_id: The session's name.
            expires: Until when, with a time zone, or for how long; by default without end.

        Returns:
            The share, with its token, which is shown this once.

        Raises:
            NotFound: There is no such session.
            InvalidInput: An argument cannot be right.
        """
        return self.run(share_session(self.scope, session_id, **options))

    async def ashare_session(self, session_id: str, **options: Unpack[ShareOptions]) -> Share:
        """Async version of `share_session`."""
        return await self.arun(share_session(self.scope, session_id, **options))

    def revoke_share(self, token: str) -> None:
        """Take a share back: its copy is removed, and the token shows nothing any more. May be called twice.

        Args:
            token: The share's.

        Raises:
            NotFound: There is no such share of this store's user.
        """
        self.run(revoke_share(self.scope, token))

    async def arevoke_share(self, token: str) -> None:
        """Async version of `revoke_share`."""
        await self.arun(revoke_share(self.scope, token))

    def shared(self, token: str) -> list[StoredMessage]:
        """The messages that a token shows. Any signed-in user may ask; a public key without a user only after
        `migrate --shares`.

        Args:
            token: The share's.

        Returns:
            The messages of the copy, in order.

        Raises:
            NotFound: There is no such share, or it has expired or was taken back.
        """
        return self.run(shared(self.scope, token))

    async def ashared(self, token: str) -> list[StoredMessage]:
        """Async version of `shared`."""
        return await self.arun(shared(self.scope, token))
