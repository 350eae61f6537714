"""What was said in a turn, read from the root run that LangSmith has of it.

A run may be of anything: LangChain, a traced function, a wrapped client of a provider. Known shapes are read: messages
in LangChain's forms and those of chat completions, under the keys that mean a question or an answer, nested too.
Among several unknown texts nothing is guessed: a wrong text in a history is worse than none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_messages, messages_from_dict

if TYPE_CHECKING:
    from langsmith.types.run import Run

_INPUT_KEYS: Final = ("messages", "input", "inputs", "question", "query", "human_input", "prompt", "message", "text")
_OUTPUT_KEYS: Final = (
    *("messages", "output", "outputs", "answer", "result", "response"),
    *("generations", "choices", "message", "text"),
)
_OLD: Final = ("history", "chat_history", "context", "documents")  # never what was asked or answered
_ABOUT: Final = {
    *("id", "status", "error", "model"),
    *("session_id", "user_id", "thread_id", "run_id", "conversation_id", "customer_id", "request_id"),
}
"""Keys of a text about a run, which is nothing that was said in it."""
_DEEPEST: Final = 3  # of values under known keys that are dictionaries again


def as_message(value: Any) -> BaseMessage | None:
    """A message in any of the forms in which traces hold one; None where it is none."""
    if isinstance(value, BaseMessage):
        return value
    try:
        if isinstance(value, (list, tuple)):
            pair = len(value) == 2 and all(isinstance(part, str) for part in value)
            return convert_to_messages([tuple(value)])[0] if pair else None
        if not isinstance(value, dict):
            return None
        if value.get("lc") and isinstance(value.get("kwargs"), dict):
            data = value["kwargs"]
            return _decode(data.get("type") or _type_of(value.get("id")), data)
        if isinstance(value.get("data"), dict) and "type" in value:
            return _decode(value["type"], value["data"])
        if "content" in value and "role" in value:
            return convert_to_messages([{**value, "content": _plain_content(value["content"])}])[0]
        if "content" in value and "type" in value:
            return _decode(value["type"], value)
    except Exception:  # a dictionary of the application's that looks like a message and is none
        return None
    return None


def _type_of(path: Any) -> str:
    name = path[-1] if isinstance(path, list) and path else ""
    return str(name).removesuffix("Chunk").removesuffix("Message").lower()


def _decode(type: str, data: dict[str, Any]) -> BaseMessage:
    kept = {k: v for k, v in data.items() if k not in ("type", "chunk_position", "tool_call_chunks")}
    kind = type.removesuffix("MessageChunk").lower()
    return messages_from_dict([{"type": kind, "data": kept}])[0]


def _plain_content(content: Any) -> Any:
    """Content without the block types of OpenAI's Responses API."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    texts = ("input_text", "output_text")
    return [
        {"type": "text", "text": block.get("text", "")}
        if isinstance(block, dict) and block.get("type") in texts
        else block
        for block in content
    ]


def as_messages(value: Any, said_by: type[HumanMessage] | type[AIMessage]) -> list[BaseMessage]:
    """The messages in a value: one, a list of them, a string; none where it holds none."""
    if isinstance(value, str):
        return [said_by(value)] if value else []
    if (message := as_message(value)) is not None:
        return [message]
    if isinstance(value, dict) and "message" in value:  # a model's generation, or a choice of a completion
        return as_messages(value["message"], said_by)
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], list):  # chat models batch
            return as_messages(value[0], said_by)
        found = [as_messages(part, said_by) for part in value if not isinstance(part, str)]
        return [message for part in found for message in part]
    return []


def _pick(
    values: Any, keys: Sequence[str], said_by: type[HumanMessage] | type[AIMessage], depth: int = 0
) -> tuple[list[BaseMessage], bool]:
    """The messages of a run's inputs or outputs, and whether they came as a list."""
    if (whole := as_message(values)) is not None:
        return [whole], False
    if not isinstance(values, dict):
        return [], False
    for key in keys:
        value = values.get(key)
        if key == "choices" and isinstance(value, list):
            value = value[:1]  # the others were not what the application went on with
        if found := as_messages(value, said_by):
            return found, isinstance(value, list)
        if isinstance(value, dict) and depth < _DEEPEST:
            found, many = _pick(value, keys, said_by, depth + 1)
            if found:
                return found, many
    current = {key: value for key, value in values.items() if key not in _OLD}
    for key, value in current.items():
        if key not in keys and not isinstance(value, str) and (found := as_messages(value, said_by)):
            return found, isinstance(value, list)
    (only,) = current.values() if len(current) == 1 else (None,)
    is_said = isinstance(only, str) and only and _ABOUT.isdisjoint(current)
    return ([said_by(only)], False) if is_said else ([], False)


@dataclass
class Said:
    """What a session holds so far: by id, and as type and content in order."""

    ids: set[str] = field(default_factory=set)
    messages: list[tuple[str, Any]] = field(default_factory=list)

    def add(self, messages: Sequence[BaseMessage]) -> None:
        """Take in what was said in a turn."""
        self.ids.update(message.id for message in messages if message.id)
        self.messages.extend((message.type, message.content) for message in messages)

    def new(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        """A list without what it repeats of the session: messages of known ids, or all of the session in front."""
        before = len(self.messages)
        if before and [(m.type, m.content) for m in messages[:before]] == self.messages and len(messages) > before:
            messages = messages[before:]
        kept: dict[str, BaseMessage] = {}
        for n, message in enumerate(messages):
            if message.id is None or message.id not in self.ids:
                kept.setdefault(message.id or str(n), message)
        return list(kept.values())


def messages_of(run: Run, said: Said) -> list[BaseMessage]:
    """What was said in the turn that a root run is: its question, and what was answered.

    Args:
        said: What the session holds already. Runs of agents contain the whole conversation each time.
    """
    asked, many = _pick(run.inputs, _INPUT_KEYS, HumanMessage)
    asked = said.new(asked) if many and len(asked) > 1 else asked
    answered, many = _pick(run.outputs, _OUTPUT_KEYS, AIMessage)
    if many and len(answered) > 1:
        answered = said.new(answered)
        heads = [(message.type, message.content) for message in answered[: len(asked)]]
        if heads == [(message.type, message.content) for message in asked]:
            asked = []  # the answer repeats the question, with the id it was given
    return [*asked, *answered]
