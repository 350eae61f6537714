"""Checks access tokens where nobody else does: on a direct connection to PostgreSQL."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final

from ..core.identity import Identity
from ..core.settings import network_fault
from ..errors import CLOCK_ADVICE, FRESH_TOKEN, Forbidden, InvalidInput, NotConfigured, Unavailable

if TYPE_CHECKING:
    import jwt

AUDIENCE: Final = "authenticated"  # of Supabase's own tokens
_LEEWAY: Final = 30  # seconds that clocks may differ by, as PostgREST allows
_JWKS: Final = "jwks_url must be https://<project>.supabase.co/auth/v1/.well-known/jwks.json."


class Verifier:
    """Checks access tokens where nobody else does: on a direct connection to PostgreSQL.

    Args:
        jwt_secret: The project's legacy secret, for HS256.
        jwks_url: `https://<project>.supabase.co/auth/v1/.well-known/jwks.json`, for ES256 and RS256.
        timeout: Seconds for fetching the keys.
        audience: The tokens' `aud`; None where they carry none (another identity provider's, say).
    """

    def __init__(
        self, jwt_secret: str | None, jwks_url: str | None, timeout: float, audience: str | None = AUDIENCE
    ) -> None:
        if audience is not None and (not isinstance(audience, str) or not audience):
            raise NotConfigured("audience must be the tokens' aud, or None where they carry none.")
        self._audience = audience
        if jwt_secret is not None and (not isinstance(jwt_secret, str) or len(jwt_secret) < 16):
            raise NotConfigured("jwt_secret must be the project's JWT secret, at least 16 characters.")
        self._secret = jwt_secret
        self._jwks: jwt.PyJWKClient | None = None
        if jwks_url is not None:
            if not isinstance(jwks_url, str) or not jwks_url.startswith(("https://", "http://")):
                raise NotConfigured(_JWKS)
            from jwt import PyJWKClient

            self._jwks = PyJWKClient(jwks_url, timeout=timeout)

    def may_wait(self, identity: Identity) -> bool:
        """Whether checking may wait for somebody: the token's callable, or the server that has the keys."""
        return identity.claims is None and (identity.may_wait or self._jwks is not None)

    def claims(self, identity: Identity) -> str:
        """The claims to run with, as JSON: verified now, expiry included.

        Raises:
            Forbidden: The token is expired, forged, or not meant for signed-in users.
            NotConfigured: There is no key to check it with.
            InvalidInput: The claims are no JSON.
        """
        if identity.claims is not None:
            try:
                return json.dumps(dict(identity.claims), default=str, allow_nan=False)
            except (TypeError, ValueError, RecursionError):
                raise InvalidInput("as_user(claims=...) must be claims as a token holds them: plain JSON.") from None
        token = identity.access_token()
        if self._secret is None and self._jwks is None:
            raise self._no_key("jwks_url=...", "ES256 and RS256 tokens with, jwt_secret=... for HS256 ones")
        import jwt

        try:
            if jwt.get_unverified_header(token).get("alg") == "HS256":
                if self._secret is None:
                    raise self._no_key("jwt_secret=...", "HS256 tokens with")
                claims = self._decode(token, self._secret, ["HS256"])
            else:
                claims = self._decode(token, self._public_key(token), ["ES256", "RS256"])
        except jwt.ExpiredSignatureError as error:
            raise Forbidden("The access token is expired.", advice=FRESH_TOKEN) from error
        except jwt.ImmatureSignatureError as error:
            raise Forbidden("The access token is not valid yet.", advice=CLOCK_ADVICE) from error
        except (jwt.InvalidAudienceError, jwt.MissingRequiredClaimError) as error:
            raise Forbidden(
                "The access token was refused: its claims are not those of a signed-in user's.",
                advice=f"It needs exp, sub and aud={self._audience!r}. For another identity provider's tokens: "
                "HistoryStore.from_postgres(..., audience=...), or None where they have no aud.",
            ) from error
        except jwt.PyJWTError as error:
            raise Forbidden(
                "The access token was refused: it is not a signed-in user's of this project.", advice=FRESH_TOKEN
            ) from error
        return json.dumps(claims)

    def _public_key(self, token: str) -> Any:
        """The project's key that the token says it was signed with, fetched at need."""
        import jwt

        if self._jwks is None:
            raise self._no_key("jwks_url=...", "ES256 and RS256 tokens with")
        try:
            return self._jwks.get_signing_key_from_jwt(token).key
        except jwt.PyJWKSetError as error:
            raise NotConfigured(
                "What jwks_url leads to holds no key to check access tokens with.",
                advice=f"{_JWKS} A project with a legacy JWT secret has none there: give jwt_secret=... instead.",
            ) from error
        except (jwt.PyJWKClientConnectionError, OSError, ValueError, HTTPException) as error:  # ValueError: no JSON
            text = "The keys that check access tokens could not be fetched from jwks_url."
            raise network_fault(error) or Unavailable(text) from error

    @staticmethod
    def _no_key(option: str, which: str) -> NotConfigured:
        return NotConfigured(
            "Over psycopg nobody else checks access tokens, and this store has no key to check this one with.",
            advice=f"Give HistoryStore.from_postgres(..., {option}) to check {which}, or as_user(claims=...) that you "
            "have verified.",
        )

    def _decode(self, token: str, key: Any, algorithms: list[str]) -> dict[str, Any]:
        import jwt

        required = ["exp", "sub"] if self._audience is None else ["exp", "sub", "aud"]
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=self._audience,
            leeway=_LEEWAY,
            options={"require": required, "verify_aud": self._audience is not None},
        )
        return claims
