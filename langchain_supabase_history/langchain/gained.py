"""What a runnable has added to the conversation that it was shown. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage

from ..core.repair import shown_with


def new_messages(
    messages: Sequence[BaseMessage],
    history: Sequence[BaseMessage],
    question: Sequence[BaseMessage],
    *,
    is_state: bool = False,
) -> list[BaseMessage]:
    """What a runnable has added to the messages it was shown. Agents give these back in front of their answer.

    It is what follows the question, or, where the question is not there any more, the conversation so far. Summaries of
    what was shown are not new, nor are edits of it.

    Args:
        messages: What the runnable gave.
        history: The conversation that it was shown.
        question: The question that it was shown behind it.
        is_state: Whether it is a graph's state, in which messages are distinguished by their ids: what has the id of a
            message that was shown is not new, wherever it stands and whatever has been made of it.
    """
    found = [message for message in messages if not isinstance(message, RemoveMessage) and not _is_summary(message)]
    if not is_state and len(found) < 2:
        return found
    known = _ids(history) if is_state else set()
    behind_history = _end_of_history(found, history, known)
    start = _end_of_question(found, question, behind_history)
    if start is None:
        # Without ids, only the whole conversation in front is a sign that it was given back.
        start = behind_history if is_state or behind_history == len(history) < len(found) else 0
    shown = known | (_ids(question) if is_state else set())
    return [message for message in found[start:] if not message.id or message.id not in shown]


def without_state(messages: Sequence[BaseMessage], stored: Sequence[BaseMessage]) -> list[BaseMessage]:
    """A turn as `RunnableWithMessageHistory` hands it on, without what an agent repeats: behind the question
    that wrapper puts the agent's whole state, the history and the question among it.

    Args:
        stored: The conversation that the agent was shown, as it is stored.
    """
    for count in range(1, len(messages) // 2 + 1):
        question = messages[:count]
        with_question = shown_with(stored, question)
        shown = [*with_question.in_front, *with_question.asked]
        if len(messages) >= count + len(shown) and all(map(same_said, messages[count:], shown)):
            return [*with_question.kept, *messages[count + len(shown) :]]
    return list(messages)


def in_the_end(
    question: Sequence[BaseMessage], answer: Sequence[BaseMessage], state: Sequence[BaseMessage]
) -> tuple[list[BaseMessage], list[BaseMessage]]:
    """A question and its answer as a graph's state has them in the end: what redacts or rewrites a question edits its
    message, or puts another human message in its place.

    Args:
        question: As it was asked, with the ids that the graph was given.
        answer: What is new in the state.
    """
    by_id: dict[str | None, BaseMessage] = {message.id: message for message in state if message.id}
    if any(message.id in by_id for message in question if isinstance(message, HumanMessage)):
        return [by_id.get(message.id, message) for message in question], list(answer)
    instead = list(itertools.takewhile(lambda message: isinstance(message, HumanMessage), answer))
    if not instead:
        return list(question), list(answer)
    others = [by_id.get(message.id, message) for message in question if not isinstance(message, HumanMessage)]
    return [*others, *instead], list(answer[len(instead) :])


def _ids(messages: Iterable[BaseMessage]) -> set[str | None]:
    return {message.id for message in messages if message.id}


def _end_of_history(messages: Sequence[BaseMessage], history: Sequence[BaseMessage], known: set[str | None]) -> int:
    """How many messages in front are the conversation so far, of which the beginning may have been cut off."""
    by_id = [index for index, message in enumerate(messages) if message.id in known]
    if by_id:
        return by_id[-1] + 1
    # Copies without ids: the latest of the conversation, with a question behind it.
    for count in range(min(len(history), len(messages) - 1), 0, -1):
        if isinstance(messages[count], HumanMessage) and all(map(same_said, messages, history[-count:])):
            return count
    return 0


def _end_of_question(messages: Sequence[BaseMessage], question: Sequence[BaseMessage], behind: int) -> int | None:
    ids = _ids(question)
    by_id = [index for index, message in enumerate(messages) if message.id in ids]
    if by_id:
        return by_id[-1] + 1
    for index, message in enumerate(messages[behind:], behind):
        if question and same_said(message, question[-1]):
            return index + 1
    return None


def _is_summary(message: BaseMessage) -> bool:
    return message.additional_kwargs.get("lc_source") == "summarization"


def same_said(left: BaseMessage, right: BaseMessage) -> bool:
    """Whether two messages say the same, whatever their ids are."""
    return _said(left) == _said(right)


def _said(message: BaseMessage) -> tuple[Any, ...]:
    return message.type, message.content, getattr(message, "tool_calls", None), getattr(message, "tool_call_id", None)
