"""JSON Lines for OpenAI's fine-tuning of chat models: an example a conversation.

Rules: https://platform.openai.com/docs/guides/supervised-fine-tuning. Only what the model would be shown is exported;
conversations without an answer are left out. Tool schemas are not stored with a conversation, so they come from the
caller.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

import orjson
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    convert_to_openai_messages,
)

from ...core.repair import without_unanswered_calls
from ...core.values import made_plain
from ..parts import Assembler, Conversation, Part

_ROLES: Final = ("user", "assistant", "system", "developer")


def openai_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages in OpenAI's form: of answers the text and the calls, whose arguments are JSON."""
    return convert_to_openai_messages([_in_text(message) for message in messages])


def has_role(message: BaseMessage) -> bool:
    """Whether OpenAI has a role for who said it."""
    if isinstance(message, ChatMessage):
        return message.role in _ROLES
    return not isinstance(message, FunctionMessage)


def _in_text(message: BaseMessage) -> BaseMessage:
    if isinstance(message, HumanMessage):  # which may hold pictures
        return message
    changes: dict[str, Any] = {"content": str(message.text)}
    if isinstance(message, AIMessage):  # NaN and the like are null
        changes["tool_calls"] = [{**call, "args": orjson.loads(json_line(call["args"]))} for call in message.tool_calls]
    return message.model_copy(update=changes)


def json_line(value: Any) -> bytes:
    """A line of JSON that every reader takes: without NaN, NUL and lone surrogates."""
    try:
        return orjson.dumps(value) + b"\n"
    except TypeError:  # text that is none, a number that is too long for it
        text = made_plain(json.dumps(value, ensure_ascii=False, default=str))
        return json.dumps(json.loads(text, parse_constant=lambda _: None)).encode() + b"\n"


class OpenAiFineTuning:
    """Writes conversations as training examples.

    Args:
        tools: The tools' schemas in OpenAI's form, put into each example with tool calls.
        feedback_key: A feedback key: answers whose turn (or message) was given a score of 0 or less under it get weight
            0, so that the model is not trained on them.
    """

    def __init__(
        self, out: BinaryIO, *, tools: Sequence[dict[str, Any]] | None = None, feedback_key: str | None = None
    ) -> None:
        self._out = out
        self._tools = list(tools or ())
        self._feedback_key = feedback_key
        self._assemble = Assembler()

    def write(self, part: Part) -> None:
        """Write the conversation that ends with the part."""
        conversation = self._assemble.take(part)
        if conversation is not None and (example := self._example(conversation)) is not None:
            self._out.write(json_line(example))

    def close(self) -> None:
        """Nothing belongs to the end."""

    def _example(self, conversation: Conversation) -> dict[str, Any] | None:
        failed = {turn.id for turn in conversation.turns if turn.status == "failed"}
        shown = [stored for stored in conversation.messages if stored.turn_id not in failed]
        rejected = self._rejected(conversation)
        marked = [
            _marked(stored.message) if {stored.id, stored.turn_id} & rejected else stored.message for stored in shown
        ]
        messages = [message for message in without_unanswered_calls(marked) if has_role(message)]
        if not any(isinstance(message, AIMessage) for message in messages):
            return None
        converted = openai_messages(messages)
        for message, plain in zip(messages, converted, strict=True):
            if isinstance(message, AIMessage) and message.additional_kwargs.get(_REJECTED):
                plain["weight"] = 0
        example: dict[str, Any] = {"messages": converted}
        if self._tools and any(isinstance(message, AIMessage) and message.tool_calls for message in messages):
            example["tools"] = self._tools
        return example

    def _rejected(self, conversation: Conversation) -> set[Any]:
        return {
            given.message_id or given.turn_id
            for given in conversation.feedback
            if given.key == self._feedback_key and given.score is not None and given.score <= 0
        }


_REJECTED = "_rejected"


def _marked(message: BaseMessage) -> BaseMessage:
    if not isinstance(message, AIMessage):
        return message
    return message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, _REJECTED: True}})
