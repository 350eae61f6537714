"""`run_turn`: turns that run on in the background of the process, and that anybody follows meanwhile.

The runnable of `with_history` is streamed as ever, in a thread or a task. A second one beside it, the writer, brings
the text to the database, and learns there whether somebody has asked for a stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from ..core.arguments import message_ids
from ..core.call import Call, Plan
from ..core.values import made_plain
from ..errors import InvalidInput, NotSaved
from ..operations.base import Operations
from ..operations.streams import MAX_TEXT, Written, write_call
from .runnable import RunnableWithHistory
from .runs import Runs
from .turn import OpenTurn, Phase

logger: Final = logging.getLogger(__name__)

_INTERVAL: Final = 0.2  # seconds between two writes
_HEARTBEAT: Final = 1.0  # seconds after which the writer calls without a text too
_LEASE: Final = 15.0  # seconds without a call, beyond the store's deadline, after which the writer counts as gone
_GRACE: Final = 0.5  # seconds in which a stream ends that was asked to stop


class Run(ABC):
    """A turn in the background: what its thread and its task have in common.

    Args:
        store: What runs it.
        bot: What answers.
        input: The question.
        config: The config that the bot is called with.
        kwargs: What else it is called with.
        deadline: Seconds that a call of the writer may take.
        runs: Where the run is listed while it lasts.

    Raises:
        InvalidInput: The bot is none of this store, or the config is none.
    """

    def __init__(
        self,
        store: Operations,
        bot: RunnableWithHistory,
        input: Any,
        config: RunnableConfig | None,
        kwargs: dict[str, Any],
        *,
        deadline: float,
        runs: Runs,
    ) -> None:
        if not isinstance(bot, RunnableWithHistory):
            raise InvalidInput(f"bot must be what store.with_history makes, got {type(bot).__name__}.")
        if bot.store.executor is not store.executor:
            raise InvalidInput("bot must be made by with_history of the store that runs it.")
        if config is not None and not isinstance(config, dict):
            raise InvalidInput(f"config must be a dict, got {type(config).__name__}.")
        self.answer_id: uuid.UUID = message_ids(1)[0]
        self.ended: threading.Event = threading.Event()
        self._bot = bot.watched_by(self)
        self._arguments: tuple[Any, RunnableConfig | None] = (input, config)
        self._kwargs = bot.streaming_text(kwargs)
        self._lease = _LEASE + deadline
        self._runs = runs
        self._open: OpenTurn | None = None
        self._error: BaseException | None = None  # why the turn could not be begun
        self._is_stopping = False
        self._is_erased = False
        self._is_written = True  # whether the database takes more text
        self._text = ""
        self._new: list[str] = []
        self._position = 0  # how many characters of the text the database has

    # --- the turn's watcher

    def enter(self, turn: OpenTurn) -> Plan[None]:
        """The turn is begun: whoever wants to follow finds it from now on."""
        self._open = turn
        self._note((yield self._call()))
        self._begin_writing()

    def add(self, text: str) -> None:
        """More of the answer's text."""
        if text:
            self._new.append(made_plain(text))
            self._wake_writer()

    # --- the text on its way to the database

    @property
    def turn(self) -> OpenTurn:
        """The turn, once it is begun."""
        assert self._open is not None
        return self._open

    def _call(self) -> Call[Written]:
        new, self._new = self._new, []
        self._text += "".join(new)
        text = self._text[self._position : self._position + MAX_TEXT] if self._is_written else ""
        turn = self.turn
        return write_call(
            turn.store.scope, turn.session_id, turn.progress.id, self.answer_id, self._position, text, lease=self._lease
        )

    def _note(self, written: Written) -> None:
        self._is_written = written.running
        self._position = written.position  # fewer than were written, where a crash of the database took them
        if written.stopped and not written.running:
            self._is_erased = True
            self.turn.drop()
        self._is_stopping = self._is_stopping or written.stopped

    def _has_more(self) -> bool:
        return self._is_written and (bool(self._new) or self._position < len(self._text))

    # --- the end

    def _finish(self, error: BaseException | None) -> None:
        if self._open is None:
            self._error = error
        elif isinstance(error, NotSaved) and not self._is_erased:
            self.turn.store.scope.report(error, error.messages)
        elif error is not None:
            logger.info("a turn in the background ended with %s", type(error).__name__)
        self._runs.discard(self)
        self.ended.set()

    @abstractmethod
    def stop(self) -> None:
        """Ask for the turn's end. From any thread."""

    def may_be_waited_for(self) -> bool:
        """Whether this thread may wait for the end."""
        return True

    @abstractmethod
    def _begin_writing(self) -> None:
        """Start what brings the text to the database."""

    @abstractmethod
    def _wake_writer(self) -> None:
        """There is more text, or an end."""


def _unwritten(error: Exception) -> None:
    # The answer goes on in memory; the next call brings all of it.
    logger.warning("an answer's text could not be written yet: %s", type(error).__name__)


def _context() -> contextvars.Context:
    """The caller's context, but outside of the run that the caller may be in."""
    context = contextvars.copy_context()
    context.run(var_child_runnable_config.set, None)
    return context


class ThreadRun(Run):
    """A turn in a thread, its writer in another one."""

    _writer: threading.Thread | None = None

    def start(self) -> uuid.UUID:
        """Begin the turn, and return its id."""
        self._begun, self._over, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._runs.add(self)
        threading.Thread(target=_context().run, args=(self._stream,), name="chat-history-turn", daemon=True).start()
        try:
            self._begun.wait()
        except BaseException:  # the caller is interrupted, and will not know the turn
            self.stop()
            raise
        if self._open is None or self._writer is None:
            raise self._error or InvalidInput("The turn ended before it was begun.")
        return self.turn.progress.id

    def stop(self) -> None:
        self._is_stopping = True
        self._wake.set()

    def _begin_writing(self) -> None:
        self._writer = threading.Thread(target=self._write, name="chat-history-writer", daemon=True)
        self._writer.start()
        self._begun.set()

    def _wake_writer(self) -> None:
        self._wake.set()

    def _stream(self) -> None:
        error: BaseException | None = None
        try:
            stream: Any = self._bot.stream(*self._arguments, **self._kwargs)
            with contextlib.closing(stream):
                for _ in stream:
                    if self._is_stopping:
                        break
        except BaseException as raised:  # whatever ended it is recorded: nobody waits for this one
            error = raised
        self._over.set()
        self._wake.set()
        if self._writer is not None:
            self._writer.join()
            self._flush()
        else:
            self._error = error
        self._finish(error)
        self._begun.set()

    def _write(self) -> None:
        while not self._over.is_set():
            self._wake.wait(_HEARTBEAT)
            self._wake.clear()
            if self._over.is_set():
                return
            try:
                self._note(self.turn.store.execute(self._call()))
            except Exception as error:
                _unwritten(error)
            if self._is_stopping:
                if not self._over.wait(_GRACE):
                    self._cut()
                return
            self._over.wait(_INTERVAL)

    def _cut(self) -> None:
        """End a turn whose model does not return: what it says later is nobody's."""
        if self.turn.phase is Phase.RUNNING or self._is_erased:
            self.turn.fail(GeneratorExit())
            self._flush()
            self._finish(None)

    def _flush(self) -> None:
        """Write what is left. Where the turn is stored, this removes what was written of it."""
        try:
            self._note(self.turn.store.execute(self._call()))
            while self._has_more():
                self._note(self.turn.store.execute(self._call()))
        except Exception as error:
            _unwritten(error)


class TaskRun(Run):
    """A turn in a task of the running event loop, its writer in another one."""

    _writer: asyncio.Task[None] | None = None

    async def start(self) -> uuid.UUID:
        """Begin the turn, and return its id."""
        self._begun, self._over, self._wake = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._runs.add(self)
        self._task = self._loop.create_task(self._stream(), name="chat-history-turn", context=_context())
        try:
            await self._begun.wait()
        except BaseException:  # the caller is cancelled, and will not know the turn
            self.stop()
            raise
        if self._open is None or self._writer is None:
            raise self._error or InvalidInput("The turn ended before it was begun.")
        return self.turn.progress.id

    def stop(self) -> None:
        self._is_stopping = True
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:  # the loop is closed, and everything in it has ended
            self.ended.set()

    def may_be_waited_for(self) -> bool:
        try:
            return asyncio.get_running_loop() is not self._loop
        except RuntimeError:
            return True

    def _begin_writing(self) -> None:
        self._writer = self._loop.create_task(self._write(), name="chat-history-writer")
        self._begun.set()

    def _wake_writer(self) -> None:
        self._wake.set()

    async def _stream(self) -> None:
        error: BaseException | None = None
        try:
            stream: Any = self._bot.astream(*self._arguments, **self._kwargs)
            async with contextlib.aclosing(stream):
                async for _ in stream:
                    pass
        except BaseException as raised:  # whatever ended it is recorded: nobody waits for this one
            error = raised
        self._over.set()
        self._wake.set()
        try:
            if self._writer is not None:
                await asyncio.wait([self._writer])
                await self._flush()
            else:
                self._error = error
        finally:
            self._finish(error)
            self._begun.set()

    async def _write(self) -> None:
        while not self._over.is_set():
            await _within(_HEARTBEAT, self._wake.wait())
            self._wake.clear()
            if self._over.is_set():
                return
            try:
                self._note(await self.turn.store.aexecute(self._call()))
            except Exception as error:
                _unwritten(error)
            if self._is_stopping:
                self._task.cancel()
                await _within(_GRACE, self._over.wait())
                if not self._over.is_set():
                    await self._cut()
                return
            await _within(_INTERVAL, self._over.wait())

    async def _cut(self) -> None:
        if self.turn.phase is Phase.RUNNING or self._is_erased:
            await self.turn.afail(asyncio.CancelledError())
            await self._flush()
            self._finish(None)

    async def _flush(self) -> None:
        try:
            self._note(await self.turn.store.aexecute(self._call()))
            while self._has_more():
                self._note(await self.turn.store.aexecute(self._call()))
        except Exception as error:
            _unwritten(error)


async def _within(seconds: float, event: Coroutine[Any, Any, Any]) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event, seconds)
