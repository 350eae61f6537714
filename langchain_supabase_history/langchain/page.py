"""A Streamlit page that reads a stream, and leaves in the middle of it.

Streamlit stops a run (its stop button, a rerun, a closed tab) by an exception in the next `st.` command, never in the
stream that the run reads. A stream that a variable holds is not even closed then, and its turn would stay `running`. So
the stream asks, between its chunks, whether its page is to stop, and is closed when the thread of the run has ended.
What counts as shown is what the page has come back from: the chunk that it was stopped with was never drawn.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final

logger = logging.getLogger(__name__)

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

        def wait() -> None:
            self._thread.join()
            found = left_open()
            if found is not None and self._reader is self._thread:
                try:
                    found.close()
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


def hand_over(page: Page | None, shown: Sequence[Any], note: Callable[[], None]) -> Iterator[Any]:
    """Give chunks to whoever reads the stream, and note them: at once, or when a page comes back from showing them."""
    if page is None:
        note()
        yield from shown
        return
    page.check()
    try:
        yield from shown
    except GeneratorExit:
        if not page.has_left():
            note()
        raise
    note()


def _is_script_running() -> bool:
    """Whether this is called from an app's script, and not from what is cleaned up behind it."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "__main__":
            return True
        frame = frame.f_back
    return False
