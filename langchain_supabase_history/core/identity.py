"""As whom a request runs: a Supabase user's access token, or claims that the application has verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidInput, NotConfigured


@dataclass(frozen=True)
class Identity:
    """A user's access token (or a callable that gives a fresh one), or verified claims. Its repr shows neither."""

    token: str | Callable[[], str] | None = field(default=None, repr=False)
    claims: Mapping[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.token is None) == (self.claims is None):
            raise InvalidInput("as_user takes an access token, or claims={...} that you have verified.")
        if self.claims is not None:
            subject = self.claims.get("sub") if isinstance(self.claims, Mapping) else None
            if not isinstance(subject, str) or not subject:
                raise InvalidInput("as_user(claims=...) must be a mapping with the user's id as 'sub'.")
        elif not callable(self.token):
            _check_token(self.token)

    @property
    def may_wait(self) -> bool:
        """Whether the token comes from the application's own code, which may take its time."""
        return callable(self.token)

    def access_token(self) -> str:
        """The token as it is now.

        Raises:
            NotConfigured: There are claims only, which the Data API does not take.
        """
        if self.token is None:
            raise NotConfigured("as_user(claims=...) works over psycopg only; the Data API needs an access token.")
        return _check_token(self.token() if callable(self.token) else self.token)


def _check_token(token: object) -> str:
    if not isinstance(token, str) or token.count(".") != 2 or not token.isascii() or any(c.isspace() for c in token):
        raise InvalidInput("as_user needs a Supabase access token (a JWT: three parts joined by dots).")
    return token


def token_subject(token: str) -> str | None:
    """The user a token says it is of, unverified: the database checks tokens, this only keeps users apart."""
    import jwt

    try:
        subject = jwt.decode(token, options={"verify_signature": False}).get("sub")
    except jwt.PyJWTError:
        return None
    return subject if isinstance(subject, str) else None
