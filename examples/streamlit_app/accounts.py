"""Supabase Auth over HTTP: sign in, sign up, refresh. What comes back is an account with a fresh token at any time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx


class SignInFailed(Exception):
    """Supabase Auth refused; the text is its own."""


class ProviderDisabled(SignInFailed):
    """The project does not take id tokens of this provider."""


class Unreachable(Exception):
    """Supabase Auth gave no answer of its own: nobody knows yet who this is."""


@dataclass
class Account:
    """Somebody who is signed in with Supabase Auth."""

    url: str
    key: str
    user_id: str
    email: str
    access_token: str
    refresh_token: str
    expires_at: float
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def token(self) -> str:
        """An access token that is good for another minute: what `store.as_user` takes."""
        with self._lock:
            if time.time() > self.expires_at - 60:
                fresh = refresh(self.url, self.key, self.refresh_token)
                self.access_token, self.refresh_token = fresh.access_token, fresh.refresh_token
                self.expires_at = fresh.expires_at
            return self.access_token


def sign_in(url: str, key: str, email: str, password: str) -> Account:
    """Sign in with e-mail address and password."""
    return _ask(url, key, "token?grant_type=password", email=email, password=password)


def sign_up(url: str, key: str, email: str, password: str) -> Account:
    """Make an account, and sign in to it. Where the project wants addresses confirmed, it says so by `SignInFailed`."""
    return _ask(url, key, "signup", email=email, password=password)


def sign_in_with_id_token(url: str, key: str, provider: str, token: str) -> Account:
    """Sign in with the id token of an identity provider that the project knows (google, apple, azure ...)."""
    return _ask(url, key, "token?grant_type=id_token", provider=provider, id_token=token)


def refresh(url: str, key: str, token: str) -> Account:
    """A fresh session for a refresh token."""
    return _ask(url, key, "token?grant_type=refresh_token", refresh_token=token)


def _ask(url: str, key: str, path: str, **body: str) -> Account:
    try:
        reply = httpx.post(f"{url.rstrip('/')}/auth/v1/{path}", json=body, headers={"apikey": key}, timeout=10)
        answer: dict[str, Any] = reply.json()
    except (httpx.HTTPError, ValueError):
        raise Unreachable("Supabase Auth could not be reached.") from None
    if reply.is_error:
        words = str(answer.get("msg") or answer.get("error_description") or answer.get("message") or "Refused.")
        if reply.is_server_error or reply.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise Unreachable(words)
        raise ProviderDisabled(words) if answer.get("error_code") == "provider_disabled" else SignInFailed(words)
    if "access_token" not in answer:
        raise SignInFailed("Confirm your e-mail address first: a message was sent to you.")
    user = answer["user"]
    expires_at = time.time() + float(answer.get("expires_in", 3600))
    return Account(
        url, key, user["id"], user.get("email") or "", answer["access_token"], answer["refresh_token"], expires_at
    )
