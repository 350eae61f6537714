"""What goes wrong for now and is well later: refusals, deliveries that fail, backgrounds that die."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import httpx
import psycopg
import pytest
from langchain_core.messages import HumanMessage

from langchain_supabase_history import (
    HistoryError,
    InvalidInput,
    InvalidMessage,
    NotConfigured,
    NotInstalled,
    StatementTimeout,
    Unavailable,
)
from langchain_supabase_history.outbox import queue
from langchain_supabase_history.outbox.outbox import Outbox
from langchain_supabase_history.outbox.sending import AWAY
from tests.outbox.helpers import QA, cut, eventually, outbox_of, texts, token
from tests.proxy import Proxy


def test_a_token_that_cannot_be_had_is_asked_for_again(wire: Proxy, make: Any, session: str) -> None:
    state = {"away": False}

    def fresh() -> str:
        if state["away"]:
            raise httpx.ConnectError("the auth server is away")
        return token("ada-" + session)

    store = make()
    with cut(wire):
        store.as_user(fresh).append(session, QA)
        state["away"] = True
    with pytest.raises(HistoryError) as caught:
        store.flush()
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    with pytest.raises(httpx.ConnectError):
        store.as_user(fresh).load(session)
    time.sleep(1.5)  # the background has met it too
    thread = outbox_of(store).thread
    assert thread is not None
    assert thread.is_alive()
    state["away"] = False
    eventually(lambda: not store.waiting())
    assert store.as_user(fresh).load(session) == QA


@pytest.mark.parametrize(
    "error",
    [
        StatementTimeout("slow"),
        NotInstalled("none"),
        NotConfigured("wrong"),
        HistoryError("?", code="XX000"),
        InvalidInput("an access token that is none"),
        RuntimeError("an application's"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_mend_itself_is_tried_again(
    wire: Proxy, make: Any, session: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    told: list[Exception] = []
    store = make(on_error=lambda error, messages: told.append(error))
    with cut(wire):
        store.append(session, QA)
    execute = store.driver.execute

    def fails(call: Any, identity: Any = None) -> Any:
        if call.function.name == "chat_history_append":
            raise error
        return execute(call, identity)

    with monkeypatch.context() as patch:
        patch.setattr(store.driver, "execute", fails)
        with pytest.raises(HistoryError) as caught:
            store.flush()
        assert type(caught.value) is type(error) or caught.value.__cause__ is error
        assert store.load(session) == [], "what is stored can be read: the database is there"
        with pytest.raises(HistoryError):
            store.append(session, [HumanMessage("next")])
        assert [w.refused for w in store.waiting()] == [None]
    store.flush()
    assert (store.load(session), store.waiting(), told) == (QA, [], [])


def test_what_the_database_refuses_is_kept_for_a_person(
    wire: Proxy, make: Any, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, list[str]]] = []
    store = make(on_error=lambda error, messages: told.append((str(error), texts(messages))))
    with cut(wire):
        store.append(session, QA)

    def refuses(call: Any, identity: Any = None) -> Any:
        raise InvalidMessage("It is too large.", code="54000")

    with monkeypatch.context() as patch:
        patch.setattr(store.driver, "execute", refuses)
        assert store.flush() == 0
    assert [w.refused for w in store.waiting()] == ["It is too large."]
    assert told == [("It is too large.", ["question", "answer"])]
    assert store.append(session, QA), "it is in nobody's way"
    store.delete_session(session)
    assert store.waiting() == []


def test_one_bad_session_does_not_stop_the_others(wire: Proxy, make: Any, session: str, shared_database: str) -> None:
    store = make(deadline=3)
    bad, good = f"{session}-bad", f"{session}-good"
    store.append(bad, QA)
    with cut(wire):
        store.append(bad, QA)
        store.append(good, QA)
    with psycopg.connect(shared_database) as held:
        held.execute("select from chat_history_sessions where session_id = %s for update", [bad])
        with pytest.raises(Unavailable):
            store.flush()
        assert [w.session_id for w in store.waiting()] == [bad]
    assert store.flush() == 1


def test_a_database_that_is_away_is_not_asked_for_each_session(
    wire: Proxy, make: Any, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    with cut(wire):
        for n in range(8):
            store.append(f"{session}-{n}", QA)
        asked: list[str] = []
        execute = store.driver.execute

        def count(call: Any, identity: Any = None) -> Any:
            asked.append(call.args["session_id"])
            return execute(call, identity)

        with monkeypatch.context() as patch:
            patch.setattr(queue, "FIRST_PAUSE", 3600)  # the background keeps out of it
            patch.setattr(outbox_of(store), "pause", 3600)
            patch.setattr(store.driver, "execute", count)
            with pytest.raises(Unavailable):
                store.flush()
            assert len(set(asked)) <= 2 * AWAY < 8  # the background may have been in the middle of its own round
    assert store.flush() == 8


def test_what_is_kept_while_the_background_ends_is_sent(
    wire: Proxy, make: Any, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, goes_on = threading.Event(), Outbox.goes_on

    def slowly(box: Outbox) -> bool:
        if not (more := goes_on(box)):
            ends.set()
            time.sleep(1)  # it has decided to end, and has not ended
        return more

    monkeypatch.setattr(Outbox, "goes_on", slowly)
    store = make()
    for n in range(2):
        ends.clear()
        with cut(wire):
            store.append(session, [HumanMessage(str(n))])
        assert ends.wait(15)
    eventually(lambda: not store.waiting())
    assert texts(store.load(session)) == ["0", "1"]


def test_a_background_that_died_is_replaced(wire: Proxy, make: Any, session: str) -> None:
    store = make()
    dead = threading.Thread(target=lambda: None)
    dead.start()
    dead.join()
    outbox_of(store).thread = dead
    with cut(wire):
        store.append(session, QA)
    eventually(lambda: not store.waiting())


def test_a_cancelled_append_is_kept(wire: Proxy, make: Any, session: str) -> None:
    store = make(deadline=5)

    async def main() -> None:
        task = asyncio.ensure_future(store.aappend(session, QA))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with cut(wire):
        asyncio.run(main())
        assert [w.messages for w in store.waiting()] == [2]
    assert store.load(session) == QA
