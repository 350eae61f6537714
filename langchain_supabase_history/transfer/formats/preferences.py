"""JSON Lines for OpenAI's fine-tuning by preference: a question with a better and a worse answer to it.

Rules: https://platform.openai.com/docs/guides/direct-preference-optimization. The answers are the ones that a
conversation has, or had, in one place: the one that is there now and its alternatives. Feedback says which is better.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO
from uuid import UUID

from langchain_core.messages import AIMessage, BaseMessage

from ...core.repair import without_unanswered_calls
from ...records import StoredMessage
from ..parts import Assembler, Conversation, Part
from .openai import has_role, json_line, openai_messages


class OpenAiPreferences:
    """Writes pairs of answers as training examples: of each place the best and the worst, where their scores differ.

    Args:
        tools: The tools' schemas in OpenAI's form.
        feedback_key: Whose scores count; None for all. The score of an answer is their mean.
    """

    def __init__(
        self, out: BinaryIO, *, tools: Sequence[dict[str, Any]] | None = None, feedback_key: str | None = None
    ) -> None:
        self._out = out
        self._tools = list(tools or ())
        self._key = feedback_key
        self._assemble = Assembler()

    def write(self, part: Part) -> None:
        """Write the pairs of the conversation that ends with the part."""
        if (conversation := self._assemble.take(part)) is not None:
            for example in self._examples(conversation):
                self._out.write(json_line(example))

    def close(self) -> None:
        """Nothing belongs to the end."""

    def _examples(self, conversation: Conversation) -> Iterator[dict[str, Any]]:
        scores = self._scores(conversation)
        for before, answers in _places(conversation):
            rated = [(scores[answer.id], n) for n, answer in enumerate(answers) if answer.id in scores]
            if not rated or min(rated)[0] == max(rated)[0]:
                continue
            given: dict[str, Any] = {"messages": openai_messages([message for message in before if has_role(message)])}
            if self._tools:
                given["tools"] = self._tools
            yield {
                "input": given,
                "preferred_output": [_output(answers[max(rated)[1]])],
                "non_preferred_output": [_output(answers[min(rated)[1]])],
            }

    def _scores(self, conversation: Conversation) -> dict[UUID, float]:
        """The mean score of each message: of the feedback on it, else of that on its turn."""
        given: dict[UUID, list[float]] = defaultdict(list)
        for one in conversation.feedback:
            if one.score is not None and self._key in (None, one.key):
                given[one.message_id or one.turn_id].append(one.score)
        found = {}
        for stored in (*conversation.messages, *(m for branch in conversation.branches for m in branch.messages)):
            if scores := given.get(stored.id) or given.get(stored.turn_id):
                found[stored.id] = sum(scores) / len(scores)
        return found


def _output(answer: StoredMessage) -> dict[str, Any]:
    (plain,) = openai_messages([answer.message])
    return plain


def _places(conversation: Conversation) -> Iterator[tuple[list[BaseMessage], list[StoredMessage]]]:
    """Each place with more than one answer: the messages before it, and the answers."""
    parents: dict[UUID, StoredMessage | None] = {}  # the message that each follows
    by_id: dict[UUID | None, StoredMessage | None] = {None: None}
    answers: dict[UUID | None, list[StoredMessage]] = defaultdict(list)
    runs = [(None, conversation.messages), *((b.alternative.follows, b.messages) for b in conversation.branches)]
    for follows, messages in runs:  # what one follows is among those before it
        if follows not in by_id:
            continue
        before = by_id[follows]
        for stored in messages:
            answers[before.id if before else None].append(stored)
            parents[stored.id], by_id[stored.id] = before, stored
            before = stored
    for place, there in answers.items():
        found = [stored for stored in there if isinstance(stored.message, AIMessage)]
        if place is None or len(found) < 2:
            continue
        path, at = [], by_id[place]
        while at is not None:
            path.append(at.message)
            at = parents[at.id]
        path.reverse()
        if {id(message) for message in without_unanswered_calls(path)} == {id(message) for message in path}:
            yield path, found
