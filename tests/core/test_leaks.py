"""What checks that no test leaves anything behind finds each kind of it; and pools leave the random numbers alone."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import threading

import pytest

from langchain_supabase_history import HistoryStore
from tests import leaks


def test_a_thread_a_process_and_a_server_are_found() -> None:
    known = leaks.running()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten")
    thread.start()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process, socket.create_server(("127.0.0.1", 0)) as server:
        found = leaks.left_behind(known, 0)
        assert "the thread 'forgotten'" in found
        assert f"a server on port {server.getsockname()[1]}" in found
        assert any(text.startswith(f"the process {process.pid} ") for text in found)
        end.set()
        process.communicate(b"")
    assert leaks.left_behind(known) == []


def test_a_task_on_the_loop_of_a_thread_is_found() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    known = leaks.running()
    waiting = asyncio.run_coroutine_threadsafe(asyncio.sleep(1000), loop)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()  # by then the first is a task
    (found,) = leaks.left_behind(known, 0)
    assert "sleep" in found
    waiting.cancel()
    assert leaks.left_behind(known) == []
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_of_a_task_that_waits_for_another_the_first_is_found() -> None:
    async def wait() -> None:
        await asyncio.wait_for(asyncio.Event().wait(), 1000)

    async def main() -> list[str]:
        known = leaks.running()
        task = asyncio.create_task(wait(), name="owner")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        found = leaks.left_behind(known, 0)
        task.cancel()
        return found

    (found,) = asyncio.run(main())
    assert "owner" in found


@pytest.mark.parametrize("is_async", [False, True])
def test_pools_do_not_move_the_global_generator(database: str, is_async: bool) -> None:
    """Hypothesis gives a warning, here an error, where that moves while it draws, whichever thread moves it."""
    before = random.getstate()
    with HistoryStore.from_postgres(database) as store:
        if is_async:
            asyncio.run(store.aload("s"))
        else:
            store.load("s")
    assert random.getstate() == before
