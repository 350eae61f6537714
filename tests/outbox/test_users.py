"""What was kept for signed-in users waits for their tokens."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_supabase_history import (
    Conflict,
    HistoryError,
    HistoryStore,
    Unavailable,
)
from langchain_supabase_history.outbox import queue
from tests.outbox.helpers import QA, cut, eventually, outbox_of, texts, token
from tests.proxy import Proxy


def test_a_users_appends_keep_their_order_whoever_sends_them(wire: Proxy, make: Any, session: str) -> None:
    store, ada = make(), f"ada-{session}"
    with cut(wire):
        store.as_user(token(ada)).append(session, [HumanMessage("0")])
        store.for_user(ada).append(session, [HumanMessage("1")])
        store.as_user(token(ada)).append(session, [HumanMessage("2")])
    assert texts(store.for_user(ada).load(session)) == ["0", "1", "2"]


def test_what_waits_of_a_user_who_is_not_here_is_left_alone(
    wire: Proxy, make: Any, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "FIRST_PAUSE", 0.05)
    store, ada = make(), f"ada-{session}"
    with cut(wire):
        store.as_user(token(ada)).append(session, [HumanMessage("x" * 100_000)])
    store.close()
    again = make()
    statements: list[str] = []
    box = outbox_of(again)
    assert box.db is not None
    box.db.set_trace_callback(statements.append)

    def looks() -> int:
        return len([s for s in statements if s.startswith("select owner, session_id from")])

    time.sleep(1)
    eventually(lambda: looks() >= 2)
    assert looks() <= 6, "ever more rarely"
    assert not [s for s in statements if s.startswith("select arguments")]
    assert again.flush() == 0
    assert again.for_user(ada).load(session) == [], "what is stored can be read"
    assert again.for_user(ada).append(session, QA) == [], "what comes after it waits behind it"
    assert again.as_user(token(ada)).load("another") == []  # its user is here again
    eventually(lambda: not again.waiting())
    assert [len(m.text) for m in again.for_user(ada).load(session)] == [100_000, 8, 6]
    assert box.identities == {}


def test_an_append_that_names_another_user_than_its_token_is_not_kept(wire: Proxy, make: Any, session: str) -> None:
    store = make()
    with cut(wire), pytest.raises(Unavailable):
        store.as_user(token("ada")).for_user("bob").append(session, QA)
    assert store.waiting() == []


@pytest.mark.parametrize("is_async", [False, True])
def test_an_access_token_is_asked_for_once_an_operation(make: Any, session: str, is_async: bool) -> None:
    asked: list[str] = []

    def fresh() -> str:
        asked.append(threading.current_thread().name)
        return token("ada-" + session)

    view = make().as_user(fresh)
    if is_async:

        async def main() -> None:
            await view.aappend(session, QA)
            await view.aload(session)

        asyncio.run(main())
        assert "MainThread" not in asked
    else:
        view.append(session, QA)
        view.load(session)
    assert len(asked) == 2


def test_on_error_may_use_the_store(wire: Proxy, make: Any, session: str, postgres_store: HistoryStore) -> None:
    told: list[Any] = []

    def on_error(error: HistoryError, messages: Any) -> None:
        told.append((type(error), store.load(session), store.waiting(), store.close()))

    store = make(on_error=on_error)
    store.append(session, QA)
    with cut(wire):
        store.append(session, [HumanMessage("secret")])
        postgres_store.clear(session)  # before the background may send what waits
    began = time.monotonic()
    assert store.flush() == 0
    assert told == [(Conflict, [], [], None)]
    assert time.monotonic() - began < 5
