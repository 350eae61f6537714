"""`SupabaseChatMessageHistory`: a session as LangChain's `BaseChatMessageHistory`.

The one module that imports LangChain's chat-history class, which is deprecated and may go in langchain-core 2.0.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import var_child_runnable_config

from . import calls
from .errors import HistoryError
from .records import Loaded, StoredMessage, Turn, Window
from .store import HistoryStore
from .turns import Progress, is_cut

_shared: HistoryStore | None = None
_shared_lock = threading.Lock()


def shared_store() -> HistoryStore:
    """The store of histories that were given none: one `HistoryStore.from_env()` for the process."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = HistoryStore.from_env()
        return _shared


class SupabaseChatMessageHistory(BaseChatMessageHistory):
    """One session's messages, as LangChain reads and writes them.

    Make one for each turn; no I/O happens until it is read or written. Within a turn of `RunnableWithMessageHistory` it
    keeps its first read until its own write, so that turns that overlap on one session cannot disturb each other.
    Elsewhere every read is fresh. One object shared by several turns has no such protection.

    Args:
        session_id: The session's name.
        store: Where it is kept; by default a `HistoryStore.from_env()` shared by the process.
        user_id: The user it belongs to; by default the store's.
        window: How much of it `messages` shows; by default the store's window, else all.
        keep: Keep the first read outside a turn too (`HistoryStore.get_session_history` does so).

    Raises:
        InvalidSession: The session or user id cannot be right.
    """

    def __init__(
        self,
        session_id: str,
        store: HistoryStore | None = None,
        *,
        user_id: str | None = None,
        window: Window | None = None,
        keep: bool = False,
    ) -> None:
        super().__init__()
        self.session_id = calls.check_id(session_id)
        store = shared_store() if store is None else store
        store = store if user_id is None else store.for_user(user_id)
        self._store = store if window is None else store.with_window(window)
        self._keep = keep
        self._kept: Loaded | None = None
        self._progress: Progress | None = None
        self.last_error: HistoryError | None = None
        """Why the last write failed, or None. `RunnableWithMessageHistory` swallows what writing raises."""

    # --- read

    def _keeps(self) -> bool:
        """Whether this object belongs to one turn: it was made for one, or the running turn's history is this object."""
        if self._keep:
            return True
        config = var_child_runnable_config.get()
        return config is not None and config.get("configurable", {}).get("message_history") is self

    def _take(self, loaded: Loaded) -> list[BaseMessage]:
        if self._keeps():
            self._kept = loaded
        return list(loaded.messages)

    def _begin_read(self) -> list[BaseMessage] | None:
        if self._progress is None:
            self._progress = Progress()
        self._progress.note_trace()
        return list(self._kept.messages) if self._kept is not None and self._keeps() else None

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """What the model should see of the session."""
        kept = self._begin_read()
        return self._take(self._store._do(self._store._load(self.session_id))) if kept is None else kept

    async def aget_messages(self) -> list[BaseMessage]:
        """Async version of messages."""
        kept = self._begin_read()
        return self._take(await self._store._ado(self._store._load(self.session_id))) if kept is None else kept

    # --- write

    @messages.setter
    def messages(self, messages: Sequence[BaseMessage]) -> None:
        """Put these messages in the place of all that there are, in one transaction."""
        self._write(messages, replace=True)

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages to the session, all or none.

        Raises:
            HistoryError: They could not be stored. The error is also in `last_error`, and given to the store's
                `on_error`, because `RunnableWithMessageHistory` swallows it.
        """
        self._write(messages)

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Async version of add_messages."""
        try:
            if call := self._append(messages):
                await self._store._ado(call)
        except HistoryError as error:
            self._failed(error, messages)
            raise
        self._forget()

    def _write(self, messages: Sequence[BaseMessage], replace: bool = False) -> None:
        try:
            if call := self._append(messages, replace):
                self._store._do(call)
        except HistoryError as error:
            self._failed(error, messages)
            raise
        self._forget()

    def _append(
        self, messages: Sequence[BaseMessage], replace: bool = False
    ) -> calls.Call[list[StoredMessage]] | None:
        return self._store._append(
            self.session_id, messages, turn=self._turn(messages), replace=replace or None,
            replay_epoch=None if self._kept is None or replace else self._kept.epoch,
        )  # fmt: skip

    def _turn(self, messages: Sequence[BaseMessage]) -> Turn | None:
        """The turn that messages beginning with a question open; None where they continue one, or are none at all."""
        if not messages or not isinstance(messages[0], BaseMessage) or messages[0].type not in ("human", "HumanMessageChunk"):
            return None
        progress = self._progress or Progress()
        progress.note_trace()
        cut = isinstance(messages[-1], BaseMessage) and is_cut(messages[-1])
        return progress.turn([m for m in messages if isinstance(m, BaseMessage)], "interrupted" if cut else "completed")

    def _forget(self) -> None:
        self._kept = self._progress = self.last_error = None

    def _failed(self, error: HistoryError, messages: Sequence[BaseMessage]) -> None:
        self.last_error = error
        self._store._report(error, messages)

    def clear(self) -> None:
        """Remove all messages of the session from sight."""
        self._store.clear(self.session_id)
        self._forget()

    async def aclear(self) -> None:
        """Async version of clear."""
        await self._store.aclear(self.session_id)
        self._forget()

    def __repr__(self) -> str:
        return f"SupabaseChatMessageHistory({self.session_id!r}, {self._store!r})"
