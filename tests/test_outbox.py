"""The outbox: what cannot be sent waits, survives the process, and is sent once, in order, unless it was erased."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda

from langchain_supabase_history import (
    Conflict,
    Forbidden,
    HistoryStore,
    InvalidMessage,
    NotConfigured,
    OutboxFailed,
    Unavailable,
)

from . import servers
from .proxy import Proxy, proxy

QA = [HumanMessage("question"), AIMessage("answer")]
ROOT = Path(__file__).resolve().parents[1]


def texts(messages: list[BaseMessage]) -> list[str]:
    return [m.text for m in messages]


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
            *QA, HumanMessage("q1"), AIMessage("a1"), HumanMessage("q2"), AIMessage("a2"),
        ]  # fmt: skip
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
        assert through.flush() == 1
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
            with pytest.raises(Forbidden):
                store.flush()
            assert len(store.waiting()) == 1
            sign_in(ada)
            store.flush()
            assert store.load(session) == QA
        client.postgrest.session.close()
    with pytest.raises(NotConfigured, match="sync supabase client"):
        HistoryStore.from_client(async_client=client, outbox=tmp_path / "other")


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
        assert store._outbox._db is not None
        store._outbox._db.execute("pragma max_page_count = 5")  # SQLite's own way to have a full disk
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

    from langchain_supabase_history.cli import main

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
