"""An event loop of the driver's own, and what lives on it.

A pool per event loop hangs or leaks under repeated `asyncio.run`; this one outlives each of them. What lives on a loop
(a pool, a client, their locks) belongs to it: after a `stop`, the next loop begins with its own.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")

_STOP_SECONDS: Final = 5.0  # how long a stop waits for what runs on the loop
_POLL_SECONDS: Final = 0.1


class _Running(Generic[S]):
    """A loop, its thread, what lives on it, and who waits for it."""

    def __init__(self, residents: S) -> None:
        # psycopg refuses Windows' default loop.
        self.loop = asyncio.SelectorEventLoop() if sys.platform == "win32" else asyncio.new_event_loop()
        self.residents = residents
        self.waiting: set[Future[Any]] = set()
        self.thread = threading.Thread(target=self.loop.run_forever, name="langchain-supabase-history", daemon=True)
        self.thread.start()


class OwnLoop(Generic[S]):
    """One event loop in a daemon thread, started at first use.

    Args:
        move_in: Makes what lives on the loop; no I/O.
        move_out: Closes it, on the loop.
        sweep: Closes, on the loop, when nothing else runs there any more, what cancelled operations have left open.
    """

    def __init__(
        self,
        move_in: Callable[[], S],
        move_out: Callable[[S], Coroutine[Any, Any, None]],
        sweep: Callable[[S], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._move_in = move_in
        self._move_out = move_out
        self._sweep = sweep
        self._lock = threading.Lock()
        self._running: _Running[S] | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a loop to stop."""
        return self._running is not None

    @property
    def residents(self) -> S | None:
        """What lives on the loop; None where it does not run."""
        running = self._running
        return None if running is None else running.residents

    def run(self, work: Callable[[S], Coroutine[Any, Any, T]]) -> Awaitable[T]:
        """Run a coroutine on this loop; awaiting it, cancelling it and its errors work as if it ran on the caller's.

        Args:
            work: Makes the coroutine, given what lives on the loop.
        """
        with self._lock:
            if self._running is None:
                self._running = _Running(self._move_in())
            running = self._running
            future = asyncio.run_coroutine_threadsafe(work(running.residents), running.loop)
            running.waiting.add(future)
        future.add_done_callback(running.waiting.discard)
        return asyncio.wrap_future(future)

    def stop(self) -> None:
        """Close what lives on the loop, cancel what runs there, and end the thread; in some seconds at the most."""
        with self._lock:
            running, self._running = self._running, None
        if running is None:
            return
        finished = asyncio.run_coroutine_threadsafe(self._finish(running), running.loop)
        if threading.current_thread() is running.thread:  # nobody else could carry it out
            finished.add_done_callback(lambda _: running.loop.call_soon(running.loop.stop))
            return
        with suppress(TimeoutError):
            finished.result(4 * _STOP_SECONDS)
        for future in list(running.waiting):  # who still waits gets an answer
            future.cancel()
        running.loop.call_soon_threadsafe(running.loop.stop)
        running.thread.join(_STOP_SECONDS)
        if not running.thread.is_alive():
            running.loop.close()

    async def _finish(self, running: _Running[S]) -> None:
        with suppress(Exception):  # what cannot be closed is cancelled
            await asyncio.wait_for(self._move_out(running.residents), _STOP_SECONDS)
        end = time.monotonic() + _STOP_SECONDS
        me = asyncio.current_task()
        while others := {task for task in asyncio.all_tasks() if task is not me}:
            if time.monotonic() > end:
                break
            for task in filter(_has_begun, others):  # again and again: a pool's worker may swallow one cancellation
                task.cancel()
            await asyncio.wait(others, timeout=_POLL_SECONDS)
        if self._sweep is not None:
            with suppress(Exception):  # the loop ends whatever its residents say
                await asyncio.wait_for(self._sweep(running.residents), _STOP_SECONDS)


def _has_begun(task: asyncio.Task[Any]) -> bool:
    """Whether a task runs already. Cancelled before, it would never await the coroutine that it was made for."""
    coro = task.get_coro()
    return not inspect.iscoroutine(coro) or inspect.getcoroutinestate(coro) != inspect.CORO_CREATED
