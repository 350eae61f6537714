"""What goes into a turn and what comes out of it, as messages. Pure.

A question or an answer is a string, a message, a list of messages, a list of content blocks, or, as an answer, an
object that a model was made to return. A stream is put together from its chunks: nothing that was shown is lost.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue
from pydantic import BaseModel

from ..core.values import Unencodable
from ..errors import InvalidMessage

STRUCTURED: Final = "structured_answer"
"""In `additional_kwargs`: the message's tool call is its answer (`include_raw`), or its text the JSON of an object."""

_ROLES: Final = {"human", "user", "ai", "assistant", "system", "developer", "tool", "function", "chat"}

# --- messages ---------------------------------------------------------------------------------------------------------


def as_messages(value: Any, said_by: type[HumanMessage] | type[AIMessage] = HumanMessage) -> list[BaseMessage]:
    """Messages as chains take and give them.

    In a list, a message may be a dictionary with `role` (or `type`) and `content`, or a pair of these; content blocks
    that follow each other are one message.

    Args:
        said_by: The kind of message that a string or content blocks are.

    Raises:
        InvalidMessage: It is none of these.
    """
    if isinstance(value, str):
        return [said_by(content=value)]
    if isinstance(value, BaseMessage):
        return [value]
    if isinstance(value, PromptValue):
        return value.to_messages()
    got = f"a {type(value).__name__}"
    if isinstance(value, (list, tuple)):
        if len(value) == 1 and isinstance(value[0], list):  # chat models batch their inputs
            return as_messages(value[0], said_by)
        try:
            return _messages_of_list(value, said_by)
        except Unencodable as error:
            got = f"{got} with {error.reason} in it"
    raise InvalidMessage(f"Expected a string, a message or a list of messages, got {got}.")


def _messages_of_list(values: Sequence[Any], said_by: type[HumanMessage] | type[AIMessage]) -> list[BaseMessage]:
    messages: list[BaseMessage] = []
    for are_blocks, items in itertools.groupby(values, is_content_block):
        if are_blocks:
            messages.append(said_by(content=list(items)))
        else:
            messages += [item if isinstance(item, BaseMessage) else _message_like(item) for item in items]
    return messages


def is_content_block(value: Any) -> bool:
    """Whether this is a block of a message's content, and no message of its own."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("type"), str)
        and "role" not in value
        and value["type"] not in _ROLES
        and not isinstance(value.get("data"), dict)
    )


def _message_like(item: Any) -> BaseMessage:
    if isinstance(item, (dict, tuple)):
        try:
            return convert_to_messages([item])[0]
        except Exception:  # whatever LangChain raises where it is no message
            raise Unencodable("", f"a {type(item).__name__} that is no message") from None
    raise Unencodable("", f"a {type(item).__name__}")


def answer_of(output: Any) -> list[BaseMessage]:
    """The messages of an answer that is no string and no dictionary of the chain's own.

    An object becomes a message with its JSON as text; of `with_structured_output(include_raw=True)` the raw message is
    the answer.

    Raises:
        InvalidMessage: It is nothing that can be remembered.
    """
    if is_raw_and_parsed(output):
        raw: BaseMessage = output["raw"]
        return [raw.model_copy(update={"additional_kwargs": {**raw.additional_kwargs, STRUCTURED: True}})]
    if isinstance(output, BaseModel) and not isinstance(output, BaseMessage):
        return [_object(output, output.model_dump_json())]
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [_object(output, json.dumps(dataclasses.asdict(output), default=str))]
    return as_messages(output, AIMessage)


def is_raw_and_parsed(output: Any) -> bool:
    """Whether this is what `with_structured_output(include_raw=True)` gives."""
    keys = {"raw", "parsed", "parsing_error"}
    return isinstance(output, dict) and output.keys() == keys and isinstance(output["raw"], BaseMessage)


def _object(value: Any, text: str) -> AIMessage:
    return AIMessage(content=text, additional_kwargs={STRUCTURED: type(value).__name__})


def with_ids(messages: Iterable[BaseMessage]) -> list[BaseMessage]:
    """Copies of the messages in which each has an id of its own, so that an agent's edits can be told apart.

    An id that comes again stays with the last message that has it. The messages given are not changed: an agent writes
    ids into those that it is given.
    """
    given = list(messages)
    last = {message.id: index for index, message in enumerate(given)}
    return [
        message.model_copy(update={"id": message.id if message.id and last[message.id] == index else str(uuid.uuid4())})
        for index, message in enumerate(given)
    ]


# --- what is new in an answer -----------------------------------------------------------------------------------------


def new_messages(
    messages: Sequence[BaseMessage], shown: Sequence[BaseMessage], *, is_state: bool = False
) -> list[BaseMessage]:
    """What a runnable has added to the messages it was shown. Agents give these back in front of their answer.

    It is what follows the question. Summaries of what was shown are not new either.

    Args:
        messages: What the runnable gave.
        shown: What it was shown, the question last.
        is_state: Whether it is a graph's state, in which messages are told apart by their ids: what has the id of a
            message that was shown is not new, wherever it stands and whatever has been made of it.
    """
    said = [message for message in messages if not isinstance(message, RemoveMessage) and not _is_summary(message)]
    if not shown or not said:
        return said
    same = _same_said(said[: len(shown)], shown)
    said = said[len(shown) if same else _behind_question(said, shown[-1]) :]
    known = {message.id for message in shown if message.id} if is_state else set()
    return [message for message in said if not message.id or message.id not in known]


def _behind_question(messages: Sequence[BaseMessage], question: BaseMessage) -> int:
    if len(messages) < 2:
        return 0
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.id == question.id if question.id and message.id else _said(message) == _said(question):
            return index + 1
    return 0


def _is_summary(message: BaseMessage) -> bool:
    return message.additional_kwargs.get("lc_source") == "summarization"


def _same_said(left: Sequence[BaseMessage], right: Sequence[BaseMessage]) -> bool:
    return list(map(_said, left)) == list(map(_said, right))


def _said(message: BaseMessage) -> tuple[Any, ...]:
    return message.type, message.content, getattr(message, "tool_calls", None), getattr(message, "tool_call_id", None)


# --- chunks -----------------------------------------------------------------------------------------------------------


def joined(chunks: Sequence[Any]) -> Any:
    """Chunks as the one value they make. Nothing of them is lost: what does not go together becomes a list.

    Raises:
        InvalidMessage: They are of kinds that make no value together.
    """
    chunks = [chunk for chunk in chunks if chunk is not None]
    if not chunks:
        return None
    if len(chunks) == 1:
        return chunks[0]
    if all(isinstance(chunk, Mapping) for chunk in chunks):
        return _joined_mappings(chunks)
    if all(isinstance(chunk, (str, BaseMessage)) for chunk in chunks):
        return _joined_messages(chunks)
    if all(isinstance(chunk, (list, tuple)) for chunk in chunks):
        return [item for chunk in chunks for item in chunk]
    value = chunks[0]
    for chunk in chunks[1:]:
        try:
            value = value + chunk
        except TypeError:
            kinds = " and ".join(sorted({type(chunk).__name__ for chunk in chunks}))
            raise InvalidMessage(f"The stream's chunks do not go together: they are {kinds}.") from None
    return value


def _joined_mappings(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    parts: dict[str, list[Any]] = {}
    for chunk in chunks:
        for key, part in chunk.items():
            parts.setdefault(key, []).append(part)
    return {key: _joined_or_last(values) for key, values in parts.items()}


def _joined_or_last(values: Sequence[Any]) -> Any:
    try:
        return joined(values)
    except InvalidMessage:  # what is no answer need not go together: a chain's numbers or flags
        return values[-1]


def _joined_messages(chunks: Sequence[str | BaseMessage]) -> Any:
    found: list[Any] = []
    for kind, items in itertools.groupby(chunks, _kind_of_chunk):
        run: list[Any] = list(items)
        if kind[0] == "str":
            found.append("".join(run))
        elif kind[0] == "chunk":
            found.append(_joined_message_chunks(run))
        else:
            found += run
    if len(found) == 1:
        return found[0]
    return [AIMessage(content=item) if isinstance(item, str) else item for item in found]


def _kind_of_chunk(chunk: str | BaseMessage) -> tuple[str, Any]:
    if isinstance(chunk, str):
        return "str", None
    return ("chunk", None) if isinstance(chunk, AIMessageChunk) else ("message", id(chunk))


def _joined_message_chunks(chunks: Sequence[AIMessageChunk]) -> AIMessageChunk:
    if len(chunks) == 1:
        return chunks[0]
    try:
        return chunks[0] + list(chunks[1:])  # 15 times as fast as one by one
    except (TypeError, ValueError):  # their metadata does not go together: that of the last is the answer's
        bare = [chunk.model_copy(update={"response_metadata": {}, "additional_kwargs": {}}) for chunk in chunks]
        whole = bare[0] + bare[1:]
        return whole.model_copy(update={"response_metadata": chunks[-1].response_metadata})


def is_cut(message: BaseMessage) -> bool:
    """Whether a streamed answer ends before its last chunk."""
    return isinstance(message, AIMessageChunk) and message.chunk_position != "last"


# --- updates, where a graph's own state cannot be seen ----------------------------------------------------------------


def are_updates(chunks: Sequence[Any]) -> bool:
    """Whether these are what a LangGraph graph streams by default: {node: {"messages": [...]}}."""
    return any(_messages_in(chunk) for chunk in chunks) and all(
        isinstance(chunk, dict) and all(isinstance(update, dict | None) for update in chunk.values())
        for chunk in chunks
    )


def _messages_in(chunk: Any) -> bool:
    updates = chunk.values() if isinstance(chunk, dict) else ()
    return any(isinstance(update, dict) and "messages" in update for update in updates)


def folded(shown: Sequence[BaseMessage], chunks: Sequence[dict[str, dict[str, Any] | None]]) -> list[BaseMessage]:
    """The messages of a graph's state after its updates, each an edit by id, as LangGraph's `add_messages` makes them:
    a known id replaces, a `RemoveMessage` removes, an unknown one is appended."""
    state = list(shown)
    for chunk in chunks:
        for update in chunk.values():
            said = (update or {}).get("messages", [])
            state = edited(state, as_messages(said if isinstance(said, list) else [said], AIMessage))
    return state


def edited(state: Sequence[BaseMessage], edits: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The state after the edits of one update."""
    after = list(state)
    for edit in edits:
        if isinstance(edit, RemoveMessage):
            after = [] if edit.id == "__remove_all__" else [message for message in after if message.id != edit.id]
            continue
        place = next((i for i, message in enumerate(after) if edit.id and message.id == edit.id), None)
        if place is None:
            after.append(edit)
        else:
            after[place] = edit
    return after
