"""What goes into a turn and what comes out of it, as messages. Pure.

A question or an answer is a string, a message, a list of messages, a list of content blocks, or, as an answer, an
object that a model was made to return.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Final

from langchain_core.load import Serializable
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue
from pydantic import BaseModel

from ..core.values import Unencodable
from ..errors import InvalidMessage

STRUCTURED: Final = "structured_answer"
"""In `additional_kwargs` of an answer that was an object: the name of its type. Its text is the object's JSON."""

_ROLES: Final = {"human", "user", "ai", "assistant", "system", "developer", "tool", "function", "chat"}


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


def with_blocks_joined(values: Sequence[Any]) -> list[Any]:
    """The values, content blocks that follow each other as one message: LangChain's wrapper hands on an answer that is
    a list of blocks as if they were messages. In front they are a human's."""
    found: list[Any] = []
    for are_blocks, items in itertools.groupby(values, is_content_block):
        kind = AIMessage if found else HumanMessage
        run = list(items)
        found += [kind(content=run)] if are_blocks else run
    return found


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
    """The messages of an answer that is no string.

    An object becomes a message with its JSON as text. Of `with_structured_output(include_raw=True)` the raw message is
    the answer; what the model made as a tool call is answered as agents do, for providers refuse a call without result.

    Raises:
        InvalidMessage: It is nothing that can be remembered.
    """
    if is_raw_and_parsed(output):
        return [output["raw"], *_results(output)]
    if isinstance(output, BaseModel) and not isinstance(output, (BaseMessage, PromptValue)):
        return [_object(output, output.model_dump_json())]
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [_object(output, json.dumps(dataclasses.asdict(output), default=str, ensure_ascii=False))]
    if isinstance(output, (bool, int, float, dict)) or _is_list_of_objects(output):
        text = as_json(output)
        if text is not None:
            return [_object(output, text)]
    return as_messages(output, AIMessage)


def as_json(value: Any) -> str | None:
    """The JSON of plain values and of objects in lists of these; None of anything else, a document or a message say."""

    def dump(part: Any) -> Any:
        if isinstance(part, BaseModel) and not isinstance(part, Serializable):
            return part.model_dump(mode="json")
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            return dataclasses.asdict(part)
        raise TypeError

    try:
        return json.dumps(value, default=dump, ensure_ascii=False)
    except (TypeError, ValueError):
        return None


def is_raw_and_parsed(output: Any) -> bool:
    """Whether this is what `with_structured_output(include_raw=True)` gives."""
    keys = {"raw", "parsed", "parsing_error"}
    return isinstance(output, dict) and output.keys() == keys and isinstance(output["raw"], BaseMessage)


def _results(output: dict[str, Any]) -> list[BaseMessage]:
    """The results of the calls by which a model has given its structured answer."""
    calls = [
        *(getattr(output["raw"], "tool_calls", None) or ()),
        *(getattr(output["raw"], "invalid_tool_calls", None) or ()),
    ]
    error = output["parsing_error"]
    content = "Structured answer taken." if error is None else f"Structured answer refused: {error}"
    status: Any = "success" if error is None else "error"
    return [
        ToolMessage(content=content, tool_call_id=call["id"], name=call["name"], status=status)
        for call in calls
        if call["id"]
    ]


def _is_list_of_objects(output: Any) -> bool:
    return (
        isinstance(output, list)
        and bool(output)
        and all(
            dataclasses.is_dataclass(item) or (isinstance(item, BaseModel) and not isinstance(item, BaseMessage))
            for item in output
        )
    )


def _object(value: Any, text: str) -> AIMessage:
    return AIMessage(content=text, additional_kwargs={STRUCTURED: type(value).__name__})


def with_ids(messages: Iterable[BaseMessage], taken: Iterable[BaseMessage] = ()) -> list[BaseMessage]:
    """Copies of the messages in which each has an id of its own, so that an agent's edits can be distinguished.

    An id that comes again stays with the last message that has it. The messages given are not changed: an agent writes
    ids into those that it is given.

    Args:
        taken: Messages whose ids are not to be given again.
    """
    given = list(messages)
    last = {message.id: index for index, message in enumerate(given)}
    used = {message.id for message in taken}

    def id_of(index: int, id: str | None) -> str:
        return id if id and id not in used and last[id] == index else str(uuid.uuid4())

    return [message.model_copy(update={"id": id_of(index, message.id)}) for index, message in enumerate(given)]
