"""The turns of `run_turn` that are running, for whoever stops them."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Final, Protocol

_CLOSING: Final = 10.0  # seconds that a store which is closed waits for its turns


class Stoppable(Protocol):
    """A turn in the background."""

    ended: threading.Event

    def stop(self) -> None:
        """Ask for its end. From any thread."""

    def may_be_waited_for(self) -> bool:
        """Whether this thread may wait for its end."""


class Runs:
    """The turns that run in the background of one store and its views."""

    def __init__(self) -> None:
        self._runs: set[Stoppable] = set()

    def add(self, run: Stoppable) -> None:
        """List a run."""
        self._runs.add(run)

    def discard(self, run: Stoppable) -> None:
        """A run has ended."""
        self._runs.discard(run)

    def stop(self) -> None:
        """Stop all, and wait for their ends, 10 seconds at the most."""
        runs = list(self._runs)
        for run in runs:
            run.stop()
        until = time.monotonic() + _CLOSING
        for run in runs:
            if run.may_be_waited_for():
                run.ended.wait(max(0.0, until - time.monotonic()))

    async def astop(self) -> None:
        """Async version of `stop`."""
        if self._runs:
            await asyncio.to_thread(self.stop)
