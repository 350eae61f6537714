"""Faults, with real servers, real kills and a real proxy: nothing acknowledged is lost, nothing is doubled or split."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_supabase_history import HistoryError, HistoryStore, Unavailable, migrate
from tests import servers
from tests.contract.test_concurrency import ROOT
from tests.proxy import proxy
from tests.writers import check_whole, turn_messages


def everything(store: HistoryStore, session: str) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    cursor = None
    while True:
        page = store.messages(session, limit=1000, cursor=cursor)
        found += [(m.position, m.message.text) for m in page]
        if (cursor := page.next_cursor) is None:
            return found


@pytest.mark.soak
def test_postgresql_killed_ten_times_under_eight_writers(session: str) -> None:
    with servers.postgres(servers.postgres_bin(), "fsync=on") as server:
        conninfo = server.url(server.create_database())
        migrate(conninfo)
        writers = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.writers", "psycopg", conninfo, session, f"w{n}", "10000"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for n in range(8)
        ]
        time.sleep(3)
        for _ in range(10):
            assert server.process is not None
            server.process.send_signal(signal.SIGKILL)  # the postmaster: its backends end with it
            server.process.wait()
            time.sleep(0.5)
            server.start("fsync=on")
            time.sleep(1.5)
        acknowledged: set[tuple[str, int]] = set()
        for n, writer in enumerate(writers):
            writer.send_signal(signal.SIGKILL)
            out, _ = writer.communicate(timeout=30)
            acknowledged |= {(f"w{n}", int(line)) for line in out.split("\n")[:-1]}
        with HistoryStore.from_postgres(conninfo) as store:
            found = everything(store, session)
        assert [position for position, _ in found] == list(range(1, len(found) + 1))
        stored = check_whole([text for _, text in found])
        assert acknowledged <= stored
        assert len(stored) - len(acknowledged) <= 8  # each writer may have died before it could tell of its last
        assert all(any(w == f"w{n}" for w, _ in acknowledged) for n in range(8))
    print(
        f"10 SIGKILLs of PostgreSQL under 8 writers: {len(acknowledged)} turns acknowledged, 0 lost, 0 doubled, 0 split"
    )


@pytest.mark.soak
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["psycopg", "psycopg-user", "data-api"])
def test_the_network_cut_at_every_byte_of_an_append(
    pg: servers.Postgres, shared_database: str, data_api: servers.Lite, session: str, kind: str
) -> None:
    """Each way and at each byte: reset or closed, and at some of them silenced or held up."""
    target = int(data_api.url.rsplit(":", 1)[1]) if kind == "data-api" else pg.port
    with proxy(target) as wire:
        if kind == "data-api":
            base = HistoryStore.from_supabase(f"http://127.0.0.1:{wire.port}", servers.SECRET_KEY, deadline=5)
        else:
            base = HistoryStore.from_postgres(shared_database.replace(f":{pg.port}/", f":{wire.port}/"), deadline=5)
        with base:
            store = base.as_user(claims={"sub": session}) if kind == "psycopg-user" else base
            store.append(session, [HumanMessage("first")])
            expected, tried, sizes = ["first"], 0, []
            for n in range(5):  # the least counts: the pool may make a connection meanwhile
                wire.arm(10**9, "client", "reset")
                store.append(session, [HumanMessage(str(n))])
                sizes.append(wire.passed())
                expected.append(str(n))
            size = {side: min(passed[side] for passed in sizes) for side in ("client", "server")}
            for side in ("client", "server"):
                for at in range(size[side]):
                    how = "close" if at % 2 else "reset"
                    tried += 1
                    wire.arm(at, side, how)
                    text = f"{side}/{at}"
                    store.append(session, [HumanMessage(text)])  # acknowledged: must be there once
                    expected.append(text)
            wire.disarm()
            found = everything(store, session)
            assert [position for position, _ in found] == list(range(1, len(expected) + 1))
            assert [text for _, text in found] == expected
            assert wire.cuts >= tried * 0.9

        # Silence and delay, with a deadline too short to wait for: an append may fail, and then be there or not, whole.
        options: dict[str, Any] = {"deadline": 0.6}
        if kind == "data-api":
            base = HistoryStore.from_supabase(f"http://127.0.0.1:{wire.port}", servers.SECRET_KEY, **options)
        else:
            conninfo = shared_database.replace(f":{pg.port}/", f":{wire.port}/")
            base = HistoryStore.from_postgres(conninfo, **options)
        with base:
            store = base.as_user(claims={"sub": session}) if kind == "psycopg-user" else base
            name, acknowledged, sent = f"{session}-silence", [], []
            for side in ("client", "server"):
                for at in range(0, size[side], max(1, size[side] // 12)):
                    for harm in ("blackhole", "delay"):
                        text = f"{side}/{at}/{harm}"
                        sent.append(text)
                        if harm == "blackhole":
                            wire.arm(at, side, "blackhole")
                        else:
                            wire.delay = 0.2
                        try:
                            store.append(name, [HumanMessage(text), AIMessage(text)])
                            acknowledged.append(text)
                        except Unavailable:
                            pass
                        finally:
                            wire.disarm()
                            wire.delay = 0.0
            time.sleep(1)
            texts = [text for _, text in everything(store, name)]
            assert texts[::2] == texts[1::2]  # whole
            assert len(set(texts[::2])) == len(texts[::2])  # once
            assert set(acknowledged) <= set(texts) <= set(sent)
    print(f"{kind}: {tried} cuts and {len(sent)} silences and delays around an append: 0 lost, 0 doubled, 0 split")


def test_a_restarted_and_a_replaced_server(tmp_path: Path, session: str) -> None:
    """A restart, and another server at the same address (a failover): the pool notices and goes on."""
    with servers.postgres(servers.postgres_bin()) as one, servers.postgres(servers.postgres_bin()) as two:
        for server in (one, two):
            server.create_database(name="app")
            migrate(server.url("app"))
        with (
            proxy(one.port) as wire,
            HistoryStore.from_postgres(f"postgresql://postgres@127.0.0.1:{wire.port}/app", deadline=20) as store,
        ):
            store.append(session, [HumanMessage("one")])
            asyncio.run(store.aload(session))
            one.stop()
            one.start()
            assert [m.text for m in store.load(session)] == ["one"]
            assert [m.text for m in asyncio.run(store.aload(session))] == ["one"]
            one.stop()
            wire.target = two.port
            store.append(session, [HumanMessage("two")])
            assert [m.text for m in asyncio.run(store.aload(session))] == ["two"]


def test_a_slow_server_is_waited_for_within_the_deadline(
    pg: servers.Postgres, shared_database: str, session: str
) -> None:
    with proxy(pg.port) as wire:
        conninfo = shared_database.replace(f":{pg.port}/", f":{wire.port}/")
        with HistoryStore.from_postgres(conninfo, deadline=8) as store:
            wire.delay = 0.15
            store.append(session, [HumanMessage("slow")])
            assert [m.text for m in store.load(session)] == ["slow"]


def test_an_exhausted_pool_waits_and_then_says_so(shared_database: str, session: str) -> None:
    import threading

    import psycopg

    with HistoryStore.from_postgres(shared_database, pool_size=1, deadline=1) as store:
        store.append(session, [HumanMessage("q")])
        with psycopg.connect(shared_database) as blocker:
            blocker.execute("select from chat_history_sessions where session_id = %s for update", [session])
            results: list[Exception | None] = []

            def write() -> None:
                try:
                    store.append(session, [HumanMessage("waits")])
                    results.append(None)
                except HistoryError as error:
                    results.append(error)

            threads = [threading.Thread(target=write) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
            assert [type(r) for r in results] == [Unavailable] * 3
        assert [m.text for m in store.load(session)] == ["q"]  # what was given up is cancelled on the server too


def test_an_unknown_host_is_unavailable(session: str) -> None:
    with (
        HistoryStore.from_postgres("postgresql://u@nowhere.invalid/x", deadline=1) as store,
        pytest.raises(Unavailable),
    ):
        store.load(session)
    with (
        HistoryStore.from_supabase("http://nowhere.invalid", "sb_secret_x", deadline=1) as http,
        pytest.raises(Unavailable),
    ):
        http.load(session)


CHAT = """
import sys, time
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableGenerator
from langchain_supabase_history import HistoryStore

def model(inputs):
    for _ in inputs:
        pass
    yield AIMessageChunk("Once upon")
    print("streaming", flush=True)
    time.sleep(600)

chain = HistoryStore.from_postgres(sys.argv[1]).with_history(RunnableGenerator(model))
for chunk in chain.stream("Tell me a story", {"configurable": {"session_id": sys.argv[2]}}):
    pass
"""


def test_a_question_survives_the_process_that_asked_it(shared_database: str, session: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHAT, shared_database, session], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "streaming\n"
    process.kill()
    process.communicate()
    with HistoryStore.from_postgres(shared_database) as store:
        (turn,) = store.turns(session)
        assert (turn.status, [m.text for m in turn.question]) == ("running", ["Tell me a story"])
        assert store.interrupt_turns(session, older_than=3600) == 0
        assert store.interrupt_turns(session, older_than=0) == 1
        (marked,) = store.turns(session)
        assert (marked.status, [m.text for m in marked.question]) == ("interrupted", ["Tell me a story"])
        assert store.load(session) == []

        seen: list[list[str]] = []

        def model(messages: list[BaseMessage]) -> AIMessage:
            seen.append([m.text for m in messages])
            return AIMessage("Yes.")

        from langchain_core.runnables import RunnableLambda

        chain = store.with_history(RunnableLambda(model))
        chain.invoke("Are you there?", {"configurable": {"session_id": session}})
        assert seen == [["Are you there?"]]
        assert [t.status for t in store.turns(session)] == ["interrupted", "completed"]


def test_a_late_answer_completes_its_turn_in_one_piece(store: HistoryStore, session: str) -> None:
    from langchain_core.runnables import RunnableLambda

    def model(messages: list[BaseMessage]) -> AIMessage:
        store.append(session, turn_messages("other", 0))  # another turn begins and ends meanwhile
        assert store.interrupt_turns(session, older_than=0) == 1
        return AIMessage("late")

    store.with_history(RunnableLambda(model)).invoke("early", {"configurable": {"session_id": session}})
    texts = [text for _, text in everything(store, session)]
    assert texts == [*(m.text for m in turn_messages("other", 0)), "early", "late"]
    assert sorted(t.status for t in store.turns(session)) == ["completed", "completed"]
    assert all(not t.question for t in store.turns(session))


@pytest.mark.parametrize("erase", ["clear", "delete_session"])
def test_an_answer_to_an_erased_question_is_refused(store: HistoryStore, session: str, erase: str) -> None:
    from langchain_core.runnables import RunnableLambda

    from langchain_supabase_history import Conflict, NotSaved

    def model(messages: list[BaseMessage]) -> AIMessage:
        getattr(store, erase)(session)
        return AIMessage("too late")

    with pytest.raises(NotSaved, match="cleared or deleted") as caught:
        store.with_history(RunnableLambda(model)).invoke("secret", {"configurable": {"session_id": session}})
    assert isinstance(caught.value.__cause__, Conflict)
    assert caught.value.output.text == "too late"
    assert store.load(session) == []
