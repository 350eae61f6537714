"""What the tests of the outbox share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_supabase_history import (
    HistoryStore,
)
from langchain_supabase_history.outbox.outbox import Outbox
from tests import servers
from tests.proxy import Proxy

QA = [HumanMessage("question"), AIMessage("answer")]
DEADLINE, AWAY_DEADLINE = 30.0, 0.5
ROOT = Path(__file__).resolve().parents[2]


def texts(messages: list[BaseMessage]) -> list[str]:
    return [m.text for m in messages]


def token(user: str, **more: Any) -> str:
    claims = {"sub": user, "aud": "authenticated", "exp": int(time.time()) + 3600, **more}
    return jwt.encode(claims, servers.JWT_SECRET, "HS256")


def outbox_of(store: HistoryStore) -> Outbox:
    assert store._outbox is not None
    return store._outbox


def eventually(condition: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def behind(wire: Proxy, store: HistoryStore) -> HistoryStore:
    """A store that waits for a slow machine, and not for a database that is known to be away."""
    wire.stores.append(store)
    store.driver.deadline = AWAY_DEADLINE if wire.refuse else DEADLINE
    return store


@contextlib.contextmanager
def cut(wire: Proxy) -> Iterator[None]:
    """Take the database away."""
    for store in wire.stores:
        store.driver.deadline = AWAY_DEADLINE
    wire.refuse = True
    wire.drop_all()
    try:
        yield
    finally:
        wire.refuse = False
        for store in wire.stores:
            store.driver.deadline = DEADLINE
