"""What came out of the runnable in a turn, and which messages of it are the answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables.utils import AddableDict

from ..core.observed import ModelRun, with_usage
from ..errors import InvalidMessage
from .chunks import INTERRUPT, are_updates, folded, joined
from .gained import new_messages
from .graphs import GraphState
from .shapes import answer_of, as_json, as_messages, is_raw_and_parsed


@dataclass(frozen=True)
class Keys:
    """Where in dictionaries the question, the answer and the conversation so far are; and how an answer is made."""

    input: str | None = None
    output: str | None = None
    history: str | None = None
    session: str = "session_id"
    document_content: bool = False
    answer: Callable[[Any], Any] | None = None


def at_key(value: dict[str, Any], key: str | None, what: str) -> Any:
    """What a dictionary has at a key, by default its only one, else "input" or "output", which `what` is.

    Raises:
        InvalidMessage: It has no such key.
    """
    key = key_of(value, key, what)
    if key not in value:
        also = " To make an answer of the whole: with_history(..., answer=function)." if what == "output" else ""
        raise InvalidMessage(
            f"The {what} has no key {key!r}; its keys are {', '.join(map(repr, value)) or 'none'}. "
            f"Name the right one with {what}_messages_key=.{also}"
        )
    return value[key]


def key_of(value: dict[str, Any], key: str | None, default: str) -> str:
    """The key that was named, else the only one that there is, else the default, else `messages`, an agent's."""
    if key is None and len(value) == 1:
        return str(next(iter(value)))
    return key or ("messages" if default not in value and "messages" in value else default)


@dataclass
class Output:
    """What came out of the runnable, chunk by chunk.

    Attributes:
        keys: Where the answer is.
        is_graph: Whether the runnable is a graph, whose state is observed.
        state: The graph's state.
        history: The conversation that the runnable was shown.
        question: The question that it was shown.
        shown_at: Where in its input it was shown both together.
        input_fields: The keys of its input.
        on_text: Called with the answer's text as it comes, where it is known to be that.
    """

    keys: Keys
    is_graph: bool = False
    state: GraphState = field(default_factory=GraphState)
    history: list[BaseMessage] = field(default_factory=list)
    question: list[BaseMessage] = field(default_factory=list)
    shown_at: str | None = None
    input_fields: set[str] = field(default_factory=set)
    on_text: Callable[[str], None] | None = None
    _chunks: list[Any] = field(default_factory=list)

    def add(self, chunk: Any) -> None:
        """Take in a chunk, or all of it."""
        if isinstance(chunk, dict) and INTERRUPT in chunk:
            self.state.is_interrupted = True
        self._chunks.append(chunk)
        if self.on_text is not None:
            self.on_text(self._text_of(chunk))

    def _text_of(self, chunk: Any) -> str:
        """The text that a chunk adds to the answer; '' where the whole decides what that is."""
        if isinstance(chunk, AddableDict) and self.keys.output is not None:
            chunk = chunk.get(self.keys.output)
        if self.keys.answer is not None or not isinstance(chunk, (str, AIMessage)):
            return ""
        return chunk if isinstance(chunk, str) else str(chunk.text)

    def whole(self) -> Any:
        """The output as it can be handed on with an error: whole, or, where its chunks do not go together, a list."""
        if self.state.values is not None:
            return self.state.output()
        try:
            return joined(self._chunks)
        except InvalidMessage:
            return list(self._chunks)

    def answer(self, models: Sequence[ModelRun]) -> list[BaseMessage]:
        """The messages of the answer.

        Args:
            models: The model runs of the turn, one of which may have said what a parser has made a string of.

        Raises:
            InvalidMessage: There is none where one should be.
        """
        if self.state.values is None and self.keys.answer is None and are_updates(self._chunks_of_answer()):
            return self._new(self._folded(), is_state=True)
        output = self.state.values if self.state.values is not None else joined(self._chunks)
        is_state = self.is_graph
        if self.keys.answer is not None:
            output = self.keys.answer(output)
        elif isinstance(output, dict) and not is_raw_and_parsed(output):
            is_state = is_state or self.shown_at in output
            output = self._answer_in(output)
        elif is_state and (messages := self.state.messages()) is not None:
            output = messages
        if isinstance(output, str):  # a parser has taken it out of the model's message, usage and all
            return with_usage([AIMessage(content=output)], models)
        return self._new(answer_of(output), is_state=is_state)

    def messages_of_state(self) -> list[BaseMessage] | None:
        """The messages of the graph's state so far, where it is seen or can be computed."""
        if self.state.values is None and are_updates(self._chunks_of_answer()):
            return self._folded()
        if not self.is_graph and self.shown_at is not None:
            with contextlib.suppress(InvalidMessage):  # what came so far makes no value
                output = joined(self._chunks)
                found = output.get(self.shown_at) if isinstance(output, dict) else None
                return as_messages(found) if isinstance(found, list) else None
        return self.state.messages()

    def so_far(self, *, cut: bool) -> list[BaseMessage]:
        """What there is of the answer: of a graph, the finished steps; where it was cut short, what was said so far."""
        with contextlib.suppress(Exception):  # the answer's part of the output had not come yet
            state = self.messages_of_state()
            if state is not None:
                partial = self.state.partial(state) if cut else []
                return [*self._new(state, is_state=True), *partial]
            if cut and self._chunks:
                return [message for message in self.answer(()) if message.content]
            if cut:
                return self.state.partial(self.history)
        return []

    def _new(self, messages: Sequence[BaseMessage], *, is_state: bool) -> list[BaseMessage]:
        return new_messages(messages, self.history, self.question, is_state=is_state)

    def _folded(self) -> list[BaseMessage]:
        return folded([*self.history, *self.question], self._chunks_of_answer())

    def _chunks_of_answer(self) -> list[Any]:
        """The chunks, with `output_messages_key` what they have there: it may be a graph's among several runnables'."""
        key = self.keys.output
        found = [chunk[key] for chunk in self._chunks if isinstance(chunk, dict) and key in chunk]
        return found or self._chunks

    def _answer_in(self, output: dict[str, Any]) -> Any:
        same = self.state.key if self.is_graph else self.shown_at  # an agent gives its state as it took it
        same = same if same in output else None
        if self.keys.output is None and same is None and self._is_structured(output):
            return output
        found = at_key(output, self.keys.output or same, "output")
        if isinstance(found, dict) and isinstance(found.get("messages"), list):  # an agent's whole state
            return found["messages"]
        return found

    def _is_structured(self, output: dict[str, Any]) -> bool:
        """Whether a dictionary as a whole is an answer that a model was made to give, and not what a chain returns."""
        if as_json(output) is None or "output" in output or not self.input_fields.isdisjoint(output):
            return False
        (one, *others) = output.values() or (None,)
        return bool(others) or not (isinstance(one, (str, list)) or (isinstance(one, dict) and "messages" in one))
