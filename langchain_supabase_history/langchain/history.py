"""`SupabaseChatMessageHistory`: a session as LangChain's `BaseChatMessageHistory`.

The one module that imports LangChain's chat-history class, which is deprecated and may go in langchain-core 2.0.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables.config import var_child_runnable_config

from ..connect.drivers import driver_from_env
from ..core.arguments import as_list, check_id
from ..core.call import Call
from ..core.repair import shown_with
from ..core.window import Window
from ..errors import HistoryError
from ..operations.base import Operations
from ..operations.messages import append_call, load_call
from ..operations.scope import Scope
from ..operations.sessions import clear
from ..records import Loaded, StoredMessage, Turn
from .chunks import is_cut
from .gained import without_state
from .progress import Progress
from .shapes import with_blocks_joined

_shared: Operations | None = None
_shared_lock = threading.Lock()


def shared_store() -> Operations:
    """The store of histories that were given none: one `HistoryStore.from_env()` for the process."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Operations(driver_from_env(), Scope())
        return _shared


class _Shown(list[BaseMessage]):
    """What a turn of LangChain's wrapper is shown. The wrapper adds the question to a copy of it, with `+=`: then both
    are repaired together, for the question may be the result of a tool that the conversation waits for."""

    def __init__(self, messages: Iterable[BaseMessage], stored: Sequence[BaseMessage]) -> None:
        super().__init__(messages)
        self._stored = stored

    def copy(self) -> _Shown:
        return _Shown(self, self._stored)

    def __iadd__(self, question: Iterable[BaseMessage]) -> Self:  # type: ignore[misc, override]
        shown = shown_with(self._stored, list(question))
        self[:] = [*shown.in_front, *shown.asked]
        return self


@dataclass
class CurrentTurn:
    """The turn that a history object is in, from its first read to its write.

    Attributes:
        progress: What is known of it; None before the first read.
        loaded: What was read for it and is kept until the write; None where the next read asks the database.
        is_wrapped: Whether it was read inside of `RunnableWithMessageHistory`.
    """

    progress: Progress | None = None
    loaded: Loaded | None = None
    is_wrapped: bool = False


class SupabaseChatMessageHistory(BaseChatMessageHistory):
    """One session's messages, as LangChain reads and writes them.

    Make one for each turn; no I/O happens until it is read or written. Within a turn of `RunnableWithMessageHistory` it
    keeps its first read until its own write, so that turns that overlap on one session cannot disturb each other.
    Elsewhere every read is fresh. One object shared by several turns has no such protection, nor has, unless `keep` is
    set, a sync stream that is closed early, for it ends outside its turn.

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
        store: Operations | None = None,
        *,
        user_id: str | None = None,
        window: Window | None = None,
        keep: bool = False,
    ) -> None:
        super().__init__()
        self.session_id: str = check_id(session_id)
        store = shared_store() if store is None else store
        store = store if user_id is None else store.for_user(user_id)
        self._store = store if window is None else store.with_window(window)
        self._keeps_reads = keep
        self._turn = CurrentTurn()
        self.last_error: HistoryError | None = None
        """Why the last write failed, or None. `RunnableWithMessageHistory` hides what writing raises."""

    # --- read

    def _running(self) -> bool:
        """Whether the code that is running is a turn of `RunnableWithMessageHistory` whose history is this object."""
        config = var_child_runnable_config.get()
        return config is not None and config.get("configurable", {}).get("message_history") is self

    def _take(self, loaded: Loaded) -> list[BaseMessage]:
        if self._keeps_reads or self._running():
            self._turn.loaded = loaded
        return self._shown(loaded)

    def _shown(self, loaded: Loaded) -> list[BaseMessage]:
        return _Shown(loaded.messages, loaded.unrepaired) if self._running() else list(loaded.messages)

    def _begin_read(self) -> list[BaseMessage] | None:
        """What was kept for this turn; None where the database must be asked, which begins a turn."""
        running = self._running()
        turn = self._turn
        kept = turn.loaded if self._keeps_reads or running else None
        if turn.progress is None or (kept is None and (running or not turn.is_wrapped)):
            turn.progress, turn.is_wrapped = Progress(), False
        turn.progress.note_trace(self.session_id)
        turn.is_wrapped = turn.is_wrapped or running
        return None if kept is None else self._shown(kept)

    @property
    def messages(self) -> list[BaseMessage]:
        """What the model should see of the session."""
        kept = self._begin_read()
        if kept is not None:
            return kept
        return self._take(self._store.execute(load_call(self._store.scope, self.session_id)))

    @messages.setter
    def messages(self, messages: Sequence[BaseMessage]) -> None:
        # In the place of all that there are, in one transaction.
        if as_list(messages):
            self._write(messages, replace=True)
        else:
            self.clear()

    async def aget_messages(self) -> list[BaseMessage]:
        """Async version of messages."""
        kept = self._begin_read()
        return (
            self._take(await self._store.aexecute(load_call(self._store.scope, self.session_id)))
            if kept is None
            else kept
        )

    # --- write

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages to the session, all or none.

        Raises:
            Conflict: The session was cleared or deleted since this object has read it.
            HistoryError: They could not be stored. The error, whichever it is, is also in `last_error`, and given to
                the store's `on_error`, because `RunnableWithMessageHistory` hides it.
        """
        self._write(messages)

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Async version of add_messages."""
        try:
            if call := self._append(messages):
                await self._store.aexecute(call)
        except HistoryError as error:
            self._failed(error, messages)
            raise
        except asyncio.CancelledError:
            self._failed(HistoryError("Saving was cancelled: the messages may be stored or not."), messages)
            raise
        self._forget()

    def _write(self, messages: Sequence[BaseMessage], replace: bool = False) -> None:
        try:
            if call := self._append(messages, replace):
                self._store.execute(call)
        except HistoryError as error:
            self._failed(error, messages)
            raise
        self._forget()

    def _append(self, messages: Sequence[BaseMessage], replace: bool = False) -> Call[list[StoredMessage]] | None:
        messages = with_blocks_joined(as_list(messages))
        turn = self._record(messages, replace)
        if turn is not None and self._turn.progress is not None:
            if self._turn.is_wrapped and self._turn.loaded is not None:
                messages = without_state(messages, self._turn.loaded.unrepaired)
            messages = self._turn.progress.completed(messages)
        if not messages and turn is None:
            return None
        return append_call(
            self._store.scope,
            self.session_id,
            messages,
            turn=turn,
            replace=replace,
            known_epoch=None if self._turn.loaded is None or replace else self._turn.loaded.epoch,
        )

    def _record(self, messages: Sequence[BaseMessage], replace: bool) -> Turn | None:
        """The turn that messages with a question in front open; None where they continue one, or are none at all."""
        messages = [message for message in messages if isinstance(message, BaseMessage)]
        first = next((message for message in messages if message.type != "system"), None)
        if not messages or not (replace or isinstance(first, HumanMessage)):
            return None
        progress = self._turn.progress or Progress()
        progress.note_trace(self.session_id)
        return progress.turn(messages, "interrupted" if self._cut(messages[-1]) else "completed")

    def _cut(self, answer: BaseMessage) -> bool:
        """Whether the turn was cut short.

        A sync stream that its consumer closes is stored as if it had ended, but from outside of its turn's context.
        What the answer looks like decides only where no turn was running: a chat model without anything around it, or a
        generator, gives whole answers without a last chunk.
        """
        return not self._running() if self._turn.is_wrapped else is_cut(answer)

    def _forget(self) -> None:
        self._turn = CurrentTurn()
        self.last_error = None

    def _failed(self, error: HistoryError, messages: Sequence[BaseMessage]) -> None:
        self.last_error = error
        self._store.scope.report(error, messages)

    def clear(self) -> None:
        """Remove all messages of the session from sight."""
        self._store.run(clear(self._store.scope, self.session_id))
        self._forget()

    async def aclear(self) -> None:
        """Async version of clear."""
        await self._store.arun(clear(self._store.scope, self.session_id))
        self._forget()

    def __repr__(self) -> str:
        return f"SupabaseChatMessageHistory({self.session_id!r}, {self._store!r})"
