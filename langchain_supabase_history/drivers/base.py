"""What both drivers need: a deadline with retries, a loop of their own, and their conduct across fork and close."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import tenacity

from ..core.call import Call
from ..core.identity import Identity
from ..errors import StoreClosed, Transient, Unavailable

T = TypeVar("T")

# A try may use so much of the time that is left, so that one dead connection does not use up the deadline; the last
# second is for one try.
_SHARE: Final = 0.5
_LAST_TRY: Final = 1.0


class Driver(ABC):
    """Executes calls, sync and async. Safe to share between threads and event loops.

    Its connections are made at first use. `close` gives them back; used again, it opens again. A forked child forgets
    what it inherited without closing it, for the parent still uses it.

    Args:
        deadline: Seconds for one operation with its retries.
        pool_size: Connections at the most, for sync and for async each.
    """

    def __init__(self, *, schema: str, deadline: float, pool_size: int) -> None:
        self.schema = schema
        self.deadline = deadline
        self.pool_size = pool_size
        self._reset()
        _drivers.add(self)

    def _reset(self) -> None:
        """Forget every connection. Called at first and in a forked child."""
        self._lock = threading.RLock()
        self._loop = LoopThread()
        self._used = False

    def execute(self, call: Call[T], identity: Identity | None = None) -> T:
        """Execute a call and wait for its answer.

        Raises:
            HistoryError: See `errors.py`.
        """
        self._used = True
        end = time.monotonic() + self.deadline
        try:
            return self.attempt(call, identity, False, self.deadline * _SHARE)
        except Transient as error:
            first = error  # only now: what retries costs as much as a round trip
        try:
            for attempt in tenacity.Retrying(**_policy(end)):
                with attempt:
                    if attempt.retry_state.attempt_number == 1:
                        raise first
                    return self.attempt(call, identity, True, _seconds(end))
        except Transient as error:
            raise _unavailable(error, self.deadline) from error.__cause__ or error
        raise AssertionError("unreachable")

    async def aexecute(self, call: Call[T], identity: Identity | None = None) -> T:
        """Async version of execute."""
        self._used = True
        try:
            return await self._on_loop(self._aexecute(call, identity))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled the caller: the loop was stopped under it. A bare cancellation would pass unnoticed.
            raise StoreClosed("The store was closed while this operation ran.") from None

    async def _aexecute(self, call: Call[T], identity: Identity | None) -> T:
        end = time.monotonic() + self.deadline
        try:
            return await self.aattempt(call, identity, False, self.deadline * _SHARE)
        except Transient as error:
            first = error
        try:
            async for attempt in tenacity.AsyncRetrying(**_policy(end)):
                with attempt:
                    if attempt.retry_state.attempt_number == 1:
                        raise first
                    return await self.aattempt(call, identity, True, _seconds(end))
        except Transient as error:
            raise _unavailable(error, self.deadline) from error.__cause__ or error
        raise AssertionError("unreachable")

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        return self._loop.run(work)

    @abstractmethod
    def attempt(self, call: Call[T], identity: Identity | None, replay: bool, seconds: float) -> T:
        """One try. Raises `Transient` where another may succeed."""

    @abstractmethod
    async def aattempt(self, call: Call[T], identity: Identity | None, replay: bool, seconds: float) -> T:
        """Async version of attempt."""

    def signed_in(self) -> str:
        """The user that requests without an identity run as, where a client of the application's has one; else ''."""
        return ""

    def close(self) -> None:
        """Give all connections back and end the loop's thread. May be called twice, and from anywhere."""
        self._used = False
        self._loop.stop(self._aclose)

    @abstractmethod
    async def _aclose(self) -> None:
        """Close what lives on the driver's loop."""

    async def aclose(self) -> None:
        """Async version of close."""
        await asyncio.to_thread(self.close)

    def __del__(self) -> None:
        # A store that was dropped without being closed. Closing waits, and this may be any thread: do it in one of its
        # own. At the interpreter's end all that is open has been closed by then.
        if getattr(self, "_used", False):
            threading.Thread(target=self.close, daemon=True).start()


def _policy(end: float) -> dict[str, Any]:
    return {
        "retry": tenacity.retry_if_exception_type(Transient),
        "stop": tenacity.stop_before_delay(max(end - time.monotonic(), 0)),
        "wait": tenacity.wait_random_exponential(multiplier=0.05, max=1),
        "reraise": True,
    }


def _seconds(end: float) -> float:
    """What a further try may take."""
    left = max(end - time.monotonic(), 0.001)
    return left * _SHARE if left > _LAST_TRY else left


def _unavailable(error: Transient, deadline: float) -> Unavailable:
    return Unavailable(f"The database could not be reached within {deadline:g} s: {error}.", code=error.code)


class LoopThread:
    """One event loop in a daemon thread, started at first use.

    A pool per event loop hangs or leaks under repeated `asyncio.run`; this one outlives each of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Run a coroutine on this loop; awaiting it, cancelling it and its errors work as if it ran on the caller's."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="langchain-supabase-history", daemon=True
                )
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return asyncio.wrap_future(future)

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `last` on the loop, cancel what still runs there, and end the thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return

        async def finish() -> None:
            try:
                await last()
            finally:
                others = asyncio.all_tasks() - {asyncio.current_task()}
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(finish(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


_drivers: weakref.WeakSet[Driver] = weakref.WeakSet()
_inherited: list[dict[str, Any]] = []  # kept alive in a child, so that nothing of the parent's is closed by its end


def _forget_inherited() -> None:
    for driver in list(_drivers):
        _inherited.append(dict(vars(driver)))
        driver._reset()


@atexit.register
def _close_all() -> None:
    """Leave no pool's tasks or threads behind at the interpreter's end."""
    for driver in list(_drivers):
        with suppress(Exception):  # one that cannot be closed must not keep the others open
            driver.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
