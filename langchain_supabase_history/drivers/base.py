"""What every driver is: an executor of calls, with a deadline, that can be closed and used again."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

import tenacity

from ..core.call import Call
from ..core.identity import Identity
from ..errors import StoreClosed, Transient
from .lifecycle import is_ending, register
from .observe import Meter, OnOperation, observe
from .retry import SHARE, policy, seconds_of_try, unavailable

T = TypeVar("T")
R = TypeVar("R")  # what lives on the loop of async calls

Transport = Literal["psycopg", "data-api"]


class Driver(ABC, Generic[R]):
    """Executes calls, sync and async. Safe to share between threads and event loops.

    Its connections are made at first use. `close` gives them back; used again, it opens again. A forked child forgets
    what it inherited without closing it, for the parent still uses it.

    Args:
        schema: The schema of the functions.
        deadline: Seconds for one operation with its retries.
        pool_size: Connections at the most, for sync and for async each.
    """

    transport: Transport
    on_operation: OnOperation | None = None

    def __init__(self, *, schema: str, deadline: float, pool_size: int) -> None:
        self.schema = schema
        self.deadline = deadline
        self.pool_size = pool_size
        self.reset()
        register(self)

    def reset(self) -> None:
        """Forget every connection. Called at first and in a forked child."""
        self._lock = threading.RLock()

    # --- execute

    def execute(self, call: Call[T], identity: Identity | None = None) -> T:
        """Execute a call and wait for its answer.

        Raises:
            HistoryError: See `errors.py`.
        """
        refuse_at_the_end()
        with observe(call.function.name, self.on_operation) as meter:
            return self._tries(call, identity, meter)

    def _tries(self, call: Call[T], identity: Identity | None, meter: Meter | None) -> T:
        end = time.monotonic() + self.deadline
        try:
            if meter is not None:
                meter.tries += 1
            return self.attempt(call, identity, False, self.deadline * SHARE, meter)
        except Transient as error:
            first = error  # only now: what retries costs as much as a round trip
        try:
            for attempt in tenacity.Retrying(**policy(end)):
                with attempt:
                    if attempt.retry_state.attempt_number == 1:
                        raise first
                    if meter is not None:
                        meter.tries += 1
                    return self.attempt(call, identity, True, seconds_of_try(end), meter)
        except Transient as error:
            raise unavailable(error, self.deadline) from error.__cause__ or error
        raise AssertionError("unreachable")

    async def aexecute(self, call: Call[T], identity: Identity | None = None) -> T:
        """Async version of `execute`."""
        refuse_at_the_end()
        with observe(call.function.name, self.on_operation) as meter:
            try:
                return await self._aexecute(call, identity, meter)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Nobody cancelled the caller: the loop was stopped under it. A bare cancellation would pass unnoticed.
                raise StoreClosed("The store was closed while this operation ran.") from None

    @abstractmethod
    async def _aexecute(self, call: Call[T], identity: Identity | None, meter: Meter | None) -> T:
        """Execute a call where its connections live, by `_atries`."""

    async def _atries(self, call: Call[T], identity: Identity | None, residents: R, meter: Meter | None) -> T:
        """The tries of an async call, with what lives on the loop that it runs on."""
        end = time.monotonic() + self.deadline
        try:
            if meter is not None:
                meter.tries += 1
            return await self.aattempt(call, identity, False, self.deadline * SHARE, residents, meter)
        except Transient as error:
            first = error
        try:
            async for attempt in tenacity.AsyncRetrying(**policy(end)):
                with attempt:
                    if attempt.retry_state.attempt_number == 1:
                        raise first
                    if meter is not None:
                        meter.tries += 1
                    return await self.aattempt(call, identity, True, seconds_of_try(end), residents, meter)
        except Transient as error:
            raise unavailable(error, self.deadline) from error.__cause__ or error
        raise AssertionError("unreachable")

    @abstractmethod
    def attempt(
        self, call: Call[T], identity: Identity | None, replay: bool, seconds: float, meter: Meter | None = None
    ) -> T:
        """One try. Raises `Transient` where another may succeed."""

    @abstractmethod
    async def aattempt(
        self,
        call: Call[T],
        identity: Identity | None,
        replay: bool,
        seconds: float,
        residents: R,
        meter: Meter | None = None,
    ) -> T:
        """Async version of `attempt`."""

    # --- what it is

    @property
    @abstractmethod
    def address(self) -> str:
        """Where the database is: a project's URL, or a connection string with all defaults in it (a secret)."""

    @property
    def api_key(self) -> str:
        """The key of requests that carry no user; '' where there is none."""
        return ""

    def signed_in(self) -> str:
        """The user that requests without an identity run as, where a client of the application's has one; else ''."""
        return ""

    def pool_stats(self) -> dict[str, dict[str, int]]:
        """The statistics of the open pools, "sync" and "async"; empty where there are none."""
        return {}

    # --- close

    @abstractmethod
    def is_open(self) -> bool:
        """Whether there is something to close."""

    @abstractmethod
    def close(self) -> None:
        """Give all connections back and end the loop's thread. May be called twice, and from anywhere."""

    async def aclose(self) -> None:
        """Async version of `close`."""
        await asyncio.to_thread(self.close)

    def __del__(self, is_ending: Callable[[], bool] = is_ending) -> None:  # this module's names may be gone already
        # A store that was dropped without being closed. Closing waits, and this may be any thread: do it in one of its
        # own. While the interpreter ends there are no threads any more, and what is open goes with the process.
        if not is_ending() and getattr(self, "_lock", None) is not None and self.is_open():
            threading.Thread(target=self.close, daemon=True).start()


def refuse_at_the_end() -> None:
    """Refuse an operation while the interpreter is torn down.

    Raises:
        StoreClosed: It is.
    """
    if is_ending():
        raise StoreClosed("The interpreter is ending: nothing can be waited for any more.", advice="")
