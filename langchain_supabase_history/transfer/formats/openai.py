"""JSON Lines for OpenAI's fine-tuning of chat models: an example a conversation.

Rules: https://platform.openai.com/docs/guides/supervised-fine-tuning. Only what the model would be shown is exported;
conversations without an answer are left out. Tool schemas are not stored with a conversation, so they come from the
caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages

from ...core.repair import without_unanswered_calls
from ..parts import Assembler, Conversation, Part
from .jsonl import dumps


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
            self._out.write(dumps(example) + b"\n")

    def close(self) -> None:
        """Nothing belongs to the end."""

    def _example(self, conversation: Conversation) -> dict[str, Any] | None:
        failed = {turn.id for turn in conversation.turns if turn.status == "failed"}
        shown = [stored for stored in conversation.messages if stored.turn_id not in failed]
        rejected = self._rejected(conversation)
        marked = [
            _marked(stored.message) if {stored.id, stored.turn_id} & rejected else stored.message for stored in shown
        ]
        messages = without_unanswered_calls(marked)
        if not any(isinstance(message, AIMessage) for message in messages):
            return None
        converted = convert_to_openai_messages(messages)
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
