"""The outbox's file: who owns it, damage, full disks, forks, closing."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.messages import HumanMessage

from langchain_supabase_history import (
    HistoryStore,
    NotConfigured,
    OutboxFailed,
    StoreClosed,
)
from langchain_supabase_history.operations.messages import append_call
from langchain_supabase_history.outbox.file import look_into
from langchain_supabase_history.outbox.operation import Operation
from tests import servers
from tests.outbox.helpers import QA, outbox_of
from tests.proxy import Proxy


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
