"""LangGraph's graphs, agents among them: how their streams are asked for and read.

What a turn of a graph has added is in the graph's own state, which it streams as `values`. That mode is asked for
beside those that the application asks for, and not passed on unless it did.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable
from langchain_core.runnables.base import RunnableBindingBase

from .chunks import INTERRUPT, joined
from .shapes import as_messages


def graph_of(runnable: Runnable[Any, Any]) -> Any | None:
    """The LangGraph graph that a runnable is, bound arguments and config aside; None where it is none."""
    module = sys.modules.get("langgraph.pregel")  # without it there is none
    while isinstance(runnable, RunnableBindingBase):
        runnable = runnable.bound
    return runnable if module is not None and isinstance(runnable, module.Pregel) else None


def bound_arguments(runnable: Runnable[Any, Any]) -> dict[str, Any]:
    """The keyword arguments that are bound to a runnable."""
    arguments: dict[str, Any] = {}
    while isinstance(runnable, RunnableBindingBase):
        arguments = {**runnable.kwargs, **arguments}
        runnable = runnable.bound
    return arguments


def has_checkpointer(graph: Any, config: Mapping[str, Any]) -> bool:
    """Whether the graph itself keeps the conversation of this config's thread."""
    thread_id = (config.get("configurable") or {}).get("thread_id")
    return thread_id is not None and getattr(graph, "checkpointer", None) not in (None, False, True)


def is_command(input: Any) -> bool:
    """Whether an input is LangGraph's `Command`."""
    types = sys.modules.get("langgraph.types")
    return types is not None and isinstance(input, types.Command)


def is_resume(graph: Any | None, input: Any) -> bool:
    """Whether an input goes on with an interrupted run: a `Command` without messages, or nothing at all."""
    if input is None:
        return graph is not None
    return is_command(input) and (input.resume is not None or not isinstance(input.update, dict))


def has_channel(graph: Any, name: str) -> bool:
    """Whether the graph's state has a field of this name."""
    return name in getattr(graph, "channels", ())


def as_invoked(graph: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to stream with in place of `invoke`, which gives the state's output fields by default."""
    return {"stream_mode": "values", "output_keys": graph.output_channels, **arguments}


class Modes:
    """In which modes a graph streams: what the application asked for, and what it is asked for in its place."""

    def __init__(self, graph: Any, arguments: Mapping[str, Any]) -> None:
        asked = arguments.get("stream_mode") or graph.stream_mode
        self._is_list = isinstance(asked, (list, tuple))
        self._asked = list(asked) if self._is_list else [asked]
        self._subgraphs = bool(arguments.get("subgraphs"))
        self._is_v2 = arguments.get("version") == "v2"

    def arguments(self) -> dict[str, Any]:
        """The arguments to stream with."""
        return {"stream_mode": list(dict.fromkeys([*self._asked, "updates", "values"]))}

    def read(self, chunk: Any) -> Event:
        """What a chunk is."""
        if self._is_v2:
            return Event(tuple(chunk.get("ns") or ()), chunk["type"], chunk["data"], bool(chunk.get("interrupts")))
        namespace, mode, payload = chunk if self._subgraphs else ((), *chunk)
        return Event(tuple(namespace), mode, payload)

    def passed_on(self, event: Event, chunk: Any) -> tuple[Any, ...]:
        """The chunk as the application asked for it: one, or none where it did not."""
        if event.mode not in self._asked:
            return ()
        if self._is_v2 or self._is_list:
            return (chunk,)
        return ((event.namespace, event.payload),) if self._subgraphs else (event.payload,)


@dataclass(frozen=True, slots=True)
class Event:
    """One chunk of a graph's stream."""

    namespace: tuple[str, ...]
    mode: str
    payload: Any
    interrupts: bool = False


@dataclass(slots=True)
class GraphState:
    """A graph's state as its stream has shown it.

    Attributes:
        key: The state's field with the messages.
        values: The latest state of the outermost graph; None before it has streamed one.
        is_interrupted: Whether it stopped to be resumed.
        interrupts: What it asks a person, where it stopped for one.
        on_text: Called with what its models say, as it comes.
    """

    key: str = "messages"
    values: Any = None
    is_interrupted: bool = False
    interrupts: list[Any] = field(default_factory=list)
    on_text: Callable[[str], None] | None = None
    _partial: dict[str | None, list[AIMessage]] = field(default_factory=dict)

    def observe(self, event: Event, *, shown: bool = True) -> None:
        """Take in a chunk; `shown`: whether the application gets it too."""
        payload = event.payload
        if event.mode == "messages":
            message, metadata = payload
            if shown and isinstance(message, AIMessage) and not metadata.get("lc_source"):  # a summary, say
                self._partial.setdefault(message.id, []).append(message)
                if self.on_text is not None:
                    self.on_text(str(message.text))
        elif event.namespace:
            return
        elif event.mode == "values":
            self.is_interrupted = self.is_interrupted or event.interrupts  # `version="v2"` tells it with the state
            if isinstance(payload, dict) and INTERRUPT in payload:
                payload = {name: value for name, value in payload.items() if name != INTERRUPT}
            self.values = payload
            self._partial.clear()  # what these have become is in the state now
        elif event.mode == "updates" and isinstance(payload, dict) and INTERRUPT in payload:
            self.is_interrupted = True  # at a breakpoint there is nothing to ask
            self.interrupts += payload[INTERRUPT] or ()

    def messages(self) -> list[BaseMessage] | None:
        """The messages in the state; None where it has none."""
        found = self.values.get(self.key) if isinstance(self.values, dict) else getattr(self.values, self.key, None)
        if isinstance(self.values, list):  # that field alone was asked for
            found = self.values
        return None if found is None else as_messages(found if isinstance(found, list) else [found])

    def partial(self, known: Sequence[BaseMessage]) -> list[BaseMessage]:
        """What was shown, token by token, of messages that are not in the state yet."""
        ids = {message.id for message in known if message.id}
        found = [joined(chunks) for id, chunks in self._partial.items() if id not in ids]
        return [message for message in found if isinstance(message, BaseMessage) and message.content]

    def output(self, version: str | None = None) -> Any:
        """What `invoke` gives."""
        if version == "v2":
            return sys.modules["langgraph.types"].GraphOutput(value=self.values, interrupts=tuple(self.interrupts))
        if not self.interrupts:
            return self.values
        values = self.values if isinstance(self.values, dict) else {}
        return {**values, INTERRUPT: self.interrupts}
