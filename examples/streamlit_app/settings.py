"""The app's settings and its store, from Streamlit's secrets, the environment, or an embedded PostgreSQL."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

import streamlit as st
from langchain_core.runnables import Runnable
from model import make_assistant

from langchain_supabase_history import HistoryStore, NotConfigured
from langchain_supabase_history.streamlit import HistoryConnection

LOCAL = Path(os.environ.get("CHAT_FOLDER", Path.home() / ".langchain-supabase-history" / "streamlit"))
"""Where the embedded PostgreSQL is, when no database is configured."""


def setting(name: str) -> str | None:
    """A setting at the root of the secrets, or in the environment."""
    st.secrets.load_if_toml_exists()  # strings at their root become environment variables
    return os.environ.get(name) or None


def service_store() -> HistoryStore:
    """The store of the service itself, which sees all users: give visitors a view of it."""
    try:
        return st.connection("supabase_history", type=HistoryConnection).store
    except NotConfigured:
        if setting("SUPABASE_URL") or setting("SUPABASE_KEY"):
            raise  # half configured: say so
        return local_store()


def is_local() -> bool:
    """Whether no database is configured, so that the embedded one is used."""
    try:
        st.connection("supabase_history", type=HistoryConnection)
    except NotConfigured:
        return True
    return False


@st.cache_resource(show_spinner=False, on_release=HistoryStore.close)
def local_store() -> HistoryStore:
    """A store on an embedded PostgreSQL, to try the app without an account."""
    LOCAL.mkdir(parents=True, exist_ok=True)
    return HistoryStore.local(LOCAL / "postgres")


@st.cache_resource(show_spinner=False, on_release=HistoryStore.close)
def public_store(url: str, key: str) -> HistoryStore:
    """A store with the public key, for users who sign in: row level security decides what they see."""
    return HistoryStore.from_supabase(url, key)


@st.cache_resource(show_spinner=False)
def assistant() -> Runnable[Any, Any]:
    """The runnable that answers."""
    return make_assistant()


def answers_outlive_pages() -> bool:
    """Whether an answer is written to its end though its page is closed: `DETACHED_TURNS`, any text but `0`."""
    return (setting("DETACHED_TURNS") or "0") != "0"


def cookie_secret() -> str:
    """What cookies are signed with: `COOKIE_SECRET`, else derived from the database's own secret."""
    if given := setting("COOKIE_SECRET"):
        return given
    has_secrets = bool(st.secrets.load_if_toml_exists())
    connections = str(st.secrets.get("connections", "")) if has_secrets else ""
    if own := setting("SUPABASE_DB_URL") or setting("SUPABASE_KEY") or connections:
        return hashlib.sha256(f"cookies of the chat app: {own}".encode()).hexdigest()
    file = LOCAL / "cookie-secret"
    if not file.exists():
        LOCAL.mkdir(parents=True, exist_ok=True)
        file.touch(0o600)
        file.write_text(secrets.token_hex(32))
    return file.read_text()
