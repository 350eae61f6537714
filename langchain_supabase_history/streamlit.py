"""What a Streamlit app needs beside the store: a connection, and the text of a stream. Extra: `[streamlit]`.

`st.connection("supabase_history", type=HistoryConnection)` makes one store for the whole service, from what the app's
secrets hold, and closes it when Streamlit releases it. `st.write_stream(text_chunks(stream))` draws an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import streamlit as st
from langchain_core.messages import AIMessage
from streamlit.connections import BaseConnection

from .connect.environment import NAMES
from .store import HistoryStore

# What a setting is called in a section of secrets. Other connections for Supabase say `url` and `key`.
_IN_A_SECTION: Final = {
    "SUPABASE_DB_URL": ("SUPABASE_DB_URL", "db_url"),
    "SUPABASE_URL": ("SUPABASE_URL", "url"),
    "SUPABASE_KEY": ("SUPABASE_KEY", "key"),
}


class HistoryConnection(BaseConnection[HistoryStore]):
    """The store of a Streamlit app, one for all its visitors.

    It looks for `SUPABASE_DB_URL` (or `db_url`), else `SUPABASE_URL` and `SUPABASE_KEY` (or `url` and `key`): in the
    section `[connections.<name>]` of the secrets, then in `[connections.supabase]`, then at the root of the secrets and
    in the environment. Keyword arguments of `st.connection` are the store's options, `deadline` or `schema` say.

    Raises:
        NotConfigured: None of them says which database.
    """

    def _connect(self, **options: Any) -> HistoryStore:
        return store_from_secrets(self._secrets, **options)

    @property
    def store(self) -> HistoryStore:
        """The store. Give each visitor a view of it: `connection.store.for_user(user_id)`."""
        return self._instance

    def reset(self) -> None:
        """Close the store; the next use makes another."""
        self.close()
        super().reset()

    def close(self) -> None:
        """Give all connections of the store back. Streamlit calls it when it releases the connection."""
        if (store := self._raw_instance) is not None:
            store.close()


def store_from_secrets(section: Mapping[str, Any] | None = None, **options: Any) -> HistoryStore:
    """A store from Streamlit's secrets; where they say nothing, from the environment.

    Args:
        section: A section of the secrets, which goes before `[connections.supabase]`.
        **options: The store's options.

    Raises:
        NotConfigured: Nothing says which database.
    """
    sections = [section or {}]
    if st.secrets.load_if_toml_exists():  # strings at their root become environment variables
        sections.append(st.secrets.get("connections", {}).get("supabase", {}))
    for found in map(_settings, sections):
        if "SUPABASE_DB_URL" in found:
            return HistoryStore.from_postgres(found["SUPABASE_DB_URL"], **options)
        if "SUPABASE_URL" in found and "SUPABASE_KEY" in found:
            return HistoryStore.from_supabase(found["SUPABASE_URL"], found["SUPABASE_KEY"], **options)
    return HistoryStore.from_env(**options)


def _settings(section: Mapping[str, Any]) -> dict[str, str]:
    found = {name: next((section[key] for key in _IN_A_SECTION[name] if section.get(key)), None) for name in NAMES}
    return {name: str(value) for name, value in found.items() if value is not None}


def text_chunks(stream: Iterable[Any]) -> Iterator[str]:
    """The text of an answer as it comes, for `st.write_stream`, which draws content blocks as JSON.

    Tool calls and their results have no text here. The stream is closed whatever happens.

    Args:
        stream: What a runnable's `stream` gives: strings, messages, or the pairs of an agent's
            `stream_mode="messages"`.
    """
    try:
        for chunk in stream:
            said = chunk[0] if isinstance(chunk, tuple) else chunk
            text = said.text if isinstance(said, AIMessage) else said if isinstance(said, str) else ""
            if text:
                yield str(text)
    finally:
        if hasattr(stream, "close"):
            stream.close()
