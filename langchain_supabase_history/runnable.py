"""`with_history`: memory around a runnable, for `invoke`, `stream`, `batch` and their async forms.

A turn is one load before the runnable and one append after it. What LangChain's wrapper leaves out is done here: a turn
that cannot be saved raises, with its output; a turn that fails or is cut short is recorded, with its question.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import patch_config
from langchain_core.runnables.utils import ConfigurableFieldSpec

from .calls import message_ids
from .errors import HistoryError, InvalidMessage, InvalidSession, NotSaved
from .messages import as_messages
from .records import Loaded, Status
from .turns import Progress, is_cut

if TYPE_CHECKING:
    from .store import HistoryStore


class RunnableWithHistory(Runnable[Any, Any]):
    """A runnable with memory. Made by `HistoryStore.with_history`.

    The config names the conversation: `{"configurable": {"session_id": ..., "user_id": ...}}`; `user_id` may be left out.
    With a dictionary as input, `input_messages_key` says where the question is and `history_messages_key` where the
    conversation so far goes; without the latter, conversation and question go to the runnable together. With a
    dictionary as output, `output_messages_key` says where the answer is. These may be left out where there is but one
    key. A question or an answer is a string, a message, or a list of messages.

    Raises, when it runs:
        InvalidSession: The config names no session.
        InvalidMessage: The input has no question.
        NotSaved: The turn could not be stored, or its output has no answer where one should be. It carries the output.
        HistoryError: The conversation could not be loaded.
    """

    def __init__(
        self,
        bound: Runnable[Any, Any],
        store: HistoryStore,
        *,
        input_messages_key: str | None = None,
        output_messages_key: str | None = None,
        history_messages_key: str | None = None,
    ) -> None:
        self.bound = bound
        self.store = store
        self.input_messages_key = input_messages_key
        self.output_messages_key = output_messages_key
        self.history_messages_key = history_messages_key
        self.name = "RunnableWithHistory"

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The runnable's own configurable fields, and `session_id` and `user_id`."""
        own = [
            ConfigurableFieldSpec(id="session_id", annotation=str, name="Session ID", is_shared=True),
            ConfigurableFieldSpec(id="user_id", annotation=str | None, name="User ID", default=None, is_shared=True),
        ]
        return [*(spec for spec in self.bound.config_specs if spec.id not in ("session_id", "user_id")), *own]

    # --- invoke

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run one turn."""
        return self._call_with_config(self._invoke, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Async version of invoke."""
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    def _invoke(self, input: Any, run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any) -> Any:
        turn = _Turn(self)
        try:
            turn.begin(input, config)
            given = turn.with_history(input, turn.store._do(turn.load()))
            output = self.bound.invoke(given, patch_config(config, callbacks=run_manager.get_child()), **kwargs)
            turn.add(output)
            turn.save()
            return output
        except BaseException as error:
            turn.fail(error)
            raise

    async def _ainvoke(
        self, input: Any, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Any:
        turn = _Turn(self)
        try:
            turn.begin(input, config)
            given = turn.with_history(input, await turn.store._ado(turn.load()))
            output = await self.bound.ainvoke(given, patch_config(config, callbacks=run_manager.get_child()), **kwargs)
            turn.add(output)
            await turn.asave()
            return output
        except BaseException as error:
            await turn.afail(error)
            raise

    # --- stream. The outer generator is where a consumer that stops early, or a cancelled task, is noticed.

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Run one turn, passing the output through chunk by chunk."""
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """Async version of stream."""

        async def one() -> AsyncIterator[Any]:
            yield input

        stream = self.atransform(one(), config, **kwargs)
        try:
            async for chunk in stream:
                yield chunk
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Run one turn on an input that arrives in chunks."""
        turn = _Turn(self)
        try:
            yield from self._transform_stream_with_config(input, partial(self._transform, turn), config, **kwargs)
        except BaseException as error:
            turn.fail(error)
            raise

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Async version of transform."""
        turn = _Turn(self)
        stream = self._atransform_stream_with_config(input, partial(self._atransform, turn), config, **kwargs)
        try:
            async for chunk in stream:
                yield chunk
        except BaseException as error:
            await turn.afail(error)
            raise
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    def _transform(
        self, turn: _Turn, chunks: Iterator[Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Any]:  # fmt: skip
        input = _joined(list(chunks))
        turn.begin(input, config)
        given = turn.with_history(input, turn.store._do(turn.load()))
        for chunk in self.bound.stream(given, config, **kwargs):
            turn.add(chunk)
            yield chunk
        turn.save()

    async def _atransform(
        self, turn: _Turn, chunks: AsyncIterator[Any], run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig, **kwargs: Any,
    ) -> AsyncIterator[Any]:  # fmt: skip
        input = _joined([chunk async for chunk in chunks])
        turn.begin(input, config)
        given = turn.with_history(input, await turn.store._ado(turn.load()))
        async for chunk in self.bound.astream(given, config, **kwargs):
            turn.add(chunk)
            yield chunk
        await turn.asave()


def _joined(chunks: Sequence[Any]) -> Any:
    """Chunks as the one value they make; the last of them, where they cannot be added."""
    value = None
    for chunk in chunks:
        try:
            value = chunk if value is None else value + chunk
        except TypeError:
            value = chunk
    return value


class _Turn:
    """One turn of a `RunnableWithHistory`: what was asked, what has come so far, and whether it is written down."""

    def __init__(self, runnable: RunnableWithHistory) -> None:
        self.keys = runnable
        self.store = runnable.store
        self.session_id = ""
        self.progress: Progress | None = None
        self.question: list[BaseMessage] = []
        self.epoch: int | None = None
        self.chunks: list[Any] = []
        self.recorded = False

    # --- in

    def begin(self, input: Any, config: RunnableConfig) -> None:
        configurable = ensure_config(config).get("configurable", {})
        if "session_id" not in configurable:
            raise InvalidSession("Name the conversation: pass config={'configurable': {'session_id': '...'}}.")
        if (user_id := configurable.get("user_id")) is not None:
            self.store = self.store.for_user(user_id)
        self.session_id = configurable["session_id"]
        question = self._at(input, self.keys.input_messages_key, "input") if isinstance(input, dict) else input
        self.question = as_messages(question)
        self.progress = Progress()

    def load(self) -> Any:
        return self.store._load(self.session_id)

    def with_history(self, input: Any, loaded: Loaded) -> Any:
        self.epoch = loaded.epoch
        history = loaded.messages
        if self.keys.history_messages_key:
            given = input if isinstance(input, dict) else {self.keys.input_messages_key or "input": input}
            return {**given, self.keys.history_messages_key: history}
        together = [*history, *self.question]
        return {**input, self._key(input, self.keys.input_messages_key, "input"): together} if isinstance(input, dict) else together

    @staticmethod
    def _key(value: dict[str, Any], key: str | None, default: str) -> str:
        return key or (next(iter(value)) if len(value) == 1 else default)

    def _at(self, value: dict[str, Any], key: str | None, what: str) -> Any:
        key = self._key(value, key, what)
        if key not in value:
            raise InvalidMessage(
                f"The {what} has no key {key!r}; its keys are {', '.join(map(repr, value)) or 'none'}. "
                f"Name the right one with {what}_messages_key=."
            )
        return value[key]

    # --- out

    def add(self, chunk: Any) -> None:
        self.chunks.append(chunk)

    def answer(self) -> list[BaseMessage]:
        output = _joined(self.chunks)
        if isinstance(output, dict):
            output = self._at(output, self.keys.output_messages_key, "output")
        return [AIMessage(content=output)] if isinstance(output, str) else as_messages(output)

    def save(self) -> None:
        call = self._save_call()
        try:
            self.store._do(call())
        except HistoryError as error:
            raise self._not_saved(error) from error

    async def asave(self) -> None:
        call = self._save_call()
        try:
            await _shielded(self.store._ado(call()))
        except HistoryError as error:
            raise self._not_saved(error) from error

    def _save_call(self) -> Any:
        try:
            answer = self.answer()
        except InvalidMessage as error:  # the runnable gave no answer where one should be
            raise NotSaved(str(error), output=_joined(self.chunks), messages=self.question) from error
        self.recorded = True
        self.messages = [*self.question, *answer]
        cut = bool(answer) and is_cut(answer[-1])
        return partial(self._append, self.messages, "interrupted" if cut else "completed")

    def _not_saved(self, error: HistoryError) -> NotSaved:
        return NotSaved(f"The turn was not saved: {error}", output=_joined(self.chunks), messages=self.messages, code=error.code)

    def _append(self, messages: list[BaseMessage], status: Status, error: str | None = None) -> Any:
        assert self.progress is not None
        self.progress.note_trace()
        return self.store._append(
            self.session_id, messages, ids=message_ids(len(messages)),
            turn=self.progress.turn(messages, status, error), replay_epoch=self.epoch,
        )  # fmt: skip

    # --- a turn that fails or is cut short is recorded with what there is of it

    def fail(self, error: BaseException) -> None:
        if call := self._failure(error):
            try:
                self.store._do(call())
            except HistoryError as unsaved:
                self._note(error, unsaved)

    async def afail(self, error: BaseException) -> None:
        if call := self._failure(error):
            try:
                await _shielded(self.store._ado(call()))
            except HistoryError as unsaved:
                self._note(error, unsaved)

    def _failure(self, error: BaseException) -> Any:
        if self.recorded or self.progress is None or not self.question:
            return None
        self.recorded = True
        self.messages = list(self.question)
        failed = isinstance(error, Exception)
        if not failed and self.chunks:  # cut short: what was said so far was said
            try:
                self.messages += [message for message in self.answer() if message.content]
            except InvalidMessage:
                pass  # the answer's part of the output had not come yet
        text = f"{type(error).__name__}: {error}"[:1000] if failed else None
        return partial(self._append, self.messages, "failed" if failed else "interrupted", text)

    def _note(self, error: BaseException, unsaved: HistoryError) -> None:
        error.add_note(f"The turn could not be recorded: {unsaved}")
        self.store._report(unsaved, self.messages)


async def _shielded(work: Coroutine[Any, Any, Any]) -> Any:
    """Await `work` to its end, whoever cancels meanwhile (asyncio once, anyio at every await); then be cancelled."""
    with anyio.CancelScope(shield=True):
        task = asyncio.ensure_future(work)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                cancelled = error
            except HistoryError:
                break
        if cancelled is not None and not task.cancelled():
            task.exception()  # seen; the cancellation is what the caller must hear
            raise cancelled
        return task.result()
