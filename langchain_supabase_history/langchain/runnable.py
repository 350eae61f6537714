"""`with_history`: memory around a runnable, for `invoke`, `stream`, `batch` and their async forms.

A turn is one call before the runnable, which loads the conversation and leaves the question with the turn, and one
append after it. What LangChain's wrapper leaves out is done here: a turn that cannot be saved raises, with its output;
a turn that fails, is cut short, or is killed with its process is recorded, with its question.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import patch_config
from langchain_core.runnables.utils import ConfigurableFieldSpec

from ..core.call import Call
from ..errors import Conflict, HistoryError, InvalidInput, InvalidMessage, InvalidSession, NotSaved
from ..operations.messages import append_call, begin_call
from ..records import Loaded, Status
from .audit import TurnAudit, with_usage
from .progress import Progress
from .shapes import as_messages, new_messages

if TYPE_CHECKING:
    from ..operations.base import Operations


class RunnableWithHistory(Runnable[Any, Any]):
    """A runnable with memory. Made by `HistoryStore.with_history`.

    The config names the conversation: `{"configurable": {"session_id": ..., "user_id": ...}}`, or the first alone.
    With a dictionary as input, `input_messages_key` says where the question is and `history_messages_key` where the
    conversation so far goes; without the latter, conversation and question go to the runnable together. With a
    dictionary as output, `output_messages_key` says where the answer is. These may be left out where there is but one
    key. A question or an answer is a string, a message, or a list of messages. An agent answers with its whole state:
    only what follows the question in it is stored, also where it streams `updates` or `values`.

    Raises:
        InvalidInput: The runnable is none, or a key is no str.

    Raises, when it runs:
        InvalidSession: The config names no session.
        InvalidMessage: The input has no question.
        NotSaved: The turn could not be stored, or its output has no answer where one should be. It carries the output.
        HistoryError: The conversation could not be loaded.
    """

    def __init__(
        self,
        bound: Runnable[Any, Any],
        store: Operations,
        *,
        input_messages_key: str | None = None,
        output_messages_key: str | None = None,
        history_messages_key: str | None = None,
        document_content: bool = False,
    ) -> None:
        if not isinstance(bound, Runnable):
            raise InvalidInput(
                f"with_history needs a Runnable, a chain or a chat model, got {type(bound).__name__}: a function "
                "becomes one as RunnableLambda(function)."
            )
        for key in (input_messages_key, output_messages_key, history_messages_key):
            if key is not None and not isinstance(key, str):
                raise InvalidInput(f"The messages' keys must be str or None, got {type(key).__name__}.")
        self.bound = bound
        self.store = store
        self.input_messages_key = input_messages_key
        self.output_messages_key = output_messages_key
        self.history_messages_key = history_messages_key
        self.document_content = document_content
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

    def _invoke(
        self, input: Any, run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Any:
        turn = _Turn(self)
        try:
            turn.begin(input, config)
            given = turn.given(input, turn.store.execute(turn.load()))
            output = self.bound.invoke(given, turn.heard(config, run_manager), **kwargs)
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
            given = turn.given(input, await turn.store.aexecute(turn.load()))
            output = await self.bound.ainvoke(given, turn.heard(config, run_manager), **kwargs)
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
        self,
        turn: _Turn,
        chunks: Iterator[Any],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Any]:
        input = _joined(list(chunks))
        turn.begin(input, config)
        given = turn.given(input, turn.store.execute(turn.load()))
        for chunk in self.bound.stream(given, turn.heard(config, run_manager), **kwargs):
            turn.add(chunk)
            yield chunk
        turn.save()

    async def _atransform(
        self,
        turn: _Turn,
        chunks: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        input = _joined([chunk async for chunk in chunks])
        turn.begin(input, config)
        given = turn.given(input, await turn.store.aexecute(turn.load()))
        stream = self.bound.astream(given, turn.heard(config, run_manager), **kwargs)
        try:
            async for chunk in stream:
                turn.add(chunk)
                yield chunk
        finally:
            if hasattr(stream, "aclose"):  # the model stops with its consumer, not when it is collected
                await stream.aclose()
        await turn.asave()


def _joined(chunks: Sequence[Any]) -> Any:
    """Chunks as the one value they make; the last of them, where they cannot be added."""
    if len(chunks) > 1 and all(isinstance(chunk, AIMessageChunk) for chunk in chunks):
        try:
            return chunks[0] + list(chunks[1:])  # 15 times as fast as one by one
        except (TypeError, ValueError):  # their metadata does not go together: that of the last is the answer's
            bare = [chunk.model_copy(update={"response_metadata": {}, "additional_kwargs": {}}) for chunk in chunks]
            whole = bare[0] + bare[1:]
            return whole.model_copy(update={"response_metadata": chunks[-1].response_metadata})
    value = None
    for chunk in chunks:
        try:
            value = chunk if value is None else value + chunk
        except TypeError:
            value = chunk
    return value


def _updates(chunks: Sequence[Any]) -> list[Any] | None:
    """The messages in what a LangGraph graph streams, {node: {"messages": [...]}}; None where it is something else."""
    found = []
    for chunk in chunks:
        if not isinstance(chunk, dict) or not all(isinstance(update, dict | None) for update in chunk.values()):
            return None
        for update in chunk.values():
            said = (update or {}).get("messages", [])
            found += said if isinstance(said, list) else [said]
    return found or None


class _Turn:
    """One turn of a `RunnableWithHistory`: what was asked, what has come so far, and whether it is written down."""

    def __init__(self, runnable: RunnableWithHistory) -> None:
        self.keys = runnable
        self.store = runnable.store
        self.session_id = ""
        self.progress: Progress | None = None
        self.question: list[BaseMessage] = []
        self.shown: list[BaseMessage] = []  # the conversation so far, and the question
        self.messages: list[BaseMessage] = []
        self.epoch: int | None = None  # known once the conversation is loaded
        self.chunks: list[Any] = []
        self.shown_at: str | None = None  # where in the input the runnable was given them together
        self.begun = False  # the question is on its way to the database
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
        self.progress = Progress(audit=TurnAudit(content=self.keys.document_content))
        self.progress.note_trace(self.session_id)

    def heard(
        self, config: RunnableConfig, run_manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun
    ) -> RunnableConfig:
        """The config for the runnable inside, in which this turn's audit hears what is done."""
        assert self.progress is not None
        assert self.progress.audit is not None
        child = run_manager.get_child()
        child.add_handler(self.progress.audit)
        return patch_config(config, callbacks=child)

    def load(self) -> Call[Loaded]:
        """The conversation so far; in the same round trip the question is left with the turn, should this be killed."""
        assert self.progress is not None
        call = begin_call(self.store.scope, self.session_id, self.question, self.progress.turn([], "running"))
        self.begun = True
        return call

    def given(self, input: Any, loaded: Loaded) -> Any:
        """What the runnable is given: its input, with the conversation so far."""
        self.epoch = loaded.epoch
        history = loaded.messages
        self.shown = [*history, *self.question]
        if self.keys.history_messages_key:
            given = input if isinstance(input, dict) else {self.keys.input_messages_key or "input": input}
            return {**given, self.keys.history_messages_key: history}
        if not isinstance(input, dict):
            return list(self.shown)
        self.shown_at = self._key(input, self.keys.input_messages_key, "input")
        return {**input, self.shown_at: list(self.shown)}

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
        if (updates := _updates(self.chunks)) is not None:
            return new_messages(as_messages(updates), self.shown)
        output = _joined(self.chunks)
        if isinstance(output, dict):
            same = self.shown_at if self.shown_at in output else None  # an agent gives its state as it took it
            output = self._at(output, self.keys.output_messages_key or same, "output")
        if isinstance(output, str):  # a parser has taken it out of the model's message, usage and all
            return with_usage([AIMessage(content=output)], self.progress.answered() if self.progress else None)
        return new_messages(as_messages(output), self.shown)

    def save(self) -> None:
        call = self._completed()
        try:
            self._execute(call)
        except Exception as error:
            raise self._not_saved(error) from error

    async def asave(self) -> None:
        call = self._completed()
        try:
            await self._shielded(call)
        except Exception as error:
            raise self._not_saved(error) from error

    def _completed(self) -> Call[Any]:
        """The append that ends the turn well. Where the answer cannot be stored, the turn is left to be recorded."""
        try:
            self.messages = [*self.question, *self.answer()]
        except Exception as error:  # the runnable gave no answer where one should be
            self.messages = self.question
            raise self._not_saved(error) from error
        try:
            call = self._append("completed")
        except HistoryError as error:
            raise self._not_saved(error) from error
        self.recorded = True
        return call

    def _not_saved(self, error: Exception) -> NotSaved:
        reason = str(error) if isinstance(error, HistoryError) else f"{type(error).__name__}: {error}"
        return NotSaved(
            f"The turn was not saved: {reason}",
            output=_joined(self.chunks),
            messages=self.messages,
            code=getattr(error, "code", None),
        )

    def _append(self, status: Status, error: str | None = None) -> Call[Any]:
        assert self.progress is not None
        self.progress.note_trace(self.session_id)
        answer = self.messages[len(self.question) :]
        return append_call(
            self.store.scope,
            self.session_id,
            answer,
            asked=True,
            turn=self.progress.turn(self.messages, status, error),
            known_epoch=self.epoch,
        )

    # --- a turn that fails or is cut short is recorded with what there is of it

    def fail(self, error: BaseException) -> None:
        if self._take_failure(error):
            try:
                self._execute(self._append(*_ending(error)))
            except Exception as unsaved:  # whatever it is, the turn's own error is the one to raise
                self._tell(error, unsaved)

    async def afail(self, error: BaseException) -> None:
        if self._take_failure(error):
            try:
                await self._shielded(self._append(*_ending(error)))
            except Exception as unsaved:
                self._tell(error, unsaved)

    def _take_failure(self, error: BaseException) -> bool:
        # A conversation that could not be loaded is no turn. Cut off while it was being loaded, it may have begun.
        if self.recorded or not self.begun or (self.epoch is None and isinstance(error, Exception)):
            return False
        self.recorded = True
        self.messages = list(self.question)
        if not isinstance(error, Exception) and self.chunks:  # cut short: what was said so far was said
            with contextlib.suppress(Exception):  # the answer's part of the output had not come yet
                self.messages += [message for message in self.answer() if message.content]
        return True

    def _tell(self, error: BaseException, unsaved: Exception) -> None:
        """Tell of a turn that could not be stored, where another error goes to the caller."""
        if self.epoch is None and isinstance(unsaved, Conflict):
            return  # it had not begun
        error.add_note(f"The turn could not be recorded: {unsaved}")
        reason = unsaved if isinstance(unsaved, HistoryError) else HistoryError(f"{type(unsaved).__name__}: {unsaved}")
        self.store.scope.report(reason, self.messages)

    def _execute(self, call: Call[Any]) -> None:
        """Execute a call to its end, also where the keyboard interrupts it; then be interrupted."""
        try:
            self.store.execute(call)
        except Exception:
            raise
        except BaseException as error:
            try:
                self.store.execute(_again(call))
            except Exception as unsaved:
                self._tell(error, unsaved)
            raise

    async def _shielded(self, call: Call[Any]) -> None:
        """Execute a call to its end, whoever cancels meanwhile (anyio does at every await); then be cancelled."""
        cancelled: asyncio.CancelledError | None = None
        # A loop that ends cancels every task, the first of these too.
        with anyio.CancelScope(shield=True):
            for attempt in (call, _again(call)):
                task = asyncio.ensure_future(self.store.aexecute(attempt))
                while not task.done():
                    try:
                        await asyncio.shield(task)
                    except asyncio.CancelledError as error:
                        cancelled = error
                    except Exception:  # the task's own, looked at below
                        break
                if not task.cancelled():
                    break
        if cancelled is None:
            task.result()
            return
        if not task.cancelled() and isinstance(unsaved := task.exception(), Exception):
            self._tell(cancelled, unsaved)
        raise cancelled


def _again(call: Call[Any]) -> Call[Any]:
    """The same call after a try that was cut off. It may be stored by then; the ids tell."""
    return replace(call, args=call.arguments(replay=True))


def _ending(error: BaseException) -> tuple[Status, str | None]:
    """How a turn ended: an error fails it; a closed stream, a cancelled task or the keyboard interrupts it."""
    if isinstance(error, Exception):
        return "failed", f"{type(error).__name__}: {error}"[:1000]
    return "interrupted", None
