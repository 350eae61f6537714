"""The outbox: what cannot be sent waits, survives the process, and is sent once, in order, unless it was erased."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda

from langchain_supabase_history import (
    Conflict,
    HistoryError,
    HistoryStore,
    InvalidInput,
    InvalidMessage,
    NotConfigured,
    NotInstalled,
    OutboxFailed,
    StatementTimeout,
    StoreClosed,
    Unavailable,
)
from langchain_supabase_history.operations.messages import append_call
from langchain_supabase_history.outbox import outbox, queue
from langchain_supabase_history.outbox.file import look_into
from langchain_supabase_history.outbox.operation import Operation
from langchain_supabase_history.outbox.outbox import Outbox
from langchain_supabase_history.outbox.sending import AWAY
from tests import servers
from tests.proxy import Proxy, proxy

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


@pytest.fixture(params=["psycopg", "data-api"])
def away(request: pytest.FixtureRequest, pg: servers.Postgres, shared_database: str) -> Iterator[tuple[Proxy, Any]]:
    """A proxy in front of the database, and what makes a store through it; `refuse` and `drop_all` take it away."""
    if request.param == "psycopg":
        with proxy(pg.port) as wire:
            conninfo = shared_database.replace(f":{pg.port}/", f":{wire.port}/")
            yield wire, lambda **options: HistoryStore.from_postgres(conninfo, deadline=0.5, **options)
        return
    data_api: servers.Lite = request.getfixturevalue("data_api")
    with proxy(int(data_api.url.rsplit(":", 1)[1])) as wire:
        url = f"http://127.0.0.1:{wire.port}"
        yield wire, lambda **options: HistoryStore.from_supabase(url, servers.SECRET_KEY, deadline=0.5, **options)


@contextlib.contextmanager
def cut(wire: Proxy) -> Iterator[None]:
    wire.refuse = True
    wire.drop_all()
    try:
        yield
    finally:
        wire.refuse = False


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
            wire.refuse = True
            wire.drop_all()
            return AIMessage("answer")

        chain = store.with_history(RunnableLambda(model))
        assert chain.invoke("question", {"configurable": {"session_id": session}}).text == "answer"
        assert len(store.waiting()) == 1
        wire.refuse = False
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
        with HistoryStore.from_supabase(url, servers.PUBLISHABLE_KEY, deadline=0.5, outbox=path) as store:
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
        with HistoryStore.from_client(client, deadline=0.5, outbox=tmp_path / "outbox") as store:
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


# --- what is erased stays so


@pytest.fixture
def wire(pg: servers.Postgres) -> Iterator[Proxy]:
    with proxy(pg.port) as made:
        yield made


@pytest.fixture
def make(
    wire: Proxy, pg: servers.Postgres, shared_database: str, tmp_path: Path
) -> Iterator[Callable[..., HistoryStore]]:
    """Makes stores through the proxy, with an outbox each."""
    with contextlib.ExitStack() as stores:

        def make(**options: Any) -> HistoryStore:
            conninfo = shared_database.replace(f":{pg.port}/", f":{wire.port}/") + options.pop("query", "")
            defaults = {"deadline": 0.5, "jwt_secret": servers.JWT_SECRET, "outbox": tmp_path / "outbox"}
            return stores.enter_context(HistoryStore.from_postgres(conninfo, **defaults | options))

        yield make


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
    postgres_store.delete_session(session)
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


# --- what goes wrong now and is well later


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
    store = make()
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
    store = make(deadline=0.2)
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
    store = make(deadline=0.2)
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


# --- nobody waits for longer than need be


@pytest.mark.parametrize("is_async", [False, True])
def test_while_the_database_is_away_appends_are_kept_at_once(
    wire: Proxy, make: Any, session: str, is_async: bool
) -> None:
    store = make(deadline=1)
    with cut(wire):
        store.append(session, [HumanMessage("0")])
        began = time.monotonic()

        async def main() -> None:
            await asyncio.gather(*(store.aappend(session, [HumanMessage("n")]) for n in range(20)))

        if is_async:
            asyncio.run(main())
        else:
            threads = [threading.Thread(target=store.append, args=(session, QA[:1])) for n in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert time.monotonic() - began < 0.9
    store.flush()
    assert len(store.load(session)) == 21


def test_whoever_waits_for_a_session_shares_one_try(wire: Proxy, make: Any, session: str) -> None:
    store = make(deadline=1)
    with cut(wire):
        store.append(session, QA)

        async def main() -> float:
            loop = asyncio.get_running_loop()
            loads = [asyncio.ensure_future(store.aload(session)) for n in range(40)]
            await asyncio.sleep(0.2)
            began = loop.time()
            await asyncio.to_thread(lambda: None)
            took = loop.time() - began
            assert {type(e) for e in await asyncio.gather(*loads, return_exceptions=True)} == {Unavailable}
            return took

        began = time.monotonic()
        assert asyncio.run(main()) < 0.3, "the application's own worker threads are free"
        assert time.monotonic() - began < 2


def test_a_long_backlog_is_in_nobody_elses_way(wire: Proxy, make: Any, session: str) -> None:
    store = make(deadline=2)
    long, short = f"{session}-long", f"{session}-short"
    with cut(wire):
        for n in range(60):
            store.append(long, [HumanMessage(str(n))])
        store.append(short, [HumanMessage("0")])
    wire.delay = 0.03

    def flush() -> None:
        with contextlib.suppress(StoreClosed):
            store.flush()

    flushing = threading.Thread(target=flush)
    flushing.start()
    eventually(lambda: ("", long) in outbox_of(store).deliveries)
    began = time.monotonic()
    assert store.load(short) == [HumanMessage("0")]
    store.append(short, [HumanMessage("1")])
    assert time.monotonic() - began < 2
    assert any(w.session_id == long for w in store.waiting())
    began = time.monotonic()
    outbox_of(store).close()
    assert time.monotonic() - began < 1, "what is under way ends, not the backlog"
    flushing.join()
    wire.delay = 0
    assert store.waiting()
    store.flush()
    assert texts(store.load(long)) == [str(n) for n in range(60)]
    assert texts(store.load(short)) == ["0", "1"]


def test_a_sync_call_on_the_loop_of_an_async_erasure_ends(
    make: Any, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    aexecute = store.driver.aexecute

    async def slowly(call: Any, identity: Any = None) -> Any:
        await asyncio.sleep(0.2)
        return await aexecute(call, identity)

    monkeypatch.setattr(store.driver, "aexecute", slowly)

    async def main() -> None:
        clear = asyncio.ensure_future(store.aclear(session))
        await asyncio.sleep(0.1)
        with pytest.raises(Unavailable, match="still being sent"):
            store.load(session)
        assert await clear == 0

    asyncio.run(main())


# --- users


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
    time.sleep(1)
    assert 2 <= len([s for s in statements if s.startswith("select owner, session_id from")]) <= 6, "ever more rarely"
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
    postgres_store.clear(session)
    began = time.monotonic()
    assert store.flush() == 0
    assert told == [(Conflict, [], [], None)]
    assert time.monotonic() - began < 1


# --- the file


def test_one_process_owns_the_file(shared_database: str, tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    with HistoryStore.from_postgres(shared_database, outbox=path) as store:
        store.waiting()
        open_it = f"HistoryStore.from_postgres('postgresql://localhost/x', outbox={str(path)!r})"
        script = f"from langchain_supabase_history import HistoryStore\n{open_it}"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert "NotConfigured: Another process uses the outbox" in done.stderr
        store.close()
        assert store.waiting() == []  # used again, it opens again
    with HistoryStore.from_postgres(shared_database, outbox=path) as again:
        assert again.waiting() == []


def test_a_broken_file_is_told(shared_database: str, tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(NotConfigured, match=r"damaged.*Move the file away"):
        HistoryStore.from_postgres(shared_database, outbox=path)
    with pytest.raises(NotConfigured, match="outbox"):
        HistoryStore.from_postgres(shared_database, outbox="/proc/none/outbox")


def test_a_full_disk_is_told_and_the_turn_carries_its_messages(
    pg: servers.Postgres, tmp_path: Path, session: str
) -> None:
    with HistoryStore.from_postgres(
        f"postgresql://postgres@127.0.0.1:{servers.free_port()}/x", deadline=0.3, outbox=tmp_path / "outbox"
    ) as store:
        store.waiting()
        assert store._outbox is not None
        assert store._outbox.db is not None
        store._outbox.db.execute("pragma max_page_count = 5")  # SQLite's own way to have a full disk
        with pytest.raises(OutboxFailed, match=r"full.*Look at the disk") as caught:
            store.append(session, [HumanMessage("x" * 100_000)])
        assert caught.value.__cause__ is not None
        history = store.get_session_history(session)
        with pytest.raises(OutboxFailed):
            history.add_messages([HumanMessage("x" * 100_000)])
        assert isinstance(history.last_error, OutboxFailed)


def test_a_forked_child_leaves_the_file_to_its_parent(shared_database: str, tmp_path: Path, session: str) -> None:
    script = f"""
import os, sys
from langchain_core.messages import HumanMessage
from langchain_supabase_history import HistoryStore
with HistoryStore.from_postgres({shared_database!r}, outbox={str(tmp_path / "outbox")!r}) as store:
    store.append({session!r}, [HumanMessage("parent")])
    pid = os.fork()
    if pid == 0:
        store.append({session!r}, [HumanMessage("child")])
        store.close()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    store.append({session!r}, [HumanMessage("parent again")])
    print(len(store.load({session!r})), store.waiting())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("3 []\n", "")


FORK = """
import os, sys, threading, time
from langchain_core.messages import HumanMessage
from langchain_supabase_history import HistoryStore
store = HistoryStore.from_postgres("postgresql://postgres@127.0.0.1:1/x", deadline=0.2, outbox={path!r})
store.append("s", [HumanMessage("0")])
"""


def test_a_child_does_not_wait_for_a_lock_of_its_parents(tmp_path: Path) -> None:
    script = (
        FORK.format(path=str(tmp_path / "outbox"))
        + """
from langchain_supabase_history import OutboxFailed, Unavailable
store._outbox.lock.acquire()
pid = os.fork()
if pid == 0:
    append = lambda: store.append("s", [HumanMessage("child")])
    for use in (append, lambda: store.load("s"), store.waiting, store.flush):
        try:
            use()
        except (Unavailable, OutboxFailed) as error:
            print(type(error).__name__)
    store.close()
    sys.exit(0)
status = os.waitpid(pid, 0)[1]
store._outbox.lock.release()
print(status, len(store.waiting()))
store.close()
"""
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["Unavailable", "Unavailable", "OutboxFailed", "OutboxFailed", "0", "1"]


def test_what_is_kept_after_a_child_has_ended_survives_a_kill(tmp_path: Path) -> None:
    script = (
        FORK.format(path=str(tmp_path / "outbox"))
        + """
pid = os.fork()
if pid == 0:
    sys.exit(0)
os.waitpid(pid, 0)
store.append("s", [HumanMessage("1")])
os.kill(os.getpid(), 9)
"""
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    assert len(look_into(tmp_path / "outbox")) == 2


def test_a_store_that_was_dropped_gives_its_file_back(wire: Proxy, shared_database: str, tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    nowhere = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/x"
    store = HistoryStore.from_postgres(nowhere, deadline=0.2, outbox=path)
    store.append("s", QA)
    del store
    gc.collect()
    with HistoryStore.from_postgres(nowhere, deadline=0.2, outbox=path) as again:
        assert len(again.waiting()) == 1


def test_an_append_that_a_close_cuts_short_does_not_open_the_file_again(
    make: Any, session: str, shared_database: str
) -> None:
    store = make(deadline=5)
    store.append(session, QA)
    ended: list[Any] = []

    def append() -> None:
        try:
            ended.append(store.append(session, QA))
        except StoreClosed as error:
            ended.append(error)

    with psycopg.connect(shared_database) as held:
        held.execute("select from chat_history_sessions where session_id = %s for update", [session])
        thread = threading.Thread(target=append)
        thread.start()
        time.sleep(0.3)
        store._outbox.close()
        held.rollback()
    thread.join()
    assert len(ended) == 1
    assert outbox_of(store).db is None
    with pytest.raises(StoreClosed):
        outbox_of(store)._keep(Operation(append_call(store.scope, session, QA), None, None, ""))
    assert outbox_of(store).db is None


# --- an outage


@pytest.mark.soak
def test_20_turns_end_while_the_database_is_away_and_the_application_is_killed(tmp_path: Path, session: str) -> None:
    """Their reads came before, their saves come during; away for 30 s; nothing is lost or out of order."""
    with servers.postgres(servers.postgres_bin()) as server:
        from langchain_supabase_history import migrate

        conninfo = server.url(server.create_database())
        migrate(conninfo)
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.talker",
            conninfo,
            str(tmp_path / "outbox"),
            session,
            "20",
        ]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        for n in range(20):
            assert process.stdout.readline() == f"asked {n}\n"
        server.stop()
        stopped = time.monotonic()
        process.stdin.write("go\n")
        process.stdin.flush()
        for n in range(20):
            assert process.stdout.readline() == f"done {n}\n"
        process.kill()
        process.communicate()
        time.sleep(max(0, 30 - (time.monotonic() - stopped)))
        server.start()
        with HistoryStore.from_postgres(conninfo, outbox=tmp_path / "outbox") as store:  # sends by itself
            end = time.monotonic() + 60
            while store.waiting():
                assert time.monotonic() < end
                time.sleep(0.1)
            for part in range(2):
                wanted = [f"{who}{n}" for n in range(part, 20, 2) for who in "qa"]
                assert texts(store.load(f"{session}-{part}")) == wanted
    print("20 turns of 20 arrived, in order, after 30 s without a database and a SIGKILL")


def test_a_command_shows_what_waits_and_sends_it(
    pg: servers.Postgres, shared_database: str, tmp_path: Path, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from click.testing import CliRunner

    from langchain_supabase_history.commands.main import main

    path = tmp_path / "outbox"
    nowhere = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/x"
    with HistoryStore.from_postgres(nowhere, deadline=0.2, outbox=path) as store:
        store.append(session, QA)
        busy = CliRunner().invoke(main, ["outbox", str(path)])
        assert (busy.exit_code, "in use by a process" in busy.output) == (1, True)
    shown = CliRunner().invoke(main, ["outbox", str(path), "--json"])
    assert shown.exit_code == 1
    ((entry),) = json.loads(shown.stdout)
    assert (entry["session_id"], entry["messages"], entry["refused"]) == (session, 2, None)
    assert session[:20] in CliRunner().invoke(main, ["outbox", str(path)]).output
    monkeypatch.setenv("SUPABASE_DB_URL", shared_database)
    sent = CliRunner().invoke(main, ["outbox", str(path), "--flush", "--json"])
    assert (sent.exit_code, sent.stdout.strip()) == (0, "[]")
    with HistoryStore.from_postgres(shared_database) as store:
        assert store.load(session) == QA
