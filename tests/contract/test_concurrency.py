"""Many writers on one session, and retries that cross: nothing lost, doubled or split."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import Conflict, HistoryStore
from langchain_supabase_history.core.arguments import message_ids
from tests import servers
from tests.conftest import DRIVERS
from tests.writers import check_whole, turn_messages

ROOT = Path(__file__).resolve().parents[2]


def run_writers(way: str, target: str, session: str, writers: int, turns: int) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.writers", way, target, session, f"w{n}", str(turns)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(writers)
    ]
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err[-2000:]
        assert out.split() == [str(n) for n in range(turns)]


def check_session(store: HistoryStore, session: str, writers: int, turns: int) -> None:
    texts: list[str] = []
    positions: list[int] = []
    cursor = None
    while True:
        page = store.messages(session, limit=1000, cursor=cursor)
        texts += [m.message.text for m in page]
        positions += [m.position for m in page]
        if (cursor := page.next_cursor) is None:
            break
    assert positions == list(range(1, writers * turns * 4 + 1))
    assert check_whole(texts) == {(f"w{w}", n) for w in range(writers) for n in range(turns)}
    assert [m.text for m in store.load(session)] == texts
    assert store.session(session).message_count == len(texts)


def test_8_writers_of_50_turns_of_4_messages(store: HistoryStore, session: str) -> None:
    def write(writer: int) -> None:
        for number in range(50):
            store.append(session, turn_messages(f"w{writer}", number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    check_session(store, session, 8, 50)


@pytest.mark.soak
@pytest.mark.parametrize("way", DRIVERS)
def test_16_processes_of_100_turns_of_4_messages(
    way: str, shared_database: str, data_api: servers.Lite, postgres_store: HistoryStore, session: str
) -> None:
    run_writers(way, shared_database if way.startswith("psycopg") else data_api.url, session, 16, 100)
    check_session(postgres_store, session, 16, 100)
    print(f"{way}: 16 processes, each 100 turns of 4 messages on one session: 0 lost, 0 doubled, 0 split")


def test_a_retry_that_arrives_while_the_first_try_still_runs(shared_database: str, session: str) -> None:
    """The first try holds its transaction open; the retry must wait for it, and be answered the same."""
    ids = message_ids(2)
    rows = {"s": session, "i": ids, "t": ["human", "ai"], "d": ['{"content": "q"}', '{"content": "a"}']}
    append = "select chat_history_append(%(s)s, %(i)s, %(t)s, %(d)b::text[]::json[])"
    answers: list[object] = []
    with (
        HistoryStore.from_postgres(shared_database) as store,
        psycopg.connect(shared_database) as first,
    ):
        store.append(session, [HumanMessage("before")])
        first.execute(append, rows)

        def retry() -> None:
            answers.append([m.position for m in store.append(session, [HumanMessage("q"), AIMessage("a")], ids=ids)])

        threads = [threading.Thread(target=retry) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert answers == []  # waiting
        first.commit()
        for thread in threads:
            thread.join(10)
        assert answers == [[2, 3]] * 3
        assert [m.text for m in store.load(session)] == ["before", "q", "a"]


def test_a_first_try_that_fails_after_its_retry_came_leaves_no_gap(shared_database: str, session: str) -> None:
    ids = message_ids(1)
    with HistoryStore.from_postgres(shared_database) as store, psycopg.connect(shared_database) as first:
        first.execute(
            "select chat_history_append(%s, %s, '{human}', array['{\"content\": \"q\"}']::json[])", [session, ids]
        )
        with ThreadPoolExecutor(1) as pool:
            retry = pool.submit(store.append, session, [HumanMessage("q")], ids=ids)
            time.sleep(0.2)
            first.rollback()
            assert [m.position for m in retry.result(10)] == [1]
        assert store.append(session, [AIMessage("a")])[0].position == 2


def test_retries_that_overlap_in_parts(store: HistoryStore, session: str) -> None:
    """Many callers append overlapping slices of the same ten messages, in any order; each message is stored once."""
    ids = message_ids(10)
    messages = [HumanMessage(str(n)) for n in range(10)]

    def write(start: int) -> list[int]:
        return [m.position for m in store.append(session, messages[start : start + 3], ids=ids[start : start + 3])]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(write, [n % 8 for n in range(64)]))
    stored = {str(m.message.text): m.position for m in store.messages(session)}
    assert sorted(stored.values()) == list(range(1, 11))
    for n, positions in enumerate(answers):
        assert positions == [stored[str(n % 8 + k)] for k in range(3)]


def test_clears_and_deletes_among_appends_deadlock_nobody(store: HistoryStore, session: str) -> None:
    end = time.monotonic() + 3

    def work(n: int) -> int:
        done = 0
        while time.monotonic() < end and done < 100:
            if n == 0:
                store.clear(session)
            elif n == 1:
                store.delete_session(session)
            else:
                store.append(session, turn_messages(f"w{n}", done))
            done += 1
        return done

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    texts: list[str] = [m.text for m in store.load(session)]
    check_whole(texts)


def test_a_replay_of_what_was_erased_is_refused_even_by_a_racing_retry(store: HistoryStore, session: str) -> None:
    for _ in range(5):
        name = f"{session}-{uuid.uuid4()}"
        ids = message_ids(1)
        store.append(name, [HumanMessage("secret")], ids=ids, epoch=0)
        with ThreadPoolExecutor(8) as pool:

            def replay(n: int, name: str = name, ids: list[uuid.UUID] = ids) -> None:
                if n == 3:
                    store.delete_session(name)
                else:
                    with contextlib.suppress(Conflict):
                        store.append(name, [HumanMessage("secret")], ids=ids, epoch=0)

            list(pool.map(replay, range(8)))
        assert store.load(name) == []
