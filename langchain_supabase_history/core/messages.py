"""Messages to and from what is stored: a type and LangChain's own dictionary of the message, without defaults.

The one module that knows this shape. What JSON cannot hold is written as `values.py` says.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from langchain_core.messages import (
    BaseMessage,
    ChatMessage,
    RemoveMessage,
    message_chunk_to_message,
    messages_from_dict,
)
from langchain_core.messages.base import BaseMessageChunk

from ..errors import InvalidMessage
from .tokens import estimated_tokens
from .values import TAG, Unencodable, cache_by_class, decode, encode, is_plain, loads, to_json

logger: Final = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 16 * 2**20
_UNENCODABLE: Final = "unencodable"
_NO_DEFAULT: Final = object()
_KNOWN_TYPES: Final = {"human", "ai", "system", "chat", "function", "tool"}


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """A message ready to be stored. `warnings` say what of it could not be, and what is stored in its place."""

    type: str
    data: bytes
    tokens: int
    warnings: Sequence[str] = ()


@cache_by_class
def _defaults(cls: type[Any]) -> dict[str, Any]:
    return {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in cls.model_fields.items()
        if not field.is_required()
    }


def encode_message(
    message: BaseMessage,
    where: str = "message",
    max_bytes: int = MAX_MESSAGE_BYTES,
    count_tokens: Callable[[BaseMessage], int] | None = None,
) -> Encoded:
    """A message ready to be stored. The caller's object is left as it is; a chunk becomes the whole message.

    Args:
        where: Names the message in an error.
        max_bytes: The largest payload.
        count_tokens: Counts a message's tokens; without it the provider's usage or an estimate is taken.

    Raises:
        InvalidMessage: It is no message, or a field cannot be encoded, or it is too large. An artifact or a token count
            never costs the message: see `Encoded.warnings`.
    """
    if not isinstance(message, BaseMessage):
        raise InvalidMessage(
            f"{where} must be a LangChain message (HumanMessage, AIMessage, ...), got {type(message).__name__}."
        )
    if isinstance(message, RemoveMessage):
        raise InvalidMessage(f"{where} is a RemoveMessage: an edit of an agent's state, and nothing that was said.")
    if isinstance(message, BaseMessageChunk):
        message = message_chunk_to_message(message)
    if message.type not in _KNOWN_TYPES:  # one of the application's own, which LangChain could not read back
        message = _as_chat_message(message)
    defaults = _defaults(type(message))
    data: dict[str, Any] = {}
    warnings: list[str] = []
    field = ""
    try:
        for field, value in {**vars(message), **(message.model_extra or {})}.items():
            default = defaults.get(field, _NO_DEFAULT)
            if field == "type" or (type(value) is type(default) and value == default):
                continue
            if field == "artifact":
                try:
                    data[field] = to_json(value, field)
                except Unencodable as error:
                    warnings.append(f"{where}.artifact: {error.reason}; a marker is stored in its place")
                    data[field] = {TAG: _UNENCODABLE, "class": f"{type(value).__module__}:{type(value).__qualname__}"}
            else:
                data[field] = encode(value, field)
        payload = orjson.dumps(data)
    except Unencodable as error:
        raise InvalidMessage(f"{where} cannot be stored: field '{error.path[:200]}': {error.reason}.") from None
    except Exception as error:  # a value's own code (a property, __iter__, model_dump) or orjson refused
        raise InvalidMessage(f"{where} cannot be stored: field '{field}': {type(error).__name__}.") from error
    if len(payload) > max_bytes:
        raise InvalidMessage(
            f"{where} is {len(payload):,} bytes, more than max_message_bytes={max_bytes:,}. Store large content "
            "elsewhere (Supabase Storage) and keep its address in the message."
        )
    if not is_plain(message.type):
        raise InvalidMessage(f"{where} has a type with NUL or lone surrogates.")
    return Encoded(message.type, payload, _tokens(message, data, count_tokens, where, warnings), warnings)


def _tokens(
    message: BaseMessage,
    data: dict[str, Any],
    count: Callable[[BaseMessage], int] | None,
    where: str,
    warnings: list[str],
) -> int:
    if count is not None:
        try:
            counted = count(message)
            if type(counted) is int and 0 <= counted < 2**31:
                return counted
            wrong = f"gave {counted!r:.40}"
        except Exception as error:  # the application's own code; a count is not worth a turn
            wrong = f"raised {type(error).__name__}"
        warnings.append(f"{where}: count_tokens {wrong}; an estimate is stored in its place")
    else:
        usage = vars(message).get("usage_metadata")
        reported = usage.get("output_tokens") if isinstance(usage, Mapping) else None
        if isinstance(reported, int) and reported > 0:
            return min(int(reported), 2**31 - 1)
    return estimated_tokens(data)


def _as_chat_message(message: BaseMessage) -> ChatMessage:
    """A message of the application's own type as LangChain's message of any role, which the type becomes."""
    names = ("content", "additional_kwargs", "response_metadata", "name", "id")
    return ChatMessage(role=message.type or "unknown", **{name: getattr(message, name) for name in names})


def decode_message(type: str, data: dict[str, Any]) -> BaseMessage:
    """The message of a stored row.

    Raises:
        Exception: Whatever LangChain raises where the row is not a message it knows.
    """
    return messages_from_dict([{"type": type, "data": decode(data)}])[0]


def decode_rows(rows: Sequence[tuple[str, str]]) -> tuple[list[BaseMessage], int]:
    """The messages of stored rows (type, data as JSON text), and how many were left out because they cannot be read.

    A row written by something else, or by a newer release, never takes the session down: it is left out and logged.
    """
    text = "[" + ",".join([data for _, data in rows]) + "]"
    try:
        datas: list[Any] = loads(text)
    except ValueError:  # one of them is to blame: read each by itself
        datas = [_loads_or_none(data) for _, data in rows]
    if TAG in text:
        datas = [decode(data) for data in datas]
    return _read_all([{"type": type, "data": data} for (type, _), data in zip(rows, datas, strict=True)])


def decode_items(items: Sequence[dict[str, Any]]) -> tuple[list[BaseMessage], int]:
    """As `decode_rows`, from `{"type", "data"}` as the Data API gives them."""
    return _read_all([{"type": item["type"], "data": decode(item["data"])} for item in items])


def _loads_or_none(text: str) -> Any:
    try:
        return loads(text)
    except ValueError:
        return None


def _read_all(items: list[dict[str, Any]]) -> tuple[list[BaseMessage], int]:
    items = [item for item in items if item["type"] != "remove"]  # no message: an edit that was stored as one
    try:
        return messages_from_dict(items), 0
    except Exception:  # whatever is in one of them: read each by itself
        messages: list[BaseMessage] = []
        for item in items:
            try:
                messages += messages_from_dict([item])
            except Exception as error:
                reason = error.__class__.__name__
                logger.warning("left out a stored message of type %r that cannot be read: %s", item["type"], reason)
        return messages, len(items) - len(messages)


def decode_or_wrap(type: str, data: Any) -> BaseMessage:
    """The message of a stored row, or, where it cannot be read, a `ChatMessage` whose role is the row's type.

    The row is then in `additional_kwargs["unreadable"]`.
    """
    try:
        return decode_message(type, data)
    except Exception:  # whatever is in the row
        content = data.get("content") if isinstance(data, dict) else None
        return ChatMessage(
            role=type or "unknown",
            content=content if isinstance(content, str) else "",
            additional_kwargs={"unreadable": {"type": type, "data": data}},
        )
