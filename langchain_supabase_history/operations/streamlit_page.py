"""A Streamlit page that reads a stream, or follows an answer, and leaves in the middle of it.

Streamlit stops a run (its stop button, a rerun, a closed tab) by an exception in the next `st.` command, never in the
stream that the run reads. A stream that a variable holds is not even closed then, and its turn would stay `running`. So
the stream asks, between its chunks, whether its page is to stop, and is closed when the thread of the run has ended.
What counts as shown is what the page has come back from: the chunk that it was stopped with was never drawn.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from types import TracebackType
from typing import Any, Final

logger: Final = logging.getLogger(__name__)

_ANY_NAME: Final = "chat_history_page"


class Page:
    """The run of a Streamlit page in this thread."""

    def __init__(self, session_state: Any) -> None:
        self._state = session_state
        self._thread = threading.current_thread()
        self._reader = self._thread

    def check(self) -> None:
        """Raise what Streamlit stops the run with, if it is to stop: every look at the session's state does so."""
        self._reader = threading.current_thread()
        if self._reader is self._thread:
            _ = _ANY_NAME in self._state

    def has_left(self) -> bool:
        """Whether the run is over, or to stop: it did not show the chunk that it was given last."""
        if threading.current_thread() is not self._thread or not _is_script_running():
            return self._reader is self._thread
        try:
            self.check()
        except BaseException:  # no Exception: Streamlit's own, which the run is being stopped with
            return True
        return False

    def close_at_its_end(self, stream: Generator[Any, Any, Any]) -> None:
        """Close a stream that this run leaves open, when its thread has ended."""
        left_open = weakref.ref(stream)

        def close() -> None:
            if (found := left_open()) is not None:
                found.close()

        self._at_its_end(close)

    def aclose_at_its_end(self, stream: AsyncGenerator[Any, Any]) -> None:
        """The same for an async stream, which is kept: dropped by a loop that has ended it would never be closed."""

        async def close() -> None:
            await stream.aclose()

        self._at_its_end(lambda: asyncio.run(close()))

    def _at_its_end(self, close: Callable[[], None]) -> None:
        def wait() -> None:
            self._thread.join()
            if self._reader is self._thread:
                try:
                    close()
                except Exception as error:
                    logger.warning("a stream that its page had left could not be closed: %s", type(error).__name__)

        threading.Thread(target=wait, name="chat-history-page", daemon=True).start()


def current_page() -> Page | None:
    """The page whose run this is; None outside Streamlit."""
    if "streamlit.runtime.scriptrunner" not in sys.modules:
        return None
    import streamlit
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    is_run = get_script_run_ctx(suppress_warning=True) is not None
    return Page(streamlit.session_state) if is_run else None


class HandingOver:
    """Around the `yield` of chunks: notes them at once, or, for a page, when it has come back from showing them."""

    __slots__ = ("note", "page")

    def __init__(self, page: Page | None, note: Callable[[], None]) -> None:
        self.page: Page | None = page
        self.note: Callable[[], None] = note

    def __enter__(self) -> None:
        if self.page is None:
            self.note()
        else:
            self.page.check()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.page is not None and not (kind is GeneratorExit and self.page.has_left()):
            self.note()


def _is_script_running() -> bool:
    """Whether this is called from an app's script, and not from what is cleaned up behind it."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "__main__":
            return True
        frame = frame.f_back
    return False
