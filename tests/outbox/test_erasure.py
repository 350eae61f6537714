"""What is cleared or deleted does not come back out of the outbox."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_supabase_history import (
    Conflict,
    HistoryStore,
    Unavailable,
)
from langchain_supabase_history.outbox import outbox, queue
from tests.outbox.helpers import QA, cut, outbox_of
from tests.proxy import Proxy


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("of", ["for_user", "as_user"])
def test_what_waits_of_a_deleted_user_is_struck(
    wire: Proxy, make: Any, session: str, of: str, known: bool, postgres_store: HistoryStore
) -> None:
    store, ada = make(), f"ada-{session}"
    view = store.for_user(ada) if of == "for_user" else store.as_user(claims={"sub": ada})
    other = store.for_user(f"bob-{session}")
    if known:
        view.append(session, QA)
    with cut(wire):
        view.append(session, [HumanMessage("secret")])
        other.append(session, QA)
    if known:
        view.delete_user(ada) if of == "as_user" else store.delete_user(ada)
    else:
        asyncio.run(store.adelete_user(ada))
    assert [w.user_id for w in store.waiting() if w.user_id == ada] == []
    assert store.flush() <= 1
    assert postgres_store.for_user(ada).load(session) == []
    assert other.load(session) == QA
    assert outbox_of(store).identities == {}


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("erase", ["clear", "delete_session"])
def test_an_erasure_strikes_what_waited_before_it(
    wire: Proxy, make: Any, session: str, erase: str, is_async: bool
) -> None:
    store = make()

    def run() -> Any:
        return asyncio.run(getattr(store, f"a{erase}")(session)) if is_async else getattr(store, erase)(session)

    with cut(wire):
        store.append(session, [HumanMessage("secret")])
        with pytest.raises(Unavailable):
            run()
        assert len(store.waiting()) == 1, "what was not erased is not lost"
    run()
    assert store.waiting() == []
    assert store.load(session) == []
    store.append(session, QA)
    assert store.load(session) == QA


def test_nothing_of_a_session_is_sent_while_it_is_erased(
    wire: Proxy, make: Any, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "FIRST_PAUSE", 0.3)
    store = make()
    with cut(wire):
        store.append(session, [HumanMessage("secret")])
    sent, execute = list[str](), store.driver.execute
    erasing = threading.Event()

    def slowly(call: Any, identity: Any = None) -> Any:
        sent.append(call.function.name)
        reply = execute(call, identity)
        if call.function.name == "chat_history_clear":
            erasing.set()
            time.sleep(1)  # the background wakes, and would send what waits after it was erased
        return reply

    monkeypatch.setattr(store.driver, "execute", slowly)
    clear = threading.Thread(target=store.clear, args=[session])
    clear.start()
    assert erasing.wait(5)
    assert store.load(session) == [], "waits for the erasure, as it would for what waits"
    clear.join()
    assert sent == ["chat_history_clear", "chat_history_load"]


@pytest.mark.parametrize("known_by", ["append", "load", "clear", "session"])
def test_a_bare_append_carries_the_epoch_that_was_seen_last(
    wire: Proxy, make: Any, session: str, known_by: str, postgres_store: HistoryStore
) -> None:
    told: list[Exception] = []
    postgres_store.append(session, QA)
    store = make(on_error=lambda error, messages: told.append(error))
    store.append(session, QA) if known_by == "append" else getattr(store, known_by)(session)
    with cut(wire):
        store.append(session, [HumanMessage("secret")])
        postgres_store.delete_session(session)  # before the background may send what waits
    assert store.flush() == 0
    assert [type(error) for error in told] == [Conflict]
    assert store.load(session) == []


def test_what_came_after_an_own_erasure_is_stored(wire: Proxy, make: Any, session: str) -> None:
    store = make()
    store.append(session, QA)
    for erase in (store.clear, store.delete_session):
        erase(session)
        with cut(wire):
            store.append(session, QA)
        assert store.flush() <= 1  # the background may have been faster
        assert store.waiting() == []
        assert store.load(session) == QA


@pytest.mark.parametrize("way", ["rewind", "pop", "switch", "fork"])
def test_what_came_after_an_own_branch_is_stored(wire: Proxy, make: Any, session: str, way: str) -> None:
    store = make()
    store.append(session, QA)
    if way in ("rewind", "switch"):
        made = store.rewind_session(session, before=1)
        if way == "switch":
            store.switch_to(session, made)
    elif way == "pop":
        store.pop_messages(session, 2)
    else:
        store.delete_session("fork of " + session)
        store.fork_session(session, "fork of " + session)
    with cut(wire):
        store.append(session, [HumanMessage("afterwards")])
    assert store.flush() <= 1  # the background may have been faster
    assert store.waiting() == []
    before = [] if way in ("rewind", "pop") else QA
    assert store.load(session) == [*before, HumanMessage("afterwards")]


def test_the_oldest_epochs_are_forgotten_first(make: Any, session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "EPOCHS", 2)
    store = make()
    for n in (0, 1, 0, 2):
        store.load(f"{session}-{n}")
    assert list(outbox_of(store).epochs) == [("", f"{session}-0"), ("", f"{session}-2")]


def test_a_replacement_is_not_kept(wire: Proxy, make: Any, session: str, postgres_store: HistoryStore) -> None:
    store = make()
    store.append(session, QA)
    history = store.get_session_history(session)
    with cut(wire), pytest.raises(Unavailable):
        history.messages = [HumanMessage("instead")]
    assert store.waiting() == []
    postgres_store.append(session, QA)
    assert store.load(session) == QA * 2
