"""What providers accept: one repair of a list of messages, the question that follows included.

A provider refuses a whole request for one message, on this turn and on every later one: a tool call without a result, a
result without a call, an answer that is cut in the middle, instructions between two turns. What is stored stays as it
is; this decides what is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolMessage

from .blocks import Servers, call_ids, is_said, with_calls


def without_unanswered_calls(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages as providers accept them. The messages given are not changed.

    - A tool's result stands behind its call. A call without a result is left out, a result without a call too. They are
      paired by id, and where ids are empty or repeated, by order; a human message ends what can be answered.
    - With a call goes what belongs to it: the reasoning that led to it, its entries in the provider's own fields. So
      does a server's call without its result, and what a stream that was cut short has left half made.
    - An answer with neither text nor calls is left out.
    - System messages stand in front, each once.
    """
    return [message for _, message in _repaired(messages)]


def shown_with(loaded: Sequence[BaseMessage], question: Sequence[BaseMessage]) -> Shown:
    """A conversation and the question that follows, as they are shown together.

    The question may be what the conversation waits for: the result of a tool that the application itself has run.

    Args:
        loaded: The conversation as it is stored (`Loaded.unrepaired`).
    """
    kept = _repaired([*loaded, *question])
    end = len(kept)
    while end and kept[end - 1][0] >= len(loaded):
        end -= 1
    places = {place - len(loaded) for place, _ in kept}
    return Shown(
        history=[message for place, message in kept if place < len(loaded)],
        in_front=[message for _, message in kept[:end]],
        asked=[message for _, message in kept[end:]],
        kept=[m for place, m in enumerate(question) if place in places or not isinstance(m, SystemMessage)],
    )


@dataclass(frozen=True, slots=True)
class Shown:
    """A conversation and a question, as they are shown.

    Attributes:
        history: The conversation.
        in_front: The same with the question's system messages, which stand in front.
        asked: The question behind it.
        kept: The question as it is to be stored: without system messages that the conversation has already.
    """

    history: list[BaseMessage]
    in_front: list[BaseMessage]
    asked: list[BaseMessage]
    kept: list[BaseMessage]


Placed = tuple[int, BaseMessage]


@dataclass(slots=True)
class _Entry:
    """A message, and, of a model's, the results of its calls."""

    place: int
    message: BaseMessage
    unanswered: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    results: list[Placed] = field(default_factory=list)

    def take(self, place: int, result: ToolMessage) -> bool:
        """Take a result, if it is one of an open call of this message."""
        id = result.tool_call_id or ""
        if id not in self.unanswered:
            return False
        self.unanswered.remove(id)
        self.answered.append(id)
        self.results.append((place, result))
        return True


def _repaired(messages: Sequence[BaseMessage]) -> list[Placed]:
    """What is shown, each message with its place among those given."""
    placed = list(enumerate(messages))
    kept = _system(placed)
    servers = Servers(messages)
    for entry in _paired(placed):
        message: BaseMessage | None = entry.message
        if isinstance(entry.message, AIMessage):
            whole = with_calls(entry.message, Counter(entry.answered), bool(entry.unanswered), servers)
            message = whole if is_said(whole) else None
        if message is not None:
            kept += [(entry.place, message), *entry.results]
    return kept


def _system(placed: Iterable[Placed]) -> list[Placed]:
    """The system messages, each once: a prompt gives the same instructions with each question."""
    found: list[Placed] = []
    for place, message in placed:
        if isinstance(message, SystemMessage) and not any(message.content == other.content for _, other in found):
            found.append((place, message))
    return found


def _paired(placed: Iterable[Placed]) -> list[_Entry]:
    """The messages that are no results and no instructions, each with the results of its calls."""
    entries: list[_Entry] = []
    open_calls: list[_Entry] = []  # of the model's messages since the last question
    for place, message in placed:
        if isinstance(message, ToolMessage):
            any(entry.take(place, message) for entry in reversed(open_calls))
        elif not isinstance(message, SystemMessage):
            entry = _Entry(place, message)
            entries.append(entry)
            if isinstance(message, AIMessage):
                entry.unanswered = call_ids(message)
                open_calls.append(entry)
            elif message.type in ("human", "chat"):
                open_calls = []
    return entries
