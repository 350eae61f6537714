"""Appends wait in the outbox while the database is away, and are sent in order."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda

from langchain_supabase_history import (
    Conflict,
    HistoryStore,
    InvalidMessage,
    NotConfigured,
    Unavailable,
)
from tests import servers
from tests.outbox.helpers import QA, behind, cut, texts
from tests.proxy import proxy


@pytest.mark.parametrize("is_async", [False, True])
def test_an_append_waits_and_is_sent_before_the_next(away: Any, tmp_path: Path, session: str, is_async: bool) -> None:
    wire, make = away

    def run(store: HistoryStore, name: str, *args: Any) -> Any:
        return asyncio.run(getattr(store, "a" + name)(*args)) if is_async else getattr(store, name)(*args)

    with make(outbox=tmp_path / "outbox") as store:
        assert len(run(store, "append", session, QA)) == 2
        with cut(wire):
            assert run(store, "append", session, [HumanMessage("q1"), AIMessage("a1")]) == []
            assert run(store, "append", session, [HumanMessage("q2"), AIMessage("a2")]) == []
            with pytest.raises(Unavailable):
                run(store, "load", session)
            with pytest.raises(Unavailable):
                run(store, "flush")
            assert [(w.session_id, w.messages, w.refused) for w in store.waiting()] == [(session, 2, None)] * 2
        assert run(store, "load", session) == [
            *QA,
            HumanMessage("q1"),
            AIMessage("a1"),
            HumanMessage("q2"),
            AIMessage("a2"),
        ]
        assert store.waiting() == []
        assert run(store, "flush") == 0


def test_it_is_sent_in_the_background(away: Any, tmp_path: Path, session: str, store: HistoryStore) -> None:
    wire, make = away
    with make(outbox=tmp_path / "outbox") as through:
        with cut(wire):
            through.append(session, QA)
            assert len(through.waiting()) == 1
        end = time.monotonic() + 15
        while through.waiting():
            assert time.monotonic() < end
            time.sleep(0.1)
    assert store.load(session) == QA


def test_what_was_stored_although_its_answer_was_lost_is_not_doubled(away: Any, tmp_path: Path, session: str) -> None:
    wire, make = away
    with make(outbox=tmp_path / "outbox") as store:
        store.append(session, QA)
        wire.arm(0, "server", "reset")  # the request arrives, its answer does not
        store.append(session, [HumanMessage("once")])
        with cut(wire):
            store.append(session, [HumanMessage("twice")])
        store.flush()
        assert texts(store.load(session)) == ["question", "answer", "once", "twice"]


@pytest.mark.parametrize("erase", ["clear", "delete_session"])
def test_what_was_erased_meanwhile_does_not_come_back(
    away: Any, tmp_path: Path, session: str, store: HistoryStore, erase: str
) -> None:
    wire, make = away
    told: list[tuple[Exception, list[str]]] = []
    path = tmp_path / "outbox"
    with make(outbox=path, on_error=lambda error, messages: told.append((error, texts(messages)))) as through:
        through.append(session, QA)
        history = through.get_session_history(session)
        assert len(history.messages) == 2
        with cut(wire):
            history.add_messages([HumanMessage("secret"), AIMessage("secret")])
            getattr(store, erase)(session)
        assert through.flush() == 0, "it was refused, not stored"
        assert through.load(session) == []
        assert through.waiting() == []
    ((error, messages),) = told
    assert isinstance(error, Conflict)
    assert messages == ["secret", "secret"]
    assert b"secret" not in path.read_bytes() or sqlite3.connect(path).execute(
        "select count(*) from waiting"
    ).fetchone() == (0,)


def test_it_carries_every_value_to_the_letter(away: Any, tmp_path: Path, session: str) -> None:
    wire, make = away
    message = ToolMessage(
        "é\x00\ud800", tool_call_id="c", artifact={"n": [1e22, 2**70, b"x", float("nan")], 1: {"$json": "x"}}
    )
    with make(outbox=tmp_path / "outbox") as store:
        with cut(wire):
            store.append(session, [HumanMessage("q"), message])
        store.flush()
        stored = store.messages(session).items[1].message
    assert repr(stored) == repr(message)


def test_a_refused_append_does_not_wait(away: Any, tmp_path: Path, session: str) -> None:
    _, make = away
    with make(outbox=tmp_path / "outbox") as store:
        with pytest.raises(InvalidMessage):
            store.append(session, [HumanMessage("x", additional_kwargs={"o": object()})])
        store.append(session, QA, ids=["00000000-0000-0000-0000-000000000001"] * 0 or None, idempotency_key="k")
        with pytest.raises(Conflict):
            store.append(session, [HumanMessage("other"), AIMessage("other")], idempotency_key="k")
        assert store.waiting() == []


def test_the_runnable_goes_on(away: Any, tmp_path: Path, session: str) -> None:
    wire, make = away
    with make(outbox=tmp_path / "outbox") as store:

        def model(messages: list[BaseMessage]) -> AIMessage:
            outage.enter_context(cut(wire))
            return AIMessage("answer")

        chain = store.with_history(RunnableLambda(model))
        with contextlib.ExitStack() as outage:
            assert chain.invoke("question", {"configurable": {"session_id": session}}).text == "answer"
            assert len(store.waiting()) == 1
        store.flush()
        assert texts(store.load(session)) == ["question", "answer"]
        assert [t.status for t in store.turns(session)] == ["completed"]


def test_what_waits_of_a_user_goes_as_that_user(
    data_api: servers.Lite, users: list[tuple[str, str]], tmp_path: Path, session: str
) -> None:
    (_, ada), (_, bob) = users
    with proxy(int(data_api.url.rsplit(":", 1)[1])) as wire:
        url, path = f"http://127.0.0.1:{wire.port}", tmp_path / "outbox"
        with HistoryStore.from_supabase(url, servers.PUBLISHABLE_KEY, deadline=0.5, outbox=path) as store, cut(wire):
            store.as_user(ada).append(session, QA)
        assert ada.encode() not in path.read_bytes()  # no token lies in the file
        with HistoryStore.from_supabase(url, servers.PUBLISHABLE_KEY, outbox=path) as store:
            assert store.as_user(bob).load(session) == []
            assert store.as_user(bob).flush() == 0
            assert len(store.waiting()) == 1  # until its user is there again
            assert store.as_user(ada).load(session) == QA
            assert store.as_user(bob).load(session) == []


def test_what_waits_of_a_signed_in_client_is_never_anothers(
    data_api: servers.Lite, users: list[tuple[str, str]], tmp_path: Path, session: str
) -> None:
    import supabase

    (_, ada), (_, bob) = users
    with proxy(int(data_api.url.rsplit(":", 1)[1])) as wire:
        client = supabase.create_client(f"http://127.0.0.1:{wire.port}", servers.PUBLISHABLE_KEY)

        def sign_in(token: str) -> None:
            client.postgrest.session.close()
            client.options.headers["Authorization"] = f"Bearer {token}"
            client._postgrest = None

        sign_in(ada)
        with HistoryStore.from_client(client, outbox=tmp_path / "outbox") as store:
            behind(wire, store)
            with cut(wire):
                store.append(session, QA)
            sign_in(bob)
            assert store.flush() == 0
            assert len(store.waiting()) == 1
            assert store.load(session) == [], "Bob has a session of that name too, and Ada's is not in its way"
            assert len(store.append(session, [HumanMessage("Bob's")])) == 1
            sign_in(ada)
            store.flush()
            assert store.load(session) == QA
            # One whose sign-in changes while an append is under way.
            ready = threading.Timer(0.2, sign_in, [bob])
            with cut(wire):
                ready.start()
                store.append(session, [HumanMessage("Ada's")])
            ready.join()
            assert store.flush() == 0
            assert texts(store.load(session)) == ["Bob's"]
            sign_in(ada)
            assert texts(store.load(session)) == ["question", "answer", "Ada's"]
        client.postgrest.session.close()
    with pytest.raises(NotConfigured, match="sync supabase client"):
        HistoryStore.from_client(async_client=client, outbox=tmp_path / "other")
