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


@contextlib.contextmanager
def cut(wire: Proxy) -> Iterator[None]:
    wire.refuse = True
    wire.drop_all()
    try:
        yield
    finally:
        wire.refuse = False
