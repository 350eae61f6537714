"""`with_history`: memory around a runnable, for `invoke`, `stream`, `batch` and their async forms.

A turn is one call before the runnable, which loads the conversation and leaves the question with the turn, and one
append after it. What LangChain's wrapper leaves out is done here: a turn that cannot be saved raises, with its output;
a turn that fails, is cut short, or is killed with its process is recorded, with its question.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import ConfigurableFieldSpec
from langchain_core.utils.pydantic import create_model_v2
from pydantic import BaseModel

from ..errors import InvalidInput
from ..operations.base import Operations
from ..operations.streamlit_page import HandingOver
from .chunks import joined
from .graphs import Modes, as_invoked, bound_arguments, graph_of, has_checkpointer
from .output import Keys
from .shapes import as_messages
from .turn import OpenTurn, Watcher


class RunnableWithHistory(Runnable[Any, Any]):
    """A runnable with memory. Made by `HistoryStore.with_history`.

    The config names the conversation: `{"configurable": {"session_id": ..., "user_id": ...}}`, or the first alone.
    With a dictionary as input, `input_messages_key` says where the question is and `history_messages_key` where the
    conversation so far goes; without the latter, conversation and question go to the runnable together. With a
    dictionary as output, `output_messages_key` says where the answer is. These may be left out where there is but one
    key. A question or an answer is a string, a message, a list of messages or of content blocks; an answer may also be
    an object, of which the JSON is kept. An agent answers with its whole state: what it has added is stored, in every
    mode in which it streams.

    Inside a turn of the same session (as a tool of its own agent, say) it passes through, without history.

    Raises:
        InvalidInput: The runnable is none, or an option cannot be right.

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
        session_key: str = "session_id",
        document_content: bool = False,
        answer: Callable[[Any], Any] | None = None,
    ) -> None:
        if not isinstance(bound, Runnable):
            raise InvalidInput(
                f"with_history needs a Runnable, a chain or a chat model, got {type(bound).__name__}: a function "
                "becomes one as RunnableLambda(function)."
            )
        for key in (input_messages_key, output_messages_key, history_messages_key):
            if key is not None and not isinstance(key, str):
                raise InvalidInput(f"The messages' keys must be str or None, got {type(key).__name__}.")
        if not isinstance(session_key, str) or not session_key:
            raise InvalidInput(f"session_key must be a str, got {type(session_key).__name__}.")
        if answer is not None and not callable(answer):
            raise InvalidInput("answer must be callable.")
        self.bound = bound
        self.store = store
        self.input_messages_key = input_messages_key
        self.output_messages_key = output_messages_key
        self.history_messages_key = history_messages_key
        self.keys: Keys = Keys(
            input_messages_key, output_messages_key, history_messages_key, session_key, document_content, answer
        )
        self.name: str | None = "RunnableWithHistory"
        self._watcher: Watcher | None = None

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The runnable's own configurable fields, and those that name session and user."""
        name = self.keys.session
        own = [
            ConfigurableFieldSpec(id=name, annotation=str, name="Session ID", is_shared=True),
            ConfigurableFieldSpec(id="user_id", annotation=str | None, name="User ID", default=None, is_shared=True),
        ]
        return [*(spec for spec in self.bound.config_specs if spec.id not in (name, "user_id")), *own]

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """A question; with `input_messages_key`, the runnable's own fields but the history, with the question's."""
        if self.keys.input is None:
            return create_model_v2("Question", root=(str, ...), module_name=self.__class__.__module__)
        fields: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # a runnable need not describe its input
            own: dict[str, Any] = getattr(self.bound.get_input_schema(config), "model_fields", {})
            fields = {name: (field.annotation, field) for name, field in own.items() if name != "root"}
        fields = {name: field for name, field in fields.items() if name != self.keys.history}
        fields[self.keys.input] = (str | list[Any], ...)
        return create_model_v2("Question", field_definitions=fields, module_name=self.__class__.__module__)

    def __repr__(self) -> str:
        return f"RunnableWithHistory({self.bound!r:.200}, {self.store!r})"

    # --- invoke

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run one turn."""
        return self._call_with_config(partial(self._invoke, self._turn(config)), input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Async version of `invoke`."""
        return await self._acall_with_config(partial(self._ainvoke, self._turn(config)), input, config, **kwargs)

    def _invoke(
        self,
        turn: OpenTurn,
        input: Any,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        try:
            turn.begin(input, config)
            child = turn.child_config(config, run_manager)
            if turn.is_inside_itself():
                return self.bound.invoke(input, child, **kwargs)
            kept = self._kept(turn, child)
            given = turn.given(input, turn.store.run(turn.opening(kept)), kept)
            if turn.graph is None:
                output = self.bound.invoke(given, child, **kwargs)
                turn.output.add(output)
            else:
                shown = list(self._stream_graph(turn, given, child, as_invoked(turn.graph, kwargs)))
                output = shown if "stream_mode" in kwargs else turn.output.state.output(kwargs.get("version"))
            turn.save()
            return output
        except BaseException as error:
            turn.fail(error)
            raise

    async def _ainvoke(
        self,
        turn: OpenTurn,
        input: Any,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        try:
            turn.begin(input, config)
            child = turn.child_config(config, run_manager)
            if turn.is_inside_itself():
                return await self.bound.ainvoke(input, child, **kwargs)
            kept = await self._akept(turn, child)
            given = turn.given(input, await turn.store.arun(turn.opening(kept)), kept)
            if turn.graph is None:
                output = await self.bound.ainvoke(given, child, **kwargs)
                turn.output.add(output)
            else:
                stream = self._astream_graph(turn, given, child, as_invoked(turn.graph, kwargs))
                shown = [chunk async for chunk in stream]
                output = shown if "stream_mode" in kwargs else turn.output.state.output(kwargs.get("version"))
            await turn.asave()
            return output
        except BaseException as error:
            await turn.afail(error)
            raise

    def _turn(self, config: RunnableConfig | None) -> OpenTurn:
        return OpenTurn(self.keys, self.store, graph_of(self.bound), config, self._watcher)

    # --- for turns in the background

    def watched_by(self, watcher: Watcher) -> RunnableWithHistory:
        """The same, for one turn whose answer somebody takes in while it is written. `run_turn` calls it.

        Args:
            watcher: Who takes it in.

        Returns:
            A copy, to be streamed once.
        """
        bot = copy.copy(self)
        bot._watcher = watcher
        return bot

    def streaming_text(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `stream` with which a graph gives text as it comes, if it is not told otherwise.

        Args:
            kwargs: The arguments that were given.

        Returns:
            These, for a graph with a `stream_mode`.
        """
        if graph_of(self.bound) is None or "stream_mode" in {**bound_arguments(self.bound), **kwargs}:
            return kwargs
        return {**kwargs, "stream_mode": "messages"}

    # --- stream. The outer generator is where a consumer that stops early, or a cancelled task, is noticed.

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Run one turn, passing the output through chunk by chunk."""
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """Async version of `stream`."""

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
        turn = self._turn(config)
        stream = self._recorded(turn, input, config, **kwargs)
        if turn.page is not None:
            turn.page.close_at_its_end(stream)
        return stream

    def _recorded(
        self, turn: OpenTurn, input: Iterator[Any], config: RunnableConfig | None, **kwargs: Any
    ) -> Generator[Any, None, None]:
        try:
            yield from self._transform_stream_with_config(input, partial(self._transform, turn), config, **kwargs)
        except BaseException as error:
            turn.fail(error)
            raise

    def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Async version of `transform`."""
        turn = self._turn(config)
        stream = self._arecorded(turn, input, config, **kwargs)
        if turn.page is not None:
            turn.page.aclose_at_its_end(stream)
        return stream

    async def _arecorded(
        self, turn: OpenTurn, input: AsyncIterator[Any], config: RunnableConfig | None, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        stream = self._atransform_stream_with_config(input, partial(self._atransform, turn), config, **kwargs)
        try:
            async for chunk in stream:
                yield chunk
        except BaseException as error:
            if turn.page is not None:
                await stream.aclose()  # type: ignore[attr-defined]  # what was shown last is noted by now
            await turn.afail(error)
            raise
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    def _transform(
        self,
        turn: OpenTurn,
        chunks: Iterator[Any],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Any]:
        input = joined(list(chunks))
        turn.begin(input, config)
        child = turn.child_config(config, run_manager)
        if turn.is_inside_itself():
            yield from self.bound.stream(input, child, **kwargs)
            return
        kept = self._kept(turn, child)
        given = turn.given(input, turn.store.run(turn.opening(kept)), kept)
        if turn.graph is not None:
            yield from self._stream_graph(turn, given, child, kwargs)
        else:
            for chunk in self.bound.stream(given, child, **kwargs):
                with HandingOver(turn.page, partial(turn.output.add, chunk)):
                    yield chunk
        turn.save()

    async def _atransform(
        self,
        turn: OpenTurn,
        chunks: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        input = joined([chunk async for chunk in chunks])
        turn.begin(input, config)
        child = turn.child_config(config, run_manager)
        passes_through = turn.is_inside_itself()
        if passes_through:
            stream = self.bound.astream(input, child, **kwargs)
        else:
            kept = await self._akept(turn, child)
            given = turn.given(input, await turn.store.arun(turn.opening(kept)), kept)
            if turn.graph is not None:
                stream = self._astream_graph(turn, given, child, kwargs)
            else:
                stream = self.bound.astream(given, child, **kwargs)
        try:
            async for chunk in stream:
                if turn.graph is not None or passes_through:
                    yield chunk
                else:
                    with HandingOver(turn.page, partial(turn.output.add, chunk)):
                        yield chunk
        finally:
            if hasattr(stream, "aclose"):  # the model stops with its consumer, not when it is collected
                await stream.aclose()
        if not passes_through:
            await turn.asave()

    # --- graphs

    def _stream_graph(
        self, turn: OpenTurn, given: Any, config: RunnableConfig, kwargs: dict[str, Any]
    ) -> Iterator[Any]:
        modes = Modes(turn.graph, {**bound_arguments(self.bound), **kwargs})
        stream = self.bound.stream(given, config, **{**kwargs, **modes.arguments()})
        try:
            for chunk in stream:
                event = modes.read(chunk)
                passed_on = modes.passed_on(event, chunk)
                note = partial(turn.output.state.observe, event, shown=bool(passed_on))
                with HandingOver(turn.page, note):
                    yield from passed_on
        except BaseException as error:
            turn.fail(error)  # at once: a graph that is closed first waits for its model
            raise

    async def _astream_graph(
        self, turn: OpenTurn, given: Any, config: RunnableConfig, kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        modes = Modes(turn.graph, {**bound_arguments(self.bound), **kwargs})
        stream = self.bound.astream(given, config, **{**kwargs, **modes.arguments()})
        try:
            async for chunk in stream:
                event = modes.read(chunk)
                passed_on = modes.passed_on(event, chunk)
                with HandingOver(turn.page, partial(turn.output.state.observe, event, shown=bool(passed_on))):
                    for whole in passed_on:
                        yield whole
        finally:
            if hasattr(stream, "aclose"):
                await stream.aclose()

    def _kept(self, turn: OpenTurn, config: RunnableConfig) -> Sequence[BaseMessage]:
        """The messages that a graph's own checkpointer has kept of the conversation."""
        if turn.graph is None or not has_checkpointer(turn.graph, config):
            return ()
        return _messages_of(turn.graph.get_state(config).values, self.keys.input)

    async def _akept(self, turn: OpenTurn, config: RunnableConfig) -> Sequence[BaseMessage]:
        if turn.graph is None or not has_checkpointer(turn.graph, config):
            return ()
        return _messages_of((await turn.graph.aget_state(config)).values, self.keys.input)


def _messages_of(values: Any, key: str | None) -> Sequence[BaseMessage]:
    found = values.get(key or "messages") if isinstance(values, dict) else None
    return as_messages(found) if isinstance(found, list) else ()
