"""A plugin for pytest that puts this library into other projects' tests.

They get `with_history` around every agent that they make, and a session of a store for every history in memory.

An agent is still the agent that `create_agent` has made, with its attributes; only its runs go through a store. Each
run is a session of its own, but runs of one thread are one session, as an application would have it.
"""

from __future__ import annotations

import copy
import os
import uuid
from collections.abc import Sequence
from typing import Any

import langchain.agents
import langchain.agents.factory
import langchain_core.chat_history
import pytest
from langchain_core.messages import BaseMessage

from langchain_supabase_history import HistoryStore, SupabaseChatMessageHistory

_store: HistoryStore | None = None
_create_agent = langchain.agents.factory.create_agent


def pytest_configure(config: pytest.Config) -> None:
    global _store
    _store = HistoryStore.from_postgres(os.environ["FOREIGN_DATABASE"])
    langchain.agents.create_agent = langchain.agents.factory.create_agent = _create_agent_with_history
    langchain_core.chat_history.InMemoryChatMessageHistory = History  # type: ignore[assignment,misc]


def pytest_unconfigure(config: pytest.Config) -> None:
    assert _store is not None
    _store.close()


class History(SupabaseChatMessageHistory):
    """A session of the store, made as a history in memory is."""

    def __init__(self, messages: Sequence[BaseMessage] = ()) -> None:
        assert _store is not None
        super().__init__(str(uuid.uuid4()), _store)
        if messages:
            self.add_messages(messages)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and self.messages == other.messages

    __hash__ = None  # type: ignore[assignment]


def _create_agent_with_history(*args: Any, **kwargs: Any) -> Any:
    assert _store is not None
    agent = _create_agent(*args, **kwargs)
    bot = _store.with_history(copy.copy(agent), input_messages_key="messages")
    mark = uuid.uuid4()

    def config_of(config: Any) -> Any:
        configurable = dict((config or {}).get("configurable") or {})
        thread = configurable.get("thread_id", uuid.uuid4())
        return {**(config or {}), "configurable": {**configurable, "session_id": f"{mark}-{thread}"}}

    def run(name: str) -> Any:
        method = getattr(bot, name)
        return lambda input, config=None, **more: method(input, config_of(config), **more)

    for name in ("invoke", "ainvoke", "stream", "astream"):
        object.__setattr__(agent, name, run(name))
    return agent
