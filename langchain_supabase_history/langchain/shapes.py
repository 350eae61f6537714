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

from langchain_core.load import Serializable
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue
from pydantic import BaseModel

from ..core.values import Unencodable
from ..errors import InvalidMessage

STRUCTURED: Final = "structured_answer"
"""In `additional_kwargs` of an answer that was an object: the name of its type. Its text is the object's JSON."""

INTERRUPT: Final = "__interrupt__"
"""In what a LangGraph graph gives: why it stopped."""

_AGENT_FIELDS: Final = {"messages", "jump_to"}  # of an agent's state, in one of its updates
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
    """Copies of the messages in which each has an id of its own, so that an agent's edits can be told apart.

    An id that comes again stays with the last message that has it. The messages given are not changed: an agent writes
    ids into those that it is given.

    Args:
        taken: Messages whose ids are not to be given again.
    """
    given = list(messages)
    last = {message.id: index for index, message in enumerate(given)}
    used = _ids(taken)

    def id_of(index: int, id: str | None) -> str:
        return id if id and id not in used and last[id] == index else str(uuid.uuid4())

    return [message.model_copy(update={"id": id_of(index, message.id)}) for index, message in enumerate(given)]


# --- what is new in an answer -----------------------------------------------------------------------------------------


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
        is_state: Whether it is a graph's state, in which messages are told apart by their ids: what has the id of a
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
    left = iter(history)
    return sum(1 for _ in itertools.takewhile(lambda message: any(same_said(message, old) for old in left), messages))


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
    if _are_growing(chunks):
        return chunks[-1]
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


def _are_growing(chunks: Sequence[Any]) -> bool:
    """Whether each chunk is the one before with more in it, as parsers of JSON and of objects stream."""
    if all(isinstance(chunk, BaseModel) and not isinstance(chunk, BaseMessage) for chunk in chunks):
        return len({type(chunk) for chunk in chunks}) == 1
    if not all(isinstance(chunk, dict) for chunk in chunks) or any(map(_has_messages, chunks)):
        return False
    return all(before != after and _extends(after, before) for before, after in itertools.pairwise(chunks))


def _has_messages(chunk: dict[Any, Any]) -> bool:
    return any(isinstance(value, (BaseMessage, dict)) for value in chunk.values()) and not as_json(chunk)


def _extends(after: Any, before: Any) -> bool:
    if isinstance(before, dict) and isinstance(after, dict):
        return all(key in after and _extends(after[key], value) for key, value in before.items())
    if isinstance(before, list) and isinstance(after, list):
        return len(before) <= len(after) and all(map(_extends, after, before))
    if isinstance(before, str) and isinstance(after, str):
        return after.startswith(before)
    return before is None or bool(before == after) or isinstance(before, (int, float))


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
    updates = [_updates_in(chunk) for chunk in chunks]
    if any(found is None for found in updates):
        return False
    fields = {field for found in updates for update in found or () for field in update}
    return not fields.isdisjoint(_AGENT_FIELDS) or any(INTERRUPT in chunk for chunk in chunks)


def _updates_in(chunk: Any) -> list[dict[str, Any]] | None:
    """The updates of one chunk; None where it holds something else. A node may have made none, or several."""
    if not isinstance(chunk, dict):
        return None
    found: list[dict[str, Any]] = []
    for node, update in chunk.items():
        parts = update if isinstance(update, list) else [update]
        if node != INTERRUPT:
            if not all(isinstance(part, dict | None) for part in parts):
                return None
            found += [part for part in parts if part]
    return found


def folded(shown: Sequence[BaseMessage], chunks: Sequence[dict[str, Any]]) -> list[BaseMessage]:
    """The messages of a graph's state after its updates, each an edit by id, as LangGraph's `add_messages` makes them:
    a known id replaces, a `RemoveMessage` removes, an unknown one is appended."""
    state = list(shown)
    for chunk in chunks:
        for update in _updates_in(chunk) or ():
            edits = update.get("messages") or []
            state = edited(state, as_messages(edits if isinstance(edits, list) else [edits], AIMessage))
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
