"""Who the visitor is, and the view of the store that is theirs.

Three kinds: a guest, known by a signed cookie (or, where cookies cannot be set, by the same text in the address); an
account of Supabase Auth, held to row level security; an identity of `st.login`, which becomes an account where Supabase
takes its id token, and else owns what it writes under its issuer and subject. At sign-in a guest's conversations are
handed over.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any, Literal

import jwt
import streamlit as st
from accounts import (
    Account,
    ProviderDisabled,
    SignInFailed,
    Unreachable,
    refresh,
    sign_in,
    sign_in_with_id_token,
    sign_up,
)
from settings import cookie_secret, public_store, service_store, setting

from langchain_supabase_history import HistoryStore

GUEST, ACCOUNT = "chat_guest", "chat_account"
OF_LOGIN = "login."
"""What the cookie of an account begins with that came of `st.login`. It counts only as long as that sign-in does: by
`st.logout` the page may be gone before its script has deleted the cookie."""
DAYS = 180
# The issuers whose id tokens Supabase Auth takes, and its name of each. Others (azure, keycloak) have issuers of
# their customers: `ID_TOKEN_PROVIDER` names them.
PROVIDERS = {
    "https://accounts.google.com": "google",
    "https://appleid.apple.com": "apple",
    "https://www.facebook.com": "facebook",
    "https://kauth.kakao.com": "kakao",
}


@dataclass(frozen=True)
class Visitor:
    """Somebody who uses the app."""

    kind: Literal["guest", "account", "identity"]
    user_id: str
    name: str
    store: HistoryStore


def visitor() -> Visitor:
    """Who asks for this page. A guest's conversations come along when they sign in."""
    if (account := _account()) is not None:
        store = public_store(account.url, account.key).as_user(account.token)
        set_cookie(ACCOUNT, (OF_LOGIN if signed_in_identity() else "") + account.refresh_token)
        found = Visitor("account", account.user_id, account.email, store)
    elif "signed_out" not in st.session_state and (identity := signed_in_identity()) is not None:
        user_id = owner_of(identity)
        name = str(identity.get("email") or identity.get("name") or "Signed in")
        found = Visitor("identity", user_id, name, service_store().for_user(user_id))
    else:
        user_id = _guest()
        return Visitor("guest", user_id, "Guest", service_store().for_user(user_id))
    if (guest := _known_guest()) is not None and st.session_state.get("handed_over") != (guest, found.user_id):
        service_store().reassign_user(guest, found.user_id)
        st.session_state["handed_over"] = (guest, found.user_id)
    return found


# --- guests


def _known_guest() -> str | None:
    """The guest that the cookie or the address names, if its signature is ours."""
    for text in (st.session_state.get(GUEST), st.context.cookies.get(GUEST), st.query_params.get("guest")):
        try:
            return f"guest:{uuid.UUID(jwt.decode(text or '', cookie_secret(), ['HS256'])['sub'])}"
        except (jwt.InvalidTokenError, KeyError, ValueError):
            continue
    return None


def _guest() -> str:
    if (known := _known_guest()) is not None:
        return known
    id = str(uuid.uuid4())
    text = st.session_state[GUEST] = jwt.encode({"sub": id}, cookie_secret(), "HS256")
    set_cookie(GUEST, text, or_in_address="guest")
    return f"guest:{id}"


# --- accounts of Supabase Auth


def auth_settings() -> tuple[str, str] | None:
    """The project's URL and public key, if users may sign in."""
    url, key = setting("SUPABASE_URL"), setting("SUPABASE_PUBLISHABLE_KEY")
    return (url, key) if url and key else None


def _account() -> Account | None:
    if "account" not in st.session_state and (auth := auth_settings()) is not None:
        try:
            st.session_state["account"] = _account_of_browser(*auth)
        except Unreachable as error:  # who is taken for somebody else writes where nobody looks for it
            st.error(f"{error} Load the page again in a moment.")
            st.stop()
    account: Account | None = st.session_state.get("account")
    return account


def _account_of_browser(url: str, key: str) -> Account | None:
    """The account that the cookie names, or else the one of an id token that Supabase takes."""
    if "signed_out" in st.session_state:
        return None
    token = st.context.cookies.get(ACCOUNT) or ""
    if token.startswith(OF_LOGIN) and signed_in_identity() is None:
        token = ""
    if token:
        try:
            return refresh(url, key, token.removeprefix(OF_LOGIN))
        except SignInFailed:
            set_cookie(ACCOUNT, "")
    if (known_as := _id_token()) is not None:
        try:
            return sign_in_with_id_token(url, key, *known_as)
        except ProviderDisabled:
            return None
        except SignInFailed:  # it has expired since
            st.logout()
            st.stop()
    return None


def sign_in_form() -> None:
    """Where a guest signs in or makes an account."""
    if (auth := auth_settings()) is not None:
        with st.form("sign-in", border=False):
            email = st.text_input("E-mail", type="email", autocomplete="username")
            password = st.text_input("Password", type="password", autocomplete="current-password")
            left, right = st.columns(2)
            asked = {sign_in: left.form_submit_button("Sign in"), sign_up: right.form_submit_button("Sign up")}
        for way, is_pressed in asked.items():
            if is_pressed:
                try:
                    st.session_state["account"] = way(*auth, email, password)
                except (SignInFailed, Unreachable) as error:
                    st.error(str(error))
                else:
                    st.session_state.pop("signed_out", None)
                    st.query_params.pop("session", None)
                    st.rerun()
    if has_login() and st.button("Sign in with your organisation"):
        st.login()


def sign_out(who: Visitor) -> None:
    """Forget who was signed in, in this browser."""
    st.session_state.pop("account", None)
    st.session_state["signed_out"] = True
    st.query_params.clear()
    set_cookie(ACCOUNT, "")
    if signed_in_identity() is not None:
        st.logout()


# --- st.login


def has_login() -> bool:
    """Whether the secrets have a section [auth], which `st.login` needs."""
    return bool(st.secrets.load_if_toml_exists()) and "auth" in st.secrets


def signed_in_identity() -> dict[str, Any] | None:
    """The claims of whoever signed in with `st.login`."""
    return dict(st.user) if has_login() and st.user.is_logged_in else None


def _id_token() -> tuple[str, str] | None:
    """Supabase's name of the provider, and the id token, of whoever signed in with `st.login`; both must be known."""
    identity = signed_in_identity()
    provider = PROVIDERS.get(str(identity.get("iss"))) or setting("ID_TOKEN_PROVIDER") if identity else None
    token = dict(getattr(st.user, "tokens", None) or {}).get("id") if provider else None
    return (provider, token) if provider and token else None


def owner_of(identity: dict[str, Any]) -> str:
    """The user that an identity's conversations belong to: its issuer and subject. Addresses change, these do not."""
    return f"oidc:{identity['iss']}|{identity['sub']}"


# --- cookies. Streamlit reads them; they are set by the browser itself.


def set_cookie(name: str, value: str, or_in_address: str | None = None) -> None:
    """Have the browser keep a cookie from the next `send_cookies` on; an empty value deletes it.

    Args:
        or_in_address: The query parameter that takes its place where the browser keeps no cookies.
    """
    st.session_state.setdefault("cookies", {})[name] = (value, or_in_address)


def send_cookies() -> None:
    """Set the cookies of this visit. Call it once, at the end of each page."""
    cookies: dict[str, tuple[str, str | None]] = st.session_state.get("cookies", {})
    lines = []
    for name, (value, parameter) in cookies.items():
        age = DAYS * 86400 if value else 0
        cookie = json.dumps(f"{name}={value}; path=/; max-age={age}; SameSite=Lax")
        lines.append(f"document.cookie = {cookie} + (location.protocol === 'https:' ? '; Secure' : '');")
        if parameter:
            lines.append(
                f"if (!document.cookie.includes({json.dumps(name + '=')})) {{ const to = new URL(location.href);"
                f"if (!to.searchParams.has({json.dumps(parameter)})) {{"
                f"to.searchParams.set({json.dumps(parameter)}, {json.dumps(value)}); location.replace(to); }} }}"
            )
    if lines:
        st.html(f"<script>{''.join(lines)}</script>", unsafe_allow_javascript=True)
