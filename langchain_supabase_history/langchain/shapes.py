"""What goes into a turn and what comes out of it, as messages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages

from ..core.values import Unencodable
from ..errors import InvalidMessage


def as_messages(value: Any) -> list[BaseMessage]:
    """Messages as chains take and give them: a string (a human's), one message, or a sequence of them.

    In a sequence, a message may be a dictionary with `role` and `content`, or a pair of these.

    Raises:
        InvalidMessage: It is none of these.
    """
    if isinstance(value, str):
        return [HumanMessage(content=value)]
    if isinstance(value, BaseMessage):
        return [value]
    got = type(value).__name__
    if isinstance(value, (list, tuple)):
        if len(value) == 1 and isinstance(value[0], list):  # chat models batch their inputs
            return as_messages(value[0])
        try:
            return [item if isinstance(item, BaseMessage) else _message_like(item) for item in value]
        except Unencodable as error:
            got = f"a {got} with {error.reason} in it"
    raise InvalidMessage(f"Expected a string, a message or a list of messages, got {got}.")


def _message_like(item: Any) -> BaseMessage:
    if isinstance(item, (dict, tuple)):
        try:
            return convert_to_messages([item])[0]
        except Exception:  # whatever LangChain raises where it is no message
            raise Unencodable("", f"a {type(item).__name__} that is no message") from None
    raise Unencodable("", f"a {type(item).__name__}")


def new_messages(messages: list[BaseMessage], shown: Sequence[BaseMessage]) -> list[BaseMessage]:
    """What a runnable has added to the messages it was shown. Agents give these back in front of their answer.

    Args:
        shown: What it was shown, the question last.
    """
    if len(messages) < 2 or not shown:
        return messages
    if [_said(message) for message in messages[: len(shown)]] == [_said(message) for message in shown]:
        return messages[len(shown) :]
    question = shown[-1]  # without all that was in front of it: summed up, say
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.id == question.id if question.id else _said(message) == _said(question):
            return messages[index + 1 :]
    return messages


def _said(message: BaseMessage) -> tuple[Any, ...]:
    return message.type, message.content, getattr(message, "tool_calls", None), getattr(message, "tool_call_id", None)
